//! What is done about one object: nothing, letting it go, or deleting it. Every decision is taken on live reads.

use std::collections::{HashSet, VecDeque};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy};
use serde_json::json;
use tracing::{debug, info};

use super::Collector;
use super::graph::{FOREGROUND, Identity, Node, ORPHAN, group};
use crate::error::{Context as _, Error};
use crate::meta;

/// Owners that were found missing lately, so that a thousand orphans of one owner cost one question.
#[derive(Debug, Default)]
pub(super) struct AbsentOwners {
    known: HashSet<Identity>,
    order: VecDeque<Identity>,
}

impl AbsentOwners {
    const MAX: usize = 500;

    fn insert(&mut self, identity: Identity) {
        if self.known.insert(identity.clone()) {
            self.order.push_back(identity);
        }
        if self.order.len() > Self::MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

/// How the owners of an object do.
#[derive(Default)]
struct Owners {
    solid: Vec<OwnerReference>,
    absent: Vec<OwnerReference>,
    waiting: Vec<OwnerReference>,
}

impl Collector {
    fn api(&self, identity: &Identity) -> Result<Api<DynamicObject>, Error> {
        let Some(kind) = self.type_of(&identity.api_version, &identity.kind) else {
            return Err(Error::Retry(format!("no resource type for {} {}", identity.api_version, identity.kind)));
        };
        Ok(if kind.namespaced {
            Api::namespaced_with(self.client.clone(), &identity.namespace, &kind.resource)
        } else {
            Api::all_with(self.client.clone(), &kind.resource)
        })
    }

    /// The object's live metadata; None if it is gone or another object has its name.
    async fn live(&self, identity: &Identity) -> Result<Option<ObjectMeta>, Error> {
        let api = self.api(identity)?;
        let found = api.get_metadata_opt(&identity.name).await;
        let found = found.context(|| format!("reading {} {}/{}", identity.kind, identity.namespace, identity.name))?;
        Ok(found.map(|object| object.metadata).filter(|metadata| meta::uid(metadata) == identity.uid))
    }

    pub(super) async fn attempt_to_delete(&self, uid: &str) -> Result<(), Error> {
        let Some(node) = self.graph.lock().get(uid).cloned() else { return Ok(()) };
        // On its way out already; whoever holds a finalizer on it has to act.
        if node.being_deleted && !node.deleting_dependents {
            return Ok(());
        }
        let Some(live) = self.live(&node.identity).await? else {
            if node.observed {
                self.removed(uid);
            } else {
                self.absent.lock().insert(node.identity.clone());
                let todo = self.graph.lock().absent(&node.identity);
                self.enqueue(todo);
            }
            return Ok(());
        };
        if !node.observed {
            return Err(Error::Retry(format!(
                "{} {} exists but no watch has reported it yet",
                node.identity.kind, node.identity.name
            )));
        }
        if node.deleting_dependents {
            return self.finish_foreground(&node, &live).await;
        }
        let owners = live.owner_references.clone().unwrap_or_default();
        if owners.is_empty() {
            return Ok(());
        }
        let owners = self.classify(&node.identity, owners).await?;
        if !owners.solid.is_empty() {
            if owners.absent.is_empty() && owners.waiting.is_empty() {
                return Ok(());
            }
            return self.write_owners(&node.identity, &live, owners.solid).await;
        }
        if !owners.waiting.is_empty() && !node.dependents.is_empty() {
            // A circle of objects that wait for each other must not wait for ever.
            if self.graph.lock().dependents(uid).iter().any(|dependent| dependent.deleting_dependents) {
                let unblocked = live.owner_references.iter().flatten().cloned();
                let unblocked = unblocked.map(|owner| OwnerReference { block_owner_deletion: Some(false), ..owner });
                return self.write_owners(&node.identity, &live, unblocked.collect()).await;
            }
            return self.delete(&node.identity, &live, PropagationPolicy::Foreground).await;
        }
        let has = |finalizer: &str| live.finalizers.iter().flatten().any(|known| known == finalizer);
        let policy = if has(ORPHAN) {
            PropagationPolicy::Orphan
        } else if has(FOREGROUND) {
            PropagationPolicy::Foreground
        } else {
            PropagationPolicy::Background
        };
        self.delete(&node.identity, &live, policy).await
    }

    async fn classify(&self, dependent: &Identity, references: Vec<OwnerReference>) -> Result<Owners, Error> {
        let mut owners = Owners::default();
        for reference in references {
            let Some(kind) = self.type_of(&reference.api_version, &reference.kind) else {
                return Err(Error::Retry(format!(
                    "no resource type for owner {} {}",
                    reference.api_version, reference.kind
                )));
            };
            if kind.namespaced && dependent.namespace.is_empty() {
                debug!(dependent = %dependent.name, owner = %reference.name, "a cluster-scoped object cannot have a namespaced owner");
                owners.solid.push(reference);
                continue;
            }
            let identity = Identity {
                api_version: reference.api_version.clone(),
                kind: reference.kind.clone(),
                namespace: if kind.namespaced { dependent.namespace.clone() } else { String::new() },
                name: reference.name.clone(),
                uid: reference.uid.clone(),
            };
            if self.absent.lock().known.contains(&identity) {
                owners.absent.push(reference);
                continue;
            }
            match self.live(&identity).await? {
                None => {
                    self.absent.lock().insert(identity);
                    owners.absent.push(reference);
                }
                Some(owner) => {
                    let foreground = owner.finalizers.iter().flatten().any(|finalizer| finalizer == FOREGROUND);
                    if meta::is_deleting(&owner) && foreground {
                        owners.waiting.push(reference);
                    } else {
                        owners.solid.push(reference);
                    }
                }
            }
        }
        Ok(owners)
    }

    /// An object deleted in the foreground: goes when nothing blocks it any more.
    async fn finish_foreground(&self, node: &Node, live: &ObjectMeta) -> Result<(), Error> {
        let dependents = self.graph.lock().dependents(&node.identity.uid);
        let blocks = |dependent: &&Node| {
            dependent
                .owners
                .iter()
                .any(|owner| owner.uid == node.identity.uid && owner.block_owner_deletion == Some(true))
        };
        let blocking: Vec<_> = dependents.iter().filter(blocks).collect();
        if blocking.is_empty() {
            return self.remove_finalizer(&node.identity, live, FOREGROUND).await;
        }
        for dependent in blocking.into_iter().filter(|dependent| !dependent.deleting_dependents) {
            self.delete.add(dependent.identity.uid.clone());
        }
        Ok(())
    }

    pub(super) async fn attempt_to_orphan(&self, uid: &str) -> Result<(), Error> {
        let (owner, dependents) = {
            let graph = self.graph.lock();
            let Some(owner) = graph.get(uid).cloned() else { return Ok(()) };
            (owner, graph.dependents(uid))
        };
        let Some(live_owner) = self.live(&owner.identity).await? else { return Ok(()) };
        for dependent in dependents {
            let Some(live) = self.live(&dependent.identity).await? else { continue };
            let references = live.owner_references.clone().unwrap_or_default();
            let kept: Vec<_> = references.iter().filter(|reference| reference.uid != uid).cloned().collect();
            if kept.len() != references.len() {
                self.write_owners(&dependent.identity, &live, kept).await?;
            }
        }
        self.remove_finalizer(&owner.identity, &live_owner, ORPHAN).await
    }

    async fn write_owners(
        &self,
        identity: &Identity,
        live: &ObjectMeta,
        owners: Vec<OwnerReference>,
    ) -> Result<(), Error> {
        debug!(kind = %identity.kind, name = %identity.name, left = owners.len(), "rewriting owner references");
        self.patch(identity, live, json!({"ownerReferences": owners})).await
    }

    async fn remove_finalizer(&self, identity: &Identity, live: &ObjectMeta, finalizer: &str) -> Result<(), Error> {
        let finalizers = live.finalizers.clone().unwrap_or_default();
        let kept: Vec<_> = finalizers.iter().filter(|known| *known != finalizer).collect();
        if kept.len() == finalizers.len() {
            return Ok(());
        }
        self.patch(identity, live, json!({"finalizers": kept})).await
    }

    /// A merge patch of metadata, the one kind every resource takes (custom ones too), guarded by the resource version.
    async fn patch(&self, identity: &Identity, live: &ObjectMeta, mut change: serde_json::Value) -> Result<(), Error> {
        change["uid"] = json!(identity.uid);
        change["resourceVersion"] = json!(live.resource_version);
        let patch = Patch::Merge(json!({"metadata": change}));
        let api = self.api(identity)?;
        match api
            .patch(&identity.name, &PatchParams::default(), &patch)
            .await
            .context(|| format!("patching {} {}/{}", identity.kind, identity.namespace, identity.name))
        {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn delete(&self, identity: &Identity, live: &ObjectMeta, policy: PropagationPolicy) -> Result<(), Error> {
        info!(kind = %identity.kind, group = group(&identity.api_version), namespace = %identity.namespace, name = %identity.name, ?policy, "deleting object without owner");
        // The version guards against an owner that is added between the look and the deletion.
        let params = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(Preconditions {
                uid: Some(identity.uid.clone()),
                resource_version: live.resource_version.clone(),
            }),
            ..DeleteParams::default()
        };
        let api = self.api(identity)?;
        match api
            .delete(&identity.name, &params)
            .await
            .context(|| format!("deleting {} {}/{}", identity.kind, identity.namespace, identity.name))
        {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}
