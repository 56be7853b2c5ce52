//! Fields that nobody owns, and fields that a write through one resource cannot change.

use std::sync::LazyLock;

use crate::set::Set;

/// Fields that nobody owns: they say which object it is, or only the server sets them.
pub static STRIPPED: LazyLock<Set> = LazyLock::new(|| {
    Set::of_fields(&[
        &["apiVersion"],
        &["kind"],
        &["metadata"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "creationTimestamp"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
        &["metadata", "clusterName"],
        &["metadata", "generation"],
        &["metadata", "managedFields"],
        &["metadata", "resourceVersion"],
    ])
});

static NONE: Set = Set::EMPTY;
static STATUS: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&[&["status"]]));
static SPEC_AND_STATUS: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&[&["spec"], &["status"]]));
static SPEC: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&[&["spec"]]));
static SPEC_AND_METADATA: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&[&["spec"], &["metadata"]]));
const RESIZED: &[&[&str]] = &[
    &["spec", "containers", "*", "resources"],
    &["spec", "containers", "*", "resizePolicy"],
    &["spec", "initContainers", "*", "resources"],
    &["spec", "initContainers", "*", "resizePolicy"],
];
static POD_STATUS: LazyLock<Set> = LazyLock::new(|| {
    Set::of_fields(&[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]])
});
static DEPLOYMENT_STATUS: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&[&["spec"], &["metadata", "labels"]]));
static SIGNING_STATUS: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&[&["spec"], &["status", "conditions"]]));
static SIGNING_APPROVAL: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&[&["spec"], &["status", "certificate"]]));

/// The fields a kind of write cannot change.
#[derive(Clone, Copy, Debug)]
pub enum Ignored {
    /// These and all below them.
    Fields(&'static Set),
    /// All that is not on the way to one of these places, nor below it; `*` stands for any element.
    AllBut(&'static [&'static [&'static str]]),
}

impl Ignored {
    /// None.
    pub const NOTHING: Self = Self::Fields(&NONE);

    /// A set without them.
    #[must_use]
    pub fn strip(self, set: Set) -> Set {
        match self {
            Self::Fields(fields) => set.recursive_difference(fields),
            Self::AllBut(places) => set.within_places(places),
        }
    }
}

/// The fields a write of a resource (plural name) through a subresource (empty for none) cannot change: what upstream's
/// strategies give as `GetResetFields` and `GetResetFieldsFilter`. `has_status` says whether the resource has a `status`
/// subresource.
pub fn ignored(group: &str, resource: &str, subresource: &str, has_status: bool) -> Ignored {
    Ignored::Fields(match (subresource, group, resource) {
        // A request stays as it was made, so that nobody owns what it asks for, not even who made it.
        ("", "certificates.k8s.io", "certificatesigningrequests") => &SPEC_AND_STATUS,
        ("" | "finalize", ..) if has_status => &STATUS,
        ("ephemeralcontainers", ..) => return Ignored::AllBut(&[&["spec", "ephemeralContainers"]]),
        ("resize", ..) => return Ignored::AllBut(RESIZED),
        ("approval", ..) => &SIGNING_APPROVAL,
        ("status", "", "pods") => &POD_STATUS,
        ("status", "apps", "deployments") => &DEPLOYMENT_STATUS,
        ("status", "certificates.k8s.io", "certificatesigningrequests") => &SIGNING_STATUS,
        (
            "status",
            "admissionregistration.k8s.io"
            | "apiextensions.k8s.io"
            | "apiregistration.k8s.io"
            | "flowcontrol.apiserver.k8s.io"
            | "resource.k8s.io"
            | "storage.k8s.io",
            _,
        ) => &SPEC_AND_METADATA,
        ("status", ..) => &SPEC,
        _ => return Ignored::NOTHING,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reset_is_what_upstreams_strategies_reset() {
        let all = Set::of_fields(&[
            &["metadata", "labels"],
            &["metadata", "ownerReferences"],
            &["spec", "a"],
            &["status", "certificate"],
            &["status", "conditions"],
        ]);
        for (group, resource, subresource, left) in [
            ("", "nodes", "", ".metadata.labels .metadata.ownerReferences .spec.a"),
            ("", "pods", "status", ".metadata.labels .status.certificate .status.conditions"),
            ("", "namespaces", "finalize", ".metadata.labels .metadata.ownerReferences .spec.a"),
            ("apps", "deployments", "status", ".metadata.ownerReferences .status.certificate .status.conditions"),
            (
                "apps",
                "replicasets",
                "status",
                ".metadata.labels .metadata.ownerReferences .status.certificate .status.conditions",
            ),
            ("certificates.k8s.io", "certificatesigningrequests", "", ".metadata.labels .metadata.ownerReferences"),
            (
                "certificates.k8s.io",
                "certificatesigningrequests",
                "status",
                ".metadata.labels .metadata.ownerReferences .status.certificate",
            ),
            (
                "certificates.k8s.io",
                "certificatesigningrequests",
                "approval",
                ".metadata.labels .metadata.ownerReferences .status.conditions",
            ),
            ("resource.k8s.io", "resourceclaims", "status", ".status.certificate .status.conditions"),
            ("storage.k8s.io", "volumeattachments", "status", ".status.certificate .status.conditions"),
            ("apiregistration.k8s.io", "apiservices", "status", ".status.certificate .status.conditions"),
            (
                "example.com",
                "widgets",
                "status",
                ".metadata.labels .metadata.ownerReferences .status.certificate .status.conditions",
            ),
        ] {
            let kept = ignored(group, resource, subresource, true).strip(all.clone());
            let kept: Vec<_> = kept.paths().iter().map(ToString::to_string).collect();
            assert_eq!(kept.join(" "), left, "{resource}/{subresource}");
        }
        assert_eq!(ignored("", "configmaps", "", false).strip(all.clone()), all);
    }
}
