//! PersistentVolumeClaims and PersistentVolumes in use stay: a finalizer keeps them until nobody uses them any more.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams, PostParams};
use tracing::debug;

use crate::context::Context;
use crate::controller::{Queue, Reconciler};
use crate::error::{Context as _, Error};
use crate::informer::{Delta, Informer, Object};
use crate::meta::{self, ObjectKey};
use crate::pod;

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";

/// What is to become of an object's finalizer.
enum Wanted {
    Added,
    Removed,
}

/// Nothing to do for an object that is protected, or is going and not ours to hold.
fn wanted(meta: &ObjectMeta, finalizer: &str) -> Option<Wanted> {
    let protected = meta.finalizers.iter().flatten().any(|own| own == finalizer);
    match (meta::is_deleting(meta), protected) {
        (false, false) => Some(Wanted::Added),
        (true, true) => Some(Wanted::Removed),
        _ => None,
    }
}

/// Writes the object with or without the finalizer.
async fn write<K>(
    api: &Api<K>,
    informer: &Informer<K>,
    object: &K,
    finalizer: &str,
    wanted: &Wanted,
) -> Result<(), Error>
where
    K: Object + serde::Serialize,
{
    let mut object = object.clone();
    let meta = object.meta_mut();
    let name = meta::name(meta).to_owned();
    let finalizers = meta.finalizers.get_or_insert_default();
    match wanted {
        Wanted::Added => finalizers.push(finalizer.to_owned()),
        Wanted::Removed => finalizers.retain(|own| own != finalizer),
    }
    match api.replace(&name, &PostParams::default(), &object).await.context(|| format!("protecting {name}")) {
        Ok(written) => {
            if matches!(wanted, Wanted::Added) {
                informer.wrote(&written);
            }
            debug!(%name, finalizer, added = matches!(wanted, Wanted::Added), "finalizer set");
            Ok(())
        }
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

/// The claims a pod uses. One that is not scheduled yet uses none: its node will not start it with a claim that goes.
fn claims_of(pod: &Pod) -> Vec<String> {
    if pod::node_name(pod).is_empty() {
        return Vec::new();
    }
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    volumes
        .iter()
        .filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => Some(claim.claim_name.clone()),
            (None, Some(_)) => Some(format!("{}-{}", meta::name(&pod.metadata), volume.name)),
            (None, None) => None,
        })
        .collect()
}

/// Keeps claims that pods use.
pub(crate) struct ClaimProtection {
    context: Context,
}

impl ClaimProtection {
    /// The controller, with its event handlers registered.
    pub(crate) fn new(context: Context, queue: Queue) -> Arc<Self> {
        let own = queue.clone();
        context.informers.claims.on_change(move |delta| {
            let meta = &delta.object().metadata;
            if !matches!(delta, Delta::Deleted(_)) && wanted(meta, CLAIM).is_some() {
                own.add(ObjectKey::of(meta));
            }
        });
        let claims = context.informers.claims.clone();
        context.informers.pods.on_change(move |delta| {
            // Only a pod that is gone sets a claim free.
            let Delta::Deleted(pod) = delta else { return };
            let namespace = meta::namespace(&pod.metadata);
            for name in claims_of(pod) {
                if claims.get(namespace, &name).is_some_and(|claim| meta::is_deleting(&claim.metadata)) {
                    queue.add(ObjectKey::new(namespace, name));
                }
            }
        });
        Arc::new(Self { context })
    }

    async fn in_use(&self, key: &ObjectKey) -> Result<bool, Error> {
        let uses = |pod: &Pod| claims_of(pod).contains(&key.name);
        if self.context.informers.pods.in_namespace(&key.namespace).iter().any(|pod| uses(pod)) {
            return Ok(true);
        }
        // To let a claim go on the word of a stale cache could cost someone's data.
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let pods =
            api.list(&ListParams::default()).await.context(|| format!("listing pods that may use claim {key}"))?;
        Ok(pods.items.iter().any(uses))
    }
}

impl Reconciler for ClaimProtection {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "pvc-protection-controller"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let claims = &self.context.informers.claims;
        let Some(claim) = claims.by_key(key) else { return Ok(None) };
        let Some(wanted) = wanted(&claim.metadata, CLAIM) else { return Ok(None) };
        if matches!(wanted, Wanted::Removed) && self.in_use(key).await? {
            return Ok(None);
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.context.client.clone(), &key.namespace);
        write(&api, claims, &claim, CLAIM, &wanted).await.map(|()| None)
    }
}

/// Keeps volumes that are bound to a claim.
pub(crate) struct VolumeProtection {
    context: Context,
}

impl VolumeProtection {
    /// The controller, with its event handlers registered.
    pub(crate) fn new(context: Context, queue: Queue) -> Arc<Self> {
        context.informers.volumes.on_change(move |delta| {
            let meta = &delta.object().metadata;
            if !matches!(delta, Delta::Deleted(_)) && wanted(meta, VOLUME).is_some() {
                queue.add(ObjectKey::of(meta));
            }
        });
        Arc::new(Self { context })
    }
}

impl Reconciler for VolumeProtection {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "pv-protection-controller"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let volumes = &self.context.informers.volumes;
        let Some(volume) = volumes.by_key(key) else { return Ok(None) };
        let Some(wanted) = wanted(&volume.metadata, VOLUME) else { return Ok(None) };
        let bound = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        if matches!(wanted, Wanted::Removed) && bound {
            return Ok(None);
        }
        let api: Api<PersistentVolume> = Api::all(self.context.client.clone());
        write(&api, volumes, &volume, VOLUME, &wanted).await.map(|()| None)
    }
}
