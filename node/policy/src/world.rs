//! What the API says, as the watches tell it.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod},
    networking::v1::NetworkPolicy,
};
use kube::{Resource, runtime::watcher};

use crate::{
    Model,
    object::{self, Key},
    selector::Labels,
};

/// A pod of this node that has, or will have, an address of its own.
#[derive(Debug)]
struct Local {
    labels: Labels,
    addresses: Box<[IpAddr]>,
}

/// The model, and what is kept beside it.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) model: Model,
    node: Box<str>,
    locals: HashMap<Key, Local>,
}

impl World {
    pub(crate) fn new(node: &str) -> Self {
        Self { model: Model::new(node), node: node.into(), locals: HashMap::new() }
    }

    /// Is there a pod here that a policy selects and whose device is not known to be its yet? Then a device nobody knows
    /// may be its.
    pub(crate) fn awaits_device(&self, is_connected: impl Fn(&IpAddr) -> bool) -> bool {
        self.locals.iter().any(|(key, pod)| {
            !pod.addresses.iter().any(&is_connected) && self.model.selects(&key.namespace, &pod.labels)
        })
    }

    fn note_local(&mut self, pod: &Pod) {
        let key = Key::of(&pod.metadata);
        let here = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(&self.node);
        if !here || pod.metadata.deletion_timestamp.is_some() || !object::expects_address(pod) {
            self.locals.remove(&key);
            return;
        }
        let addresses = object::pod(pod).map(|pod| pod.addresses).unwrap_or_default();
        self.locals.insert(key, Local { labels: Labels::new(pod.metadata.labels.as_ref()), addresses });
    }
}

/// A kind of object that is followed.
pub(crate) trait Followed: Resource {
    /// It was created or changed.
    fn apply(&self, world: &mut World);
    /// It is gone.
    fn remove(world: &mut World, key: &Key);
    /// All there are.
    fn keys(world: &World) -> Vec<Key>;
}

impl Followed for NetworkPolicy {
    fn apply(&self, world: &mut World) {
        world.model.apply_policy(self);
    }

    fn remove(world: &mut World, key: &Key) {
        world.model.remove_policy(&key.namespace, &key.name);
    }

    fn keys(world: &World) -> Vec<Key> {
        world.model.policy_keys().cloned().collect()
    }
}

impl Followed for Pod {
    fn apply(&self, world: &mut World) {
        world.note_local(self);
        world.model.apply_pod(self);
    }

    fn remove(world: &mut World, key: &Key) {
        world.locals.remove(key);
        world.model.remove_pod(&key.namespace, &key.name);
    }

    fn keys(world: &World) -> Vec<Key> {
        world.model.pod_keys().chain(world.locals.keys()).cloned().collect()
    }
}

impl Followed for Namespace {
    fn apply(&self, world: &mut World) {
        world.model.apply_namespace(self);
    }

    fn remove(world: &mut World, key: &Key) {
        world.model.remove_namespace(&key.name);
    }

    fn keys(world: &World) -> Vec<Key> {
        let key = |name: &Arc<str>| Key { namespace: "".into(), name: name.clone() };
        world.model.namespace_names().map(key).collect()
    }
}

impl Followed for Node {
    fn apply(&self, world: &mut World) {
        world.model.apply_node(self);
    }

    fn remove(world: &mut World, key: &Key) {
        world.model.remove_node(&key.name);
    }

    fn keys(world: &World) -> Vec<Key> {
        world.model.node_names().map(|name| Key::new("", name)).collect()
    }
}

/// How far a watch of one kind is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// What the list under way has told so far.
    listed: Option<HashSet<Key>>,
    /// Was a list ever complete?
    pub(crate) known: bool,
}

impl Progress {
    /// Takes an event over.
    pub(crate) fn take<K: Followed>(&mut self, world: &mut World, event: watcher::Event<K>) {
        match event {
            watcher::Event::Init => self.listed = Some(HashSet::new()),
            watcher::Event::InitApply(object) => {
                if let Some(listed) = &mut self.listed {
                    listed.insert(Key::of(object.meta()));
                }
                object.apply(world);
            }
            watcher::Event::Apply(object) => object.apply(world),
            watcher::Event::Delete(object) => K::remove(world, &Key::of(object.meta())),
            watcher::Event::InitDone => {
                self.known = true;
                let listed = self.listed.take().unwrap_or_default();
                for key in K::keys(world).iter().filter(|key| !listed.contains(key)) {
                    K::remove(world, key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, labels: &serde_json::Value, node: &str, ip: Option<&str>) -> Pod {
        let ips: Vec<_> = ip.iter().map(|ip| json!({ "ip": ip })).collect();
        serde_json::from_value(json!({
            "metadata": { "name": name, "namespace": "ns", "labels": labels },
            "spec": { "nodeName": node, "containers": [] },
            "status": { "phase": "Pending", "podIPs": ips },
        }))
        .unwrap()
    }

    fn policy(selector: &serde_json::Value) -> NetworkPolicy {
        serde_json::from_value(json!({
            "metadata": { "name": "np", "namespace": "ns" },
            "spec": { "podSelector": { "matchLabels": selector } },
        }))
        .unwrap()
    }

    #[test]
    fn a_device_is_awaited_for_selected_pods_of_this_node_only() {
        let mut world = World::new("here");
        let nothing = |_: &IpAddr| false;
        policy(&json!({ "app": "a" })).apply(&mut world);
        pod("elsewhere", &json!({ "app": "a" }), "there", None).apply(&mut world);
        pod("free", &json!({ "app": "b" }), "here", None).apply(&mut world);
        assert!(!world.awaits_device(nothing));

        pod("new", &json!({ "app": "a" }), "here", None).apply(&mut world);
        assert!(world.awaits_device(nothing), "its device may come any moment");
        pod("new", &json!({ "app": "a" }), "here", Some("10.0.0.1")).apply(&mut world);
        assert!(world.awaits_device(nothing), "its device is not there");
        assert!(!world.awaits_device(|ip| ip.to_string() == "10.0.0.1"));

        Pod::remove(&mut world, &Key::new("ns", "new"));
        assert!(!world.awaits_device(nothing));
    }

    #[test]
    fn what_a_new_list_does_not_have_is_gone() {
        let mut world = World::new("here");
        let mut progress = Progress::default();
        let list = |pods: &[Pod]| {
            let mut events = vec![watcher::Event::Init];
            events.extend(pods.iter().cloned().map(watcher::Event::InitApply));
            events.push(watcher::Event::InitDone);
            events
        };
        let (a, b) = (pod("a", &json!({}), "here", Some("10.0.0.1")), pod("b", &json!({}), "here", None));
        assert!(!progress.known);
        list(&[a, b.clone()]).into_iter().for_each(|event| progress.take(&mut world, event));
        assert!(progress.known);
        assert_eq!(Pod::keys(&world).iter().collect::<HashSet<_>>().len(), 2);
        list(&[b]).into_iter().for_each(|event| progress.take(&mut world, event));
        assert_eq!(Pod::keys(&world), [Key::new("ns", "b")]);
    }
}
