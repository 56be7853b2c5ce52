//! ServiceCIDRs: says when a range of cluster IPs is ready, and keeps one that Services hold addresses of. KEP-1880.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use skep_client::Recorder;

use crate::context::Context;
use crate::controller::{Queue, Reconciler};
use crate::error::{Context as _, Error};
use crate::finalizer::{self, Wanted, wanted};
use crate::informer::Delta;
use crate::meta::{self, ObjectKey};

mod ranges;

const CONTROLLER: &str = "service-cidr-controller";
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// Time for every API server to hear that a range goes, before it is let go.
const GRACE: Duration = Duration::from_secs(10);

/// What the Ready condition says.
struct Ready {
    status: &'static str,
    reason: &'static str,
    message: &'static str,
}

const READY: Ready = Ready { status: "True", reason: "", message: "Kubernetes Service CIDR is ready" };
const HELD: Ready = Ready {
    status: "False",
    reason: "Terminating",
    message: "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
};

/// The ServiceCIDR controller.
pub(crate) struct ServiceCidrController {
    context: Context,
    recorder: Recorder,
}

impl ServiceCidrController {
    /// The controller, with its event handlers registered.
    pub(crate) fn new(context: Context, queue: Queue) -> Arc<Self> {
        let (own, all) = (queue.clone(), context.informers.service_cidrs.clone());
        context.informers.service_cidrs.on_change(move |delta| {
            let range = delta.object();
            own.add(ObjectKey::of(&range.metadata));
            // A new range may take over the addresses of one that goes.
            if matches!(delta, Delta::Added(_)) {
                for other in all.list().iter().filter(|other| ranges::overlap(range, other)) {
                    own.add(ObjectKey::of(&other.metadata));
                }
            }
        });
        let all = context.informers.service_cidrs.clone();
        context.informers.ip_addresses.on_change(move |delta| {
            let Some(address) = ranges::allocated(delta.object()) else { return };
            for range in all.list().iter().filter(|range| ranges::holds(range, address)) {
                queue.add(ObjectKey::of(&range.metadata));
            }
        });
        let recorder = context.recorder.with_component(CONTROLLER);
        Arc::new(Self { context, recorder })
    }

    fn may_go(&self, range: &ServiceCIDR) -> bool {
        let informers = &self.context.informers;
        let addresses: Vec<IpAddr> =
            informers.ip_addresses.list().iter().filter_map(|address| ranges::allocated(address)).collect();
        ranges::may_go(range, &informers.service_cidrs.list(), &addresses)
    }

    async fn say(&self, range: &ServiceCIDR, ready: &Ready) -> Result<(), Error> {
        let conditions = range.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let known = conditions.iter().find(|condition| condition.type_ == "Ready");
        // The API server has words of its own for the range it makes.
        if known.is_some_and(|known| known.status == ready.status && known.reason == ready.reason) {
            return Ok(());
        }
        let name = meta::name(&range.metadata);
        let patch = json!({
            "apiVersion": ServiceCIDR::api_version(&()),
            "kind": ServiceCIDR::kind(&()),
            "status": {"conditions": [{
                "type": "Ready",
                "status": ready.status,
                "reason": ready.reason,
                "message": ready.message,
                "lastTransitionTime": meta::now(),
            }]},
        });
        let api: Api<ServiceCIDR> = Api::all(self.context.client.clone());
        let written = api
            .patch_status(name, &PatchParams::apply(CONTROLLER).force(), &Patch::Apply(patch))
            .await
            .context(|| format!("updating status of ServiceCIDR {name}"))?;
        self.context.informers.service_cidrs.wrote(&written);
        Ok(())
    }

    async fn release(&self, range: &ServiceCIDR, wanted: &Wanted) -> Result<Option<Duration>, Error> {
        if !self.may_go(range) {
            return self.say(range, &HELD).await.map(|()| None);
        }
        let since = range.metadata.deletion_timestamp.as_ref().map_or(Duration::MAX, |deleted| {
            // A clock that runs ahead of ours only prolongs the wait.
            Duration::try_from(Timestamp::now().duration_since(deleted.0)).unwrap_or_default()
        });
        let wait = GRACE.saturating_sub(since);
        if !wait.is_zero() {
            return Ok(Some(wait));
        }
        self.write(range, wanted).await.map(|()| None)
    }

    async fn write(&self, range: &ServiceCIDR, wanted: &Wanted) -> Result<(), Error> {
        let api: Api<ServiceCIDR> = Api::all(self.context.client.clone());
        finalizer::write(&api, &self.context.informers.service_cidrs, range, FINALIZER, wanted).await
    }
}

impl Reconciler for ServiceCidrController {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        CONTROLLER
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(range) = self.context.informers.service_cidrs.by_key(key) else { return Ok(None) };
        match wanted(&range.metadata, FINALIZER) {
            Some(wanted @ Wanted::Removed) => return self.release(&range, &wanted).await,
            Some(wanted @ Wanted::Added) => self.write(&range, &wanted).await?,
            None if meta::is_deleting(&range.metadata) => return Ok(None),
            None => {}
        }
        let said = self.say(&range, &READY).await;
        if said.is_err() {
            self.recorder.warning(
                range.object_ref(&()),
                "KubernetesServiceCIDRError",
                "The ServiceCIDR Status can not be set to Ready=True",
            );
        }
        said.map(|()| None)
    }
}
