//! Pods through hard times: failing probes, hooks, restarts of the kubelet at bad moments, a status overwritten by others.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::harness::{Machine, create, eventually};
use crate::{is_ready, pod};

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn main_container(pod: &Pod) -> ContainerStatus {
    pod.status.clone().and_then(|status| status.container_statuses).unwrap_or_default().remove(0)
}

/// Messages of all events of one reason.
async fn messages(machine: &Machine, reason: &str) -> Vec<String> {
    let events: Api<Event> = machine.api();
    let all = events.list(&Default::default()).await.unwrap();
    all.into_iter().filter(|e| e.reason.as_deref() == Some(reason)).filter_map(|e| e.message).collect()
}

async fn gone(pods: &Api<Pod>, name: &str) {
    eventually("the pod to go", || async { pods.get_opt(name).await.unwrap().is_none().then_some(()) }).await;
}

async fn assert_nothing_is_left(machine: &Machine) {
    assert!(machine.cri.list_pod_sandboxes(HashMap::new()).await.unwrap().is_empty());
    assert!(machine.cri.list_containers(HashMap::new()).await.unwrap().is_empty());
    for dir in [machine.data_dir().join("pods"), machine.logs_dir()] {
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0, "{}", dir.display());
    }
    assert_eq!(machine.pod_cgroups(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_liveness_probe_restarts_and_the_count_outlives_the_kubelet() {
    let mut machine = Machine::start().await;
    let pods = machine.pods();
    let probe = json!({"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1});
    let script = "trap 'exit 5' TERM; while true; do sleep 0.1; done";
    create(&pods, pod("sick", "Always", script, json!({"container": {"livenessProbe": probe}}))).await;
    let restarted = |count| {
        let pods = pods.clone();
        move || {
            let pods = pods.clone();
            async move {
                let pod = pods.get("sick").await.ok()?;
                pod.status.as_ref()?.container_statuses.as_ref()?;
                Some(main_container(&pod)).filter(|status| status.restart_count >= count)
            }
        }
    };
    let status = eventually("the first restart", restarted(1)).await;
    let last = status.last_state.unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (5, Some("Error")));
    assert!(last.started_at.unwrap() <= last.finished_at.unwrap());
    // A kubelet that is stopped between creating and starting a container leaves one that never ran.
    let running = || {
        let pods = pods.clone();
        async move { main_container(&pods.get("sick").await.ok()?).state?.running }
    };
    eventually("the container to run again", running).await;
    machine.stop_kubelet().await;
    machine.start_kubelet();
    let status = eventually("the second restart", restarted(2)).await;
    // A new kubelet knows no back-off; a third restart may have come already, never one too few or lost history.
    let last = status.last_state.and_then(|state| state.terminated).or(status.state.and_then(|state| state.terminated));
    assert_eq!(last.unwrap().exit_code, 5);
    let killing = messages(&machine, "Killing").await;
    assert!(
        killing.iter().any(|text| text == "Container main failed liveness probe, will be restarted"),
        "{killing:?}"
    );
    let unhealthy = messages(&machine, "Unhealthy").await;
    assert!(unhealthy.iter().any(|text| text.starts_with("Liveness probe failed: ")), "{unhealthy:?}");
    // One ended container is kept, no more.
    let kept = machine.cri.list_containers(HashMap::new()).await.unwrap().len();
    assert!(kept <= 3, "{kept} containers kept: at most the running one, the last, and one being replaced");
    pods.delete("sick", &DeleteParams::default()).await.unwrap();
    gone(&pods, "sick").await;
    assert_nothing_is_left(&machine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_run_after_the_start_and_before_the_stop() {
    let machine = Machine::start().await;
    let pods = machine.pods();
    let shared = tempfile::tempdir().unwrap();
    let hook = |text: &str| json!({"exec": {"command": ["sh", "-c", format!("echo {text} >> /shared/hooks")]}});
    let more = json!({
        "container": {
            "lifecycle": {"postStart": hook("begin"), "preStop": hook("end")},
            "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
        },
        "volumes": [{"name": "shared", "hostPath": {"path": shared.path()}}],
    });
    create(&pods, pod("polite", "Always", "sleep 1000", more)).await;
    eventually("a ready pod", || async { pods.get("polite").await.ok().filter(is_ready) }).await;
    let told = || std::fs::read_to_string(shared.path().join("hooks")).unwrap_or_default();
    assert_eq!(told(), "begin\n");
    pods.delete("polite", &DeleteParams::default()).await.unwrap();
    gone(&pods, "polite").await;
    assert_eq!(told(), "begin\nend\n");
    assert_nothing_is_left(&machine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_post_start_hook_fails_is_stopped() {
    let machine = Machine::start().await;
    let pods = machine.pods();
    let more = json!({"container": {"lifecycle": {"postStart": {"exec": {"command": ["false"]}}}}});
    create(&pods, pod("rude", "Never", "sleep 1000", more)).await;
    let failed = eventually("the failure", || async { pods.get("rude").await.ok().filter(|p| phase(p) == "Failed") });
    let state = main_container(&failed.await).state.unwrap().terminated.unwrap();
    assert_eq!(state.exit_code, 137);
    eventually("the event", || async {
        let found = messages(&machine, "FailedPostStartHook").await;
        found.iter().any(|text| text == "PostStartHook failed").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_pod_stays_ended_without_its_containers_and_after_a_restart() {
    let mut machine = Machine::start().await;
    let pods = machine.pods();
    create(&pods, pod("over", "Never", "exit 3", json!({}))).await;
    let over = eventually("the end", || async { pods.get("over").await.ok().filter(|p| phase(p) == "Failed") }).await;
    for container in machine.cri.list_containers(HashMap::new()).await.unwrap() {
        machine.cri.remove_container(&container.id).await.unwrap();
    }
    machine.stop_kubelet().await;
    machine.start_kubelet();
    create(&pods, pod("after", "Always", "sleep 1000", json!({}))).await;
    eventually("a pod of the new kubelet", || async { pods.get("after").await.ok().filter(is_ready) }).await;
    let still = pods.get("over").await.unwrap();
    assert_eq!(phase(&still), "Failed");
    assert_eq!(main_container(&still), main_container(&over));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_that_others_have_overwritten_is_put_right() {
    let machine = Machine::start().await;
    let pods = machine.pods();
    create(&pods, pod("truth", "Always", "sleep 1000", json!({}))).await;
    eventually("a ready pod", || async { pods.get("truth").await.ok().filter(is_ready) }).await;
    let lie = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let lied = pods.patch_status("truth", &PatchParams::default(), &Patch::Strategic(lie)).await.unwrap();
    assert!(!is_ready(&lied));
    eventually("the truth", || async { pods.get("truth").await.ok().filter(is_ready) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_that_stops_in_the_middle_of_a_pods_life_leaves_nothing_behind() {
    let mut machine = Machine::start().await;
    let pods = machine.pods();
    // Stopped at many moments of starts and ends; every pod gets to run, never twice at once, and goes in the end. A start
    // that was cut off in the runtime itself counts as a failed one there, so the policy is one that tries again.
    for round in 0..4u32 {
        let name = format!("p{round}");
        create(&pods, pod(&name, "OnFailure", "sleep 1000", json!({}))).await;
        tokio::time::sleep(std::time::Duration::from_millis(u64::from(round) * 150)).await;
        machine.stop_kubelet().await;
        machine.start_kubelet();
        eventually("a ready pod", || async { pods.get(&name).await.ok().filter(is_ready) }).await;
        let all = machine.cri.list_containers(HashMap::new()).await.unwrap();
        let running = all.iter().filter(|one| one.state() == skep_cri::api::ContainerState::ContainerRunning);
        assert_eq!(running.count(), 1);
        pods.delete(&name, &DeleteParams::default()).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(u64::from(round) * 700)).await;
        machine.stop_kubelet().await;
        machine.start_kubelet();
        gone(&pods, &name).await;
    }
    assert_nothing_is_left(&machine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_live_and_end_across_a_crash_of_containerd() {
    let mut machine = Machine::start().await;
    let pods = machine.pods();
    let script = "trap 'exit 0' TERM; while true; do sleep 0.1; done";
    for name in ["stays", "goes"] {
        create(&pods, pod(name, "Always", script, json!({}))).await;
        eventually("a ready pod", || async { pods.get(name).await.ok().filter(is_ready) }).await;
    }
    let before = main_container(&pods.get("stays").await.unwrap());
    machine.kill_containerd();
    pods.delete("goes", &DeleteParams::default()).await.unwrap();
    create(&pods, pod("comes", "Always", script, json!({}))).await;
    machine.start_containerd();
    gone(&pods, "goes").await;
    eventually("the new pod", || async { pods.get("comes").await.ok().filter(is_ready) }).await;
    let after = main_container(&pods.get("stays").await.unwrap());
    assert_eq!((after.container_id, after.restart_count), (before.container_id, 0));
    for name in ["stays", "comes"] {
        pods.delete(name, &DeleteParams::default()).await.unwrap();
        gone(&pods, name).await;
    }
    assert_nothing_is_left(&machine).await;
}
