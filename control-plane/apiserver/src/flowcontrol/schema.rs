//! FlowSchemas, compiled: which requests are of which flow.

use k8s_openapi::api::flowcontrol::v1::{
    FlowSchema, NonResourcePolicyRule, PolicyRulesWithSubjects, ResourcePolicyRule, Subject as WireSubject,
};
use skep_api::request::RequestInfo;

use crate::user::UserInfo;

/// What tells the flows of one schema apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Distinguisher {
    None,
    User,
    Namespace,
}

/// The conditions of one schema.
#[derive(Debug)]
pub(crate) struct Matcher {
    rules: Vec<Rule>,
    pub(crate) distinguisher: Distinguisher,
}

#[derive(Debug)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourcePolicyRule>,
    paths: Vec<NonResourcePolicyRule>,
}

#[derive(Debug)]
enum Subject {
    Anyone,
    User(String),
    Group(String),
    /// Every account of a namespace, as the beginning of their users' names.
    Accounts(String),
}

impl Matcher {
    pub(crate) fn new(schema: &FlowSchema) -> Self {
        let spec = schema.spec.as_ref();
        let rules = spec.and_then(|spec| spec.rules.as_deref()).unwrap_or_default();
        let by = spec.and_then(|spec| spec.distinguisher_method.as_ref()).map(|method| method.type_.as_str());
        let distinguisher = match by {
            Some("ByUser") => Distinguisher::User,
            Some("ByNamespace") => Distinguisher::Namespace,
            _ => Distinguisher::None,
        };
        Self { rules: rules.iter().map(Rule::new).collect(), distinguisher }
    }

    pub(crate) fn matches(&self, user: &UserInfo, request: &RequestInfo) -> bool {
        self.rules.iter().any(|rule| rule.matches(user, request))
    }
}

impl Rule {
    fn new(rule: &PolicyRulesWithSubjects) -> Self {
        Self {
            subjects: rule.subjects.iter().filter_map(Subject::new).collect(),
            resources: rule.resource_rules.clone().unwrap_or_default(),
            paths: rule.non_resource_rules.clone().unwrap_or_default(),
        }
    }

    fn matches(&self, user: &UserInfo, request: &RequestInfo) -> bool {
        if !self.subjects.iter().any(|subject| subject.is(user)) {
            return false;
        }
        if request.is_resource_request {
            self.resources.iter().any(|rule| matches_resource(rule, request))
        } else {
            self.paths.iter().any(|rule| matches_path(rule, request))
        }
    }
}

impl Subject {
    fn new(subject: &WireSubject) -> Option<Self> {
        match subject.kind.as_str() {
            "User" => Some(match subject.user.as_ref()?.name.as_str() {
                "*" => Self::Anyone,
                name => Self::User(name.to_owned()),
            }),
            "Group" => Some(match subject.group.as_ref()?.name.as_str() {
                "*" => Self::Anyone,
                name => Self::Group(name.to_owned()),
            }),
            "ServiceAccount" => {
                let account = subject.service_account.as_ref()?;
                let (namespace, name) = (&account.namespace, &account.name);
                Some(match name.as_str() {
                    "*" => Self::Accounts(format!("system:serviceaccount:{namespace}:")),
                    name => Self::User(format!("system:serviceaccount:{namespace}:{name}")),
                })
            }
            _ => None,
        }
    }

    fn is(&self, user: &UserInfo) -> bool {
        match self {
            Self::Anyone => true,
            Self::User(name) => user.name == *name,
            Self::Group(name) => user.in_group(name),
            Self::Accounts(prefix) => user.name.starts_with(prefix),
        }
    }
}

fn has(values: &[String], value: &str) -> bool {
    values.iter().any(|own| own == "*" || own == value)
}

fn matches_resource(rule: &ResourcePolicyRule, request: &RequestInfo) -> bool {
    let namespace = request.namespace.as_deref().unwrap_or_default();
    let in_scope = if namespace.is_empty() {
        rule.cluster_scope == Some(true)
    } else {
        rule.namespaces.as_deref().is_some_and(|namespaces| has(namespaces, namespace))
    };
    in_scope
        && has(&rule.verbs, request.verb.as_str())
        && has(&rule.api_groups, &request.group)
        && rule.resources.iter().any(|own| names(own, request))
}

/// Whether `own` names the request's resource, with its subresource if it has one.
fn names(own: &str, request: &RequestInfo) -> bool {
    if own == "*" {
        return true;
    }
    let resource = request.resource.as_deref().unwrap_or_default();
    match request.subresource.as_deref() {
        None => own == resource,
        Some(subresource) => own.split_once('/') == Some((resource, subresource)),
    }
}

fn matches_path(rule: &NonResourcePolicyRule, request: &RequestInfo) -> bool {
    has(&rule.verbs, request.verb.as_str())
        && rule.non_resource_urls.iter().any(|own| match own.strip_suffix('*') {
            Some(prefix) => request.path.starts_with(prefix),
            None => *own == request.path,
        })
}

#[cfg(test)]
mod tests {
    use http::{Method, Uri};

    use super::*;
    use crate::registry::flowcontrol::bootstrap;

    /// The name of the first of upstream's schemas that matches.
    fn classify(user: &UserInfo, method: Method, uri: &'static str) -> String {
        let info = RequestInfo::parse(&method, &Uri::from_static(uri)).unwrap();
        let mut schemas: Vec<FlowSchema> =
            bootstrap::flow_schemas().into_iter().map(|(_, value)| serde_json::from_value(value).unwrap()).collect();
        let precedence = |schema: &FlowSchema| {
            (schema.spec.as_ref().and_then(|spec| spec.matching_precedence), schema.metadata.name.clone())
        };
        schemas.sort_by_key(precedence);
        let found = schemas.iter().find(|schema| Matcher::new(schema).matches(user, &info)).unwrap();
        found.metadata.name.clone().unwrap()
    }

    #[test]
    fn requests_go_where_upstream_sends_them() {
        let node = UserInfo::authenticated("system:node:n1", ["system:nodes".to_owned()]);
        let account = UserInfo::authenticated(
            "system:serviceaccount:default:x",
            ["system:serviceaccounts".to_owned(), "system:serviceaccounts:default".to_owned()],
        );
        let jane = UserInfo::authenticated("jane", []);
        let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1";
        for (user, method, uri, schema) in [
            (&UserInfo::master("admin"), Method::GET, "/api/v1/pods", "exempt"),
            (&UserInfo::anonymous(), Method::GET, "/healthz", "probes"),
            (&jane, Method::GET, "/readyz", "probes"),
            (&node, Method::PUT, leases, "system-node-high"),
            (&node, Method::PATCH, "/api/v1/nodes/n1/status", "system-node-high"),
            (&node, Method::GET, "/api/v1/pods", "system-nodes"),
            (&account, Method::GET, "/api/v1/namespaces/default/pods", "service-accounts"),
            (&jane, Method::GET, "/api/v1/namespaces/default/pods", "global-default"),
            (&UserInfo::component("system:kube-scheduler"), Method::GET, "/api/v1/pods", "kube-scheduler"),
            (&UserInfo::component("system:kube-scheduler"), Method::GET, leases, "system-leader-election"),
        ] {
            assert_eq!(classify(user, method, uri), schema, "{} {uri}", user.name);
        }
    }
}
