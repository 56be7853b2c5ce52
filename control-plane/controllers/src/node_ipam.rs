//! Pod CIDRs: every node gets its own share of the cluster CIDR.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::Resource;
use kube::api::{Api, Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;
use skep_client::Recorder;
use tracing::{info, warn};

use crate::context::Context;
use crate::controller::{Queue, Reconciler};
use crate::error::{Context as _, Error};
use crate::meta::{self, ObjectKey};

mod cidr_set;

use cidr_set::CidrSet;

/// The node IPAM controller (upstream's RangeAllocator).
pub(crate) struct NodeIpamController {
    context: Context,
    recorder: Recorder,
    state: Mutex<State>,
}

struct State {
    /// One per address family.
    sets: Vec<CidrSet>,
    /// What each node (by name) holds; kept to release it when the node is gone.
    held: HashMap<String, (String, Vec<IpNet>)>,
    rebuilt: bool,
}

impl NodeIpamController {
    /// The controller, with its event handlers registered.
    pub(crate) fn new(context: Context, queue: Queue) -> Arc<Self> {
        let mut sets: Vec<_> =
            context.config.cluster_cidrs().into_iter().map(|(net, mask)| CidrSet::new(net, mask)).collect();
        for service_cidr in context.config.service_cidr.iter().chain(&context.config.secondary_service_cidr) {
            for set in &mut sets {
                set.occupy(service_cidr);
            }
        }
        context.informers.nodes.on_change(move |delta| queue.add(ObjectKey::of(&delta.object().metadata)));
        let recorder = context.recorder.with_component("cidrAllocator");
        let state = State { sets, held: HashMap::new(), rebuilt: false };
        Arc::new(Self { context, recorder, state: Mutex::new(state) })
    }

    /// Marks what the nodes already have, before anything is handed out.
    fn rebuild(&self) {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.rebuilt, true) {
            return;
        }
        for node in self.context.informers.nodes.list() {
            state.hold(&node);
        }
    }

    async fn assign(&self, node: &Node) -> Result<(), Error> {
        let name = meta::name(&node.metadata);
        let uid = meta::uid(&node.metadata).to_owned();
        let allocated = self.state.lock().allocate(name, &uid);
        let Ok(cidrs) = allocated else {
            self.context.metrics.cidr_exhausted.inc();
            self.recorder.normal(
                node.object_ref(&()),
                "CIDRNotAvailable",
                format!("Node {name} status is now: CIDRNotAvailable"),
            );
            return Err(Error::Retry(format!("no free pod CIDR for node {name}")));
        };
        let texts: Vec<_> = cidrs.iter().map(ToString::to_string).collect();
        // With the resource version, so that the CIDRs of a node that got some meanwhile are not overwritten.
        let patch = json!({
            "metadata": {"uid": uid, "resourceVersion": node.metadata.resource_version},
            "spec": {"podCIDR": texts.first(), "podCIDRs": texts},
        });
        let api: Api<Node> = Api::all(self.context.client.clone());
        let answer = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        match answer.context(|| format!("setting pod CIDRs of node {name}")) {
            Ok(patched) => {
                info!(node = name, cidrs = ?texts, "assigned pod CIDRs");
                self.context.informers.nodes.wrote(&patched);
                Ok(())
            }
            Err(error) => {
                // The API refused, so the CIDRs are free again. After a conflict the next try takes the same ones; after a
                // timeout they may be in use, so they stay held under the node's name until a later look at the node tells.
                if error.status().is_some() && !error.is_conflict() {
                    self.state.lock().release(name);
                    self.recorder.normal(
                        node.object_ref(&()),
                        "CIDRAssignmentFailed",
                        format!("Node {name} status is now: CIDRAssignmentFailed"),
                    );
                }
                Err(error)
            }
        }
    }
}

/// No CIDR left in one of the sets.
struct Exhausted;

impl State {
    /// Takes note of the CIDRs in a node's spec.
    fn hold(&mut self, node: &Node) {
        let name = meta::name(&node.metadata);
        let uid = meta::uid(&node.metadata);
        let cidrs = node_cidrs(node);
        if self.held.get(name).is_some_and(|(known, held)| known == uid && *held == cidrs) {
            return;
        }
        self.release(name);
        for cidr in &cidrs {
            let Some(set) = self.sets.iter_mut().find(|set| set.is_family_of(cidr)) else {
                warn!(node = name, %cidr, "no cluster CIDR of this address family");
                continue;
            };
            if !set.occupy(cidr) {
                warn!(node = name, %cidr, cluster = %set.cluster(), "the node's CIDR is outside the cluster CIDR");
            }
        }
        self.held.insert(name.to_owned(), (uid.to_owned(), cidrs));
    }

    /// CIDRs for a node; what an earlier, failed try took is used again.
    fn allocate(&mut self, name: &str, uid: &str) -> Result<Vec<IpNet>, Exhausted> {
        if let Some((known, held)) = self.held.get(name)
            && known == uid
            && !held.is_empty()
        {
            return Ok(held.clone());
        }
        self.release(name);
        let mut cidrs = Vec::with_capacity(self.sets.len());
        for index in 0..self.sets.len() {
            match self.sets[index].allocate() {
                Some(cidr) => cidrs.push(cidr),
                None => {
                    for (set, cidr) in self.sets.iter_mut().zip(&cidrs) {
                        set.release(cidr);
                    }
                    return Err(Exhausted);
                }
            }
        }
        self.held.insert(name.to_owned(), (uid.to_owned(), cidrs.clone()));
        Ok(cidrs)
    }

    fn release(&mut self, name: &str) {
        let Some((_, cidrs)) = self.held.remove(name) else { return };
        for cidr in &cidrs {
            // Two nodes may have been given overlapping CIDRs by hand; what the other still has stays taken.
            let shared =
                self.held.values().flat_map(|(_, held)| held).any(|other| other.contains(cidr) || cidr.contains(other));
            if let Some(set) = self.sets.iter_mut().find(|set| set.is_family_of(cidr))
                && !shared
            {
                set.release(cidr);
            }
        }
    }
}

fn node_cidrs(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let list = spec.pod_cidrs.as_deref().unwrap_or_default();
    let single = spec.pod_cidr.as_ref().filter(|_| list.is_empty());
    list.iter().chain(single).filter_map(|cidr| cidr.parse().ok()).collect()
}

impl Reconciler for NodeIpamController {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "node-ipam-controller"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        self.rebuild();
        let Some(node) = self.context.informers.nodes.by_key(key) else {
            self.state.lock().release(&key.name);
            return Ok(None);
        };
        if !node_cidrs(&node).is_empty() {
            self.state.lock().hold(&node);
            return Ok(None);
        }
        if meta::is_deleting(&node.metadata) {
            return Ok(None);
        }
        self.assign(&node).await.map(|()| None)
    }
}
