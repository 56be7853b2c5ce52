//! Nodes.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus};
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::name;
use skep_api::resource::ResourceInfo;
use skep_storage::SelectableField;

use super::checks::{self, canonical, text};
use super::strategy::{Column, Context, Strategy, age};
use super::table_info::info;

/// The strategy of nodes.
#[derive(Debug)]
pub(crate) struct Nodes;

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
const FORBIDDEN: &str = "node updates may only change labels, taints, or capacity (or configSource, if the \
    DynamicKubeletConfig feature gate is enabled)";

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Status", "string", "The status of the node"),
    Column::new("Roles", "string", "The roles of the node"),
    Column::AGE,
    Column::new("Version", "string", "Kubelet Version reported by the node."),
    Column::wide("Internal-IP", "string", "List of addresses reachable to the node."),
    Column::wide("External-IP", "string", "List of addresses reachable to the node."),
    Column::wide(
        "OS-Image",
        "string",
        "OS Image reported by the node from /etc/os-release (e.g. Debian GNU/Linux 7 (wheezy)).",
    ),
    Column::wide(
        "Kernel-Version",
        "string",
        "Kernel Version reported by the node from 'uname -r' (e.g. 3.16.0-0.bpo.4-amd64).",
    ),
    Column::wide(
        "Container-Runtime",
        "string",
        "ContainerRuntime Version reported by the node through runtime remote API (e.g. containerd://1.4.2).",
    ),
];

impl Strategy for Nodes {
    type Object = Node;

    fn info(&self) -> &'static ResourceInfo {
        info("", "nodes")
    }

    fn prefix(&self) -> &'static str {
        "/registry/minions/"
    }

    fn selectable_fields(&self) -> Vec<SelectableField> {
        vec![SelectableField::new("spec.unschedulable").or_default("false")]
    }

    fn default(&self, node: &mut Node) {
        if let Some(spec) = &mut node.spec {
            same_cidrs(spec);
        }
        if let Some(status) = &mut node.status {
            canonical(&mut status.capacity);
            canonical(&mut status.allocatable);
            if status.allocatable.is_none() {
                status.allocatable.clone_from(&status.capacity);
            }
        }
    }

    fn validate(&self, node: &Node) -> Errors {
        let mut errors = Errors::new();
        let path = Path::new("spec.taints");
        let taints: Vec<_> = node.spec.iter().flat_map(|s| s.taints.iter().flatten()).collect();
        for (i, taint) in taints.iter().enumerate() {
            let at = path.index(i);
            checks::name(&mut errors, &at.child("key"), &taint.key, name::qualified_name);
            checks::name(&mut errors, &at.child("value"), text(&taint.value), name::label_value);
            checks::one_of(&mut errors, &at.child("effect"), &taint.effect, &EFFECTS);
            if taints[..i].iter().any(|t| t.key == taint.key && t.effect == taint.effect) {
                errors.push(Error::duplicate(&at, taint));
            }
        }
        validate_pod_cidrs(node, &mut errors);
        validate_amounts(node, &mut errors);
        errors
    }

    fn prepare_for_update(&self, _ctx: &Context<'_>, node: &mut Node, old: &Node) {
        node.status.clone_from(&old.status);
    }

    fn validate_update(&self, node: &Node, old: &Node) -> Errors {
        let mut errors = Errors::new();
        let empty = NodeSpec::default();
        let (new, old) = (node.spec.as_ref().unwrap_or(&empty), old.spec.as_ref().unwrap_or(&empty));
        let path = Path::new("spec");
        let had = old.pod_cidrs.as_deref().unwrap_or_default();
        if !had.is_empty() && new.pod_cidrs.as_deref().unwrap_or_default() != had {
            let why = "node updates may not change podCIDR except from \"\" to valid";
            errors.push(Error::forbidden(&path.child("podCIDRs"), why));
        }
        if !text(&old.provider_id).is_empty() && new.provider_id != old.provider_id {
            let why = "node updates may not change providerID except from \"\" to valid";
            errors.push(Error::forbidden(&path.child("providerID"), why));
        }
        // With everything that may change set back, nothing may differ.
        let mut same = new.clone();
        same.pod_cidr.clone_from(&old.pod_cidr);
        same.pod_cidrs.clone_from(&old.pod_cidrs);
        same.provider_id.clone_from(&old.provider_id);
        same.taints.clone_from(&old.taints);
        same.unschedulable = old.unschedulable;
        if same != *old {
            errors.push(Error::forbidden(&path, FORBIDDEN));
        }
        errors
    }

    fn prepare_for_status_update(&self, _ctx: &Context<'_>, node: &mut Node, old: &Node) {
        node.spec.clone_from(&old.spec);
    }

    fn validate_status_update(&self, node: &Node, _old: &Node) -> Errors {
        let mut errors = Errors::new();
        let mut seen = BTreeSet::new();
        let path = Path::new("status.addresses");
        for (i, address) in node.status.iter().flat_map(|s| s.addresses.iter().flatten()).enumerate() {
            if !seen.insert((&address.type_, &address.address)) {
                errors.push(Error::duplicate(&path.index(i), address));
            }
        }
        validate_amounts(node, &mut errors);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, node: &Node, now: Timestamp) -> Vec<Value> {
        let empty = NodeStatus::default();
        let status = node.status.as_ref().unwrap_or(&empty);
        let system = status.node_info.clone().unwrap_or_default();
        let address = |kind: &str| {
            let found = status.addresses.iter().flatten().find(|a| a.type_ == kind);
            found.map_or("<none>", |a| a.address.as_str()).to_owned()
        };
        let known = |text: String| if text.is_empty() { "<unknown>".to_owned() } else { text };
        vec![
            json!(text(&node.metadata.name)),
            json!(state(node)),
            json!(roles(node)),
            json!(age(node.metadata.creation_timestamp.as_ref().map(|t| t.0), now)),
            json!(system.kubelet_version),
            json!(address("InternalIP")),
            json!(address("ExternalIP")),
            json!(known(system.os_image)),
            json!(known(system.kernel_version)),
            json!(known(system.container_runtime_version)),
        ]
    }
}

