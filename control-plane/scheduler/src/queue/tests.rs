use serde_json::json;

use super::*;
use crate::{
    framework::{Profile, Registry},
    testing::{arrival, node, plain_node, pod_with},
};

fn queue() -> Queue {
    let framework = Registry::default().build(&Profile::default_plugins("default-scheduler"), None).unwrap();
    Queue::new(Arc::new(framework), Timing::default())
}

fn names(queue: &mut Queue, now: Instant) -> Vec<String> {
    std::iter::from_fn(|| queue.pop(now)).map(|pod| pod.info.uid.to_string()).collect()
}

fn rejected(by: &'static str) -> Failure {
    Failure::Rejected(BTreeSet::from([by]))
}

#[test]
fn higher_priority_goes_first_and_then_the_older() {
    let mut queue = queue();
    let now = Instant::now();
    queue.set(pod_with("first", json!({})), now);
    queue.set(pod_with("second", json!({})), now);
    queue.set(pod_with("urgent", json!({ "priority": 100 })), now + Duration::from_secs(1));
    queue.set(pod_with("whenever", json!({ "priority": -1 })), now);
    assert_eq!(names(&mut queue, now), ["urgent", "first", "second", "whenever"]);
}

#[test]
fn telling_the_same_pod_twice_queues_it_once() {
    let mut queue = queue();
    let now = Instant::now();
    queue.set(pod_with("a", json!({})), now);
    queue.set(pod_with("a", json!({})), now);
    assert_eq!(queue.pending().active, 1);
    let pod = queue.pop(now).unwrap();
    queue.set(pod_with("a", json!({})), now);
    assert_eq!(queue.pending(), Pending::default(), "a pod in flight is not queued again");
    queue.done(&pod.info.uid);
}

#[test]
fn a_pod_deleted_during_its_attempt_does_not_come_back() {
    let mut queue = queue();
    let now = Instant::now();
    queue.set(pod_with("a", json!({})), now);
    let pod = queue.pop(now).unwrap();
    queue.delete("a");
    assert!(queue.is_deleted("a"));
    queue.failed(pod, Failure::Error, now);
    assert_eq!(queue.pending(), Pending::default());
}

#[test]
fn errors_are_retried_after_a_backoff_that_doubles_up_to_its_limit() {
    let mut queue = queue();
    let mut now = Instant::now();
    queue.set(pod_with("a", json!({})), now);
    for seconds in [1, 2, 4, 8, 10, 10] {
        let pod = queue.pop(now).unwrap();
        queue.failed(pod, Failure::Error, now);
        assert_eq!(queue.next_due(), Some(now + Duration::from_secs(seconds)));
        assert!(queue.pop(now + Duration::from_secs(seconds) - Duration::from_millis(1)).is_none());
        now += Duration::from_secs(seconds);
    }
    assert_eq!(queue.pop(now).unwrap().attempts, 7);
}

#[test]
fn a_rejected_pod_waits_for_an_event_its_rejecting_plugin_has_hopes_in() {
    let mut queue = queue();
    let now = Instant::now();
    queue.set(pod_with("a", json!({ "nodeSelector": { "disk": "ssd" } })), now);
    let pod = queue.pop(now).unwrap();
    queue.failed(pod, rejected("NodeAffinity"), now);
    assert_eq!(queue.pending().unschedulable, 1);
    let later = now + Duration::from_secs(60);
    queue.on_event(&arrival(&plain_node("no-label")), later);
    assert!(queue.pop(later).is_none());
    let ssd = node(json!({ "metadata": { "name": "ssd", "labels": { "disk": "ssd" } } }));
    queue.on_event(&arrival(&ssd), later);
    assert_eq!(&*queue.pop(later).unwrap().info.uid, "a");
}

