//! From Endpoints to groups of endpoints that share slices. Pure functions.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
use kube::Resource;
use kube::api::ObjectMeta;

use super::MANAGED_BY;
use crate::endpoint_slice::endpoint::{Group, sort_ports};
use crate::endpoint_slice::packing::Template;
use crate::endpoint_slice::{MANAGED_BY_LABEL, SERVICE_NAME_LABEL, TRIGGER_TIME};
use crate::meta;

/// Speaks of the Endpoints alone.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What slices are to hold of Endpoints, and what they cannot.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Mirrored {
    /// Subsets with the same ports are one group for each address family; none is empty.
    pub(super) groups: Vec<Group>,
    /// Addresses that are none.
    pub(super) invalid: usize,
    /// Addresses that are left out: the invalid ones, and those above the limit of their subset.
    pub(super) skipped: usize,
}

/// At most `max` addresses of each subset, ready ones first.
pub(super) fn mirror(endpoints: &Endpoints, max: usize) -> Mirrored {
    let mut mirrored = Mirrored::default();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = ports(subset);
        let (mut all, mut taken) = (0, 0);
        for (address, ready) in addresses(subset) {
            all += 1;
            if taken == max {
                continue;
            }
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                mirrored.invalid += 1;
                continue;
            };
            taken += 1;
            let ip = ip.to_canonical();
            let address_type = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            let endpoint = endpoint(address, ip, ready);
            let known =
                mirrored.groups.iter_mut().find(|group| group.address_type == address_type && group.ports == ports);
            match known {
                Some(group) => group.endpoints.push(endpoint),
                None => mirrored.groups.push(Group { address_type, ports: ports.clone(), endpoints: vec![endpoint] }),
            }
        }
        mirrored.skipped += all - taken;
    }
    mirrored
}

/// The addresses of a subset with their readiness.
fn addresses(subset: &EndpointSubset) -> impl Iterator<Item = (&EndpointAddress, bool)> {
    let ready = subset.addresses.iter().flatten().map(|address| (address, true));
    ready.chain(subset.not_ready_addresses.iter().flatten().map(|address| (address, false)))
}

fn endpoint(address: &EndpointAddress, ip: IpAddr, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|hostname| !hostname.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let ports = subset.ports.iter().flatten().map(|port| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        app_protocol: port.app_protocol.clone(),
    });
    let mut ports: Vec<_> = ports.collect();
    sort_ports(&mut ports);
    ports
}

/// Slices carry all labels and annotations of their Endpoints but those that speak of the Endpoints alone.
pub(super) fn template(endpoints: &Endpoints) -> Template {
    let known = &endpoints.metadata;
    let mut labels = meta::labels(known).clone();
    labels.insert(SERVICE_NAME_LABEL.to_owned(), meta::name(known).to_owned());
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    let mut annotations: BTreeMap<_, _> = known.annotations.clone().unwrap_or_default();
    annotations.retain(|annotation, _| annotation != TRIGGER_TIME && annotation != LAST_APPLIED);
    let metadata = ObjectMeta {
        generate_name: Some(format!("{}-", meta::name(known))),
        namespace: known.namespace.clone(),
        labels: Some(labels),
        annotations: (!annotations.is_empty()).then_some(annotations),
        owner_references: Some(vec![meta::controller_ref(&Endpoints::api_version(&()), &Endpoints::kind(&()), known)]),
        ..ObjectMeta::default()
    };
    Template { metadata, owns_annotations: true, owns_hints: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn endpoints(subsets: Value) -> Endpoints {
        serde_json::from_value(json!({"metadata": {"name": "db"}, "subsets": subsets})).unwrap()
    }

    fn ips(group: &Group) -> Vec<(&str, bool)> {
        let ready = |e: &Endpoint| e.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap();
        group.endpoints.iter().map(|e| (e.addresses[0].as_str(), ready(e))).collect()
    }

    #[test]
    fn families_and_ports_part_endpoints_and_readiness_does_not() {
        let mirrored = mirror(
            &endpoints(json!([
                {"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "notReadyAddresses": [{"ip": "10.0.0.2"}],
                 "ports": [{"name": "b", "port": 2}, {"name": "a", "port": 1, "protocol": "UDP"}]},
                {"addresses": [{"ip": "10.0.0.3"}],
                 "ports": [{"name": "a", "port": 1, "protocol": "UDP"}, {"name": "b", "port": 2}]},
                {"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 3}]},
            ])),
            1000,
        );
        let groups: Vec<_> = mirrored.groups.iter().map(|g| (g.address_type, g.ports.len(), ips(g))).collect();
        assert_eq!(
            groups,
            [
                ("IPv4", 2, vec![("10.0.0.1", true), ("10.0.0.2", false), ("10.0.0.3", true)]),
                ("IPv6", 2, vec![("fd00::1", true)]),
                ("IPv4", 1, vec![("10.0.0.1", true)]),
            ]
        );
        assert_eq!(mirrored.groups[2].ports[0].protocol.as_deref(), Some("TCP"));
        assert_eq!((mirrored.invalid, mirrored.skipped), (0, 0));
    }

    #[test]
    fn the_limit_holds_for_each_subset_and_invalid_addresses_do_not_count() {
        let mirrored = mirror(
            &endpoints(json!([
                {"addresses": [{"ip": "no"}, {"ip": "10.0.0.1"}], "notReadyAddresses": [{"ip": "10.0.0.2"}, {"ip": "10.0.0.3"}]},
                {"addresses": [{"ip": "10.0.0.4"}, {"ip": "10.0.0.5"}]},
            ])),
            2,
        );
        let all = vec![("10.0.0.1", true), ("10.0.0.2", false), ("10.0.0.4", true), ("10.0.0.5", true)];
        assert_eq!(mirrored.groups.iter().flat_map(ips).collect::<Vec<_>>(), all);
        assert_eq!((mirrored.invalid, mirrored.skipped), (1, 2));
    }

    #[test]
    fn a_subset_without_addresses_makes_no_slice() {
        assert_eq!(mirror(&endpoints(json!([{"ports": [{"port": 80}]}])), 1000), Mirrored::default());
    }

    #[test]
    fn slices_carry_what_their_endpoints_say_of_the_service() {
        let mut source = endpoints(json!([]));
        source.metadata.labels = Some([("app".to_owned(), "db".to_owned())].into());
        source.metadata.annotations = Some(
            [TRIGGER_TIME, LAST_APPLIED, "endpoints.kubernetes.io/over-capacity"]
                .map(|annotation| (annotation.to_owned(), "x".to_owned()))
                .into(),
        );
        let metadata = template(&source).metadata;
        assert_eq!(meta::label(&metadata, "app"), Some("db"));
        assert_eq!(meta::label(&metadata, SERVICE_NAME_LABEL), Some("db"));
        assert_eq!(meta::label(&metadata, MANAGED_BY_LABEL), Some("endpointslicemirroring-controller.k8s.io"));
        let annotations: Vec<_> = metadata.annotations.unwrap().into_keys().collect();
        assert_eq!(annotations, ["endpoints.kubernetes.io/over-capacity"]);
        let owner = &metadata.owner_references.unwrap()[0];
        assert_eq!((owner.kind.as_str(), owner.name.as_str(), owner.controller), ("Endpoints", "db", Some(true)));
    }
}