fn validate_amounts(node: &Node, errors: &mut Errors) {
    let Some(status) = &node.status else { return };
    for (field, list) in [("status.capacity", &status.capacity), ("status.allocatable", &status.allocatable)] {
        let path = Path::new(field);
        for (resource, amount) in list.iter().flatten() {
            checks::quantity(errors, &path.key(resource), amount);
        }
    }
}

fn validate_pod_cidrs(node: &Node, errors: &mut Errors) {
    let path = Path::new("spec.podCIDRs");
    let given = node.spec.as_ref().and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default();
    let mut networks = Vec::new();
    for (i, cidr) in given.iter().enumerate() {
        match cidr.parse::<ipnet::IpNet>() {
            Ok(network) => networks.push(network.addr()),
            Err(_) => {
                let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
                errors.push(Error::invalid(&path.index(i), cidr, why));
            }
        }
    }
    if !checks::one_of_each_family(networks) {
        errors.push(Error::invalid(&path, given, "may specify no more than one CIDR for each IP family"));
    }
}

/// `podCIDR` is the first of `podCIDRs`, whichever of the two was sent.
fn same_cidrs(spec: &mut NodeSpec) {
    if let Some(first) = spec.pod_cidrs.as_ref().and_then(|list| list.first()) {
        spec.pod_cidr = Some(first.clone());
    } else if !text(&spec.pod_cidr).is_empty() {
        spec.pod_cidrs = spec.pod_cidr.clone().map(|cidr| vec![cidr]);
    }
}

fn state(node: &Node) -> String {
    let ready = node.status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|c| c.type_ == "Ready");
    let mut state = match ready {
        Some(condition) if condition.status == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        state.push_str(",SchedulingDisabled");
    }
    state
}

fn roles(node: &Node) -> String {
    let mut roles = BTreeSet::new();
    for (key, value) in node.metadata.labels.iter().flatten() {
        if let Some(role) = key.strip_prefix("node-role.kubernetes.io/").filter(|r| !r.is_empty()) {
            roles.insert(role);
        } else if key == "kubernetes.io/role" && !value.is_empty() {
            roles.insert(value);
        }
    }
    if roles.is_empty() { "<none>".to_owned() } else { roles.into_iter().collect::<Vec<_>>().join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(value: Value) -> Node {
        let mut node = serde_json::from_value(value).unwrap();
        Nodes.default(&mut node);
        node
    }

    #[test]
    fn a_row_tells_state_roles_and_addresses() {
        let row = Nodes.row(
            &node(json!({
                "metadata": {"name": "n1", "labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "a"}},
                "spec": {"unschedulable": true},
                "status": {"conditions": [{"type": "Ready", "status": "True"}],
                    "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]},
            })),
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(row[1..3], [json!("Ready,SchedulingDisabled"), json!("a,control-plane")]);
        assert_eq!(row[5..8], [json!("10.0.0.1"), json!("<none>"), json!("<unknown>")]);
    }

    #[test]
    fn allocatable_is_capacity_unless_said_otherwise() {
        let got = node(json!({"status": {"capacity": {"memory": "1024Mi"}}}));
        assert_eq!(serde_json::to_value(got.status).unwrap()["allocatable"], json!({"memory": "1Gi"}));
    }

    #[test]
    fn a_pod_range_is_set_once() {
        let old = node(json!({"spec": {"podCIDR": "10.0.0.0/24"}}));
        assert_eq!(Nodes.validate_update(&old, &node(json!({}))), []);
        let new = node(json!({"spec": {"podCIDR": "10.0.1.0/24"}}));
        assert_eq!(
            Nodes.validate_update(&new, &old)[0].to_string(),
            "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"
        );
    }

    #[test]
    fn a_node_has_at_most_one_pod_range_of_each_family() {
        let problems = |cidrs: Value| {
            let errors = Nodes.validate(&node(json!({"spec": {"podCIDRs": cidrs}})));
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(problems(json!(["10.0.0.0/24", "fd00::/64"])), [] as [&str; 0]);
        assert_eq!(
            problems(json!(["fd00::/64", "fd01::/64"])),
            [
                "spec.podCIDRs: Invalid value: [\"fd00::/64\",\"fd01::/64\"]: may specify no more than one CIDR for each IP \
                 family"
            ]
        );
        assert_eq!(problems(json!(["10.0.0.0/24", "fd00::/64", "10.0.1.0/24"])).len(), 1);
        assert_eq!(
            problems(json!(["10.0.0.0/24", "fd00::"])),
            ["spec.podCIDRs[1]: Invalid value: \"fd00::\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or \
                 2001:db8::/64)"]
        );
    }

    #[test]
    fn taints_are_distinct() {
        let taint = json!({"key": "a", "effect": "NoSchedule"});
        let found = Nodes.validate(&node(json!({"spec": {"taints": [taint, taint, {"key": "b", "effect": "Odd"}]}})));
        assert_eq!(found.len(), 2);
        assert_eq!(
            found[1].to_string(),
            "spec.taints[2].effect: Unsupported value: \"Odd\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \
             \"NoExecute\""
        );
    }
}
