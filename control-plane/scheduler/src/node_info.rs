//! What the scheduler knows of a node: facts from the Node object, and the sum of the pods on it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{Node, Taint};

use crate::{
    host_ports::UsedPorts,
    pod_info::{NonZeroRequests, PodInfo},
    resource::Resource,
};

const ZONE: [&str; 2] = ["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"];
const REGION: [&str; 2] = ["topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"];

/// The part of a Node object that scheduling depends on. A heartbeat changes none of it, and so costs nothing further.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    /// Name of the node.
    pub name: Arc<str>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// `spec.unschedulable`, what `kubectl cordon` sets.
    pub unschedulable: bool,
    /// `status.allocatable`.
    pub allocatable: Resource,
    /// Size in bytes of each image on the node, under each of its names.
    pub images: HashMap<String, i64>,
    /// Region and zone; nodes are visited zone by zone in turn.
    pub zone: String,
}

impl From<&Node> for NodeFacts {
    fn from(node: &Node) -> Self {
        let spec = node.spec.as_ref();
        let status = node.status.as_ref();
        let labels = node.metadata.labels.clone().unwrap_or_default();
        let label = |names: [&str; 2]| names.iter().find_map(|name| labels.get(*name)).cloned().unwrap_or_default();
        let zone = format!("{}:\0:{}", label(REGION), label(ZONE));
        let images = status.and_then(|status| status.images.as_deref()).unwrap_or_default();
        let images = images
            .iter()
            .flat_map(|image| {
                let size = image.size_bytes.unwrap_or_default();
                image.names.iter().flatten().map(move |name| (name.clone(), size))
            })
            .collect();
        Self {
            name: node.metadata.name.as_deref().unwrap_or_default().into(),
            taints: spec.and_then(|spec| spec.taints.clone()).unwrap_or_default(),
            unschedulable: spec.and_then(|spec| spec.unschedulable).unwrap_or_default(),
            allocatable: status
                .and_then(|status| status.allocatable.as_ref())
                .map(Resource::from_list)
                .unwrap_or_default(),
            images,
            zone,
            labels,
        }
    }
}

/// A node and the sum of the pods on it, assumed ones included.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// The node itself; every node in a snapshot has its facts from a Node object.
    pub facts: Arc<NodeFacts>,
    /// Sum of the effective requests of the pods.
    pub requested: Resource,
    /// The same as scoring sees it.
    pub non_zero: NonZeroRequests,
    /// The pods, in no particular order.
    pub pods: Vec<Arc<PodInfo>>,
    /// Ports of the host in use.
    pub used_ports: UsedPorts,
}

impl NodeInfo {
    /// A node without pods.
    pub fn new(facts: Arc<NodeFacts>) -> Self {
        Self {
            facts,
            requested: Resource::default(),
            non_zero: NonZeroRequests::default(),
            pods: Vec::new(),
            used_ports: UsedPorts::default(),
        }
    }

    /// Name of the node.
    pub fn name(&self) -> &Arc<str> {
        &self.facts.name
    }

    /// Adds a pod to the sums.
    pub fn add_pod(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.non_zero.milli_cpu = self.non_zero.milli_cpu.saturating_add(pod.non_zero.milli_cpu);
        self.non_zero.memory = self.non_zero.memory.saturating_add(pod.non_zero.memory);
        self.used_ports.add(&pod.host_ports);
        self.pods.push(pod);
    }

    /// Takes a pod out of the sums; `false` when it was not there.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(index) = self.pods.iter().position(|pod| &*pod.uid == uid) else { return false };
        let pod = self.pods.swap_remove(index);
        self.requested.sub(&pod.requests);
        self.non_zero.milli_cpu = self.non_zero.milli_cpu.saturating_sub(pod.non_zero.milli_cpu);
        self.non_zero.memory = self.non_zero.memory.saturating_sub(pod.non_zero.memory);
        self.used_ports.remove(&pod.host_ports);
        true
    }
}
