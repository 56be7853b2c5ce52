//! The table of resources: what discovery lists, what the router accepts and what errors call things.

use std::borrow::Cow;

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

macro_rules! strs {
    ($($s:expr),* $(,)?) => {{
        const LIST: &[Str] = &[$(Cow::Borrowed($s)),*];
        LIST
    }};
}

const CRUD: &[Str] = strs!["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// Namespaces and services: no deletecollection for namespaces.
const CRUD_ONE_BY_ONE: &[Str] = strs!["create", "delete", "get", "list", "patch", "update", "watch"];
const GET_PATCH_UPDATE: &[Str] = strs!["get", "patch", "update"];
const CREATE: &[Str] = strs!["create"];
const GET: &[Str] = strs!["get"];
const UPDATE: &[Str] = strs!["update"];

const fn sub(name: &'static str, kind: &'static str, verbs: &'static [Str]) -> SubresourceInfo {
    sub_of(name, "", "", kind, verbs)
}

const fn sub_of(
    name: &'static str,
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    verbs: &'static [Str],
) -> SubresourceInfo {
    SubresourceInfo {
        name: Cow::Borrowed(name),
        group: Cow::Borrowed(group),
        version: Cow::Borrowed(version),
        kind: Cow::Borrowed(kind),
        verbs: Cow::Borrowed(verbs),
    }
}

const fn resource(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short_names: &'static [Str],
    categories: &'static [Str],
    namespaced: bool,
    verbs: &'static [Str],
    subresources: &'static [SubresourceInfo],
) -> ResourceInfo {
    ResourceInfo {
        group: Cow::Borrowed(group),
        version: Cow::Borrowed("v1"),
        kind: Cow::Borrowed(kind),
        plural: Cow::Borrowed(plural),
        singular: Cow::Borrowed(singular),
        short_names: Cow::Borrowed(short_names),
        categories: Cow::Borrowed(categories),
        namespaced,
        verbs: Cow::Borrowed(verbs),
        subresources: Cow::Borrowed(subresources),
    }
}

const NONE: &[Str] = &[];
const ALL: &[Str] = strs!["all"];
const CORE: &str = "";
const APPS: &str = "apps";

const NAMESPACE_SUBS: &[SubresourceInfo] =
    &[sub("finalize", "Namespace", UPDATE), sub("status", "Namespace", GET_PATCH_UPDATE)];
const NODE_SUBS: &[SubresourceInfo] = &[sub("status", "Node", GET_PATCH_UPDATE)];
const POD_SUBS: &[SubresourceInfo] = &[
    sub("binding", "Binding", CREATE),
    sub_of("eviction", "policy", "v1", "Eviction", CREATE),
    sub("log", "Pod", GET),
    sub("status", "Pod", GET_PATCH_UPDATE),
];
const SERVICE_SUBS: &[SubresourceInfo] = &[sub("status", "Service", GET_PATCH_UPDATE)];
const DEPLOYMENT_SUBS: &[SubresourceInfo] =
    &[sub_of("scale", "autoscaling", "v1", "Scale", GET_PATCH_UPDATE), sub("status", "Deployment", GET_PATCH_UPDATE)];
const REPLICA_SET_SUBS: &[SubresourceInfo] =
    &[sub_of("scale", "autoscaling", "v1", "Scale", GET_PATCH_UPDATE), sub("status", "ReplicaSet", GET_PATCH_UPDATE)];

static BUILT_IN: &[ResourceInfo] = &[
    resource(CORE, "ConfigMap", "configmaps", "configmap", strs!["cm"], NONE, true, CRUD, &[]),
    resource(CORE, "Endpoints", "endpoints", "endpoints", strs!["ep"], NONE, true, CRUD, &[]),
    resource(CORE, "Event", "events", "event", strs!["ev"], NONE, true, CRUD, &[]),
    resource(CORE, "Namespace", "namespaces", "namespace", strs!["ns"], NONE, false, CRUD_ONE_BY_ONE, NAMESPACE_SUBS),
    resource(CORE, "Node", "nodes", "node", strs!["no"], NONE, false, CRUD, NODE_SUBS),
    resource(CORE, "Pod", "pods", "pod", strs!["po"], ALL, true, CRUD, POD_SUBS),
    resource(CORE, "Secret", "secrets", "secret", NONE, NONE, true, CRUD, &[]),
    resource(CORE, "ServiceAccount", "serviceaccounts", "serviceaccount", strs!["sa"], NONE, true, CRUD, &[]),
    resource(CORE, "Service", "services", "service", strs!["svc"], ALL, true, CRUD, SERVICE_SUBS),
    resource(APPS, "Deployment", "deployments", "deployment", strs!["deploy"], ALL, true, CRUD, DEPLOYMENT_SUBS),
    resource(APPS, "ReplicaSet", "replicasets", "replicaset", strs!["rs"], ALL, true, CRUD, REPLICA_SET_SUBS),
    resource("coordination.k8s.io", "Lease", "leases", "lease", NONE, NONE, true, CRUD, &[]),
    resource("discovery.k8s.io", "EndpointSlice", "endpointslices", "endpointslice", NONE, NONE, true, CRUD, &[]),
    resource("networking.k8s.io", "IPAddress", "ipaddresses", "ipaddress", strs!["ip"], NONE, false, CRUD, &[]),
];

/// The resources skep serves of its own, sorted by group and plural name.
pub fn built_in() -> &'static [ResourceInfo] {
    BUILT_IN
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
