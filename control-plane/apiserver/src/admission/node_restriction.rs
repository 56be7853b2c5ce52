//! NodeRestriction: a node writes what is its own: its Node, lease and CSINode, the status of its pods, the API's images of
//! its static pods, and asks for tokens of its pods only. The texts are upstream's.
//!
//! Its authorizer ([`crate::authz::node`]) decides by names; here is what takes the objects themselves.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::{
        certificates::v1::CertificateSigningRequest,
        core::v1::{Node, PersistentVolumeClaim, Pod},
        resource::v1::ResourceSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use skep_api::{
    field::quote,
    status::{GroupResource, StatusError},
};
use skep_pki::SigningRequest;
use skep_storage::Resource;

use super::{Admission, Attributes, Operation};
use crate::{
    registry::{generic::refresh, object::Object},
    user::{NODES, UserInfo},
};

pub(super) mod mirror_pod;
mod token;

const PREFIX: &str = "system:node:";
const LEASE_NAMESPACE: &str = "kube-node-lease";
const SIGNERS: [&str; 2] = ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];
/// Labels of the domains of Kubernetes that a node says of itself.
const OWN_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// The node a user is the daemon of, empty if it has no name; none for everybody else.
fn node_of(user: &UserInfo) -> Option<&str> {
    user.name.strip_prefix(PREFIX).filter(|_| user.in_group(NODES))
}

/// A request of a node.
struct Request<'a> {
    node: &'a str,
    attributes: &'a Attributes<'a>,
    /// The object, of creations and updates.
    object: Option<&'a dyn Object>,
}

impl Admission {
    /// Refuses what a node may not write; `object` is none in deletions. Does nothing for others than nodes.
    pub(super) async fn node_restriction(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&dyn Object>,
    ) -> Result<(), StatusError> {
        let Some(node) = node_of(attributes.scope.user) else { return Ok(()) };
        let request = Request { node, attributes, object };
        if node.is_empty() {
            let user = quote(&attributes.scope.user.name);
            return Err(request.forbidden(format!("could not determine node from user {user}")));
        }
        match (&*attributes.info.group, &*attributes.info.plural, attributes.subresource) {
            ("", "pods", "") => self.node_pod(&request).await,
            ("", "pods", "status") => request.pod_status(),
            ("", "pods", "eviction") => self.node_eviction(&request).await,
            ("", "pods", other) => {
                let other = quote(other);
                Err(request
                    .forbidden(format!("unexpected pod subresource {other}, only 'status' and 'eviction' are allowed")))
            }
            ("", "nodes", _) => request.node(),
            ("", "persistentvolumeclaims", "status") => request.claim_status(),
            ("", "persistentvolumeclaims", _) => Err(request.forbidden("may only update PVC status")),
            ("", "serviceaccounts", "token") => self.node_token(&request).await,
            ("coordination.k8s.io", "leases", _) => request.lease(),
            ("storage.k8s.io", "csinodes", _) => request.named("CSINode"),
            ("resource.k8s.io", "resourceslices", _) => request.resource_slice(),
            ("certificates.k8s.io", "certificatesigningrequests", _) => request.signing_request(),
            _ => Ok(()),
        }
    }

    async fn node_pod(&self, request: &Request<'_>) -> Result<(), StatusError> {
        let node = quote(request.node);
        match request.attributes.operation {
            Operation::Create => self.mirror_pod(request).await,
            Operation::Delete => {
                let is_own = request.old::<Pod>().is_some_and(|pod| runs_on(pod, request.node));
                request.demand(is_own, || format!("node {node} can only delete pods with spec.nodeName set to itself"))
            }
            other => Err(request.forbidden(format!(
                "unexpected operation {:?}, node {node} can only create and delete mirror pods",
                other.as_str()
            ))),
        }
    }

    async fn node_eviction(&self, request: &Request<'_>) -> Result<(), StatusError> {
        let namespace = request.attributes.scope.namespace.unwrap_or_default();
        let pod: Pod =
            self.stored(self.pods.as_ref(), "/registry/pods/", Some(namespace), request.name(), "pod").await?;
        request.demand(runs_on(&pod, request.node), || {
            format!("node {} can only evict pods with spec.nodeName set to itself", request.node)
        })
    }

    /// An object by its name; the cache is brought up to date before it is said not to be there.
    async fn stored<T: DeserializeOwned>(
        &self,
        cache: Option<&Resource>,
        prefix: &str,
        namespace: Option<&str>,
        name: &str,
        kind: &str,
    ) -> Result<T, StatusError> {
        let missing = || StatusError::not_found(GroupResource { group: "", resource: kind }, name);
        let cache = cache.ok_or_else(missing)?;
        let key = match namespace {
            Some(namespace) => format!("{prefix}{namespace}/{name}"),
            None => format!("{prefix}{name}"),
        };
        let mut found = cache.get(&key);
        if found.is_none() {
            refresh(&self.storage).await?;
            found = cache.get(&key);
        }
        let found = found.ok_or_else(missing)?;
        serde_json::from_slice(found.json()).map_err(StatusError::internal_error)
    }
}

