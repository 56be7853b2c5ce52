//! From this node's pods to what is programmed for their host ports (`ports[].hostPort`). No I/O.
//!
//! What upstream leaves to the CNI plugin `portmap`: the port leads to the pod at every address of the node, or at `hostIP`
//! only, from when the pod has an address until it has ended.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod};

use super::{ServiceKey, key_of};
use crate::service::{Backend, Family, Frontend, Kind, Protocol, Service, ServicePort, ServicePortName};

/// Longest name the maps keep whole; Services have no longer one, pods may.
const NAME_MAX: usize = skep_ebpf_common::NAME_LEN - 1;

/// The host ports of the known pods that have any.
#[derive(Debug, Default)]
pub(crate) struct HostPorts {
    pods: HashMap<ServiceKey, BTreeMap<ServicePort, Service>>,
}

impl HostPorts {
    /// Notes a pod. Returns its key if anything that matters changed.
    pub(crate) fn apply(&mut self, pod: &Pod) -> Option<ServiceKey> {
        let key = key_of(&pod.metadata)?;
        let new = read_pod(pod, &key);
        if new.is_empty() {
            return self.pods.remove(&key).map(|_| key);
        }
        let former = self.pods.insert(key.clone(), new);
        (former.as_ref() != self.pods.get(&key)).then_some(key)
    }

    /// Forgets a pod. Returns whether it had host ports.
    pub(crate) fn delete(&mut self, key: &ServiceKey) -> bool {
        self.pods.remove(key).is_some()
    }

    /// Keys of the pods that have host ports.
    pub(crate) fn pods(&self) -> impl Iterator<Item = &ServiceKey> {
        self.pods.keys()
    }

    /// What is to be programmed for a pod; nothing if it is unknown.
    pub(crate) fn desired(&self, key: &ServiceKey) -> Vec<(ServicePort, Service)> {
        let ports = self.pods.get(key).into_iter().flatten();
        ports.map(|(port, service)| (port.clone(), service.clone())).collect()
    }
}

/// Nothing for a pod in the node's own network, without an address yet, or that has ended.
fn read_pod(pod: &Pod, key: &ServiceKey) -> BTreeMap<ServicePort, Service> {
    let (Some(spec), Some(status)) = (&pod.spec, &pod.status) else { return BTreeMap::new() };
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if ended || spec.host_network == Some(true) {
        return BTreeMap::new();
    }
    let ips = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).chain(status.pod_ip.as_deref());
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in ips.filter_map(|ip| ip.parse().ok()) {
        if !addresses.iter().any(|known| Family::of(*known) == Family::of(address)) {
            addresses.push(address);
        }
    }
    let long = key.name.len() > NAME_MAX;
    let name = if long { pod.metadata.uid.as_deref().unwrap_or_default().into() } else { key.name.clone() };
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports =
        spec.containers.iter().chain(sidecars).flat_map(|container: &Container| container.ports.iter().flatten());
    let mut read = BTreeMap::new();
    for (frontend, backend) in ports.flat_map(|port| addresses.iter().filter_map(|address| read_port(port, *address))) {
        let name = ServicePortName::host_port(key.namespace.clone(), name.clone(), &frontend);
        let port = ServicePort { name, family: Family::of(frontend.address) };
        read.entry(port).or_insert_with(|| Service {
            frontends: [(frontend, Kind::HostPort)].into(),
            cluster: vec![Backend { address: backend, local: true }],
            ..Service::default()
        });
    }
    read
}

