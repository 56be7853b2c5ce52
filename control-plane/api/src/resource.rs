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
/// Namespaces: a collection of them cannot be deleted.
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

/// A row of the table as written down here.
struct Row {
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short_names: &'static [Str],
    categories: &'static [Str],
    namespaced: bool,
    verbs: &'static [Str],
    subresources: &'static [SubresourceInfo],
}

/// What most rows say.
const ROW: Row = Row {
    group: CORE,
    kind: "",
    plural: "",
    singular: "",
    short_names: NONE,
    categories: NONE,
    namespaced: true,
    verbs: CRUD,
    subresources: &[],
};

const fn resource(row: Row) -> ResourceInfo {
    ResourceInfo {
        group: Cow::Borrowed(row.group),
        version: Cow::Borrowed("v1"),
        kind: Cow::Borrowed(row.kind),
        plural: Cow::Borrowed(row.plural),
        singular: Cow::Borrowed(row.singular),
        short_names: Cow::Borrowed(row.short_names),
        categories: Cow::Borrowed(row.categories),
        namespaced: row.namespaced,
        verbs: Cow::Borrowed(row.verbs),
        subresources: Cow::Borrowed(row.subresources),
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
    resource(Row { kind: "ConfigMap", plural: "configmaps", singular: "configmap", short_names: strs!["cm"], ..ROW }),
    resource(Row { kind: "Endpoints", plural: "endpoints", singular: "endpoints", short_names: strs!["ep"], ..ROW }),
    resource(Row { kind: "Event", plural: "events", singular: "event", short_names: strs!["ev"], ..ROW }),
    resource(Row {
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: strs!["ns"],
        namespaced: false,
        verbs: CRUD_ONE_BY_ONE,
        subresources: NAMESPACE_SUBS,
        ..ROW
    }),
    resource(Row {
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: strs!["no"],
        namespaced: false,
        subresources: NODE_SUBS,
        ..ROW
    }),
    resource(Row {
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: strs!["po"],
        categories: ALL,
        subresources: POD_SUBS,
        ..ROW
    }),
    resource(Row { kind: "Secret", plural: "secrets", singular: "secret", ..ROW }),
    resource(Row {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: strs!["sa"],
        ..ROW
    }),
    resource(Row {
        kind: "Service",
        plural: "services",
        singular: "service",
        short_names: strs!["svc"],
        categories: ALL,
        subresources: SERVICE_SUBS,
        ..ROW
    }),
    resource(Row {
        group: APPS,
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: strs!["deploy"],
        categories: ALL,
        subresources: DEPLOYMENT_SUBS,
        ..ROW
    }),
    resource(Row {
        group: APPS,
        kind: "ReplicaSet",
        plural: "replicasets",
        singular: "replicaset",
        short_names: strs!["rs"],
        categories: ALL,
        subresources: REPLICA_SET_SUBS,
        ..ROW
    }),
    resource(Row { group: "coordination.k8s.io", kind: "Lease", plural: "leases", singular: "lease", ..ROW }),
    resource(Row {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        plural: "endpointslices",
        singular: "endpointslice",
        ..ROW
    }),
    resource(Row {
        group: "networking.k8s.io",
        kind: "IPAddress",
        plural: "ipaddresses",
        singular: "ipaddress",
        short_names: strs!["ip"],
        namespaced: false,
        ..ROW
    }),
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
