//! The Node object: created at first start, its status kept true.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::is_not_found;
use crate::eviction::Signal;
use crate::machine::{self, Machine};
use crate::{Config, Error};

const MAX_IMAGES: usize = 50;
const UNINITIALIZED: &str = "node.cloudprovider.kubernetes.io/uninitialized";

/// Creates the Node, or brings an existing one's labels up to date.
pub(crate) async fn register(context: &Context, machine: &Machine) -> Result<(), Error> {
    let nodes: Api<Node> = Api::all(context.client.clone());
    let name = &context.config.node_name;
    let wanted = labels(&context.config);
    match nodes.get(name).await {
        Ok(node) => {
            let current = node.metadata.labels.unwrap_or_default();
            if wanted.iter().any(|(key, value)| current.get(key) != Some(value)) {
                let patch = json!({"metadata": {"labels": wanted}});
                nodes.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
            }
            Ok(())
        }
        Err(error) if is_not_found(&error) && context.config.register_node => {
            let status = status(context, machine, &[], None).await;
            let node = Node {
                metadata: ObjectMeta { name: Some(name.clone()), labels: Some(wanted), ..Default::default() },
                spec: Some(NodeSpec { taints: taints(&context.config), ..Default::default() }),
                status: Some(status),
            };
            match nodes.create(&PostParams::default(), &node).await {
                Ok(_) => {
                    tracing::info!(node = %name, "registered");
                    Ok(())
                }
                // Another attempt of ours has won.
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                Err(error) => Err(error.into()),
            }
        }
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn labels(config: &Config) -> BTreeMap<String, String> {
    let architecture = machine::architecture().to_owned();
    let own = [
        ("kubernetes.io/hostname", config.hostname.clone()),
        ("kubernetes.io/os", "linux".to_owned()),
        ("kubernetes.io/arch", architecture.clone()),
        ("beta.kubernetes.io/os", "linux".to_owned()),
        ("beta.kubernetes.io/arch", architecture),
    ];
    let mut labels: BTreeMap<_, _> = own.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    labels.extend(config.node_labels.clone());
    labels
}

fn taints(config: &Config) -> Option<Vec<Taint>> {
    let mut taints = config.register_with_taints.clone();
    if config.cloud_provider.as_deref() == Some("external") {
        let effect = "NoSchedule".to_owned();
        taints.push(Taint { key: UNINITIALIZED.to_owned(), value: Some("true".to_owned()), effect, time_added: None });
    }
    (!taints.is_empty()).then_some(taints)
}

/// Keeps the status true until cancelled (by dropping).
pub(crate) async fn report_forever(context: Arc<Context>, machine: Machine) {
    let nodes: Api<Node> = Api::all(context.client.clone());
    let mut reported: Option<Instant> = None;
    // Until the node is Ready, looking often costs little and saves its first pods seconds.
    let eager = std::time::Duration::from_millis(500);
    loop {
        let due = reported.is_none_or(|at| at.elapsed() >= context.config.node_status_report_frequency);
        let ready =
            match tokio::time::timeout(std::time::Duration::from_secs(10), report(&context, &nodes, &machine, due))
                .await
            {
                Ok(Ok((sent, ready))) => {
                    if sent {
                        reported = Some(Instant::now());
                    }
                    ready
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "could not report the node status");
                    if matches!(&error, Error::Api(error) if is_not_found(error))
                        && let Err(error) = register(&context, &machine).await
                    {
                        tracing::warn!(%error, "could not register the node");
                    }
                    false
                }
                Err(_) => {
                    tracing::warn!("reporting the node status timed out");
                    false
                }
            };
        let pause = if ready { context.config.node_status_update_frequency } else { eager };
        tokio::time::sleep(pause).await;
    }
}

/// Sends what differs from the API's view. Answers whether anything was sent, and whether the node is ready.
async fn report(context: &Context, nodes: &Api<Node>, machine: &Machine, due: bool) -> Result<(bool, bool), Error> {
    let node = nodes.get(&context.config.node_name).await?;
    let old = node.status.unwrap_or_default();
    let old_conditions = old.conditions.clone().unwrap_or_default();
    let new = status(context, machine, &old_conditions, old.addresses.as_deref()).await;
    let ready = new.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    let patch = difference(&old, &new, due);
    let Some(patch) = patch else { return Ok((false, ready)) };
    let params = PatchParams::default();
    nodes.patch_status(&context.config.node_name, &params, &Patch::Strategic(json!({"status": patch}))).await?;
    Ok((true, ready))
}

/// What to patch: nothing when only heartbeats differ and the report is not due.
fn difference(old: &NodeStatus, new: &NodeStatus, due: bool) -> Option<Value> {
    let quiet = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        serde_json::to_value(status).unwrap_or_default()
    };
    let (before, after) = (quiet(old), quiet(new));
    let full = serde_json::to_value(new).unwrap_or_default();
    let mut patch = serde_json::Map::new();
    for (key, value) in after.as_object().into_iter().flatten() {
        let differs = match key.as_str() {
            // Conditions of others (network, problem detectors) stay; ours are compared one by one.
            "conditions" => value
                .as_array()
                .into_iter()
                .flatten()
                .any(|condition| !before["conditions"].as_array().is_some_and(|known| known.contains(condition))),
            _ => before.get(key) != Some(value),
        };
        if (differs || (due && key == "conditions"))
            && let Some(value) = full.get(key)
        {
            patch.insert(key.clone(), value.clone());
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

async fn status(
    context: &Context,
    machine: &Machine,
    old: &[NodeCondition],
    old_addresses: Option<&[NodeAddress]>,
) -> NodeStatus {
    let config = &context.config;
    let quantity = |value: i64| Quantity(value.to_string());
    let kib = |bytes: i64| Quantity(format!("{}Ki", bytes / 1024));
    let list = |memory: i64, storage: Quantity| {
        BTreeMap::from([
            ("cpu".to_owned(), quantity(machine.cpus)),
            ("memory".to_owned(), kib(memory)),
            ("ephemeral-storage".to_owned(), storage),
            ("pods".to_owned(), quantity(i64::from(config.max_pods))),
            ("hugepages-1Gi".to_owned(), quantity(0)),
            ("hugepages-2Mi".to_owned(), quantity(0)),
        ])
    };
    let external = config.cloud_provider.as_deref() == Some("external");
    let addresses = match old_addresses {
        // The cloud controller knows better.
        Some(known) if external && !known.is_empty() => known.to_vec(),
        _ => addresses(config),
    };
    let left = |signal, capacity| (capacity - config.eviction_hard.reserve(signal, capacity)).max(0);
    NodeStatus {
        capacity: Some(list(machine.memory, kib(machine.ephemeral_storage))),
        allocatable: Some(list(
            left(Signal::MemoryAvailable, machine.memory),
            quantity(left(Signal::NodeFsAvailable, machine.ephemeral_storage)),
        )),
        addresses: Some(addresses),
        conditions: Some(conditions(context, old).await),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(config.port) }),
        }),
        node_info: Some(machine.info.clone()),
        images: images(context).await,
        ..Default::default()
    }
}

