//! The whole scheduler against the real API server over a real etcd.

mod harness;

use std::collections::{BTreeMap, HashSet};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;
use skep_scheduler::Config;

use harness::{Cluster, eventually};

fn condition(pod: &Pod) -> Option<(String, String, String)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|condition| condition.type_ == "PodScheduled")?;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Some((condition.status.clone(), text(&condition.reason), text(&condition.message)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_bound_to_the_node_that_fits_and_an_event_says_so() {
    let cluster = Cluster::start().await;
    cluster.node("small", json!({ "cpu": "1" }), json!({})).await;
    cluster.node("large", json!({ "cpu": "8" }), json!({})).await;
    let _scheduler = cluster.schedule(Config { leader_election: None, ..Config::default() });
    cluster.pod("a", json!({ "cpu": "2" }), json!({})).await;
    let pod = cluster.until_bound("a").await;
    assert_eq!(pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()), Some("large"));
    assert_eq!(condition(&pod).map(|(status, ..)| status).as_deref(), Some("True"));
    let events =
        eventually("the event", || async { Some(cluster.events("Scheduled").await).filter(|e| !e.is_empty()) });
    let events = events.await;
    assert_eq!(events[0].message.as_deref(), Some("Successfully assigned default/a to large"));
    assert_eq!(events[0].source.as_ref().and_then(|s| s.component.as_deref()), Some("default-scheduler"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_without_room_says_why_and_runs_as_soon_as_a_node_comes() {
    let cluster = Cluster::start().await;
    let _scheduler = cluster.schedule(Config { leader_election: None, ..Config::default() });
    cluster.pod("a", json!({ "cpu": "2" }), json!({})).await;
    let reported = |expected: &'static str| {
        let cluster = &cluster;
        async move {
            eventually(expected, || async { condition(&cluster.get("a").await).filter(|c| c.2 == expected) }).await
        }
    };
    let (status, reason, _) = reported("no nodes available to schedule pods").await;
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Unschedulable"));
    cluster.node("small", json!({ "cpu": "1" }), json!({})).await;
    cluster.node("cordoned", json!({ "cpu": "8" }), json!({ "unschedulable": true })).await;
    cluster.node("large", json!({ "cpu": "8" }), json!({})).await;
    let pod = cluster.until_bound("a").await;
    assert_eq!(pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()), Some("large"));
    let failed = cluster.events("FailedScheduling").await;
    assert!(failed.iter().any(|e| e.message.as_deref() == Some("no nodes available to schedule pods")), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_other_schedulers_and_gated_pods_are_left_alone() {
    let cluster = Cluster::start().await;
    cluster.node("n", json!({ "cpu": "8" }), json!({})).await;
    let _scheduler = cluster.schedule(Config { leader_election: None, ..Config::default() });
    cluster.pod("other", json!({}), json!({ "schedulerName": "someone-else" })).await;
    cluster.pod("gated", json!({}), json!({ "schedulingGates": [{ "name": "example.com/wait" }] })).await;
    cluster.pod("ours", json!({}), json!({})).await;
    cluster.until_bound("ours").await;
    for name in ["other", "gated"] {
        assert_eq!(cluster.get(name).await.spec.and_then(|spec| spec.node_name), None, "{name}");
    }
    cluster.patch("gated", json!({ "spec": { "schedulingGates": null } })).await;
    cluster.until_bound("gated").await;
    assert_eq!(cluster.get("other").await.spec.and_then(|spec| spec.node_name), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_filled_and_never_overfilled_though_the_scheduler_restarts_in_between() {
    const NODES: usize = 10;
    const PER_NODE: usize = 20;
    let cluster = Cluster::start().await;
    for index in 0..NODES {
        let allocatable = json!({ "cpu": format!("{}m", 100 * PER_NODE) });
        cluster.node(&format!("n{index}"), allocatable, json!({})).await;
    }
    let scheduler = cluster.schedule(Config { leader_election: None, ..Config::default() });
    let names: Vec<String> = (0..NODES * PER_NODE).map(|index| format!("p{index}")).collect();
    for name in &names[..names.len() / 2] {
        cluster.pod(name, json!({ "cpu": "100m" }), json!({})).await;
    }
    cluster.until_bound("p0").await;
    // Gone in the middle of its work, without a chance to finish.
    scheduler.kill();
    let bound_before: BTreeMap<String, String> = cluster.nodes_of_pods().await;
    let _scheduler = cluster.schedule(Config { leader_election: None, ..Config::default() });
    for name in &names[names.len() / 2..] {
        cluster.pod(name, json!({ "cpu": "100m" }), json!({})).await;
    }
    for name in &names {
        cluster.until_bound(name).await;
    }
    let bound = cluster.nodes_of_pods().await;
    for (pod, node) in &bound_before {
        assert_eq!(bound.get(pod), Some(node), "a bound pod stays where it is");
    }
    let mut per_node: BTreeMap<&str, usize> = BTreeMap::new();
    for node in bound.values() {
        *per_node.entry(node).or_default() += 1;
    }
    assert!(per_node.values().all(|count| *count == PER_NODE), "{per_node:?}");
    let mut told = HashSet::new();
    for event in cluster.events("Scheduled").await {
        assert!(told.insert(event.involved_object.name.clone()), "bound twice: {:?}", event.involved_object.name);
        assert_eq!(event.count, Some(1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_freed_node_takes_the_pod_that_waited() {
    let cluster = Cluster::start().await;
    cluster.node("n", json!({ "cpu": "1" }), json!({})).await;
    let _scheduler = cluster.schedule(Config { leader_election: None, ..Config::default() });
    cluster.pod("first", json!({ "cpu": "1" }), json!({})).await;
    cluster.until_bound("first").await;
    cluster.pod("second", json!({ "cpu": "1" }), json!({})).await;
    let message = eventually("the reason", || async { condition(&cluster.get("second").await) }).await.2;
    assert_eq!(message, "0/1 nodes are available: 1 Insufficient cpu.");
    cluster.delete("first").await;
    cluster.until_bound("second").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_schedulers_one_leads_and_the_other_takes_over() {
    let cluster = Cluster::start().await;
    cluster.node("n", json!({ "cpu": "8" }), json!({})).await;
    let first = cluster.schedule(Config::with_identity("first"));
    eventually("the first leader", || async { cluster.leader().await.filter(|leader| leader == "first") }).await;
    let _second = cluster.schedule(Config::with_identity("second"));
    cluster.pod("a", json!({}), json!({})).await;
    cluster.until_bound("a").await;
    assert_eq!(cluster.leader().await.as_deref(), Some("first"));
    first.stop().await;
    eventually("the second leader", || async { cluster.leader().await.filter(|leader| leader == "second") }).await;
    cluster.pod("b", json!({}), json!({})).await;
    assert_eq!(cluster.until_bound("b").await.name_any(), "b");
}
