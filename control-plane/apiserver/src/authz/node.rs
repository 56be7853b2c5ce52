//! What the daemon of a node may do: upstream's node authorizer.
//!
//! A node reads Secrets, ConfigMaps, claims, volumes and accounts only if one of its pods uses them, asks for tokens only of
//! accounts its pods run as, and changes its own Node, CSINode and lease only. What else it may do are fixed rules.
//! Which pods it may write is NodeRestriction's matter, see [`crate::admission`].
//!
//! Some things differ from upstream, because skep's daemon is kube-proxy and network plugin as well: it may read what
//! `system:node-proxier` may, all Nodes, and what NetworkPolicy is made of (policies, Pods, Namespaces).

use k8s_openapi::api::{
    core::v1::{Container, PersistentVolume, Pod, PodSpec},
    rbac::v1::PolicyRule,
    storage::v1::VolumeAttachment,
};
use lru::LruCache;
use parking_lot::Mutex;
use skep_storage::{Object, Resource, Storage};
use std::num::NonZeroUsize;

use super::{Attributes, rule};
use crate::{
    bootstrap::rbac,
    user::{NODES, UserInfo},
};

/// How many pairs of nodes and objects are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(16 * 1024).unwrap();
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// The node a user is the daemon of.
pub(crate) fn name_of(user: &UserInfo) -> Option<&str> {
    user.name.strip_prefix("system:node:").filter(|name| !name.is_empty() && user.in_group(NODES))
}

/// What a pod can refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Target {
    Secret,
    ConfigMap,
    Claim,
    ResourceClaim,
    Account,
}

/// A node, and an object: its kind, namespace and name.
type Question = (Box<str>, Target, Box<str>, Box<str>);

/// The key and uid of a pod.
type Witness = (Box<str>, Box<str>);

/// The node authorizer.
pub(crate) struct Nodes {
    rules: Vec<PolicyRule>,
    pods: Option<Resource>,
    volumes: Option<Resource>,
    attachments: Option<Resource>,
    /// The pod that was found to make a node need an object.
    found: Mutex<LruCache<Question, Witness>>,
}

impl Nodes {
    pub(crate) fn new(storage: &Storage) -> Self {
        Self {
            rules: rbac::node_rules(),
            pods: storage.resource("/registry/pods/"),
            volumes: storage.resource("/registry/persistentvolumes/"),
            attachments: storage.resource("/registry/volumeattachments/"),
            found: Mutex::new(LruCache::new(REMEMBERED)),
        }
    }

    /// Whether a node may do it; else why not. For others than nodes the answer is no without a reason.
    pub(crate) fn authorize(&self, wanted: &Attributes<'_>) -> Result<(), String> {
        let Some(node) = name_of(wanted.user) else {
            let nameless = wanted.user.in_group(NODES) && wanted.user.name.starts_with("system:node:");
            return Err(if nameless { format!("unknown node for user {:?}", wanted.user.name) } else { String::new() });
        };
        if wanted.is_resource {
            let subresource = wanted.subresource;
            match (wanted.group, wanted.resource) {
                ("", "secrets") => return self.read(node, Target::Secret, wanted),
                ("", "configmaps") => return self.read(node, Target::ConfigMap, wanted),
                ("", "persistentvolumeclaims") if subresource == "status" => {
                    if !matches!(wanted.verb, "get" | "update" | "patch") {
                        return Err("can only get/update/patch this type".to_owned());
                    }
                    return self.needs(node, Target::Claim, wanted);
                }
                ("", "persistentvolumeclaims") => return self.get(wanted, || self.needs(node, Target::Claim, wanted)),
                ("", "persistentvolumes") => return self.get(wanted, || self.volume(node, wanted.name)),
                ("resource.k8s.io", "resourceclaims") => {
                    return self.get(wanted, || self.needs(node, Target::ResourceClaim, wanted));
                }
                ("storage.k8s.io", "volumeattachments") => {
                    return self.get(wanted, || self.attachment(node, wanted.name));
                }
                ("", "serviceaccounts") if subresource == "token" => {
                    if wanted.verb != "create" || wanted.name.is_empty() {
                        return Err("can only create tokens for individual service accounts".to_owned());
                    }
                    return self.needs(node, Target::Account, wanted);
                }
                ("", "serviceaccounts") => return self.get(wanted, || self.needs(node, Target::Account, wanted)),
                ("coordination.k8s.io", "leases") => return lease(node, wanted),
                ("storage.k8s.io", "csinodes") => return csi_node(node, wanted),
                _ => {}
            }
        }
        if self.rules.iter().any(|own| rule::allows(own, wanted)) { Ok(()) } else { Err(String::new()) }
    }

    fn read(&self, node: &str, target: Target, wanted: &Attributes<'_>) -> Result<(), String> {
        let refused = match () {
            () if !matches!(wanted.verb, "get" | "list" | "watch") => "can only read resources of this type",
            () if !wanted.subresource.is_empty() => "cannot read subresource",
            () if wanted.namespace.is_empty() => "can only read namespaced object of this type",
            () => return self.needs(node, target, wanted),
        };
        Err(refused.to_owned())
    }