#[test]
fn an_event_right_after_the_attempt_puts_the_pod_behind_others_but_not_behind_idleness() {
    let mut queue = queue();
    let now = Instant::now();
    queue.set(pod_with("a", json!({})), now);
    let pod = queue.pop(now).unwrap();
    queue.failed(pod, rejected("NodeResourcesFit"), now);
    queue.on_event(&arrival(&plain_node("n")), now);
    assert_eq!(queue.pending(), Pending { backoff: 1, ..Pending::default() });
    queue.set(pod_with("b", json!({ "priority": -1 })), now);
    assert_eq!(names(&mut queue, now), ["b", "a"]);
}

#[test]
fn a_pod_nobody_rejected_sits_out_its_backoff() {
    let mut queue = queue();
    let now = Instant::now();
    queue.set(pod_with("a", json!({})), now);
    let pod = queue.pop(now).unwrap();
    queue.failed(pod, Failure::Rejected(BTreeSet::new()), now);
    assert!(queue.pop(now).is_none());
    assert!(queue.pop(now + Duration::from_secs(1)).is_some());
}

#[test]
fn an_event_during_the_attempt_is_not_lost() {
    let mut queue = queue();
    let now = Instant::now();
    queue.set(pod_with("a", json!({})), now);
    queue.on_event(&arrival(&plain_node("before")), now);
    let pod = queue.pop(now).unwrap();
    queue.on_event(&arrival(&plain_node("during")), now);
    queue.failed(pod, rejected("NodeResourcesFit"), now);
    assert_eq!(queue.pending(), Pending { backoff: 1, ..Pending::default() });
    assert!(queue.events.is_empty(), "no event is kept without a pod in flight");
}

#[test]
fn an_event_before_the_attempt_does_not_count_for_it() {
    let mut queue = queue();
    let now = Instant::now();
    queue.set(pod_with("other", json!({ "priority": 1 })), now);
    queue.set(pod_with("a", json!({})), now);
    let other = queue.pop(now).unwrap();
    queue.on_event(&arrival(&plain_node("before")), now);
    let pod = queue.pop(now).unwrap();
    queue.failed(pod, rejected("NodeResourcesFit"), now);
    assert_eq!(queue.pending().unschedulable, 1);
    queue.failed(other, rejected("NodeResourcesFit"), now);
    assert_eq!(queue.pending().backoff, 1);
}

#[test]
fn without_any_event_a_rejected_pod_is_tried_again_after_five_minutes() {
    let mut queue = queue();
    let now = Instant::now();
    queue.set(pod_with("a", json!({})), now);
    let pod = queue.pop(now).unwrap();
    queue.failed(pod, rejected("NodeResourcesFit"), now);
    assert!(queue.pop(now + Duration::from_secs(299)).is_none());
    let due = queue.next_due().unwrap();
    assert!(queue.pop(due.max(now + Duration::from_secs(300))).is_some());
}

#[test]
fn a_gated_pod_waits_until_its_gates_are_gone() {
    let mut queue = queue();
    let now = Instant::now();
    let gated = || pod_with("a", json!({ "schedulingGates": [{ "name": "g" }] }));
    queue.set(gated(), now);
    assert_eq!(queue.pending(), Pending { gated: 1, ..Pending::default() });
    queue.on_event(&arrival(&plain_node("n")), now);
    queue.set(gated(), now);
    assert!(queue.pop(now + Duration::from_secs(3600)).is_none());
    queue.set(pod_with("a", json!({})), now);
    assert!(queue.pop(now).is_some());
}

#[test]
fn an_update_that_changes_nothing_of_interest_leaves_the_pod_waiting() {
    let mut queue = queue();
    let now = Instant::now();
    let later = now + Duration::from_secs(60);
    queue.set(pod_with("a", json!({})), now);
    let pod = queue.pop(now).unwrap();
    queue.failed(pod, rejected("TaintToleration"), now);
    queue.set(pod_with("a", json!({})), later);
    assert!(queue.pop(later).is_none());
    queue.set(pod_with("a", json!({ "tolerations": [{ "operator": "Exists" }] })), later);
    assert!(queue.pop(later).is_some());
}
