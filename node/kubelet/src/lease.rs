//! The node's heartbeat: a Lease in `kube-node-lease`, renewed every quarter of its duration.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

use crate::error::is_not_found;

const NAMESPACE: &str = "kube-node-lease";
const DURATION_SECONDS: i32 = 40;
const RENEW_EVERY: Duration = Duration::from_secs(10);
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(7);
/// A request that hangs must not cost the node its Ready condition.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);

/// Keeps the lease of `node` fresh until cancelled (by dropping).
pub(crate) async fn renew_forever(client: Client, node: String) {
    let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    let nodes: Api<Node> = Api::all(client);
    let mut last: Option<Lease> = None;
    let mut retry = FIRST_RETRY;
    loop {
        let attempt = tokio::time::timeout(REQUEST_TIMEOUT, renew(&leases, &nodes, &node, last.as_ref())).await;
        let pause = match attempt {
            Ok(Ok(lease)) => {
                last = Some(lease);
                retry = FIRST_RETRY;
                RENEW_EVERY.mul_f64(1.0 + rand::random_range(0.0..0.04))
            }
            failed => {
                let reason = failed
                    .map_or_else(|_| "timed out".to_owned(), |r| r.err().map_or_else(String::new, |e| e.to_string()));
                tracing::warn!(node, reason, "could not renew the node lease");
                // A conflict or a deleted lease is cured by reading it anew.
                last = None;
                let pause = retry;
                retry = (retry * 2).min(LAST_RETRY);
                pause
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn renew(leases: &Api<Lease>, nodes: &Api<Node>, node: &str, last: Option<&Lease>) -> Result<Lease, kube::Error> {
    let current = match last {
        Some(lease) => Some(lease.clone()),
        None => leases.get_opt(node).await?,
    };
    let Some(mut lease) = current else {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(node.to_owned()),
                namespace: Some(NAMESPACE.to_owned()),
                owner_references: owner(nodes, node).await?,
                ..Default::default()
            },
            spec: Some(spec(node)),
        };
        return leases.create(&PostParams::default(), &lease).await;
    };
    if lease.metadata.owner_references.as_ref().is_none_or(Vec::is_empty) {
        lease.metadata.owner_references = owner(nodes, node).await?;
    }
    lease.spec = Some(LeaseSpec { ..spec(node) });
    leases.replace(node, &PostParams::default(), &lease).await
}

fn spec(node: &str) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(node.to_owned()),
        lease_duration_seconds: Some(DURATION_SECONDS),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..Default::default()
    }
}

/// The Node owns its lease, so that the garbage collector removes both; without a Node yet there is no owner yet.
async fn owner(nodes: &Api<Node>, node: &str) -> Result<Option<Vec<OwnerReference>>, kube::Error> {
    let node = match nodes.get(node).await {
        Ok(node) => node,
        Err(error) if is_not_found(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.metadata.name.unwrap_or_default(),
        uid: node.metadata.uid.unwrap_or_default(),
        ..Default::default()
    }]))
}
