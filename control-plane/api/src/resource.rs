//! The table of resources: what discovery lists, what the router accepts and what errors call things.

use std::borrow::Cow;
use std::sync::LazyLock;

mod admissionregistration;
mod apiregistration;
mod apps;
mod autoscaling;
mod batch;
mod certificates;
mod coordination;
mod core;
mod discovery;
mod dynamic_resource;
mod events;
mod flowcontrol;
mod networking;
mod node;
mod policy;
mod rbac;
mod row;
mod scheduling;
mod storage;

/// A string that is static for built-in resources and owned for resources made at run time.
pub type Str = Cow<'static, str>;
/// A list of [`Str`], static for built-in resources.
pub type Strs = Cow<'static, [Str]>;

/// One resource of one API version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceInfo {
    /// API group, empty for the core group.
    pub group: Str,
    /// Version within the group, such as `v1`.
    pub version: Str,
    /// Kind of one object, such as `Deployment`.
    pub kind: Str,
    /// Name in request paths, such as `deployments`.
    pub plural: Str,
    /// Singular name, such as `deployment`.
    pub singular: Str,
    /// Short names kubectl accepts.
    pub short_names: Strs,
    /// Categories, such as `all`.
    pub categories: Strs,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Verbs discovery announces, sorted as upstream does.
    pub verbs: Strs,
    /// Subresources, sorted by name.
    pub subresources: Cow<'static, [SubresourceInfo]>,
}

/// A subresource such as `pods/binding`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubresourceInfo {
    /// Name behind the slash.
    pub name: Str,
    /// Group of the object it speaks; empty together with [`Self::version`] when it is the parent's own.
    pub group: Str,
    /// Version of the object it speaks; empty when it is the parent's own.
    pub version: Str,
    /// Kind of the object it speaks.
    pub kind: Str,
    /// Verbs discovery announces.
    pub verbs: Strs,
}

impl ResourceInfo {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> Str {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version).into() }
    }

    /// Group, version and kind.
    pub fn gvk(&self) -> (&str, &str, &str) {
        (&self.group, &self.version, &self.kind)
    }

    /// `pods` or `deployments.apps`, the way errors name a resource.
    pub fn group_resource(&self) -> Str {
        qualified(&self.plural, &self.group)
    }

    /// `Pod` or `Deployment.apps`, the way validation errors name a kind.
    pub fn group_kind(&self) -> Str {
        qualified(&self.kind, &self.group)
    }

    /// Kind of a list, such as `PodList`.
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    /// The subresource of that name.
    pub fn subresource(&self, name: &str) -> Option<&SubresourceInfo> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether discovery announces `verb`.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }
}

/// `name.group`, or the bare name in the core group.
fn qualified(name: &Str, group: &str) -> Str {
    if group.is_empty() { name.clone() } else { format!("{name}.{group}").into() }
}

/// The groups' rows, sorted by the groups' names.
static GROUPS: &[&[ResourceInfo]] = &[
    core::ROWS,
    admissionregistration::ROWS,
    apiregistration::ROWS,
    apps::ROWS,
    autoscaling::ROWS,
    batch::ROWS,
    certificates::ROWS,
    coordination::ROWS,
    discovery::ROWS,
    events::ROWS,
    flowcontrol::ROWS,
    networking::ROWS,
    node::ROWS,
    policy::ROWS,
    rbac::ROWS,
    dynamic_resource::ROWS,
    scheduling::ROWS,
    storage::ROWS,
];

static BUILT_IN: LazyLock<Vec<ResourceInfo>> =
    LazyLock::new(|| GROUPS.iter().flat_map(|rows| rows.iter().cloned()).collect());

/// The resources skep serves of its own, sorted by group and plural name.
pub fn built_in() -> &'static [ResourceInfo] {
    &BUILT_IN
}

/// The built-in resource served under that group, version and plural name.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static ResourceInfo> {
    BUILT_IN.iter().find(|r| r.plural == plural && r.group == group && r.version == version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_the_group_unless_it_is_core() {
        let deployments = find("apps", "v1", "deployments").unwrap();
        assert_eq!(deployments.api_version(), "apps/v1");
        assert_eq!(deployments.group_resource(), "deployments.apps");
        assert_eq!(deployments.group_kind(), "Deployment.apps");
        let pods = find("", "v1", "pods").unwrap();
        assert_eq!(pods.api_version(), "v1");
        assert_eq!(pods.group_resource(), "pods");
        assert_eq!(pods.list_kind(), "PodList");
    }

    #[test]
    fn scale_speaks_autoscaling() {
        let scale = find("apps", "v1", "deployments").unwrap().subresource("scale").unwrap();
        assert_eq!((&*scale.group, &*scale.version, &*scale.kind), ("autoscaling", "v1", "Scale"));
    }

    #[test]
    fn the_table_is_sorted_and_has_no_twins() {
        let keys: Vec<_> = built_in().iter().map(|r| (&r.group, &r.version, &r.plural)).collect();
        assert!(keys.windows(2).all(|w| (w[0].0, w[0].1) <= (w[1].0, w[1].1)));
        let mut unique = keys.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), keys.len());
    }

    #[test]
    fn namespaces_cannot_be_deleted_as_a_collection() {
        assert!(!find("", "v1", "namespaces").unwrap().has_verb("deletecollection"));
        assert!(find("", "v1", "pods").unwrap().has_verb("deletecollection"));
    }
}
