//! The roles and bindings every cluster has, as upstream's post-start hook `rbac/bootstrap-roles` makes and mends them.
//!
//! What is missing is created. What is there and carries [`AUTOUPDATE`] keeps what was added to it and gets back what was
//! taken from it; a binding to another role than ours is made anew.

mod controllers;
mod reconcile;
mod roles;

use std::collections::BTreeMap;

use k8s_openapi::{
    api::rbac::v1::{
        AggregationRule, ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};

use crate::authz::rbac::GROUP;

pub(crate) use reconcile::run;

/// On objects that are to be mended.
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const BOOTSTRAPPING: (&str, &str) = ("kubernetes.io/bootstrapping", "rbac-defaults");

const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";
const READ_WRITE: &str = "create delete deletecollection get list patch update watch";
/// The core group and the one events moved to: lists are separated by blanks, and the core group's name is empty.
const EVENT_GROUPS: &str = " events.k8s.io";

/// A rule as written down: lists are separated by blanks.
#[derive(Clone, Copy)]
struct Rule {
    verbs: &'static str,
    groups: &'static str,
    resources: &'static str,
    names: &'static str,
    urls: &'static str,
}

const fn rule(verbs: &'static str, groups: &'static str, resources: &'static str) -> Rule {
    Rule { verbs, groups, resources, names: "", urls: "" }
}

const fn named(verbs: &'static str, groups: &'static str, resources: &'static str, names: &'static str) -> Rule {
    Rule { verbs, groups, resources, names, urls: "" }
}

const fn urls(urls: &'static str) -> Rule {
    Rule { verbs: "get", groups: "", resources: "", names: "", urls }
}

/// May report events.
const EVENTS: Rule = rule("create patch update", EVENT_GROUPS, "events");

impl Rule {
    fn policy(&self) -> PolicyRule {
        let list = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
        let some = |text: &str| if text.is_empty() { None } else { Some(list(text)) };
        let verbs = list(self.verbs);
        if !self.urls.is_empty() {
            return PolicyRule { verbs, non_resource_urls: some(self.urls), ..PolicyRule::default() };
        }
        PolicyRule {
            verbs,
            api_groups: Some(list(self.groups)),
            resources: some(self.resources),
            resource_names: some(self.names),
            non_resource_urls: None,
        }
    }
}

fn policies(rules: &[Rule]) -> Vec<PolicyRule> {
    rules.iter().map(Rule::policy).collect()
}

fn metadata(namespace: &str, name: &str, labels: &[(&str, &str)]) -> ObjectMeta {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()).filter(|namespace| !namespace.is_empty()),
        labels: Some(labels.iter().chain([&BOOTSTRAPPING]).map(owned).collect()),
        annotations: Some(BTreeMap::from([(AUTOUPDATE.to_owned(), "true".to_owned())])),
        ..ObjectMeta::default()
    }
}

fn cluster_role(name: &str, labels: &[(&str, &str)], rules: Vec<PolicyRule>) -> ClusterRole {
    ClusterRole { metadata: metadata("", name, labels), rules: Some(rules), aggregation_rule: None }
}

/// A role whose rules are those of all roles with a label; the clusterrole-aggregation controller fills it.
fn aggregated(name: &str, labels: &[(&str, &str)], of: &str) -> ClusterRole {
    let selector = LabelSelector {
        match_labels: Some(BTreeMap::from([(of.to_owned(), "true".to_owned())])),
        ..LabelSelector::default()
    };
    let aggregation_rule = Some(AggregationRule { cluster_role_selectors: Some(vec![selector]) });
    ClusterRole { metadata: metadata("", name, labels), rules: None, aggregation_rule }
}

fn role_ref(kind: &str, name: &str) -> RoleRef {
    RoleRef { api_group: GROUP.to_owned(), kind: kind.to_owned(), name: name.to_owned() }
}

fn user(name: &str) -> Subject {
    Subject { api_group: Some(GROUP.to_owned()), kind: "User".to_owned(), name: name.to_owned(), namespace: None }
}

fn group(name: &str) -> Subject {
    Subject { kind: "Group".to_owned(), ..user(name) }
}

fn account(name: &str) -> Subject {
    let namespace = Some("kube-system".to_owned());
    Subject { api_group: None, kind: "ServiceAccount".to_owned(), name: name.to_owned(), namespace }
}

fn cluster_binding(name: &str, subjects: Vec<Subject>) -> ClusterRoleBinding {
    binding_of(name, name, subjects)
}

fn binding_of(name: &str, role: &str, subjects: Vec<Subject>) -> ClusterRoleBinding {
    ClusterRoleBinding {
        metadata: metadata("", name, &[]),
        role_ref: role_ref("ClusterRole", role),
        subjects: Some(subjects),
    }
}

fn namespace_role(namespace: &str, name: &str, rules: &[Rule]) -> Role {
    Role { metadata: metadata(namespace, name, &[]), rules: Some(policies(rules)) }
}

fn namespace_binding(namespace: &str, name: &str, role: &str, subjects: Vec<Subject>) -> RoleBinding {
    RoleBinding { metadata: metadata(namespace, name, &[]), role_ref: role_ref("Role", role), subjects: Some(subjects) }
}

/// What a node may do besides what depends on its pods, and what it may do as a proxy and as who enforces policies.
pub(crate) fn node_rules() -> Vec<PolicyRule> {
    let mut rules = policies(roles::NODE);
    rules.extend(policies(roles::NODE_PROXIER));
    rules.extend(policies(roles::NODE_POLICIES));
    rules
}
