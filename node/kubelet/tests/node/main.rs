//! The kubelet between a real API server (over an etcd of its own) and a real containerd.

#[path = "../../../cri/tests/common/mod.rs"]
mod containerd;
mod harness;
mod life;

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret};
use kube::Api;
use kube::api::DeleteParams;
use serde_json::json;

use containerd::BUSYBOX;
use harness::{Machine, NODE, create, eventually};

/// A pod of this node in the node's network: no network plugin stands in between.
fn pod(name: &str, policy: &str, script: &str, more: serde_json::Value) -> serde_json::Value {
    let mut container = json!({"name": "main", "image": BUSYBOX, "command": ["sh", "-c", script]});
    if let (Some(container), Some(more)) = (container.as_object_mut(), more["container"].as_object()) {
        container.extend(more.clone());
    }
    json!({
        "metadata": {"name": name},
        "spec": {
            "nodeName": NODE, "hostNetwork": true, "restartPolicy": policy, "terminationGracePeriodSeconds": 1,
            "containers": [container], "volumes": more["volumes"],
        },
    })
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn container_id(pod: &Pod) -> String {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.clone()).unwrap_or_default();
    statuses.first().and_then(|status| status.container_id.clone()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_survives_its_kubelet_and_leaves_nothing_behind() {
    let mut machine = Machine::start().await;
    let pods: Api<Pod> = machine.pods();
    create(&pods, pod("stays", "Always", "trap 'exit 0' TERM; while true; do sleep 0.1; done", json!({}))).await;
    let running = eventually("a ready pod", || async { pods.get("stays").await.ok().filter(is_ready) }).await;
    let id = container_id(&running);
    assert!(id.starts_with("containerd://"), "{id}");

    machine.stop_kubelet().await;
    assert_eq!(machine.cri.list_containers(HashMap::new()).await.unwrap().len(), 1);
    machine.start_kubelet();
    // A pod made now is run by the new kubelet, which has seen the old one by then.
    create(&pods, pod("second", "Always", "sleep 1000", json!({}))).await;
    eventually("the second pod", || async { pods.get("second").await.ok().filter(is_ready) }).await;
    let adopted = pods.get("stays").await.unwrap();
    assert_eq!(container_id(&adopted), id);
    assert_eq!(adopted.status.unwrap().container_statuses.unwrap()[0].restart_count, 0);

    for name in ["stays", "second"] {
        pods.delete(name, &DeleteParams::default()).await.unwrap();
        eventually("the pod to go", || async { pods.get_opt(name).await.unwrap().is_none().then_some(()) }).await;
    }
    assert!(machine.cri.list_pod_sandboxes(HashMap::new()).await.unwrap().is_empty());
    assert!(machine.cri.list_containers(HashMap::new()).await.unwrap().is_empty());
    assert_eq!(std::fs::read_dir(machine.data_dir().join("pods")).unwrap().count(), 0);
    assert_eq!(machine.pod_cgroups(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_ends_tells_how() {
    let machine = Machine::start().await;
    let pods: Api<Pod> = machine.pods();
    create(&pods, pod("fails", "Never", "echo why > /dev/termination-log; exit 3", json!({}))).await;
    create(&pods, pod("works", "OnFailure", "true", json!({}))).await;
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
    let failed =
        eventually("the failure", || async { pods.get("fails").await.ok().filter(|pod| phase(pod) == "Failed") }).await;
    let state = failed.status.unwrap().container_statuses.unwrap()[0].state.clone().unwrap().terminated.unwrap();
    assert_eq!((state.exit_code, state.message.as_deref()), (3, Some("why\n")));
    assert_eq!(state.reason.as_deref(), Some("Error"));
    eventually("the success", || async { pods.get("works").await.ok().filter(|pod| phase(pod) == "Succeeded") }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_deleted_while_the_kubelet_was_away_is_removed() {
    let mut machine = Machine::start().await;
    let pods: Api<Pod> = machine.pods();
    create(&pods, pod("orphan", "Always", "trap 'exit 0' TERM; while true; do sleep 0.1; done", json!({}))).await;
    eventually("a ready pod", || async { pods.get("orphan").await.ok().filter(is_ready) }).await;
    machine.stop_kubelet().await;
    pods.delete("orphan", &DeleteParams::default().grace_period(0)).await.unwrap();
    machine.start_kubelet();
    eventually("the runtime to be empty", || async {
        machine.cri.list_pod_sandboxes(HashMap::new()).await.unwrap().is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_reaches_environment_and_files() {
    let machine = Machine::start().await;
    let pods: Api<Pod> = machine.pods();
    let maps: Api<ConfigMap> = machine.api();
    let secrets: Api<Secret> = machine.api();
    create(&secrets, json!({"metadata": {"name": "sec"}, "stringData": {"password": "hidden"}})).await;
    let more = json!({
        "container": {
            "env": [
                {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "password"}}},
            ],
            "envFrom": [{"configMapRef": {"name": "late"}, "prefix": "C_"}],
            "volumeMounts": [{"name": "files", "mountPath": "/files"}],
        },
        "volumes": [{"name": "files", "projected": {"sources": [
            {"configMap": {"name": "late"}},
            {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        ]}}],
    });
    let script = "echo $NAME $PASSWORD $C_key $(cat /files/key) $(cat /files/name) > /dev/termination-log";
    create(&pods, pod("reads", "Never", script, more)).await;
    // The pod waits for what it needs, and goes on once it is there.
    create(&maps, json!({"metadata": {"name": "late"}, "data": {"key": "value"}})).await;
    let message = eventually("the end of the pod", || async {
        let status = pods.get("reads").await.ok()?.status?;
        status.container_statuses?.first()?.state.clone()?.terminated?.message
    })
    .await;
    assert_eq!(message, "reads hidden value value reads\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_network_says_why_it_is_not_ready() {
    let machine = Machine::start().await;
    let nodes: Api<Node> = Api::all(machine.client.clone());
    let node = eventually("the node", || async { nodes.get_opt(NODE).await.unwrap() }).await;
    let labels = node.metadata.labels.unwrap();
    assert_eq!(labels.get("kubernetes.io/hostname").map(String::as_str), Some(NODE));
    let status = node.status.unwrap();
    assert!(status.node_info.unwrap().container_runtime_version.starts_with("containerd://"));
    let message = eventually("the reason", || async {
        let conditions = nodes.get(NODE).await.ok()?.status?.conditions?;
        conditions.into_iter().find(|condition| condition.type_ == "Ready")?.message
    })
    .await;
    assert!(message.contains("NetworkReady=false"), "{message}");
}
