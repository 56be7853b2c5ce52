//! Who may do what.
//!
//! Until RBAC objects are served, [`BuiltIn`] speaks for the roles upstream creates at start, coarsely:
//!
//! | who                                     | may                                                                          |
//! |-----------------------------------------|------------------------------------------------------------------------------|
//! | group `system:masters`                  | everything                                                                   |
//! | user `system:kube-controller-manager`   | everything with resources                                                    |
//! | user `system:kube-scheduler`            | read all resources; bind, evict and mark pods; leases and events              |
//! | group `system:nodes`                    | what a node's daemon does, see below                                         |
//! | everyone identified                     | discovery                                                                    |
//! | everyone                                | health and version                                                           |
//!
//! What a member of `system:nodes` may do, and how that differs from upstream's node authorizer and NodeRestriction:
//!
//! - Read pods, services, endpoints, nodes, namespaces, leases, volumes of the whole cluster, as upstream.
//! - Read Secrets, ConfigMaps and claims by name, never list them. Upstream further demands that a pod of that node uses
//!   the object; here a node that knows a name can read it. *So a stolen node identity reads every Secret whose name it
//!   can guess or finds in a pod's spec.*
//! - Change and delete its own Node, CSINode and node lease only (the user is `system:node:NAME`), as upstream.
//! - Create any pod, evict or delete any pod and write any pod's status. Upstream allows mirror pods and its own pods only.
//! - Ask for tokens of any ServiceAccount; upstream of those its pods run as.

use std::fmt::Write as _;

use skep_api::{
    request::{RequestInfo, Verb},
    status::StatusError,
};

use crate::user::{MASTERS, NODES, UserInfo};

/// Decides whether a user may make a request.
pub trait Authorizer: Send + Sync + 'static {
    /// Whether `user` may make `request`. Silence is a no.
    fn allows(&self, user: &UserInfo, request: &RequestInfo) -> bool;
}

/// The rules that hold without any objects; see the module's description.
#[derive(Clone, Copy, Debug, Default)]
pub struct BuiltIn;

impl Authorizer for BuiltIn {
    fn allows(&self, user: &UserInfo, request: &RequestInfo) -> bool {
        if user.in_group(MASTERS) {
            return true;
        }
        if !request.is_resource_request {
            return is_public(request) || (user.in_group(crate::user::AUTHENTICATED) && is_discovery(request));
        }
        match user.name.as_str() {
            "system:kube-controller-manager" => true,
            "system:kube-scheduler" => scheduler_may(request),
            name if user.in_group(NODES) => node_may(name, request),
            _ => false,
        }
    }
}

/// `system:public-info-viewer`: what load balancers and people without credentials may see.
pub(crate) fn is_public(request: &RequestInfo) -> bool {
    let path = request.path.trim_end_matches('/');
    let below = |root: &str| path == root || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'));
    reads(request) && (["/healthz", "/livez", "/readyz"].into_iter().any(below) || path == "/version")
}

/// `system:discovery`.
fn is_discovery(request: &RequestInfo) -> bool {
    let path = &request.path;
    let below = |root: &str| path == root || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'));
    reads(request) && ["/api", "/apis", "/openapi", "/version"].into_iter().any(below)
}

fn reads(request: &RequestInfo) -> bool {
    matches!(request.verb, Verb::Get | Verb::Head)
}

fn scheduler_may(request: &RequestInfo) -> bool {
    let resource = request.resource.as_deref().unwrap_or_default();
    match request.verb {
        Verb::Get | Verb::List | Verb::Watch => request.subresource.is_none(),
        Verb::Create => {
            matches!((resource, request.subresource.as_deref()), ("pods", Some("binding" | "eviction")))
                || matches!(resource, "events" | "leases" | "bindings")
        }
        Verb::Update | Verb::Patch => {
            matches!((resource, request.subresource.as_deref()), ("pods", Some("status")))
                || matches!(resource, "events" | "leases")
        }
        Verb::Delete => resource == "pods",
        _ => false,
    }
}

fn node_may(user: &str, request: &RequestInfo) -> bool {
    let resource = request.resource.as_deref().unwrap_or_default();
    let subresource = request.subresource.as_deref();
    let name = request.name.as_deref();
    let own = || name.is_some() && user.strip_prefix("system:node:") == name;
    match request.verb {
        Verb::Get | Verb::List | Verb::Watch
            if matches!(resource, "secrets" | "configmaps" | "persistentvolumeclaims") =>
        {
            name.is_some() && request.namespace.is_some()
        }
        Verb::Get | Verb::List | Verb::Watch => matches!(
            resource,
            "pods"
                | "services"
                | "endpoints"
                | "endpointslices"
                | "nodes"
                | "namespaces"
                | "serviceaccounts"
                | "leases"
                | "persistentvolumes"
                | "runtimeclasses"
                | "csinodes"
                | "csidrivers"
                | "volumeattachments"
        ),
        Verb::Create => matches!(
            (resource, subresource),
            ("nodes" | "leases" | "events" | "pods" | "csinodes", None)
                | ("pods", Some("eviction"))
                | ("serviceaccounts", Some("token"))
        ),
        Verb::Update | Verb::Patch => match (resource, subresource) {
            ("nodes", None | Some("status")) | ("leases" | "csinodes", None) => own(),
            ("pods", Some("status")) | ("events", None) => true,
            _ => false,
        },
        Verb::Delete => match (resource, subresource) {
            ("nodes" | "leases" | "csinodes", None) => own(),
            ("pods", None) => true,
            _ => false,
        },
        _ => false,
    }
}

