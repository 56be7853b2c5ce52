//! Follows the Nodes and keeps the ways to their pods.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::ListParams;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use skep_network::{Applied, Network, Peer, Peers};
use tokio::sync::watch;

use crate::drift;
use crate::masquerade::Cluster;
use crate::metrics::NetworkMetrics;
use crate::run::RECONCILE_NETWORK;

/// Changes that come close together are one.
const SETTLE: Duration = Duration::from_millis(250);

/// What [`follow`] keeps in step with the Nodes.
pub(crate) struct Ways<'a> {
    /// This node's name.
    pub(crate) own: &'a str,
    pub(crate) peers: Peers,
    /// Gets to know what the ways leave of a packet.
    pub(crate) network: Arc<Network>,
    pub(crate) metrics: &'a NetworkMetrics,
}

/// Makes the ways to the nodes that are there by now, and tells the bytes of each packet that they need. If that fails it is
/// what they may need at most: [`follow`] tries again.
pub(crate) async fn first_overhead(client: &kube::Client, own: &str, peers: &Peers) -> u32 {
    let unknown = Applied { vxlan: 1, ..Applied::default() };
    let nodes = match Api::<Node>::all(client.clone()).list(&ListParams::default()).await {
        Ok(nodes) => nodes,
        Err(error) => {
            tracing::warn!(%error, "the other nodes are not known yet: pods get the MTU for VXLAN");
            return peers.overhead(&unknown);
        }
    };
    let others: Vec<Peer> = nodes.iter().filter_map(|node| peer(node, own)).collect();
    let worker = peers.clone();
    let done = tokio::task::spawn_blocking(move || worker.apply(&others)).await;
    match done.map_err(anyhow::Error::from).and_then(|done| Ok(done?)) {
        Ok(done) => peers.overhead(&done),
        Err(error) => {
            tracing::warn!("could not make the ways to other nodes: {error:#}");
            peers.overhead(&unknown)
        }
    }
}

/// Applies `peers` to the Nodes whenever one of them or the kernel's routes change, and every minute. Until the Nodes are
/// known, what is there stays: after a restart no route is lost. Tells the `addresses` of all nodes and their pods once they
/// are known, and whenever they change.
pub(crate) async fn follow(
    client: kube::Client,
    Ways { own, peers, network, metrics }: Ways<'_>,
    mut drift: watch::Receiver<()>,
    addresses: watch::Sender<Option<Cluster>>,
) -> anyhow::Result<()> {
    let (store, writer) = reflector::store();
    let nodes = watcher(Api::<Node>::all(client), watcher::Config::default());
    let mut nodes = pin!(nodes.default_backoff().reflect(writer));
    let (mut known, mut applied) = (Vec::new(), None);
    let mut listed = false;
    loop {
        let forced = tokio::select! {
            event = nodes.next() => {
                match event {
                    Some(Ok(watcher::Event::InitDone)) => listed = true,
                    Some(Ok(watcher::Event::Init | watcher::Event::InitApply(_))) => continue,
                    Some(Ok(_)) => {}
                    Some(Err(error)) => {
                        tracing::debug!(%error, "watching the Nodes");
                        continue;
                    }
                    None => anyhow::bail!("the watch of Nodes ended"),
                }
                false
            }
            () = drift::changed(&mut drift) => true,
            () = tokio::time::sleep(RECONCILE_NETWORK) => true,
        };
        if listed {
            let now = Some(Cluster::of(store.state().iter().map(AsRef::as_ref)));
            addresses.send_if_modified(|known| {
                let news = *known != now;
                *known = now;
                news
            });
        }
        let wanted = peers_of(&store, own);
        // Most changes of Nodes are heartbeats.
        if !listed || (!forced && wanted == known && applied.is_some()) {
            continue;
        }
        if forced {
            tokio::time::sleep(SETTLE).await;
        }
        drift.mark_unchanged();
        known.clone_from(&wanted);
        let (worker, pods) = (peers.clone(), network.clone());
        let work = move || {
            let done = worker.apply(&wanted)?;
            if pods.fit(worker.overhead(&done))? {
                tracing::info!(mtu = pods.mtu(), "the ways to other nodes have changed: new pods get another MTU");
            }
            Ok::<_, skep_network::Error>(done)
        };
        match tokio::task::spawn_blocking(work).await? {
            Ok(done) => {
                report(&done, applied.as_ref());
                metrics.applied(&done);
                applied = Some(done);
            }
            Err(error) => {
                tracing::warn!(%error, "could not put the ways to other nodes right");
                applied = None;
            }
        }
    }
}

fn report(done: &Applied, before: Option<&Applied>) {
    let Applied { direct, vxlan, failed, changed, removed } = *done;
    if changed + removed > 0 || before.is_none() {
        tracing::info!(direct, vxlan, failed, changed, removed, "ways to other nodes' pods");
    }
}

/// All other nodes that have pod CIDRs, in the order of their names.
fn peers_of(store: &Store<Node>, own: &str) -> Vec<Peer> {
    let mut peers: Vec<Peer> = store.state().iter().filter_map(|node| peer(node, own)).collect();
    peers.sort_by(|a, b| a.name.cmp(&b.name));
    peers
}

fn peer(node: &Node, own: &str) -> Option<Peer> {
    let name = node.metadata.name.clone().filter(|name| name != own)?;
    let pod_cidrs = pod_cidrs(node);
    let addresses: Vec<IpAddr> = internal_addresses(node).collect();
    (!pod_cidrs.is_empty()).then_some(Peer { name, pod_cidrs, addresses })
}

/// By which the other nodes know it.
pub(crate) fn internal_addresses(node: &Node) -> impl Iterator<Item = IpAddr> {
    let all = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    all.filter(|address| address.type_ == "InternalIP").filter_map(|address| address.address.parse().ok())
}

/// `spec.podCIDRs`, or the older `podCIDR`.
pub(crate) fn pod_cidrs(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let parsed: Vec<IpNet> = spec.pod_cidrs.iter().flatten().filter_map(|cidr| cidr.parse().ok()).collect();
    let first = || spec.pod_cidr.as_deref().and_then(|cidr| cidr.parse().ok());
    if parsed.is_empty() { first().into_iter().collect() } else { parsed }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_peer_has_the_pod_cidrs_and_internal_addresses_of_its_node() {
        let node = |spec: serde_json::Value| -> Node {
            let addresses = json!([
                { "type": "Hostname", "address": "b" },
                { "type": "ExternalIP", "address": "203.0.113.1" },
                { "type": "InternalIP", "address": "192.0.2.2" },
                { "type": "InternalIP", "address": "2001:db8::2" },
            ]);
            let node = json!({ "metadata": { "name": "b" }, "spec": spec, "status": { "addresses": addresses } });
            serde_json::from_value(node).unwrap()
        };
        let both = node(json!({ "podCIDR": "10.0.1.0/24", "podCIDRs": ["10.0.1.0/24", "fd00:1::/64"] }));
        let found = peer(&both, "a").unwrap();
        assert_eq!(found.pod_cidrs, ["10.0.1.0/24".parse::<IpNet>().unwrap(), "fd00:1::/64".parse().unwrap()]);
        assert_eq!(found.addresses, ["192.0.2.2".parse::<IpAddr>().unwrap(), "2001:db8::2".parse().unwrap()]);
        assert_eq!(peer(&both, "b"), None, "a node is no peer of its own");
        assert_eq!(peer(&node(json!({ "podCIDR": "10.0.1.0/24" })), "a").unwrap().pod_cidrs.len(), 1);
        assert_eq!(peer(&node(json!({})), "a"), None);
    }
}