impl<'a> Request<'a> {
    fn forbidden(&self, why: impl std::fmt::Display) -> StatusError {
        match self.object.or(self.attributes.old) {
            Some(object) => self.attributes.forbidden(object, why),
            None => StatusError::forbidden(self.attributes.info, self.attributes.name, why),
        }
    }

    fn demand(&self, holds: bool, why: impl FnOnce() -> String) -> Result<(), StatusError> {
        if holds { Ok(()) } else { Err(self.forbidden(why())) }
    }

    fn incoming<T: 'static>(&self) -> Result<&'a T, StatusError> {
        let object = self.object.and_then(|object| object.as_any().downcast_ref::<T>());
        object.ok_or_else(|| self.forbidden("unexpected type"))
    }

    fn old<T: 'static>(&self) -> Option<&'a T> {
        self.attributes.old.and_then(|old| old.as_any().downcast_ref::<T>())
    }

    /// The name in the path; that of the object where it is new.
    fn name(&self) -> &'a str {
        match self.attributes.name {
            "" => self.object.and_then(|object| object.meta().name.as_deref()).unwrap_or_default(),
            name => name,
        }
    }

    fn unexpected(&self) -> StatusError {
        self.forbidden(format!("unexpected operation {:?}", self.attributes.operation.as_str()))
    }

    fn pod_status(&self) -> Result<(), StatusError> {
        let node = quote(self.node);
        if self.attributes.operation != Operation::Update {
            return Err(self.unexpected());
        }
        let old = self.old::<Pod>().ok_or_else(|| self.unexpected())?;
        self.demand(runs_on(old, self.node), || {
            format!("node {node} can only update pod status for pods with spec.nodeName set to itself")
        })?;
        let new = self.incoming::<Pod>()?;
        self.demand(changed_labels(&new.metadata, &old.metadata).is_empty(), || {
            format!("node {node} cannot update labels through pod status")
        })?;
        let claims = |pod: &'a Pod| {
            let claims = pod.status.as_ref().and_then(|status| status.resource_claim_statuses.as_deref());
            claims.unwrap_or_default().iter().map(|claim| (&claim.name, &claim.resource_claim_name))
        };
        self.demand(claims(old).eq(claims(new)), || format!("node {node} cannot update resource claim statues"))
    }

    fn node(&self) -> Result<(), StatusError> {
        let (node, name) = (quote(self.node), self.name());
        self.demand(name == self.node, || format!("node {node} is not allowed to modify node {}", quote(name)))?;
        let spec = |node: &'a Node| node.spec.as_ref();
        match self.attributes.operation {
            Operation::Create => {
                let new = self.incoming::<Node>()?;
                let configured = spec(new).is_some_and(|spec| spec.config_source.is_some());
                self.demand(!configured, || {
                    format!("node {node} is not allowed to create pods with a non-nil configSource")
                })?;
                let none = ObjectMeta::default();
                let labels = steering(&changed_labels(&new.metadata, &none));
                self.demand(labels.is_empty(), || {
                    format!("node {node} is not allowed to set the following labels: {}", labels.join(", "))
                })
            }
            Operation::Update => {
                let new = self.incoming::<Node>()?;
                let Some(old) = self.old::<Node>() else { return Err(self.forbidden("unexpected type")) };
                let source = |node: &'a Node| spec(node).and_then(|spec| spec.config_source.as_ref());
                self.demand(source(new).is_none() || source(new) == source(old), || {
                    format!("node {node} is not allowed to update configSource to a new non-nil configSource")
                })?;
                let taints = |node: &'a Node| spec(node).and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
                self.demand(taints(new) == taints(old), || format!("node {node} is not allowed to modify taints"))?;
                let labels = steering(&changed_labels(&new.metadata, &old.metadata));
                self.demand(labels.is_empty(), || format!("is not allowed to modify labels: {}", labels.join(", ")))
            }
            _ => Ok(()),
        }
    }

    /// Of a claim's status a node writes what growing a file system changes. Upstream's text ends in a Go diff of both
    /// objects, ours in the fields.
    fn claim_status(&self) -> Result<(), StatusError> {
        if self.attributes.operation != Operation::Update {
            return Err(self.unexpected());
        }
        let new = self.incoming::<PersistentVolumeClaim>()?;
        let Some(old) = self.old::<PersistentVolumeClaim>() else { return Err(self.unexpected()) };
        let fields = changed_fields(&settled(new)?, &settled(old)?);
        self.demand(fields.is_empty(), || {
            let node = quote(self.node);
            let fields = fields.join(", ");
            format!(
                "node {node} is not allowed to update fields other than status.capacity and status.conditions: {fields}"
            )
        })
    }

    fn lease(&self) -> Result<(), StatusError> {
        self.demand(self.attributes.scope.namespace == Some(LEASE_NAMESPACE), || {
            format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace")
        })?;
        self.named("node lease")
    }

    fn named(&self, what: &str) -> Result<(), StatusError> {
        self.demand(self.name() == self.node, || {
            format!("can only access {what} with the same name as the requesting node")
        })
    }

    fn resource_slice(&self) -> Result<(), StatusError> {
        let (slice, what) = match self.attributes.operation {
            Operation::Create => (Some(self.incoming::<ResourceSlice>()?), "create"),
            Operation::Delete => (self.old::<ResourceSlice>(), "delete"),
            _ => return Ok(()),
        };
        let is_own = slice.is_some_and(|slice| slice.spec.node_name.as_deref() == Some(self.node));
        self.demand(is_own, || format!("can only {what} ResourceSlice with the same NodeName as the requesting node"))
    }

    fn signing_request(&self) -> Result<(), StatusError> {
        if self.attributes.operation != Operation::Create {
            return Ok(());
        }
        let request = self.incoming::<CertificateSigningRequest>()?;
        if !SIGNERS.contains(&request.spec.signer_name.as_str()) {
            return Ok(());
        }
        let asked = SigningRequest::from_pem("spec.request", &request.spec.request.0)
            .map_err(|error| self.forbidden(format!("unable to parse csr: {error}")))?;
        let wanted = format!("{PREFIX}{}", self.node);
        self.demand(asked.common_name == wanted, || format!("can only create a node CSR with CN={wanted}"))
    }
}