/// 403 with upstream's text.
pub(crate) fn forbidden(user: &UserInfo, request: &RequestInfo) -> StatusError {
    let verb = request.verb;
    if !request.is_resource_request {
        let why = format!("User {:?} cannot {verb} path {:?}", user.name, request.path);
        return StatusError::forbidden(request.group_resource(), "", why);
    }
    let mut resource = request.resource.clone().unwrap_or_default();
    let what = request.group_resource();
    if let Some(subresource) = &request.subresource {
        let _ = write!(resource, "/{subresource}");
    }
    let mut why = format!("User {:?} cannot {verb} resource {resource:?} in API group {:?}", user.name, what.group);
    match &request.namespace {
        Some(namespace) if what.resource != "namespaces" => {
            let _ = write!(why, " in the namespace {namespace:?}");
        }
        _ => why.push_str(" at the cluster scope"),
    }
    StatusError::forbidden(what, request.name.as_deref().unwrap_or_default(), why)
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn request(method: Method, uri: &str) -> RequestInfo {
        RequestInfo::parse(&method, &uri.parse().unwrap()).unwrap()
    }

    #[test]
    fn masters_may_do_everything_and_strangers_nothing() {
        let request = request(Method::GET, "/api/v1/namespaces/default/pods");
        assert!(BuiltIn.allows(&UserInfo::master("admin"), &request));
        let stranger = UserInfo::authenticated("x", []);
        assert!(!BuiltIn.allows(&stranger, &request));
        assert_eq!(
            forbidden(&stranger, &request).message(),
            "pods is forbidden: User \"x\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
        );
    }

    #[test]
    fn the_cluster_scope_is_named() {
        let request = request(Method::GET, "/apis/apps/v1/deployments");
        assert_eq!(
            forbidden(&UserInfo::component("x"), &request).message(),
            "deployments.apps is forbidden: User \"x\" cannot list resource \"deployments\" in API group \"apps\" at the \
             cluster scope"
        );
    }

    #[test]
    fn anonymous_sees_health_and_version_only() {
        let anonymous = UserInfo::anonymous();
        for path in ["/healthz", "/livez", "/readyz/etcd", "/version"] {
            assert!(BuiltIn.allows(&anonymous, &request(Method::GET, path)), "{path}");
        }
        for path in ["/api", "/apis", "/metrics", "/readyzz", "/api/v1/pods"] {
            assert!(!BuiltIn.allows(&anonymous, &request(Method::GET, path)), "{path}");
        }
        assert!(!BuiltIn.allows(&anonymous, &request(Method::POST, "/healthz")));
        assert!(BuiltIn.allows(&UserInfo::authenticated("x", []), &request(Method::GET, "/apis")));
    }

    #[test]
    fn a_node_keeps_to_itself() {
        let node = UserInfo::authenticated("system:node:n1", [NODES.to_owned()]);
        let may = |method, uri: &str| BuiltIn.allows(&node, &request(method, uri));
        const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        assert!(may(Method::GET, "/api/v1/namespaces/a/secrets/s"));
        assert!(may(Method::GET, "/api/v1/namespaces/a/secrets?watch=1&fieldSelector=metadata.name%3Ds"));
        for uri in ["/api/v1/secrets", "/api/v1/namespaces/a/secrets", "/api/v1/namespaces/a/configmaps?watch=1"] {
            assert!(!may(Method::GET, uri), "{uri}");
        }
        // A name alone does not make a list across namespaces one object.
        assert!(!may(Method::GET, "/api/v1/secrets?fieldSelector=metadata.name%3Ds"));
        for (own, other) in
            [("/api/v1/nodes/n1", "/api/v1/nodes/n2"), ("/api/v1/nodes/n1/status", "/api/v1/nodes/n2/status")]
        {
            assert!(may(Method::PATCH, own) && !may(Method::PATCH, other));
        }
        assert!(may(Method::PUT, &format!("{LEASES}/n1")) && !may(Method::PUT, &format!("{LEASES}/n2")));
        assert!(may(Method::DELETE, "/api/v1/nodes/n1") && !may(Method::DELETE, "/api/v1/nodes/n2"));
        assert!(!may(Method::DELETE, "/api/v1/nodes"));
    }

    #[test]
    fn components_may_do_their_work() {
        let node = UserInfo::authenticated("system:node:n1", [NODES.to_owned()]);
        let status = request(Method::PATCH, "/api/v1/namespaces/default/pods/a/status");
        assert!(BuiltIn.allows(&node, &status));
        assert!(!BuiltIn.allows(&node, &request(Method::DELETE, "/api/v1/namespaces/default/services/a")));
        let scheduler = UserInfo::component("system:kube-scheduler");
        assert!(BuiltIn.allows(&scheduler, &request(Method::POST, "/api/v1/namespaces/default/pods/a/binding")));
        assert!(!BuiltIn.allows(&scheduler, &request(Method::POST, "/api/v1/namespaces/default/pods")));
    }
}
