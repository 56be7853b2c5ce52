//! EndpointSlices: the pods behind each Service, in slices of at most 100.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::Resource;
use kube::api::ObjectMeta;
use parking_lot::Mutex;
use skep_client::Recorder;

use crate::context::Context;
use crate::controller::{Queue, Reconciler};
use crate::error::Error;
use crate::meta::{self, ObjectKey};
use crate::pod_control::text;
use crate::service_membership as membership;

pub(crate) mod endpoint;
mod hints;
pub(crate) mod packing;
pub(crate) mod slices;
pub(crate) mod trigger_time;

use endpoint::Group;
use packing::Template;
use trigger_time::TriggerTimes;

/// Names the Service a slice belongs to.
pub(crate) const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Names who made a slice, and alone may change it.
pub(crate) const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGED_BY: &str = "endpointslice-controller.k8s.io";
/// On slices and Endpoints of headless Services.
pub(crate) const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// When the change happened that led to this version of the object.
pub(crate) const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// The EndpointSlice controller.
pub(crate) struct EndpointSliceController {
    context: Context,
    queue: Queue,
    recorder: Recorder,
    trigger_times: Mutex<TriggerTimes>,
}

impl EndpointSliceController {
    /// The controller, with its event handlers registered.
    pub(crate) fn new(context: Context, queue: Queue) -> Arc<Self> {
        let recorder = context.recorder.with_component("endpoint-slice-controller");
        let this = Arc::new(Self { context, queue, recorder, trigger_times: Mutex::default() });
        this.register();
        this
    }

    fn register(&self) {
        let informers = &self.context.informers;
        let queue = self.queue.clone();
        informers.services.on_change(move |delta| queue.add(ObjectKey::of(&delta.object().metadata)));

        let (queue, services) = (self.queue.clone(), informers.services.clone());
        informers.pods.on_change(move |delta| {
            for service in membership::affected_services(&services, delta) {
                queue.add(service);
            }
        });

        // Somebody else's change of a slice is put right again; our own writes make no difference to the plan.
        let queue = self.queue.clone();
        informers.endpoint_slices.on_change(move |delta| {
            if let Some(service) = slices::service_of(delta.object()) {
                queue.add(service);
            }
        });

        // Endpoints carry their node's zone.
        let (queue, services, pods) = (self.queue.clone(), informers.services.clone(), informers.pods.clone());
        informers.nodes.on_change(move |delta| {
            let mut zones = delta.both().map(|node| meta::label(&node.metadata, endpoint::ZONE_LABEL));
            let changed = match (zones.next(), zones.next()) {
                (Some(old), Some(new)) => old != new,
                (Some(only), None) => only.is_some(),
                _ => false,
            };
            if !changed {
                return;
            }
            for pod in pods.indexed(crate::informers::BY_NODE, meta::name(&delta.object().metadata)) {
                for service in membership::affected_services(&services, &crate::informer::Delta::Added(pod)) {
                    queue.add(service);
                }
            }
        });
    }

    fn desired_groups(&self, service: &Service) -> Vec<Group> {
        let Some(spec) = &service.spec else { return Vec::new() };
        let Some(selector) = membership::selector(spec) else { return Vec::new() };
        let informers = &self.context.informers;
        let pods = informers.pods.with_labels(meta::namespace(&service.metadata), selector);
        let zone = |node: &str| {
            let node = informers.nodes.get("", node)?;
            meta::label(&node.metadata, endpoint::ZONE_LABEL).map(str::to_owned)
        };
        endpoint::groups(service, &pods, zone)
    }
}

/// The metadata slices of a Service have in common.
fn template(service: &Service, trigger_time: Option<String>) -> Template {
    let mut labels: BTreeMap<String, String> = service.metadata.labels.clone().unwrap_or_default();
    for reserved in [SERVICE_NAME_LABEL, MANAGED_BY_LABEL, HEADLESS_LABEL] {
        labels.remove(reserved);
    }
    labels.insert(SERVICE_NAME_LABEL.to_owned(), meta::name(&service.metadata).to_owned());
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    if membership::is_headless(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    let metadata = ObjectMeta {
        generate_name: Some(format!("{}-", meta::name(&service.metadata))),
        namespace: service.metadata.namespace.clone(),
        labels: Some(labels),
        annotations: trigger_time.map(|time| BTreeMap::from([(TRIGGER_TIME.to_owned(), time)])),
        owner_references: Some(vec![meta::controller_ref(
            &Service::api_version(&()),
            &Service::kind(&()),
            &service.metadata,
        )]),
        ..ObjectMeta::default()
    };
    Template { metadata, owns_annotations: false, owns_hints: true }
}

impl Reconciler for EndpointSliceController {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "endpoint-slice-controller"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(service) = self.context.informers.services.by_key(key) else {
            // The garbage collector takes the slices with their owner.
            self.trigger_times.lock().forget(key);
            return Ok(None);
        };
        let selects = service.spec.as_ref().and_then(membership::selector);
        let Some(selector) = selects else { return Ok(None) };
        if meta::is_deleting(&service.metadata) {
            return Ok(None);
        }
        let pods = self.context.informers.pods.with_labels(&key.namespace, selector);
        let trigger_time = self.trigger_times.lock().observe(key, &service, &pods);
        let existing = slices::of_service(&self.context.informers, key, MANAGED_BY);
        let changes = packing::plan(
            &template(&service, trigger_time),
            &self.desired_groups(&service),
            &existing,
            self.context.config.max_endpoints_per_slice,
        );
        let result = slices::apply(&self.context, key, changes).await;
        if let Err(error) = &result
            && !error.is_conflict()
        {
            self.recorder.warning(
                service.object_ref(&()),
                "FailedToUpdateEndpointSlices",
                format!("Error updating Endpoint Slices for Service {key}: {}", text(error)),
            );
        }
        result.map(|()| None)
    }
}
