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

static NONE: LazyLock<Set> = LazyLock::new(Set::default);
static STATUS: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&[&["status"]]));
static SPEC: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&[&["spec"]]));
static SPEC_AND_METADATA: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&[&["spec"], &["metadata"]]));
static METADATA_AND_STATUS: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&[&["metadata"], &["status"]]));
static POD_STATUS: LazyLock<Set> = LazyLock::new(|| {
    Set::of_fields(&[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]])
});
static DEPLOYMENT_STATUS: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&[&["spec"], &["metadata", "labels"]]));
static SIGNING_STATUS: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&[&["spec"], &["status", "conditions"]]));
static SIGNING_APPROVAL: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&[&["spec"], &["status", "certificate"]]));

/// The fields a write of a resource (plural name) through a subresource (empty for none) cannot change. `has_status` says
/// whether the resource has a `status` subresource.
pub fn ignored(group: &str, resource: &str, subresource: &str, has_status: bool) -> &'static Set {
    match (subresource, group, resource) {
        ("" | "finalize", ..) if has_status => &STATUS,
        ("ephemeralcontainers" | "resize", ..) => &METADATA_AND_STATUS,
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
        _ => &NONE,
    }
}
