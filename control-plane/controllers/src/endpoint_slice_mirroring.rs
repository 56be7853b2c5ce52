//! EndpointSlices for Endpoints that people write by hand: a Service without a selector is served by what its Endpoints
//! say, and whoever serves it reads slices only. KEP-0752, "EndpointSlice mirroring".

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Endpoints, Service};
use kube::Resource;
use skep_client::Recorder;

use crate::context::Context;
use crate::controller::{Queue, Reconciler};
use crate::endpoint_slice::packing::{self, Change};
use crate::endpoint_slice::slices;
use crate::error::Error;
use crate::meta::{self, ObjectKey};
use crate::pod_control::text;

mod mirror;

const MANAGED_BY: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP_MIRROR_LABEL: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints that are used as a lock.
const LEADER_ANNOTATION: &str = "control-plane.alpha.kubernetes.io/leader";

/// The EndpointSlice mirroring controller.
pub(crate) struct EndpointSliceMirroringController {
    context: Context,
    recorder: Recorder,
}

impl EndpointSliceMirroringController {
    /// The controller, with its event handlers registered.
    pub(crate) fn new(context: Context, queue: Queue) -> Arc<Self> {
        let own = queue.clone();
        context.informers.services.on_change(move |delta| {
            if delta.both().any(|service| !has_selector(service)) {
                own.add(ObjectKey::of(&delta.object().metadata));
            }
        });
        let own = queue.clone();
        context.informers.endpoints.on_change(move |delta| {
            if delta.both().any(|endpoints| may_be_mirrored(endpoints)) {
                own.add(ObjectKey::of(&delta.object().metadata));
            }
        });
        // Somebody else's change of a slice is put right again, also when it takes a slice out of our hands.
        context.informers.endpoint_slices.on_change(move |delta| {
            let ours = delta.both().filter(|slice| slices::is_managed_by(slice, MANAGED_BY));
            for service in ours.filter_map(|slice| slices::service_of(slice)) {
                queue.add(service);
            }
        });
        let recorder = context.recorder.with_component("endpoint-slice-mirroring-controller");
        Arc::new(Self { context, recorder })
    }

    /// The Endpoints of that name, if they are to be mirrored.
    fn mirrored(&self, key: &ObjectKey) -> Option<Arc<Endpoints>> {
        let informers = &self.context.informers;
        let endpoints = informers.endpoints.by_key(key).filter(|endpoints| may_be_mirrored(endpoints))?;
        informers.services.by_key(key).filter(|service| !has_selector(service))?;
        Some(endpoints)
    }

    /// Tells people what is left out.
    fn report(&self, endpoints: &Endpoints, mirrored: &mirror::Mirrored) {
        let (invalid, skipped) = (mirrored.invalid, mirrored.skipped);
        if invalid > 0 {
            self.recorder.warning(
                endpoints.object_ref(&()),
                "InvalidIPAddress",
                format!("Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices"),
            );
        }
        if skipped > invalid {
            let max = self.context.config.mirroring_max_endpoints_per_subset;
            self.recorder.warning(
                endpoints.object_ref(&()),
                "TooManyAddressesToMirror",
                format!(
                    "A max of {max} addresses can be mirrored to EndpointSlices per Endpoints subset. {skipped} \
                     addresses were skipped"
                ),
            );
        }
    }
}

fn has_selector(service: &Service) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| !selector.is_empty())
}

fn may_be_mirrored(endpoints: &Endpoints) -> bool {
    meta::label(&endpoints.metadata, SKIP_MIRROR_LABEL) != Some("true")
        && meta::annotation(&endpoints.metadata, LEADER_ANNOTATION).is_none()
}

impl Reconciler for EndpointSliceMirroringController {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "endpointslice-mirroring-controller"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let existing = slices::of_service(&self.context.informers, key, MANAGED_BY);
        let Some(endpoints) = self.mirrored(key) else {
            let deletes = existing.into_iter().map(Change::Delete).collect();
            return slices::apply(&self.context, key, deletes).await.map(|()| None);
        };
        let max = self.context.config.mirroring_max_endpoints_per_subset;
        let mirrored = mirror::mirror(&endpoints, max);
        self.report(&endpoints, &mirrored);
        let mut changes = packing::plan(&mirror::template(&endpoints), &mirrored.groups, &existing, max);
        if meta::is_deleting(&endpoints.metadata) {
            changes.retain(|change| !matches!(change, Change::Create(_)));
        }
        let result = slices::apply(&self.context, key, changes).await;
        if let Err(error) = &result
            && !error.is_conflict()
        {
            self.recorder.warning(
                endpoints.object_ref(&()),
                "FailedToUpdateEndpointSlices",
                format!("Error mirroring Endpoints {key} to EndpointSlices: {}", text(error)),
            );
        }
        result.map(|()| None)
    }
}