fn runs_on(pod: &Pod, node: &str) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node)
}

/// The keys of labels that were added, removed or given another value.
fn changed_labels<'a>(new: &'a ObjectMeta, old: &'a ObjectMeta) -> BTreeSet<&'a str> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    let (new, old) = (new.labels.as_ref().unwrap_or(&NONE), old.labels.as_ref().unwrap_or(&NONE));
    new.keys().chain(old.keys()).filter(|key| new.get(*key) != old.get(*key)).map(String::as_str).collect()
}

/// Of these labels, those by which a node could draw work to itself: they are for administrators to set.
fn steering<'a>(labels: &BTreeSet<&'a str>) -> Vec<&'a str> {
    let forbidden = |label: &&str| {
        let domain = label.split_once('/').map_or("", |(domain, _)| domain);
        let below =
            |parent: &str| domain.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        let own = OWN_LABELS.contains(label) || below("kubelet.kubernetes.io") || below("node.kubernetes.io");
        below("node-restriction.kubernetes.io") || ((below("kubernetes.io") || below("k8s.io")) && !own)
    };
    labels.iter().copied().filter(|label| forbidden(label)).collect()
}

/// A claim without what a node may change.
fn settled(claim: &PersistentVolumeClaim) -> Result<Value, StatusError> {
    let mut claim = claim.clone();
    claim.metadata.resource_version = None;
    claim.metadata.managed_fields = None;
    let status = claim.status.get_or_insert_default();
    status.capacity = None;
    status.conditions = None;
    status.allocated_resource_statuses = None;
    status.allocated_resources = None;
    serde_json::to_value(&claim).map_err(StatusError::internal_error)
}

/// The fields in which two objects differ, such as `metadata.labels`.
fn changed_fields(new: &Value, old: &Value) -> Vec<String> {
    let fields = |value: &Value| -> BTreeMap<String, Value> {
        let parts = value.as_object().into_iter().flatten();
        let fields = parts.flat_map(|(part, value)| {
            let fields = value.as_object().into_iter().flatten();
            fields.map(move |(field, value)| (format!("{part}.{field}"), value.clone()))
        });
        fields.collect()
    };
    let (new, old) = (fields(new), fields(old));
    let names: BTreeSet<&String> = new.keys().chain(old.keys()).collect();
    names.into_iter().filter(|name| new.get(*name) != old.get(*name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_of_kubernetes_are_for_administrators_but_for_those_nodes_say_of_themselves() {
        let own = [
            "plain",
            "example.com/x",
            "kubernetes.io/hostname",
            "kubelet.kubernetes.io/x",
            "a.node.kubernetes.io/x",
            "notkubernetes.io/x",
        ];
        assert!(steering(&own.into()).is_empty());
        let steers = ["a.node-restriction.kubernetes.io/x", "k8s.io/x", "kubernetes.io/x", "node-role.kubernetes.io/x"];
        assert_eq!(steering(&steers.into()), steers);
    }

    #[test]
    fn of_a_claim_a_node_may_change_its_capacity_only() {
        let claim = |value: Value| settled(&serde_json::from_value(value).unwrap()).unwrap();
        let old = claim(json!({"metadata": {"name": "c", "resourceVersion": "1"}, "status": {"phase": "Bound"}}));
        let grown = json!({"metadata": {"name": "c"}, "status": {"phase": "Bound", "capacity": {"storage": "2Gi"}}});
        assert!(changed_fields(&claim(grown), &old).is_empty());
        let other = json!({"metadata": {"name": "c", "labels": {"a": "b"}}, "status": {"phase": "Lost"}});
        assert_eq!(changed_fields(&claim(other), &old), ["metadata.labels", "status.phase"]);
    }
}
