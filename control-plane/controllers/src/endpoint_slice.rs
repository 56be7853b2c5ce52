//! EndpointSlices: the pods behind each Service, in slices of at most 100.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Resource;
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams, Preconditions};
use parking_lot::Mutex;
use skep_client::Recorder;

use crate::context::Context;
use crate::controller::{Queue, Reconciler};
use crate::error::{Context as _, Error};
use crate::informers::BY_SERVICE;
use crate::meta::{self, ObjectKey};
use crate::pod_control::text;
use crate::service_membership as membership;

mod endpoint;
mod packing;
pub(crate) mod trigger_time;

use endpoint::Group;
use trigger_time::TriggerTimes;

/// Names the Service a slice belongs to.
pub(crate) const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
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
            let slice = delta.object();
            if let Some(service) = meta::label(&slice.metadata, SERVICE_NAME_LABEL) {
                queue.add(ObjectKey::new(meta::namespace(&slice.metadata), service));
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

    fn slices_of(&self, key: &ObjectKey) -> Vec<Arc<EndpointSlice>> {
        let mut slices = self.context.informers.endpoint_slices.indexed(BY_SERVICE, &key.to_string());
        slices.retain(|slice| {
            meta::label(&slice.metadata, MANAGED_BY_LABEL) == Some(MANAGED_BY) && !meta::is_deleting(&slice.metadata)
        });
        slices
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

    async fn apply(&self, service: &Service, change: packing::Change) -> Result<(), Error> {
        let namespace = meta::namespace(&service.metadata);
        let api: Api<EndpointSlice> = Api::namespaced(self.context.client.clone(), namespace);
        let informer = &self.context.informers.endpoint_slices;
        match change {
            packing::Change::Create(slice) => {
                let created = api
                    .create(&PostParams::default(), &slice)
                    .await
                    .context(|| format!("creating EndpointSlice for Service {}", ObjectKey::of(&service.metadata)))?;
                informer.wrote(&created);
            }
            packing::Change::Update(slice) => {
                let name = meta::name(&slice.metadata);
                let updated = api
                    .replace(name, &PostParams::default(), &slice)
                    .await
                    .context(|| format!("updating EndpointSlice {namespace}/{name}"))?;
                informer.wrote(&updated);
            }
            packing::Change::Delete(slice) => {
                let name = meta::name(&slice.metadata);
                let params = DeleteParams::default()
                    .preconditions(Preconditions { uid: slice.metadata.uid.clone(), resource_version: None });
                match api.delete(name, &params).await.context(|| format!("deleting EndpointSlice {namespace}/{name}")) {
                    Ok(answer) => informer.deleted(&slice.metadata, answer.left()),
                    Err(error) if error.is_not_found() => informer.removed(&slice.metadata),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

/// The metadata slices of a Service have in common.
fn template(service: &Service, trigger_time: Option<String>) -> ObjectMeta {
    let mut labels: BTreeMap<String, String> = service.metadata.labels.clone().unwrap_or_default();
    for reserved in [SERVICE_NAME_LABEL, MANAGED_BY_LABEL, HEADLESS_LABEL] {
        labels.remove(reserved);
    }
    labels.insert(SERVICE_NAME_LABEL.to_owned(), meta::name(&service.metadata).to_owned());
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    if membership::is_headless(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    ObjectMeta {
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
    }
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
        let existing = self.slices_of(key);
        let changes = packing::plan(
            &template(&service, trigger_time),
            &self.desired_groups(&service),
            &existing,
            self.context.config.max_endpoints_per_slice,
        );
        // Creates and updates before deletes, so that no endpoint is missing in between.
        let (deletes, writes): (Vec<_>, Vec<_>) =
            changes.into_iter().partition(|change| matches!(change, packing::Change::Delete(_)));
        let mut errors = Vec::new();
        for changes in [writes, deletes] {
            let results = join_all(changes.into_iter().map(|change| self.apply(&service, change))).await;
            errors.extend(results.into_iter().filter_map(Result::err));
        }
        errors.retain(|error| !error.is_namespace_terminating());
        let result = Error::from_batch(errors);
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
