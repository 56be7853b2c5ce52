//! Deployments: rolls pods over from one ReplicaSet to the next.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::Resource;
use kube::api::{Api, PostParams};
use kube::core::SelectorExt;
use skep_client::Recorder;

use crate::context::Context;
use crate::controller::{Queue, Reconciler};
use crate::error::{Context as _, Error};
use crate::informer::Delta;
use crate::meta::{self, ObjectKey};
use crate::pod;
use crate::ref_manager::{self, Owner};

mod condition;
mod revision;
mod rolling;
mod rollout;
mod scale;
mod status;

/// The Deployment controller.
pub(crate) struct DeploymentController {
    context: Context,
    queue: Queue,
    recorder: Recorder,
}

/// One reconcile: the deployment as last written, and its ReplicaSets.
struct Sync<'a> {
    controller: &'a DeploymentController,
    deployment: Deployment,
    sets: Vec<Arc<ReplicaSet>>,
}

impl DeploymentController {
    /// The controller, with its event handlers registered.
    pub(crate) fn new(context: Context, queue: Queue) -> Arc<Self> {
        let recorder = context.recorder.with_component("deployment-controller");
        let this = Arc::new(Self { context, queue, recorder });
        this.register();
        this
    }

    fn register(&self) {
        let informers = &self.context.informers;
        let queue = self.queue.clone();
        informers.deployments.on_change(move |delta| queue.add(ObjectKey::of(&delta.object().metadata)));

        let queue = self.queue.clone();
        let deployments = informers.deployments.clone();
        informers.replica_sets.on_change(move |delta| {
            for set in delta.both() {
                let namespace = meta::namespace(&set.metadata);
                match meta::controller_of(&set.metadata) {
                    Some(owner) if owner.kind == "Deployment" => {
                        queue.add(ObjectKey::new(namespace, owner.name.as_str()))
                    }
                    Some(_) => {}
                    None if meta::is_deleting(&set.metadata) => {}
                    None => {
                        for deployment in deployments.in_namespace(namespace) {
                            if selects(&deployment, &set.metadata) {
                                queue.add(ObjectKey::of(&deployment.metadata));
                            }
                        }
                    }
                }
            }
        });

        // Recreate goes on when the last old pod is gone or finished.
        let queue = self.queue.clone();
        let (deployments, sets) = (informers.deployments.clone(), informers.replica_sets.clone());
        informers.pods.on_change(move |delta: &Delta<Pod>| {
            let pod = delta.object();
            if !matches!(delta, Delta::Deleted(_)) && !pod::is_terminal(pod) {
                return;
            }
            let namespace = meta::namespace(&pod.metadata);
            let Some(owner) = meta::controller_of(&pod.metadata).filter(|owner| owner.kind == "ReplicaSet") else {
                return;
            };
            let Some(set) = sets.get(namespace, &owner.name) else { return };
            let Some(owner) = meta::controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment") else {
                return;
            };
            if deployments.get(namespace, &owner.name).is_some_and(|deployment| !rolling::is_rolling(spec(&deployment)))
            {
                queue.add(ObjectKey::new(namespace, owner.name.as_str()));
            }
        });
    }

    async fn claim_sets(&self, deployment: &Deployment) -> Result<Vec<Arc<ReplicaSet>>, Error> {
        let informers = &self.context.informers;
        let selector = meta::selector(&spec(deployment).selector, &deployment.metadata)?;
        let mut candidates = informers.replica_sets.controlled_by(meta::uid(&deployment.metadata));
        candidates.extend(
            informers
                .replica_sets
                .in_namespace(meta::namespace(&deployment.metadata))
                .into_iter()
                .filter(|set| meta::controller_of(&set.metadata).is_none()),
        );
        let owner = Owner {
            meta: &deployment.metadata,
            reference: owner_reference(deployment),
            object: deployment.object_ref(&()),
        };
        let client = &self.context.client;
        ref_manager::claim(client, &informers.replica_sets, &owner, &selector, candidates, || {
            ref_manager::is_live(client, deployment)
        })
        .await
    }

    /// Writes `deployment.status`.
    async fn write_status(&self, deployment: &Deployment) -> Result<Deployment, Error> {
        let key = ObjectKey::of(&deployment.metadata);
        let api: Api<Deployment> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let written = api
            .replace_status(&key.name, &PostParams::default(), deployment)
            .await
            .context(|| format!("updating status of deployment {key}"))?;
        self.context.informers.deployments.wrote(&written);
        Ok(written)
    }
}

impl Reconciler for DeploymentController {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(cached) = self.context.informers.deployments.by_key(key) else { return Ok(None) };
        let mut deployment = cached.as_ref().clone();
        let wanted = spec(&deployment);
        if meta::selector(&wanted.selector, &deployment.metadata)?.selects_all() {
            self.recorder.warning(
                deployment.object_ref(&()),
                "SelectingAll",
                "This deployment is selecting all pods. A non-empty selector is required.",
            );
            let status = deployment.status.get_or_insert_default();
            if status.observed_generation < deployment.metadata.generation {
                status.observed_generation = deployment.metadata.generation;
                self.write_status(&deployment).await?;
            }
            return Ok(None);
        }
        let sets = self.claim_sets(&deployment).await?;
        let mut sync = Sync { controller: self, deployment, sets };
        sync.run().await
    }
}

impl Sync<'_> {
    async fn run(&mut self) -> Result<Option<Duration>, Error> {
        if meta::is_deleting(&self.deployment.metadata) {
            let newest = self.find_new_set();
            return self.sync_status(newest.as_ref()).await;
        }
        self.check_paused().await?;
        let wanted = spec(&self.deployment);
        if wanted.paused == Some(true) || self.is_scaling_event() {
            return self.scale_only().await;
        }
        if rolling::is_rolling(wanted) { self.roll().await } else { self.recreate().await }
    }

    fn name(&self) -> &str {
        meta::name(&self.deployment.metadata)
    }

    fn spec(&self) -> &DeploymentSpec {
        spec(&self.deployment)
    }

    /// Changes the deployment's status in memory and writes it.
    async fn write_status(&mut self) -> Result<(), Error> {
        self.deployment = self.controller.write_status(&self.deployment).await?;
        Ok(())
    }

    /// Replaces a ReplicaSet in this sync's list by its newer state.
    fn remember(&mut self, set: &Arc<ReplicaSet>) {
        match self.sets.iter_mut().find(|known| known.metadata.uid == set.metadata.uid) {
            Some(known) => *known = set.clone(),
            None => self.sets.push(set.clone()),
        }
    }
}

/// The spec, or one that asks for nothing: the API server never stores a deployment without.
fn spec(deployment: &Deployment) -> &DeploymentSpec {
    static NONE: std::sync::LazyLock<DeploymentSpec> = std::sync::LazyLock::new(DeploymentSpec::default);
    deployment.spec.as_ref().unwrap_or(&NONE)
}

fn selects(deployment: &Deployment, meta: &kube::api::ObjectMeta) -> bool {
    meta::selector(&spec(deployment).selector, &deployment.metadata)
        .is_ok_and(|selector| !selector.selects_all() && selector.matches(meta::labels(meta)))
}

fn owner_reference(deployment: &Deployment) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference {
    meta::controller_ref(&Deployment::api_version(&()), &Deployment::kind(&()), &deployment.metadata)
}

/// Replicas a ReplicaSet is asked to have.
fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}
