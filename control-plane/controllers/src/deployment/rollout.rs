//! One step of a rollout: find or make the newest ReplicaSet, move pods to it.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use kube::Resource;
use kube::api::{Api, ObjectMeta, Patch, PatchParams};
use serde_json::json;

use super::condition::{self, CREATE_ERROR, FOUND_NEW_SET, NEW_SET_CREATED, PAUSED, PROGRESSING, RESUMED, TIMED_OUT};
use super::revision::{self, REVISION, TEMPLATE_HASH};
use super::rolling::{self, Size};
use super::{Sync, available, owner_reference, replicas, status};
use crate::error::{Context as _, Error};
use crate::meta;
use crate::{hash, pod, pod_control};

impl Sync<'_> {
    /// The oldest ReplicaSet with the deployment's template.
    pub(super) fn find_new_set(&self) -> Option<Arc<ReplicaSet>> {
        let template = &self.spec().template;
        let same = self.sets.iter().filter(|set| {
            set.spec
                .as_ref()
                .and_then(|spec| spec.template.as_ref())
                .is_some_and(|t| revision::same_template(t, template))
        });
        same.min_by_key(|set| (meta::created(&set.metadata), meta::name(&set.metadata).to_owned())).cloned()
    }

    /// All other ReplicaSets, oldest first.
    pub(super) fn old_sets(&self, newest: Option<&Arc<ReplicaSet>>) -> Vec<Arc<ReplicaSet>> {
        let newest = newest.map(|set| meta::uid(&set.metadata));
        let mut old: Vec<_> =
            self.sets.iter().filter(|set| Some(meta::uid(&set.metadata)) != newest).cloned().collect();
        old.sort_by_key(|set| (meta::created(&set.metadata), meta::name(&set.metadata).to_owned()));
        old
    }

    /// RollingUpdate.
    pub(super) async fn roll(&mut self) -> Result<Option<Duration>, Error> {
        let Some(newest) = self.sync_revision(true).await? else { return Ok(None) };
        if self.resize_new(&newest).await? || self.resize_old(&newest).await? {
            let newest = self.current(&newest);
            return self.sync_rollout_status(Some(&newest)).await;
        }
        self.finish(&newest).await
    }

    /// Recreate: all old pods first go away, then new ones come.
    pub(super) async fn recreate(&mut self) -> Result<Option<Duration>, Error> {
        let newest = self.sync_revision(false).await?;
        let mut shrunk = false;
        for old in self.old_sets(newest.as_ref()).into_iter().filter(|set| replicas(set) > 0) {
            shrunk |= self.resize(&old, 0).await?;
        }
        if shrunk || self.old_pods_running(newest.as_ref()) {
            return self.sync_rollout_status(newest.as_ref()).await;
        }
        let newest = match newest {
            Some(newest) => newest,
            None => match self.sync_revision(true).await? {
                Some(created) => created,
                None => return Ok(None),
            },
        };
        let desired = rolling::desired(self.spec());
        if replicas(&newest) != desired {
            self.resize(&newest, desired).await?;
        }
        self.finish(&newest).await
    }

    async fn finish(&mut self, newest: &Arc<ReplicaSet>) -> Result<Option<Duration>, Error> {
        let newest = self.current(newest);
        if self.deployment.status.as_ref().is_some_and(|known| status::is_complete(&self.deployment, known)) {
            self.clean_up(Some(&newest)).await?;
        }
        self.sync_rollout_status(Some(&newest)).await
    }

    /// The state of a ReplicaSet after this sync's writes.
    fn current(&self, set: &Arc<ReplicaSet>) -> Arc<ReplicaSet> {
        self.sets.iter().find(|known| known.metadata.uid == set.metadata.uid).unwrap_or(set).clone()
    }

    async fn resize_new(&mut self, newest: &Arc<ReplicaSet>) -> Result<bool, Error> {
        let desired = rolling::desired(self.spec());
        let size = replicas(newest);
        if size == desired {
            return Ok(false);
        }
        let total = rolling::sum(self.sets.iter().map(|set| replicas(set)));
        let target = if size > desired { desired } else { rolling::new_set_replicas(self.spec(), total, size) };
        self.resize(newest, target).await
    }

    async fn resize_old(&mut self, newest: &Arc<ReplicaSet>) -> Result<bool, Error> {
        let size = |set: &ReplicaSet| Size { replicas: replicas(set), available: available(set) };
        let old = self.old_sets(Some(newest));
        let sizes: Vec<_> = old.iter().map(|set| size(set)).collect();
        if sizes.iter().all(|set| set.replicas == 0) {
            return Ok(false);
        }
        let targets = rolling::old_set_replicas(self.spec(), size(newest), &sizes);
        let mut changed = false;
        for (set, target) in old.iter().zip(targets) {
            if target != replicas(set) {
                changed |= self.resize(set, target).await?;
            }
        }
        Ok(changed)
    }

    fn old_pods_running(&self, newest: Option<&Arc<ReplicaSet>>) -> bool {
        let pods = &self.controller.context.informers.pods;
        self.old_sets(newest).iter().any(|set| {
            set.status.as_ref().is_some_and(|status| status.replicas > 0)
                || pods.controlled_by(meta::uid(&set.metadata)).iter().any(|pod| !pod::is_terminal(pod))
        })
    }

    /// Finds the newest ReplicaSet and keeps its revision, annotations and minReadySeconds right. Creates it if asked to
    /// and missing.
    pub(super) async fn sync_revision(&mut self, create: bool) -> Result<Option<Arc<ReplicaSet>>, Error> {
        let newest = self.find_new_set();
        let next = self
            .old_sets(newest.as_ref())
            .iter()
            .map(|set| revision::revision(set))
            .max()
            .unwrap_or(0)
            .saturating_add(1);
        match newest {
            Some(newest) => self.keep_new_set(&newest, next).await.map(Some),
            None if create => self.make_new_set(next).await,
            None => Ok(None),
        }
    }

    async fn keep_new_set(&mut self, newest: &Arc<ReplicaSet>, next: i64) -> Result<Arc<ReplicaSet>, Error> {
        let mut changed = newest.as_ref().clone();
        let annotations = changed.metadata.annotations.get_or_insert_default();
        let annotated = revision::set_new_set_annotations(&self.deployment, annotations, next, true);
        let min_ready = self.spec().min_ready_seconds.unwrap_or(0);
        let set_spec = changed.spec.get_or_insert_default();
        let newest = if annotated || set_spec.min_ready_seconds.unwrap_or(0) != min_ready {
            set_spec.min_ready_seconds = (min_ready != 0).then_some(min_ready);
            self.write_set(&changed).await?
        } else {
            newest.clone()
        };
        self.set_revision(revision::revision(&newest)).await?;
        let known = self.deployment.status.as_ref().is_some_and(|s| condition::get(s, PROGRESSING).is_some());
        if !known && status::progress_deadline(self.spec()).is_some() {
            let message = format!("Found new replica set \"{}\"", meta::name(&newest.metadata));
            self.set_condition(condition::new(PROGRESSING, "True", FOUND_NEW_SET, message)).await?;
        }
        Ok(newest)
    }

    async fn make_new_set(&mut self, next: i64) -> Result<Option<Arc<ReplicaSet>>, Error> {
        let collisions = self.deployment.status.as_ref().and_then(|status| status.collision_count);
        let template_hash = hash::pod_template_hash(&self.spec().template, collisions)?;
        let name = format!("{}-{template_hash}", self.name());
        let set = self.new_set(&name, &template_hash, next);
        let size = replicas(&set);
        let (created, existed) = match self.create_set(&set).await {
            Ok(created) => (created, false),
            Err(error) if error.is_already_exists() => (self.resolve_collision(&name).await?, true),
            Err(error) if error.is_namespace_terminating() => return Ok(None),
            Err(error) => {
                let message = format!("Failed to create new replica set \"{name}\": {}", pod_control::text(&error));
                self.controller.recorder.warning(self.deployment.object_ref(&()), CREATE_ERROR, message.clone());
                if status::progress_deadline(self.spec()).is_some() {
                    self.set_condition(condition::new(PROGRESSING, "False", CREATE_ERROR, message)).await?;
                }
                return Err(error);
            }
        };
        if !existed && size > 0 {
            self.controller.recorder.normal(
                self.deployment.object_ref(&()),
                "ScalingReplicaSet",
                format!("Scaled up replica set {name} from 0 to {size}"),
            );
        }
        self.set_revision(next).await?;
        if !existed && status::progress_deadline(self.spec()).is_some() {
            let message = format!("Created new replica set \"{name}\"");
            self.set_condition(condition::new(PROGRESSING, "True", NEW_SET_CREATED, message)).await?;
        }
        Ok(Some(created))
    }

    fn new_set(&self, name: &str, template_hash: &str, next: i64) -> ReplicaSet {
        let spec = self.spec();
        let mut template = spec.template.clone();
        let template_meta = template.metadata.get_or_insert_default();
        template_meta.labels.get_or_insert_default().insert(TEMPLATE_HASH.to_owned(), template_hash.to_owned());
        let labels = template_meta.labels.clone();
        let mut selector = spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(TEMPLATE_HASH.to_owned(), template_hash.to_owned());
        let mut annotations = std::collections::BTreeMap::new();
        revision::set_new_set_annotations(&self.deployment, &mut annotations, next, false);
        let total = rolling::sum(self.sets.iter().map(|set| replicas(set)));
        ReplicaSet {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: self.deployment.metadata.namespace.clone(),
                labels,
                annotations: Some(annotations),
                owner_references: Some(vec![owner_reference(&self.deployment)]),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(rolling::new_set_replicas(spec, total, 0)),
                min_ready_seconds: spec.min_ready_seconds.filter(|seconds| *seconds != 0),
                selector,
                template: Some(template),
            }),
            status: None,
        }
    }

    /// A ReplicaSet of that name exists: it is ours from an earlier try, or the hash collides and the next try takes another.
    async fn resolve_collision(&mut self, name: &str) -> Result<Arc<ReplicaSet>, Error> {
        let existing = self.read_set(name).await?;
        let ours = meta::controller_of(&existing.metadata)
            .is_some_and(|owner| Some(&owner.uid) == self.deployment.metadata.uid.as_ref());
        let same = existing
            .spec
            .as_ref()
            .and_then(|spec| spec.template.as_ref())
            .is_some_and(|template| revision::same_template(template, &self.spec().template));
        if ours && same {
            self.controller.context.informers.replica_sets.wrote(&existing);
            let existing = Arc::new(existing);
            self.remember(&existing);
            return Ok(existing);
        }
        let count = self.deployment.status.get_or_insert_default().collision_count.get_or_insert(0);
        *count = count.saturating_add(1);
        self.write_status().await?;
        Err(Error::Retry(format!("hash collision: replica set {name} exists already")))
    }

    async fn set_revision(&mut self, revision: i64) -> Result<(), Error> {
        let revision = revision.to_string();
        if meta::annotation(&self.deployment.metadata, REVISION) == Some(&revision) {
            return Ok(());
        }
        let name = self.name().to_owned();
        let api: Api<k8s_openapi::api::apps::v1::Deployment> =
            Api::namespaced(self.controller.context.client.clone(), meta::namespace(&self.deployment.metadata));
        let patch = json!({"metadata": {
            "uid": self.deployment.metadata.uid,
            "annotations": {REVISION: revision},
        }});
        let patched = api
            .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .context(|| format!("setting revision of deployment {name}"))?;
        self.controller.context.informers.deployments.wrote(&patched);
        if patched.metadata.generation != self.deployment.metadata.generation {
            // The spec changed under us; what was planned is for the old one.
            return Err(Error::Retry(format!("deployment {name} changed during its reconcile")));
        }
        self.deployment = patched;
        Ok(())
    }

    async fn set_condition(&mut self, new: k8s_openapi::api::apps::v1::DeploymentCondition) -> Result<(), Error> {
        condition::set(self.deployment.status.get_or_insert_default(), new);
        self.write_status().await
    }

    /// Notes in the Progressing condition that the deployment was paused or resumed, so that the pause does not count
    /// against the deadline.
    pub(super) async fn check_paused(&mut self) -> Result<(), Error> {
        if status::progress_deadline(self.spec()).is_none() {
            return Ok(());
        }
        let reason = self
            .deployment
            .status
            .as_ref()
            .and_then(|status| condition::get(status, PROGRESSING))
            .and_then(|condition| condition.reason.as_deref());
        if reason == Some(TIMED_OUT) {
            return Ok(());
        }
        let new = match (self.spec().paused == Some(true), reason == Some(PAUSED)) {
            (true, false) => condition::new(PROGRESSING, "Unknown", PAUSED, "Deployment is paused"),
            (false, true) => condition::new(PROGRESSING, "Unknown", RESUMED, "Deployment is resumed"),
            _ => return Ok(()),
        };
        self.set_condition(new).await
    }
}