    fn get(&self, wanted: &Attributes<'_>, then: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
        if wanted.verb != "get" {
            return Err("can only get individual resources of this type".to_owned());
        }
        if !wanted.subresource.is_empty() {
            return Err("cannot get subresource".to_owned());
        }
        then()
    }

    /// Whether a pod of the node refers to an object.
    fn needs(&self, node: &str, target: Target, wanted: &Attributes<'_>) -> Result<(), String> {
        if wanted.name.is_empty() {
            return Err("No Object name found".to_owned());
        }
        if self.is_needed(node, target, wanted.namespace, wanted.name) { Ok(()) } else { Err(unrelated(node)) }
    }

    fn is_needed(&self, node: &str, target: Target, namespace: &str, name: &str) -> bool {
        let Some(pods) = &self.pods else { return false };
        let runs_here = |pod: &Object| pod.field("spec.nodeName") == Some(node);
        let question: Question = (node.into(), target, namespace.into(), name.into());
        let known = self.found.lock().get(&question).cloned();
        if let Some((key, uid)) = known
            && pods.get(&key).is_some_and(|pod| pod.uid() == &*uid && runs_here(&pod))
        {
            return true;
        }
        let snapshot = pods.snapshot();
        let scope = format!("/registry/pods/{namespace}/");
        let mut here = snapshot.range(&scope, "").filter(|pod| runs_here(pod));
        let found = here
            .find(|object| serde_json::from_slice::<Pod>(object.json()).is_ok_and(|pod| refers(&pod, target, name)));
        if let Some(pod) = found {
            self.found.lock().put(question, ((&**pod.key()).into(), pod.uid().into()));
        }
        found.is_some()
    }

    /// Whether a volume is bound to a claim that a pod of the node uses.
    fn volume(&self, node: &str, name: &str) -> Result<(), String> {
        let stored = self.volumes.as_ref().and_then(|all| all.get(&format!("/registry/persistentvolumes/{name}")));
        let volume = stored.and_then(|stored| serde_json::from_slice::<PersistentVolume>(stored.json()).ok());
        let claim = volume.and_then(|volume| volume.spec?.claim_ref);
        let needed = claim.is_some_and(|claim| {
            let (namespace, name) = (claim.namespace.unwrap_or_default(), claim.name.unwrap_or_default());
            self.is_needed(node, Target::Claim, &namespace, &name)
        });
        if needed { Ok(()) } else { Err(unrelated(node)) }
    }

    fn attachment(&self, node: &str, name: &str) -> Result<(), String> {
        let stored = self.attachments.as_ref().and_then(|all| all.get(&format!("/registry/volumeattachments/{name}")));
        let attachment = stored.and_then(|stored| serde_json::from_slice::<VolumeAttachment>(stored.json()).ok());
        if attachment.is_some_and(|own| own.spec.node_name == node) { Ok(()) } else { Err(unrelated(node)) }
    }
}

fn unrelated(node: &str) -> String {
    format!("no relationship found between node '{node}' and this object")
}

fn lease(node: &str, wanted: &Attributes<'_>) -> Result<(), String> {
    if !matches!(wanted.verb, "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a node lease".to_owned());
    }
    if wanted.namespace != LEASE_NAMESPACE {
        return Err(format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace"));
    }
    // The name of a new one is in its body, where NodeRestriction sees it.
    if wanted.verb != "create" && wanted.name != node {
        return Err("can only access node lease with the same name as the requesting node".to_owned());
    }
    Ok(())
}

fn csi_node(node: &str, wanted: &Attributes<'_>) -> Result<(), String> {
    if !matches!(wanted.verb, "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a CSINode".to_owned());
    }
    if !wanted.subresource.is_empty() {
        return Err("cannot authorize CSINode subresources".to_owned());
    }
    if wanted.verb != "create" && wanted.name != node {
        return Err("can only access CSINode with the same name as the requesting node".to_owned());
    }
    Ok(())
}

/// Whether a pod refers to the object of that name in its namespace.
fn refers(pod: &Pod, target: Target, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    match target {
        Target::Account => spec.service_account_name.as_deref() == Some(name),
        Target::Secret => {
            let pull = spec.image_pull_secrets.iter().flatten().any(|secret| secret.name == name);
            pull || spec.volumes.iter().flatten().any(|volume| volume_secrets(volume, name))
                || env_refers(spec, target, name)
        }
        Target::ConfigMap => {
            let mounted = spec.volumes.iter().flatten().any(|volume| {
                let projected = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
                volume.config_map.as_ref().is_some_and(|map| map.name == name)
                    || projected
                        .into_iter()
                        .any(|source| source.config_map.as_ref().is_some_and(|map| map.name == name))
            });
            mounted || env_refers(spec, target, name)
        }
        Target::Claim => {
            let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
            spec.volumes.iter().flatten().any(|volume| {
                volume.persistent_volume_claim.as_ref().is_some_and(|claim| claim.claim_name == name)
                    || (volume.ephemeral.is_some()
                        && name.strip_prefix(pod_name).and_then(|rest| rest.strip_prefix('-')) == Some(&volume.name))
            })
        }
        Target::ResourceClaim => {
            let status = pod.status.iter().flat_map(|status| status.resource_claim_statuses.iter().flatten());
            spec.resource_claims.iter().flatten().any(|claim| claim.resource_claim_name.as_deref() == Some(name))
                || status.into_iter().any(|claim| claim.resource_claim_name.as_deref() == Some(name))
        }
    }
}