fn addresses(config: &Config) -> Vec<NodeAddress> {
    let ips = config.node_ips.iter().map(|ip| ("InternalIP", ip.to_string()));
    let all = ips.chain([("Hostname", config.hostname.clone())]);
    all.map(|(kind, address)| NodeAddress { type_: kind.to_owned(), address }).collect()
}

async fn images(context: &Context) -> Option<Vec<ContainerImage>> {
    let mut images = context.cri.list_images().await.ok()?;
    images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    images.truncate(MAX_IMAGES);
    let named = images.into_iter().map(|image| {
        let mut names = image.repo_digests;
        names.extend(image.repo_tags);
        ContainerImage { names: Some(names), size_bytes: i64::try_from(image.size).ok() }
    });
    Some(named.collect())
}

/// Where the container runtime keeps images.
async fn image_fs(context: &Context) -> Option<PathBuf> {
    let file_systems = context.cri.image_fs_info().await.ok()?;
    Some(PathBuf::from(file_systems.into_iter().next()?.fs_id?.mountpoint))
}

async fn conditions(context: &Context, old: &[NodeCondition]) -> Vec<NodeCondition> {
    let pressure = |kind: &'static str, on: bool, what: &str, has: &str, has_not: &str| {
        let (reason, message) = if on {
            (format!("KubeletHas{what}"), format!("kubelet has {has}"))
        } else {
            (format!("KubeletHas{has_not}"), String::new())
        };
        (kind, on, reason, message)
    };
    let thresholds = &context.config.eviction_hard;
    let crossed = |signal, level: Option<(i64, i64)>| level.is_some_and(|level| thresholds.crossed(signal, level));
    let data_dir = &context.config.data_dir;
    let images = image_fs(context).await;
    let memory = crossed(Signal::MemoryAvailable, machine::memory());
    let disk = crossed(Signal::NodeFsAvailable, machine::storage(data_dir))
        || crossed(Signal::NodeFsInodesFree, machine::inodes(data_dir))
        || crossed(Signal::ImageFsAvailable, images.as_deref().and_then(machine::storage))
        || crossed(Signal::ImageFsInodesFree, images.as_deref().and_then(machine::inodes));
    let pids = crossed(Signal::PidAvailable, machine::processes().map(|(running, limit)| (limit, limit - running)));
    let mut found = vec![
        pressure("MemoryPressure", memory, "InsufficientMemory", "insufficient memory available", "SufficientMemory"),
        pressure("DiskPressure", disk, "DiskPressure", "disk pressure", "NoDiskPressure"),
        pressure("PIDPressure", pids, "InsufficientPID", "insufficient PID available", "SufficientPID"),
    ];
    for (kind, message) in [
        ("MemoryPressure", "kubelet has sufficient memory available"),
        ("DiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "kubelet has sufficient PID available"),
    ] {
        for condition in found.iter_mut().filter(|condition| condition.0 == kind && !condition.1) {
            condition.3 = message.to_owned();
        }
    }
    let not_ready = runtime_problems(context).await;
    found.push(match not_ready {
        None => ("Ready", true, "KubeletReady".to_owned(), "kubelet is posting ready status".to_owned()),
        Some(problems) => ("Ready", false, "KubeletNotReady".to_owned(), problems),
    });
    let now = Time(Timestamp::now());
    let build = |(kind, on, reason, message): (&str, bool, String, String)| {
        let status = if on { "True" } else { "False" };
        let since = old.iter().find(|old| old.type_ == kind && old.status == status);
        let since = since.and_then(|old| old.last_transition_time.clone());
        NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason),
            message: Some(message),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: since.or_else(|| Some(now.clone())),
        }
    };
    found.into_iter().map(build).collect()
}

