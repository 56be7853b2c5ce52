//! Endpoints: the older, unsliced view of a Service's pods, kept for clients that still read it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};
use kube::Resource;
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams};
use parking_lot::Mutex;
use skep_client::Recorder;

use crate::context::Context;
use crate::controller::{Queue, Reconciler};
use crate::endpoint_slice::trigger_time::TriggerTimes;
use crate::endpoint_slice::{HEADLESS_LABEL, TRIGGER_TIME};
use crate::error::{Context as _, Error};
use crate::meta::{self, ObjectKey};
use crate::pod_control::text;
use crate::service_membership as membership;
use crate::{informer::Delta, pod};

const MANAGED_BY_LABEL: &str = "endpoints.kubernetes.io/managed-by";
const MANAGED_BY: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses one Endpoints object holds; the rest is only in EndpointSlices.
const MAX_ADDRESSES: usize = 1000;

/// The Endpoints controller.
pub(crate) struct EndpointsController {
    context: Context,
    queue: Queue,
    recorder: Recorder,
    trigger_times: Mutex<TriggerTimes>,
}

impl EndpointsController {
    /// The controller, with its event handlers registered.
    pub(crate) fn new(context: Context, queue: Queue) -> Arc<Self> {
        let recorder = context.recorder.with_component("endpoint-controller");
        let this = Arc::new(Self { context, queue, recorder, trigger_times: Mutex::default() });
        this.register();
        this
    }

