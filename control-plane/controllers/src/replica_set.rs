//! ReplicaSets and ReplicationControllers: keeps as many pods as asked for.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use tracing::debug;

use crate::context::Context;
use crate::controller::{Queue, Reconciler};
use crate::error::{Context as _, Error};
use crate::informers::orphans_of;
use crate::meta::{self, ObjectKey};
use crate::pod;
use crate::pod_control::{BURST, PodControl, slow_start};
use crate::ref_manager::{self, Owner};

mod kind;
pub(crate) mod rank;
mod status;

use kind::Kind;

/// The controller of one kind.
pub(crate) struct ReplicaSetController<K> {
    context: Context,
    queue: Queue,
    control: PodControl,
    kind: PhantomData<fn(K)>,
}

/// What went wrong while pods were created or deleted, for the ReplicaFailure condition.
struct Failure {
    reason: &'static str,
    error: Error,
}

impl<K: Kind> ReplicaSetController<K> {
    /// The controller, with its event handlers registered.
    pub(crate) fn new(context: Context, queue: Queue) -> Arc<Self> {
        let control = PodControl {
            client: context.client.clone(),
            pods: context.informers.pods.clone(),
            recorder: context.recorder.with_component(K::CONTROLLER),
        };
        let this = Arc::new(Self { context, queue, control, kind: PhantomData });
        this.register();
        this
    }

    fn register(&self) {
        let queue = self.queue.clone();
        let sets = K::informer(&self.context.informers).clone();
        sets.on_change(move |delta| queue.add(ObjectKey::of(delta.object().meta())));

        let queue = self.queue.clone();
        self.context.informers.pods.on_change(move |delta| {
            let mut orphan = None;
            for pod in delta.both() {
                match meta::controller_of(&pod.metadata) {
                    Some(owner) if owner.kind == K::kind(&()) => {
                        queue.add(ObjectKey::new(meta::namespace(&pod.metadata), owner.name.as_str()));
                    }
                    Some(_) => {}
                    None => orphan = Some(pod),
                }
            }
            // An orphan may be what some ReplicaSet is waiting for.
            if let Some(pod) = orphan.filter(|pod| {
                meta::controller_of(&delta.object().metadata).is_none() && !meta::is_deleting(&pod.metadata)
            }) {
                for set in sets.in_namespace(meta::namespace(&pod.metadata)) {
                    if set_selects(&set.as_set(), pod) {
                        queue.add(ObjectKey::of(set.meta()));
                    }
                }
            }
        });
    }

    async fn claim(&self, object: &K, set: &ReplicaSet, owner: &Owner<'_>) -> Result<Vec<Arc<Pod>>, Error> {
        let selector = meta::selector(&set.spec.clone().unwrap_or_default().selector, &set.metadata)?;
        let pods = &self.context.informers.pods;
        let mut candidates = pods.controlled_by(meta::uid(&set.metadata));
        candidates.extend(pods.controlled_by(&orphans_of(meta::namespace(&set.metadata))));
        let client = &self.context.client;
        ref_manager::claim(client, pods, owner, &selector, candidates, || ref_manager::is_live(client, object)).await
    }

    async fn manage(&self, set: &ReplicaSet, owner: &Owner<'_>, active: &[Arc<Pod>]) -> Result<(), Failure> {
        let Some(spec) = &set.spec else { return Ok(()) };
        let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
        if active.len() < wanted {
            let Some(template) = &spec.template else { return Ok(()) };
            let missing = (wanted - active.len()).min(BURST);
            debug!(set = %ObjectKey::of(&set.metadata), need = wanted, creating = missing, "too few replicas");
            let (_, result) = slow_start(missing, || self.control.create(owner, template)).await;
            result.map_err(|error| Failure { reason: "FailedCreate", error })
        } else {
            let excess = (active.len() - wanted).min(BURST);
            if excess == 0 {
                return Ok(());
            }
            debug!(set = %ObjectKey::of(&set.metadata), need = wanted, deleting = excess, "too many replicas");
            let related = self.related_pods(set);
            let victims = rank::pods_to_delete(active, &related, excess, Timestamp::now());
            let results = join_all(victims.iter().map(|pod| self.control.delete(owner, pod))).await;
            Error::from_batch(results.into_iter().filter_map(Result::err).collect())
                .map_err(|error| Failure { reason: "FailedDelete", error })
        }
    }

    /// The pods of all ReplicaSets with the same controller: deletion prefers nodes that have several of them.
    fn related_pods(&self, set: &ReplicaSet) -> Vec<Arc<Pod>> {
        let pods = &self.context.informers.pods;
        match meta::controller_of(&set.metadata) {
            None => pods.controlled_by(meta::uid(&set.metadata)),
            Some(controller) => K::informer(&self.context.informers)
                .controlled_by(&controller.uid)
                .iter()
                .flat_map(|sibling| pods.controlled_by(meta::uid(sibling.meta())))
                .collect(),
        }
    }

    async fn update_status(&self, object: &K, status: ReplicaSetStatus) -> Result<(), Error> {
        let Some(changed) = object.with_status(status) else { return Ok(()) };
        let key = ObjectKey::of(object.meta());
        let api: Api<K> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let written = api
            .replace_status(&key.name, &PostParams::default(), &changed)
            .await
            .context(|| format!("updating status of {} {key}", K::kind(&())))?;
        K::informer(&self.context.informers).wrote(&written);
        Ok(())
    }
}

fn set_selects(set: &ReplicaSet, pod: &Pod) -> bool {
    use kube::core::SelectorExt;
    set.spec
        .as_ref()
        .and_then(|spec| meta::selector(&spec.selector, &set.metadata).ok())
        .is_some_and(|selector| !selector.selects_all() && selector.matches(meta::labels(&pod.metadata)))
}

impl<K: Kind> Reconciler for ReplicaSetController<K> {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        K::CONTROLLER
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(object) = K::informer(&self.context.informers).by_key(key) else { return Ok(None) };
        let set = object.as_set();
        let owner = Owner {
            meta: &set.metadata,
            reference: meta::controller_ref(&K::api_version(&()), &K::kind(&()), &set.metadata),
            object: object.object_ref(&()),
        };
        let claimed = self.claim(&object, &set, &owner).await?;
        let active: Vec<_> = claimed.iter().filter(|pod| pod::is_active(pod)).cloned().collect();
        let terminating =
            claimed.iter().filter(|pod| meta::is_deleting(&pod.metadata) && !pod::is_terminal(pod)).count();
        let managed = if meta::is_deleting(&set.metadata) { Ok(()) } else { self.manage(&set, &owner, &active).await };
        let now = Timestamp::now();
        let failure = managed.as_ref().err().map(|failure| (failure.reason, crate::pod_control::text(&failure.error)));
        let new = status::calculate(&set, &active, terminating, failure, now);
        self.update_status(&object, new).await?;
        managed.map_err(|failure| failure.error)?;
        Ok(status::next_availability(&set, &active, now))
    }
}