/// Where that port of a pod with that address is reached, and where it leads; `None` if it has no host port of that family.
fn read_port(port: &ContainerPort, address: IpAddr) -> Option<(Frontend, SocketAddr)> {
    let valid = |port: i32| u16::try_from(port).ok().filter(|number| *number != 0);
    let family = Family::of(address);
    let at = match port.host_ip.as_deref().filter(|ip| !ip.is_empty()) {
        Some(ip) => ip.parse().ok().filter(|ip| Family::of(*ip) == family)?,
        None => family.unspecified(),
    };
    let protocol = Protocol::from_api(port.protocol.as_deref())?;
    let frontend = Frontend { address: at, port: valid(port.host_port?)?, protocol };
    Some((frontend, SocketAddr::new(address, valid(port.container_port)?)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, spec: Value, status: Value) -> Pod {
        let metadata = json!({ "namespace": "ns", "name": name, "uid": "0a1b" });
        serde_json::from_value(json!({ "metadata": metadata, "spec": spec, "status": status })).unwrap()
    }

    fn spec(ports: Value) -> Value {
        json!({ "containers": [{ "name": "c", "ports": ports }] })
    }

    fn running() -> Value {
        json!({ "phase": "Running", "podIP": "10.1.0.7", "podIPs": [{ "ip": "10.1.0.7" }, { "ip": "fd00::7" }] })
    }

    /// Name, frontend and backend of each of its host ports, a line each.
    fn shown(ports: &HostPorts, name: &str) -> Vec<String> {
        let desired = ports.desired(&ServiceKey { namespace: "ns".into(), name: name.into() });
        let line = |(port, service): &(ServicePort, Service)| {
            assert!(port.name.is_host_port() && service.frontends.values().all(|kind| *kind == Kind::HostPort));
            let frontends: Vec<String> = service.frontends.keys().map(ToString::to_string).collect();
            let [backend] = service.cluster[..] else { panic!("not one backend: {service:?}") };
            assert!(backend.local);
            format!("{} {} {}", port.name.name, frontends.join(","), backend.address)
        };
        desired.iter().map(line).collect()
    }

    #[test]
    fn a_host_port_leads_to_its_pod_at_all_addresses_or_at_the_one_it_names() {
        let mut ports = HostPorts::default();
        let given = json!([
            { "containerPort": 80, "hostPort": 8080 },
            { "containerPort": 53, "hostPort": 8080, "protocol": "UDP", "hostIP": "192.0.2.1" },
            { "containerPort": 9000 }, { "containerPort": 9, "hostPort": 9, "protocol": "SCTP" },
        ]);
        let web = pod("web", spec(given), running());
        assert!(ports.apply(&web).is_some());
        assert_eq!(ports.apply(&web), None, "nothing is new");
        let wanted = [
            "web 0.0.0.0:8080/TCP 10.1.0.7:80",
            "web 0.0.0.0:9/SCTP 10.1.0.7:9",
            "web 192.0.2.1:8080/UDP 10.1.0.7:53",
            "web [::]:8080/TCP [fd00::7]:80",
            "web [::]:9/SCTP [fd00::7]:9",
        ];
        let mut found = shown(&ports, "web");
        found.sort();
        assert_eq!(found, wanted);
        assert!(ports.delete(&key_of(&web.metadata).unwrap()));
        assert_eq!(shown(&ports, "web"), [""; 0]);
    }

    #[test]
    fn a_pod_has_none_before_it_has_an_address_after_it_ended_or_in_the_nodes_network() {
        let given = || spec(json!([{ "containerPort": 80, "hostPort": 80 }]));
        let mut ports = HostPorts::default();
        assert_eq!(ports.apply(&pod("a", given(), json!({ "phase": "Pending" }))), None);
        assert!(ports.apply(&pod("a", given(), running())).is_some());
        let ended = json!({ "phase": "Failed", "podIP": "10.1.0.7" });
        assert!(ports.apply(&pod("a", given(), ended)).is_some());
        assert_eq!(ports.pods().count(), 0);
        let mut own = given();
        own["hostNetwork"] = json!(true);
        assert_eq!(ports.apply(&pod("a", own, running())), None);
    }

    #[test]
    fn sidecars_have_host_ports_and_long_names_give_way_to_the_uid() {
        let mut ports = HostPorts::default();
        let port = |number: u16| json!([{ "containerPort": number, "hostPort": number }]);
        let given = json!({ "containers": [{ "name": "c" }], "initContainers": [
            { "name": "a", "ports": port(1) }, { "name": "b", "ports": port(2), "restartPolicy": "Always" },
        ]});
        let name = "n".repeat(200);
        ports.apply(&pod(&name, given, json!({ "podIP": "10.1.0.7" })));
        assert_eq!(shown(&ports, &name), ["0a1b 0.0.0.0:2/TCP 10.1.0.7:2"]);
    }
}
