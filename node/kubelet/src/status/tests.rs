use serde_json::json;

use super::*;
use crate::view::SandboxRecord;

struct Case {
    pod: Pod,
    view: PodView,
    waiting: HashMap<String, Waiting>,
    ready: HashSet<String>,
    starting: HashSet<String>,
    previous: PodStatus,
    ended: bool,
}

impl Case {
    fn new(spec: serde_json::Value) -> Self {
        let pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "d", "uid": "u", "generation": 3}, "spec": spec
        }))
        .unwrap();
        let sandbox =
            SandboxRecord { id: "s".into(), attempt: 0, ready: true, created_at: 1, ips: vec!["10.0.0.2".into()] };
        Self {
            pod,
            view: PodView { sandboxes: vec![sandbox], containers: vec![] },
            waiting: HashMap::new(),
            ready: HashSet::new(),
            starting: HashSet::new(),
            previous: PodStatus::default(),
            ended: false,
        }
    }

    fn with(mut self, name: &str, state: State, exit_code: i32) -> Self {
        let record = ContainerRecord::for_test(&self.pod, name, state, exit_code);
        self.ready.insert(record.id.clone());
        self.view.containers.push(record);
        self
    }

    fn status(&self) -> PodStatus {
        compute(&Inputs {
            pod: &self.pod,
            view: &self.view,
            waiting: &self.waiting,
            ready: &self.ready,
            started: &self.ready,
            starting: &self.starting,
            host_ips: &["192.0.2.7".to_owned()],
            previous: &self.previous,
            ended: self.ended,
            failure: None,
            now: Timestamp::UNIX_EPOCH,
        })
    }

    fn phase(&self) -> String {
        self.status().phase.unwrap()
    }
}

fn condition_of<'a>(status: &'a PodStatus, kind: &str) -> &'a PodCondition {
    status.conditions.as_ref().unwrap().iter().find(|condition| condition.type_ == kind).unwrap()
}

fn one(policy: &str) -> serde_json::Value {
    json!({"restartPolicy": policy, "containers": [{"name": "c", "image": "i"}]})
}

#[test]
fn phases_follow_upstreams_table() {
    for (policy, state, exit_code, ended, expected) in [
        ("Always", State::Running, 0, false, "Running"),
        ("Always", State::Exited, 1, false, "Running"),
        ("Never", State::Exited, 0, true, "Succeeded"),
        ("Never", State::Exited, 1, true, "Failed"),
        ("OnFailure", State::Exited, 1, false, "Running"),
        ("Always", State::Exited, 0, true, "Succeeded"),
        ("Always", State::Exited, 137, true, "Failed"),
    ] {
        let mut case = Case::new(one(policy)).with("c", state, exit_code);
        case.ended = ended;
        assert_eq!(case.phase(), expected, "{policy} {state:?} {exit_code} {ended}");
    }
    assert_eq!(Case::new(one("Always")).phase(), "Pending");
}

#[test]
fn a_phase_ends_only_when_nothing_runs_any_more() {
    let mut case = Case::new(one("Never")).with("c", State::Exited, 1);
    case.previous.phase = Some("Running".into());
    assert_eq!(case.phase(), "Running");
    assert_eq!(condition_of(&case.status(), "Ready").reason.as_deref(), Some("PodFailed"));
    case.ended = true;
    assert_eq!(case.phase(), "Failed");
}

#[test]
fn an_end_stays_told_after_the_runtime_has_forgotten_it() {
    let mut case = Case::new(one("Never")).with("c", State::Exited, 0);
    case.ended = true;
    case.previous = case.status();
    case.view = PodView::default();
    let status = case.status();
    assert_eq!(status.phase.as_deref(), Some("Succeeded"));
    assert_eq!(status.container_statuses, case.previous.container_statuses);
}

#[test]
fn a_phase_that_ended_in_the_api_never_changes_again() {
    let mut case = Case::new(one("Always")).with("c", State::Running, 0);
    case.pod.status = Some(PodStatus { phase: Some("Failed".into()), ..Default::default() });
    assert_eq!(case.phase(), "Failed");
}

#[test]
fn a_container_counts_as_running_only_after_its_post_start_hook() {
    let mut case = Case::new(one("Always")).with("c", State::Running, 0);
    case.starting.insert("c".into());
    let status = case.status();
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    let container = &status.container_statuses.unwrap()[0];
    assert!(container.state.as_ref().unwrap().waiting.is_some() && !container.ready);
}

#[test]
fn a_crash_loop_shows_the_pause_and_the_last_end() {
    let mut case = Case::new(one("Always")).with("c", State::Exited, 7);
    case.waiting.insert("c".into(), Waiting::new("CrashLoopBackOff", "back-off 10s"));
    let status = case.status();
    let container = &status.container_statuses.as_ref().unwrap()[0];
    let waiting = container.state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
    assert_eq!(container.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 7);
    assert_eq!(status.phase.as_deref(), Some("Running"));
}

#[test]
fn main_containers_wait_for_initialisation() {
    let spec = json!({"initContainers": [{"name": "i", "image": "i"}], "containers": [{"name": "c", "image": "i"}]});
    let status = Case::new(spec).with("i", State::Running, 0).status();
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    let initialized = condition_of(&status, "Initialized");
    assert_eq!(initialized.reason.as_deref(), Some("ContainersNotInitialized"));
    assert_eq!(initialized.message.as_deref(), Some("containers with incomplete status: [i]"));
    let waiting = status.container_statuses.unwrap()[0].state.clone().unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("PodInitializing"));
}

#[test]
fn a_ready_pod_is_ready_and_keeps_the_time_it_became_so() {
    let mut case = Case::new(one("Always")).with("c", State::Running, 0);
    case.previous.conditions = Some(vec![PodCondition {
        type_: "Ready".into(),
        status: "True".into(),
        last_transition_time: Some(Time(Timestamp::from_second(5).unwrap())),
        ..Default::default()
    }]);
    let status = case.status();
    let ready = condition_of(&status, "Ready");
    assert_eq!((ready.status.as_str(), ready.last_transition_time.as_ref().unwrap().0.as_second()), ("True", 5));
    assert_eq!(ready.observed_generation, Some(3));
    assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.2"));
    assert_eq!(condition_of(&status, "PodReadyToStartContainers").status, "True");
}

#[test]
fn an_unready_container_is_named() {
    let mut case = Case::new(one("Always")).with("c", State::Running, 0);
    case.ready.clear();
    let status = case.status();
    assert_eq!(condition_of(&status, "Ready").message.as_deref(), Some("containers with unready status: [c]"));
}

#[test]
fn readiness_gates_hold_the_pod_back() {
    let spec = json!({"readinessGates": [{"conditionType": "x/y"}], "containers": [{"name": "c", "image": "i"}]});
    let status = Case::new(spec).with("c", State::Running, 0).status();
    assert_eq!(condition_of(&status, "Ready").reason.as_deref(), Some("ReadinessGatesNotReady"));
    assert_eq!(condition_of(&status, "ContainersReady").status, "True");
}
