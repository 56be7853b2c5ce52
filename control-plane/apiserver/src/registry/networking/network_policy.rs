//! NetworkPolicies.

use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::resource::ResourceInfo;

use super::GROUP;
use crate::registry::checks::{self, or, text};
use crate::registry::strategy::{Column, Strategy};
use crate::registry::table_info::info;
use crate::registry::{cell, workload};

/// The strategy of network policies.
#[derive(Debug)]
pub(crate) struct NetworkPolicies;

const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
const TYPES: [&str; 2] = ["Ingress", "Egress"];

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Pod-Selector", "string", "podSelector selects the pods to which this NetworkPolicy object applies."),
    Column::AGE,
];

impl Strategy for NetworkPolicies {
    type Object = NetworkPolicy;

    fn info(&self) -> &'static ResourceInfo {
        info(GROUP, "networkpolicies")
    }

    fn prefix(&self) -> &'static str {
        "/registry/networkpolicies/"
    }

    fn default(&self, policy: &mut NetworkPolicy) {
        let spec = policy.spec.get_or_insert_default();
        spec.pod_selector.get_or_insert_default();
        let ingress = spec.ingress.iter_mut().flatten().map(|rule| &mut rule.ports);
        let egress = spec.egress.iter_mut().flatten().map(|rule| &mut rule.ports);
        for port in ingress.chain(egress).flat_map(|ports| ports.iter_mut().flatten()) {
            or(&mut port.protocol, "TCP");
        }
        if spec.policy_types.as_ref().is_none_or(Vec::is_empty) {
            let egress = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
            let types = if egress { &TYPES[..] } else { &TYPES[..1] };
            spec.policy_types = Some(types.iter().map(|t| (*t).to_owned()).collect());
        }
    }

    fn validate(&self, policy: &NetworkPolicy) -> Errors {
        let mut errors = Errors::new();
        let spec = policy.spec.clone().unwrap_or_default();
        let path = Path::new("spec");
        if let Some(selector) = &spec.pod_selector {
            checks::selector(&mut errors, &path.child("podSelector"), selector);
        }
        let list = path.child("ingress");
        for (i, rule) in spec.ingress.iter().flatten().enumerate() {
            let path = list.index(i);
            validate_ports(&rule.ports, &path.child("ports"), &mut errors);
            validate_peers(&rule.from, &path.child("from"), &mut errors);
        }
        let list = path.child("egress");
        for (i, rule) in spec.egress.iter().flatten().enumerate() {
            let path = list.index(i);
            validate_ports(&rule.ports, &path.child("ports"), &mut errors);
            validate_peers(&rule.to, &path.child("to"), &mut errors);
        }
        let list = path.child("policyTypes");
        let types = spec.policy_types.as_deref().unwrap_or_default();
        if types.len() > TYPES.len() {
            errors.push(Error::invalid(&list, types, "may not specify more than two policyTypes"));
            return errors;
        }
        for (i, one) in types.iter().enumerate() {
            if !TYPES.contains(&one.as_str()) {
                errors.push(Error::not_supported(&list.index(i), one, &TYPES));
            }
        }
        errors
    }

    fn bumps_generation(&self, policy: &NetworkPolicy, old: &NetworkPolicy) -> bool {
        policy.spec != old.spec
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, policy: &NetworkPolicy, now: Timestamp) -> Vec<Value> {
        let selector = policy.spec.as_ref().and_then(|s| s.pod_selector.clone()).unwrap_or_default();
        vec![cell::name(&policy.metadata), json!(workload::selector_cell(&selector)), cell::age(&policy.metadata, now)]
    }
}

