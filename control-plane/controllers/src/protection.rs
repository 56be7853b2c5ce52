//! PersistentVolumeClaims and PersistentVolumes in use stay: a finalizer keeps them until nobody uses them any more.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{Api, ListParams};

use crate::context::Context;
use crate::controller::{Queue, Reconciler};
use crate::error::{Context as _, Error};
use crate::finalizer::{self, Wanted, wanted};
use crate::informer::Delta;
use crate::meta::{self, ObjectKey};
use crate::pod;

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";

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
        finalizer::write(&api, claims, &claim, CLAIM, &wanted).await.map(|()| None)
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
        finalizer::write(&api, volumes, &volume, VOLUME, &wanted).await.map(|()| None)
    }
}
