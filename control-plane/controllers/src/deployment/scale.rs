//! Changing the size of ReplicaSets: by the rollout, and in proportion when the deployment is scaled.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::Resource;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};

use super::{Sync, available, replicas, revision, rolling};
use crate::error::{Context as _, Error};
use crate::meta::{self, ObjectKey};

impl Sync<'_> {
    fn sets_api(&self) -> Api<ReplicaSet> {
        Api::namespaced(self.controller.context.client.clone(), meta::namespace(&self.deployment.metadata))
    }

    /// True if the deployment's replicas changed since its ReplicaSets were last scaled.
    pub(super) fn is_scaling_event(&self) -> bool {
        let desired = rolling::desired(self.spec());
        let mut active = self.sets.iter().filter(|set| replicas(set) > 0);
        active.any(|set| revision::desired_replicas(set).is_some_and(|known| known != desired))
    }

    /// Scaling (and all that a paused deployment does): no new ReplicaSet, no rollout.
    pub(super) async fn scale_only(&mut self) -> Result<Option<Duration>, Error> {
        let newest = self.sync_revision(false).await?;
        self.scale(newest.as_ref()).await?;
        if self.spec().paused == Some(true) {
            self.clean_up(newest.as_ref()).await?;
        }
        let newest =
            newest.and_then(|set| self.sets.iter().find(|known| known.metadata.uid == set.metadata.uid).cloned());
        self.sync_status(newest.as_ref()).await
    }

    async fn scale(&mut self, newest: Option<&Arc<ReplicaSet>>) -> Result<(), Error> {
        let desired = rolling::desired(self.spec());
        if let Some(only) = self.active_or_latest(newest) {
            if replicas(&only) != desired {
                self.resize(&only, desired).await?;
            }
            return Ok(());
        }
        let saturated = newest.is_some_and(|set| {
            revision::desired_replicas(set) == Some(desired) && replicas(set) == desired && available(set) == desired
        });
        if saturated {
            for old in self.old_sets(newest).into_iter().filter(|set| replicas(set) > 0) {
                self.resize(&old, 0).await?;
            }
            return Ok(());
        }
        if !rolling::is_rolling(self.spec()) {
            return Ok(());
        }
        let mut active: Vec<_> = self.sets.iter().filter(|set| replicas(set) > 0).cloned().collect();
        let total = rolling::sum(active.iter().map(|set| replicas(set)));
        let grows = desired.saturating_add(rolling::max_surge(self.spec())) > total && desired > 0;
        // Largest first; among equals the newer takes the rest when growing, the older when shrinking.
        active.sort_by(|a, b| {
            replicas(b).cmp(&replicas(a)).then_with(|| {
                let older_first = meta::created(&a.metadata).cmp(&meta::created(&b.metadata));
                if grows { older_first.reverse() } else { older_first }
            })
        });
        let known_total = self.deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
        let shares: Vec<_> = active
            .iter()
            .map(|set| rolling::Share {
                replicas: replicas(set),
                max_before: revision::max_replicas(set).unwrap_or(known_total),
            })
            .collect();
        for (set, size) in active.iter().zip(rolling::proportional(self.spec(), &shares)) {
            self.resize(set, size).await?;
        }
        Ok(())
    }

    /// The one ReplicaSet that matters for scaling: the only active one, or the newest if none is active.
    fn active_or_latest(&self, newest: Option<&Arc<ReplicaSet>>) -> Option<Arc<ReplicaSet>> {
        let mut active = self.sets.iter().filter(|set| replicas(set) > 0);
        match (active.next(), active.next()) {
            (Some(only), None) => Some(only.clone()),
            (Some(_), Some(_)) => None,
            (None, _) => newest.cloned().or_else(|| {
                self.sets
                    .iter()
                    .max_by_key(|set| (meta::created(&set.metadata), meta::name(&set.metadata).to_owned()))
                    .cloned()
            }),
        }
    }

    /// Sets a ReplicaSet's size and scale annotations; true if the size changed.
    pub(super) async fn resize(&mut self, set: &Arc<ReplicaSet>, size: i32) -> Result<bool, Error> {
        let before = replicas(set);
        let mut changed = set.as_ref().clone();
        let annotated =
            revision::set_replicas_annotations(changed.metadata.annotations.get_or_insert_default(), self.spec());
        if before == size && !annotated {
            return Ok(false);
        }
        changed.spec.get_or_insert_default().replicas = Some(size);
        self.write_set(&changed).await?;
        if before != size {
            let direction = if size > before { "up" } else { "down" };
            let name = meta::name(&set.metadata);
            self.controller.recorder.normal(
                self.deployment.object_ref(&()),
                "ScalingReplicaSet",
                format!("Scaled {direction} replica set {name} from {before} to {size}"),
            );
        }
        Ok(before != size)
    }

    /// Writes a changed ReplicaSet and notes the answer.
    pub(super) async fn write_set(&mut self, set: &ReplicaSet) -> Result<Arc<ReplicaSet>, Error> {
        let key = ObjectKey::of(&set.metadata);
        let written = self
            .sets_api()
            .replace(&key.name, &PostParams::default(), set)
            .await
            .context(|| format!("updating replica set {key}"))?;
        self.controller.context.informers.replica_sets.wrote(&written);
        let written = Arc::new(written);
        self.remember(&written);
        Ok(written)
    }

    /// Creates a ReplicaSet and notes the answer.
    pub(super) async fn create_set(&mut self, set: &ReplicaSet) -> Result<Arc<ReplicaSet>, Error> {
        let key = ObjectKey::of(&set.metadata);
        let created = self
            .sets_api()
            .create(&PostParams::default(), set)
            .await
            .context(|| format!("creating replica set {key}"))?;
        self.controller.context.informers.replica_sets.wrote(&created);
        let created = Arc::new(created);
        self.remember(&created);
        Ok(created)
    }

    /// Reads a ReplicaSet from the API.
    pub(super) async fn read_set(&self, name: &str) -> Result<ReplicaSet, Error> {
        self.sets_api().get(name).await.context(|| format!("reading replica set {name}"))
    }

    /// Deletes empty old ReplicaSets beyond the history limit, the oldest revisions first.
    pub(super) async fn clean_up(&mut self, newest: Option<&Arc<ReplicaSet>>) -> Result<(), Error> {
        let Some(limit) = self.spec().revision_history_limit.filter(|limit| *limit != i32::MAX) else { return Ok(()) };
        let mut old: Vec<_> =
            self.old_sets(newest).into_iter().filter(|set| !meta::is_deleting(&set.metadata)).collect();
        let excess = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        old.sort_by_key(|set| (revision::revision(set), meta::created(&set.metadata)));
        for set in old.into_iter().take(excess) {
            let status = set.status.clone().unwrap_or_default();
            if status.replicas != 0 || replicas(&set) != 0 || set.metadata.generation > status.observed_generation {
                continue;
            }
            let name = meta::name(&set.metadata);
            let params = DeleteParams::background()
                .preconditions(Preconditions { uid: set.metadata.uid.clone(), resource_version: None });
            match self.sets_api().delete(name, &params).await.context(|| format!("deleting replica set {name}")) {
                Ok(answer) => self.controller.context.informers.replica_sets.deleted(&set.metadata, answer.left()),
                Err(error) if error.is_not_found() => {
                    self.controller.context.informers.replica_sets.removed(&set.metadata)
                }
                Err(error) => return Err(error),
            }
            self.sets.retain(|known| known.metadata.uid != set.metadata.uid);
        }
        Ok(())
    }
}