    fn register(&self) {
        let informers = &self.context.informers;
        let queue = self.queue.clone();
        informers.services.on_change(move |delta| queue.add(ObjectKey::of(&delta.object().metadata)));
        let (queue, services) = (self.queue.clone(), informers.services.clone());
        informers.pods.on_change(move |delta: &Delta<Pod>| {
            for service in membership::affected_services(&services, delta) {
                queue.add(service);
            }
        });
        // Leftovers of Services deleted while nobody watched, and what others changed.
        let queue = self.queue.clone();
        informers.endpoints.on_change(move |delta| queue.add(ObjectKey::of(&delta.object().metadata)));
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(known) = self.context.informers.endpoints.by_key(key) else { return Ok(()) };
        // Endpoints made by people or by leader election have no Service and no label of ours.
        if meta::label(&known.metadata, MANAGED_BY_LABEL) != Some(MANAGED_BY) {
            return Ok(());
        }
        let api: Api<Endpoints> = Api::namespaced(self.context.client.clone(), &key.namespace);
        match api.delete(&key.name, &DeleteParams::default()).await.context(|| format!("deleting Endpoints {key}")) {
            Ok(answer) => self.context.informers.endpoints.deleted(&known.metadata, answer.left()),
            Err(error) if error.is_not_found() => self.context.informers.endpoints.removed(&known.metadata),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn write(
        &self,
        service: &Service,
        subsets: Vec<EndpointSubset>,
        truncated: bool,
        time: Option<String>,
    ) -> Result<(), Error> {
        let key = ObjectKey::of(&service.metadata);
        let api: Api<Endpoints> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let known = self.context.informers.endpoints.by_key(&key);
        let labels = labels(service);
        let subsets = (!subsets.is_empty()).then_some(subsets);
        if let Some(known) = &known {
            let marked = meta::annotation(&known.metadata, OVER_CAPACITY).is_some();
            let same = known.subsets.clone().filter(|subsets| !subsets.is_empty()) == subsets;
            if same && known.metadata.labels.as_ref() == Some(&labels) && marked == truncated {
                return Ok(());
            }
        }
        let mut annotations = known.as_ref().and_then(|known| known.metadata.annotations.clone()).unwrap_or_default();
        for (annotation, value) in [(OVER_CAPACITY, truncated.then(|| "truncated".to_owned())), (TRIGGER_TIME, time)] {
            match value {
                Some(value) => annotations.insert(annotation.to_owned(), value),
                None => annotations.remove(annotation),
            };
        }
        let metadata = ObjectMeta {
            name: Some(key.name.clone()),
            namespace: Some(key.namespace.clone()),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            ..known.as_ref().map(|known| known.metadata.clone()).unwrap_or_default()
        };
        let endpoints = Endpoints { metadata, subsets };
        let (result, verb) = match &known {
            None => (api.create(&PostParams::default(), &endpoints).await, "create"),
            Some(_) => (api.replace(&key.name, &PostParams::default(), &endpoints).await, "update"),
        };
        match result.context(|| format!("writing Endpoints {key}")) {
            Ok(written) => {
                self.context.informers.endpoints.wrote(&written);
                Ok(())
            }
            Err(error) if error.is_namespace_terminating() => Ok(()),
            Err(error) => {
                if !error.is_conflict() {
                    let reason = if verb == "create" { "FailedToCreateEndpoint" } else { "FailedToUpdateEndpoint" };
                    let message = format!("Failed to {verb} endpoint {key}: {}", text(&error));
                    self.recorder.warning(service.object_ref(&()), reason, message);
                }
                Err(error)
            }
        }
    }
}

impl Reconciler for EndpointsController {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "endpoint-controller"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(service) = self.context.informers.services.by_key(key) else {
            self.trigger_times.lock().forget(key);
            return self.delete(key).await.map(|()| None);
        };
        let Some(selector) = service.spec.as_ref().and_then(membership::selector) else { return Ok(None) };
        let pods = self.context.informers.pods.with_labels(&key.namespace, selector);
        let time = self.trigger_times.lock().observe(key, &service, &pods);
        let mut subsets = subsets(&service, &pods);
        let truncated = truncate(&mut subsets, MAX_ADDRESSES);
        self.write(&service, subsets, truncated, time).await.map(|()| None)
    }
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    if membership::is_headless(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels
}

type PortKey = (String, String, i32, Option<String>);

/// The pods as subsets: addresses that share the same set of ports, sorted.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let publish = spec.publish_not_ready_addresses == Some(true);
    let ipv6 = match spec.ip_families.as_deref().and_then(<[String]>::first) {
        Some(family) => family == "IPv6",
        None => spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok()).is_some_and(|ip| ip.is_ipv6()),
    };
    let mut by_ports: BTreeMap<Vec<PortKey>, (Vec<EndpointAddress>, Vec<EndpointAddress>)> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| membership::can_be_endpoint(pod, publish)) {
        let Some(ip) = membership::ips(pod).find(|ip| ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6() == ipv6)) else {
            continue;
        };
        let wanted = spec.ports.as_deref().unwrap_or_default();
        let mut ports: Vec<PortKey> = wanted
            .iter()
            .filter_map(|port| {
                let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
                let number = membership::find_port(pod, port)?;
                Some((port.name.clone().unwrap_or_default(), protocol, number, port.app_protocol.clone()))
            })
            .collect();
        // None of the named ports is there: this pod is no endpoint. Without any port only headless Services have endpoints.
        if ports.is_empty() && (!wanted.is_empty() || !membership::is_headless(service)) {
            continue;
        }
        ports.sort();
        let (ready, not_ready) = by_ports.entry(ports).or_default();
        let list = if publish || pod::is_ready(pod) { ready } else { not_ready };
        list.push(address(service, pod, ip));
    }
    by_ports.into_iter().map(|(ports, (ready, not_ready))| subset(ports, ready, not_ready)).collect()
}