/// Why no pod could run here now, in upstream's words.
async fn runtime_problems(context: &Context) -> Option<String> {
    let status = match context.cri.status().await {
        Ok(status) => status,
        Err(error) => return Some(format!("container runtime is down: {error}")),
    };
    let problem = |kind: &str, what: &str| match status.conditions.iter().find(|condition| condition.r#type == kind) {
        Some(condition) if condition.status => None,
        Some(condition) => {
            Some(format!("{what} not ready: {kind}=false reason:{} message:{}", condition.reason, condition.message))
        }
        None => Some(format!("{what} status not found")),
    };
    let problems: Vec<_> =
        [problem("RuntimeReady", "container runtime"), problem("NetworkReady", "container runtime network")]
            .into_iter()
            .flatten()
            .collect();
    (!problems.is_empty()).then(|| format!("[{}]", problems.join(", ")).trim_matches(['[', ']']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_condition(status: &str, heartbeat: i64) -> NodeStatus {
        let condition = NodeCondition {
            type_: "Ready".into(),
            status: status.into(),
            last_heartbeat_time: Timestamp::from_second(heartbeat).ok().map(Time),
            ..Default::default()
        };
        NodeStatus { conditions: Some(vec![condition]), ..Default::default() }
    }

    #[test]
    fn a_mere_heartbeat_is_sent_only_when_due() {
        let (old, new) = (with_condition("True", 1), with_condition("True", 2));
        assert_eq!(difference(&old, &new, false), None);
        assert!(difference(&old, &new, true).is_some());
        assert!(difference(&old, &with_condition("False", 2), false).is_some());
    }

    #[test]
    fn conditions_of_others_do_not_count_as_change() {
        let mut old = with_condition("True", 1);
        old.conditions.as_mut().unwrap().push(NodeCondition { type_: "Theirs".into(), ..Default::default() });
        assert_eq!(difference(&old, &with_condition("True", 2), false), None);
    }
}