fn volume_secrets(volume: &k8s_openapi::api::core::v1::Volume, name: &str) -> bool {
    let is = |secret: Option<&str>| secret == Some(name);
    let projected = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
    is(volume.secret.as_ref().and_then(|source| source.secret_name.as_deref()))
        || projected.into_iter().any(|source| is(source.secret.as_ref().map(|secret| secret.name.as_str())))
        || is(volume
            .csi
            .as_ref()
            .and_then(|csi| csi.node_publish_secret_ref.as_ref())
            .map(|secret| secret.name.as_str()))
}

fn env_refers(spec: &PodSpec, target: Target, name: &str) -> bool {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let lists = containers.map(|Container { env, env_from, .. }| (env, env_from));
    lists.chain(ephemeral.map(|container| (&container.env, &container.env_from))).any(|(env, from)| {
        let values = env.iter().flatten().filter_map(|variable| variable.value_from.as_ref());
        let mut values = values.map(|source| match target {
            Target::Secret => source.secret_key_ref.as_ref().map(|key| key.name.as_str()),
            _ => source.config_map_key_ref.as_ref().map(|key| key.name.as_str()),
        });
        let mut whole = from.iter().flatten().map(|source| match target {
            Target::Secret => source.secret_ref.as_ref().map(|secret| secret.name.as_str()),
            _ => source.config_map_ref.as_ref().map(|map| map.name.as_str()),
        });
        values.any(|used| used == Some(name)) || whole.any(|used| used == Some(name))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_members_of_the_group_are_nodes() {
        let node = |name: &str, group: &str| {
            let user = UserInfo::authenticated(name, [group.to_owned()]);
            name_of(&user).map(str::to_owned)
        };
        assert_eq!(node("system:node:n1", NODES).as_deref(), Some("n1"));
        assert_eq!(node("system:node:", NODES), None);
        assert_eq!(node("system:node:n1", "x"), None);
        assert_eq!(node("n1", NODES), None);
    }

    #[test]
    fn a_pod_refers_to_what_its_spec_names() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {
                "serviceAccountName": "robot",
                "imagePullSecrets": [{"name": "pull"}],
                "volumes": [
                    {"name": "a", "secret": {"secretName": "s1"}},
                    {"name": "b", "configMap": {"name": "m1"}},
                    {"name": "c", "projected": {"sources": [{"secret": {"name": "s2"}}, {"configMap": {"name": "m2"}}]}},
                    {"name": "d", "persistentVolumeClaim": {"claimName": "c1"}},
                    {"name": "e", "ephemeral": {}},
                ],
                "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "s3"}}]}],
                "containers": [{"name": "c", "env": [
                    {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "m3", "key": "k"}}},
                    {"name": "Y", "valueFrom": {"secretKeyRef": {"name": "s4", "key": "k"}}}]}],
            },
        }))
        .unwrap();
        for (target, names) in [
            (Target::Secret, vec!["pull", "s1", "s2", "s3", "s4"]),
            (Target::ConfigMap, vec!["m1", "m2", "m3"]),
            (Target::Claim, vec!["c1", "p-e"]),
            (Target::Account, vec!["robot"]),
        ] {
            for name in names {
                assert!(refers(&pod, target, name), "{target:?} {name}");
            }
            for name in ["", "other", "p-d", "m1x"] {
                assert!(!refers(&pod, target, name), "{target:?} {name}");
            }
        }
        assert!(!refers(&pod, Target::ConfigMap, "s1"));
        assert!(!refers(&pod, Target::Secret, "m3"));
    }

    #[test]
    fn leases_and_csi_nodes_are_the_nodes_own() {
        let user = UserInfo::authenticated("system:node:n1", [NODES.to_owned()]);
        let of = |verb, namespace, name| {
            Attributes::resource(&user, verb, "coordination.k8s.io", "leases").within(namespace).named(name)
        };
        assert!(lease("n1", &of("update", LEASE_NAMESPACE, "n1")).is_ok());
        assert!(lease("n1", &of("create", LEASE_NAMESPACE, "")).is_ok());
        assert!(lease("n1", &of("update", LEASE_NAMESPACE, "n2")).is_err());
        assert!(lease("n1", &of("list", LEASE_NAMESPACE, "")).is_err());
        assert!(lease("n1", &of("get", "kube-system", "n1")).is_err());
        let csi = |verb, name| Attributes::resource(&user, verb, "storage.k8s.io", "csinodes").named(name);
        assert!(csi_node("n1", &csi("patch", "n1")).is_ok() && csi_node("n1", &csi("patch", "n2")).is_err());
    }
}