fn address(service: &Service, pod: &Pod, ip: &str) -> EndpointAddress {
    let node = pod::node_name(pod);
    EndpointAddress {
        ip: ip.to_owned(),
        hostname: membership::hostname(pod, service),
        node_name: (!node.is_empty()).then(|| node.to_owned()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
    }
}

fn subset(ports: Vec<PortKey>, ready: Vec<EndpointAddress>, not_ready: Vec<EndpointAddress>) -> EndpointSubset {
    let sorted = |mut addresses: Vec<EndpointAddress>| {
        let uid = |address: &EndpointAddress| address.target_ref.as_ref().and_then(|target| target.uid.clone());
        addresses.sort_by_key(|address| (address.ip.parse::<IpAddr>().ok(), uid(address)));
        (!addresses.is_empty()).then_some(addresses)
    };
    let ports: Vec<_> = ports
        .into_iter()
        .map(|(name, protocol, port, app_protocol)| EndpointPort {
            name: (!name.is_empty()).then_some(name),
            protocol: Some(protocol),
            port,
            app_protocol,
        })
        .collect();
    EndpointSubset {
        addresses: sorted(ready),
        not_ready_addresses: sorted(not_ready),
        ports: (!ports.is_empty()).then_some(ports),
    }
}

/// Cuts the addresses down to `max`, ready ones first; true if something was cut.
fn truncate(subsets: &mut Vec<EndpointSubset>, max: usize) -> bool {
    let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
    let total: usize = subsets.iter().map(|s| count(&s.addresses) + count(&s.not_ready_addresses)).sum();
    if total <= max {
        return false;
    }
    let mut left = max;
    let mut cut = |list: &mut Option<Vec<EndpointAddress>>| {
        if let Some(addresses) = list {
            addresses.truncate(left);
            left -= addresses.len();
        }
        if list.as_ref().is_some_and(Vec::is_empty) {
            *list = None;
        }
    };
    for subset in subsets.iter_mut() {
        cut(&mut subset.addresses);
    }
    for subset in subsets.iter_mut() {
        cut(&mut subset.not_ready_addresses);
    }
    subsets.retain(|subset| subset.addresses.is_some() || subset.not_ready_addresses.is_some());
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodCondition, PodStatus, ServicePort, ServiceSpec};

    fn service(ports: Vec<ServicePort>) -> Service {
        Service { spec: Some(ServiceSpec { ports: Some(ports), ..Default::default() }), ..Default::default() }
    }

    fn pod(ip: String, ready: bool) -> Arc<Pod> {
        let condition = PodCondition {
            type_: "Ready".into(),
            status: if ready { "True" } else { "False" }.into(),
            ..Default::default()
        };
        let status = PodStatus { pod_ip: Some(ip), conditions: Some(vec![condition]), ..Default::default() };
        Arc::new(Pod { status: Some(status), ..Default::default() })
    }

    #[test]
    fn ready_and_unready_addresses_share_a_subset_sorted_by_number() {
        let service = service(vec![ServicePort { port: 80, ..Default::default() }]);
        let pods = [pod("10.0.0.10".into(), true), pod("10.0.0.9".into(), true), pod("10.0.0.1".into(), false)];
        let subsets = subsets(&service, &pods);
        assert_eq!(subsets.len(), 1);
        let ips = |list: &Option<Vec<EndpointAddress>>| -> Vec<String> {
            list.iter().flatten().map(|address| address.ip.clone()).collect()
        };
        assert_eq!(ips(&subsets[0].addresses), ["10.0.0.9", "10.0.0.10"]);
        assert_eq!(ips(&subsets[0].not_ready_addresses), ["10.0.0.1"]);
    }

    #[test]
    fn more_than_the_capacity_is_cut_and_ready_addresses_stay() {
        let service = service(vec![ServicePort { port: 80, ..Default::default() }]);
        let pods: Vec<_> = (0..20).map(|i| pod(format!("10.0.0.{i}"), i % 2 == 0)).collect();
        let mut subsets = subsets(&service, &pods);
        assert!(truncate(&mut subsets, 12));
        assert_eq!(subsets[0].addresses.as_ref().map(Vec::len), Some(10));
        assert_eq!(subsets[0].not_ready_addresses.as_ref().map(Vec::len), Some(2));
    }
}