fn validate_ports(ports: &Option<Vec<NetworkPolicyPort>>, list: &Path<'_>, errors: &mut Errors) {
    for (i, port) in ports.iter().flatten().enumerate() {
        let path = list.index(i);
        let protocol = text(&port.protocol);
        if !PROTOCOLS.contains(&protocol) {
            errors.push(Error::not_supported(&path.child("protocol"), protocol, &PROTOCOLS));
        }
        if let Some(first) = &port.port {
            checks::port(errors, &path.child("port"), first);
        }
        let at = path.child("endPort");
        match (&port.port, port.end_port) {
            (_, None) => {}
            (None, Some(last)) => {
                errors.push(Error::invalid(&at, last, "may not be specified when `port` is not specified"));
            }
            (Some(IntOrString::String(_)), Some(last)) => {
                errors.push(Error::invalid(&at, last, "may not be specified when `port` is non-numeric"));
            }
            (Some(IntOrString::Int(first)), Some(last)) => {
                if last < *first {
                    errors.push(Error::invalid(&at, last, "must be greater than or equal to `port`"));
                }
                checks::port_number(errors, &at, last);
            }
        }
    }
}

fn validate_peers(peers: &Option<Vec<NetworkPolicyPeer>>, list: &Path<'_>, errors: &mut Errors) {
    for (i, peer) in peers.iter().flatten().enumerate() {
        let path = list.index(i);
        let selectors = [("podSelector", &peer.pod_selector), ("namespaceSelector", &peer.namespace_selector)];
        let selects = selectors.iter().any(|(_, selector)| selector.is_some());
        for (field, selector) in selectors {
            if let Some(selector) = selector {
                checks::selector(errors, &path.child(field), selector);
            }
        }
        match &peer.ip_block {
            Some(block) => {
                validate_block(block, &path.child("ipBlock"), errors);
                if selects {
                    errors.push(Error::forbidden(&path, "may not specify both ipBlock and another peer"));
                }
            }
            None if !selects => errors.push(Error::required(&path, "must specify a peer")),
            None => {}
        }
    }
}

fn validate_block(block: &IPBlock, path: &Path<'_>, errors: &mut Errors) {
    const WHY: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
    let at = path.child("cidr");
    if block.cidr.is_empty() {
        errors.push(Error::required(&at, ""));
        return;
    }
    let Ok(whole) = block.cidr.parse::<IpNet>() else {
        errors.push(Error::invalid(&at, &block.cidr, WHY));
        return;
    };
    let list = path.child("except");
    for (i, except) in block.except.iter().flatten().enumerate() {
        let at = list.index(i);
        match except.parse::<IpNet>() {
            Err(_) => errors.push(Error::invalid(&at, except, WHY)),
            Ok(part) if !whole.contains(&part.trunc()) || part.prefix_len() == whole.prefix_len() => {
                errors.push(Error::invalid(&at, except, format!("must be a strict subset of `{}`", at_text(path))));
            }
            Ok(_) => {}
        }
    }
}

fn at_text(path: &Path<'_>) -> String {
    path.child("cidr").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(spec: Value) -> NetworkPolicy {
        let mut policy = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        NetworkPolicies.default(&mut policy);
        policy
    }

    #[test]
    fn types_follow_the_rules() {
        let made = policy(json!({"egress": [{"ports": [{"port": 53}]}]}));
        assert_eq!(NetworkPolicies.validate(&made), []);
        let made = serde_json::to_value(made).unwrap();
        assert_eq!(made["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        assert_eq!(made["spec"]["egress"][0]["ports"][0]["protocol"], "TCP");
    }

    #[test]
    fn a_peer_is_an_address_or_a_selection() {
        let bad =
            policy(json!({"ingress": [{"from": [{}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/8"]},
            "podSelector": {}}], "ports": [{"endPort": 1}]}]}));
        let texts: Vec<_> = NetworkPolicies.validate(&bad).iter().map(Error::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.ingress[0].ports[0].endPort: Invalid value: 1: may not be specified when `port` is not specified",
                "spec.ingress[0].from[0]: Required value: must specify a peer",
                "spec.ingress[0].from[1].ipBlock.except[0]: Invalid value: \"11.0.0.0/8\": must be a strict subset of \
                 `spec.ingress[0].from[1].ipBlock.cidr`",
                "spec.ingress[0].from[1]: Forbidden: may not specify both ipBlock and another peer",
            ]
        );
    }
}
