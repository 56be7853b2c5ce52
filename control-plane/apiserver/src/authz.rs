//! Who may do what: upstream's modes Node and RBAC, behind the group that may do everything.

pub(crate) mod escalation;
pub(crate) mod node;
pub(crate) mod rbac;
pub(crate) mod rule;

use std::fmt::Write as _;

use k8s_openapi::api::rbac::v1::PolicyRule;
use skep_api::{
    request::RequestInfo,
    status::{GroupResource, StatusError},
};
use skep_storage::Storage;

use crate::user::{MASTERS, UserInfo};
use node::Nodes;
use rbac::Rbac;

/// What someone wants to do. Texts that do not apply are empty.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes<'a> {
    pub(crate) user: &'a UserInfo,
    pub(crate) verb: &'a str,
    /// Whether it is about a resource; else about [`Self::path`].
    pub(crate) is_resource: bool,
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) name: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) path: &'a str,
}

impl<'a> Attributes<'a> {
    /// What a request wants.
    pub(crate) fn of(user: &'a UserInfo, request: &'a RequestInfo) -> Self {
        let text = |field: &'a Option<String>| field.as_deref().unwrap_or_default();
        Self {
            user,
            verb: request.verb.as_str(),
            is_resource: request.is_resource_request,
            group: &request.group,
            resource: text(&request.resource),
            subresource: text(&request.subresource),
            name: text(&request.name),
            namespace: text(&request.namespace),
            path: &request.path,
        }
    }

    /// An action on a resource.
    pub(crate) fn resource(user: &'a UserInfo, verb: &'a str, group: &'a str, resource: &'a str) -> Self {
        Self { user, verb, is_resource: true, group, resource, subresource: "", name: "", namespace: "", path: "" }
    }

    /// The same with the name of an object.
    pub(crate) fn named(self, name: &'a str) -> Self {
        Self { name, ..self }
    }

    /// The same in a namespace.
    pub(crate) fn within(self, namespace: &'a str) -> Self {
        Self { namespace, ..self }
    }
}

/// Decides who may do what.
pub(crate) struct Authorizer {
    pub(crate) nodes: Nodes,
    pub(crate) rbac: Rbac,
}

impl Authorizer {
    /// An authorizer over the caches of `storage`.
    pub(crate) fn new(storage: &Storage) -> Self {
        Self { nodes: Nodes::new(storage), rbac: Rbac::new(storage) }
    }

    /// Whether it may be done; if not, what is known of why (mostly nothing).
    pub(crate) fn authorize(&self, attributes: &Attributes<'_>) -> Result<(), String> {
        if attributes.user.in_group(MASTERS) {
            return Ok(());
        }
        let Err(node) = self.nodes.authorize(attributes) else { return Ok(()) };
        let Err(rbac) = self.rbac.authorize(attributes) else { return Ok(()) };
        let between = if node.is_empty() || rbac.is_empty() { "" } else { "\n" };
        Err(node + between + &rbac)
    }

    /// Whether it may be done.
    pub(crate) fn allows(&self, attributes: &Attributes<'_>) -> bool {
        self.authorize(attributes).is_ok()
    }

    /// [`Self::authorize`] of a request, refused with upstream's 403.
    pub(crate) fn check(&self, user: &UserInfo, request: &RequestInfo) -> Result<(), StatusError> {
        let attributes = Attributes::of(user, request);
        self.authorize(&attributes).map_err(|reason| forbidden(&attributes, &reason))
    }

    /// What allows something that is allowed, in words; empty if it is no object.
    pub(crate) fn allowed_by(&self, attributes: &Attributes<'_>) -> String {
        if attributes.user.in_group(MASTERS) || self.nodes.authorize(attributes).is_ok() {
            return String::new();
        }
        self.rbac.allowed_by(attributes).unwrap_or_default()
    }

    /// Every rule that gives `user` something in `namespace` (empty: in the whole cluster), and whether nodes' rights, which
    /// are no rules, come on top.
    pub(crate) fn rules(&self, user: &UserInfo, namespace: &str) -> (Vec<PolicyRule>, bool) {
        (self.rbac.rules(user, namespace), node::name_of(user).is_some())
    }
}

/// 403 with upstream's text.
pub(crate) fn forbidden(attributes: &Attributes<'_>, reason: &str) -> StatusError {
    let Attributes { user, verb, group, resource, .. } = *attributes;
    let user = &user.name;
    let what = GroupResource { group, resource };
    let mut why;
    if attributes.is_resource {
        let slash = if attributes.subresource.is_empty() { "" } else { "/" };
        let resource = format!("{resource}{slash}{}", attributes.subresource);
        why = format!("User {user:?} cannot {verb} resource {resource:?} in API group {group:?}");
        match attributes.namespace {
            "" => why.push_str(" at the cluster scope"),
            namespace => {
                let _ = write!(why, " in the namespace {namespace:?}");
            }
        }
    } else {
        why = format!("User {user:?} cannot {verb} path {:?}", attributes.path);
    }
    if !reason.is_empty() {
        why.push_str(": ");
        why.push_str(reason);
    }
    StatusError::forbidden(what, attributes.name, why)
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn refusals_read_as_upstreams() {
        let user = UserInfo::authenticated("x", []);
        let text = |uri: &str, reason: &str| {
            let request = RequestInfo::parse(&Method::GET, &uri.parse().unwrap()).unwrap();
            forbidden(&Attributes::of(&user, &request), reason).message().to_owned()
        };
        assert_eq!(
            text("/api/v1/namespaces/default/pods", ""),
            "pods is forbidden: User \"x\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
        );
        assert_eq!(
            text("/apis/apps/v1/deployments", "because"),
            "deployments.apps is forbidden: User \"x\" cannot list resource \"deployments\" in API group \"apps\" at the \
             cluster scope: because"
        );
        assert_eq!(
            text("/api/v1/namespaces/a", ""),
            "namespaces \"a\" is forbidden: User \"x\" cannot get resource \"namespaces\" in API group \"\" in the \
             namespace \"a\""
        );
        assert_eq!(
            text("/api/v1/namespaces/a/pods/p/log", ""),
            "pods \"p\" is forbidden: User \"x\" cannot get resource \"pods/log\" in API group \"\" in the namespace \"a\""
        );
        assert_eq!(text("/metrics", ""), "forbidden: User \"x\" cannot get path \"/metrics\"");
    }
}
