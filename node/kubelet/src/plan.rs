//! What is to be done for a pod now: a pure function of its spec and of what the runtime holds.
//!
//! The order of things follows upstream's computePodActions: sandbox, init containers one after the other (sidecars only
//! until they have started), then all main containers at once; restarts by policy.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::podext::{PodExt, Role, container_hash};
use crate::view::{ContainerRecord, PodView, State};

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Make a sandbox; what is left of older ones is stopped first.
    CreateSandbox { attempt: u32 },
    /// Create and start a container. `after` is when its predecessor ended, for the back-off.
    Start { name: String, attempt: u32, after: Option<i64> },
    /// Stop a running container, so that it is started anew or is gone.
    Stop { id: String, name: String, message: String },
    /// Everything that was to run has run: stop what is left (sidecars, sandbox).
    Finish,
}

/// What the worker knows beyond spec and runtime.
#[derive(Debug)]
pub(crate) struct Knowledge<'a> {
    /// Ids of containers whose startup probe has passed (or that have none).
    pub(crate) started: &'a HashSet<String>,
    /// Restart counts the API remembers of containers the runtime has forgotten.
    pub(crate) remembered: &'a [(String, u32)],
}

/// Decides.
pub(crate) fn plan(pod: &Pod, view: &PodView, knowledge: &Knowledge<'_>) -> Vec<Action> {
    if is_finished(pod, view) {
        return vec![Action::Finish];
    }
    let Some(sandbox) = view.sandbox() else {
        // What ran in the lost sandbox does not run again: upstream makes no other for such a pod.
        if pod.restart_policy() == "Never" && !view.sandboxes.is_empty() && !view.containers.is_empty() {
            return vec![Action::Finish];
        }
        let attempt = view.sandboxes.first().map_or(0, |old| old.attempt + 1);
        return vec![Action::CreateSandbox { attempt }];
    };
    let mut actions = Vec::new();
    plan_ephemeral(pod, view, &mut actions);
    let initialized = plan_init(pod, view, &sandbox.id, knowledge, &mut actions);
    if initialized {
        for container in &pod.pod_spec().containers {
            plan_container(pod, container, view.latest(&container.name), knowledge, &mut actions);
        }
    }
    actions
}

/// Containers put into the running pod start at once, whatever the others do, and only once.
fn plan_ephemeral(pod: &Pod, view: &PodView, actions: &mut Vec<Action>) {
    for container in pod.pod_spec().ephemeral_containers.iter().flatten() {
        let attempt = match view.latest(&container.name) {
            None => 0,
            Some(record) if record.state == State::Created => record.attempt,
            Some(_) => continue,
        };
        actions.push(Action::Start { name: container.name.clone(), attempt, after: None });
    }
}

/// Init containers in order; true once the main ones may run.
fn plan_init(pod: &Pod, view: &PodView, sandbox: &str, known: &Knowledge<'_>, actions: &mut Vec<Action>) -> bool {
    let passed = main_has_run(pod, view, sandbox);
    for (role, container) in pod.all_containers().filter(|(role, _)| *role != Role::Main) {
        let latest = view.latest(&container.name);
        // Initialisation belongs to a sandbox: a new one begins anew.
        let current = latest.filter(|record| record.sandbox == sandbox);
        match role {
            Role::Sidecar => {
                plan_container(pod, container, latest, known, actions);
                let up = current.is_some_and(|r| r.state == State::Running && known.started.contains(&r.id));
                if !up && !passed {
                    return false;
                }
            }
            _ if passed => {}
            _ => match current {
                Some(record) if succeeded(record) => {}
                Some(record) if record.state == State::Exited && pod.restart_policy() == "Never" => return false,
                Some(record) if matches!(record.state, State::Running | State::Unknown) => return false,
                _ => {
                    actions.push(start(container, latest, known));
                    return false;
                }
            },
        }
    }
    true
}

fn plan_container(
    pod: &Pod,
    container: &Container,
    latest: Option<&ContainerRecord>,
    known: &Knowledge<'_>,
    actions: &mut Vec<Action>,
) {
    match latest {
        None => actions.push(start(container, None, known)),
        Some(record) => match record.state {
            State::Running if record.hash != container_hash(container) => actions.push(Action::Stop {
                id: record.id.clone(),
                name: container.name.clone(),
                message: format!("Container {} definition changed, will be restarted", container.name),
            }),
            State::Running => {}
            State::Unknown => actions.push(Action::Stop {
                id: record.id.clone(),
                name: container.name.clone(),
                message: "Container is in \"unknown\" state, try killing it before restart".to_owned(),
            }),
            // A container that was created and never started: a start was cut short; replace it.
            State::Created => actions.push(start(container, latest, known)),
            State::Exited if restarts(pod, container, record) => {
                actions.push(start(container, latest, known));
            }
            State::Exited => {}
        },
    }
}

fn start(container: &Container, latest: Option<&ContainerRecord>, known: &Knowledge<'_>) -> Action {
    let remembered = known.remembered.iter().find(|(name, _)| *name == container.name).map(|(_, count)| count + 1);
    let (attempt, after) = match latest {
        Some(record) if record.state == State::Created => (record.attempt, None),
        Some(record) => (record.attempt + 1, Some(record.finished_at)),
        None => (remembered.unwrap_or(0), None),
    };
    Action::Start { name: container.name.clone(), attempt, after }
}

/// Whether the main containers have begun in this sandbox: then initialisation is behind us, whatever is left of it.
fn main_has_run(pod: &Pod, view: &PodView, sandbox: &str) -> bool {
    let main = |name: &str| pod.pod_spec().containers.iter().any(|container| container.name == name);
    view.containers.iter().any(|record| record.sandbox == sandbox && main(&record.name))
}

fn succeeded(record: &ContainerRecord) -> bool {
    record.state == State::Exited && record.exit_code == 0
}

/// Whether an ended container runs again.
fn restarts(pod: &Pod, container: &Container, record: &ContainerRecord) -> bool {
    let policy = container.restart_policy.as_deref().unwrap_or(pod.restart_policy());
    match policy {
        "Always" => true,
        "OnFailure" => record.exit_code != 0,
        _ => false,
    }
}

/// Whether everything that was to run has run, for good.
pub(crate) fn is_finished(pod: &Pod, view: &PodView) -> bool {
    if init_failed(pod, view) {
        return true;
    }
    let containers = &pod.pod_spec().containers;
    !containers.is_empty()
        && containers.iter().all(|container| {
            view.latest(&container.name)
                .is_some_and(|record| record.state == State::Exited && !restarts(pod, container, record))
        })
}

/// Whether an init container failed for good.
pub(crate) fn init_failed(pod: &Pod, view: &PodView) -> bool {
    pod.restart_policy() == "Never"
        && pod.all_containers().any(|(role, container)| {
            role == Role::Init
                && view.latest(&container.name).is_some_and(|r| r.state == State::Exited && r.exit_code != 0)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::SandboxRecord;
    use serde_json::json;

    fn pod(policy: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "d", "uid": "u"},
            "spec": {
                "restartPolicy": policy,
                "initContainers": [
                    {"name": "prepare", "image": "i"},
                    {"name": "proxy", "image": "i", "restartPolicy": "Always"},
                ],
                "containers": [{"name": "main", "image": "i"}],
            },
        }))
        .unwrap()
    }

    fn record(pod: &Pod, name: &str, state: State, exit_code: i32) -> ContainerRecord {
        ContainerRecord::for_test(pod, name, state, exit_code)
    }

    fn view(containers: Vec<ContainerRecord>) -> PodView {
        let sandbox = SandboxRecord { id: "s".into(), attempt: 0, ready: true, created_at: 1, ips: vec![] };
        PodView { sandboxes: vec![sandbox], containers }
    }

    fn started(ids: &[&str]) -> HashSet<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    fn decide(pod: &Pod, view: &PodView, ids: &[&str]) -> Vec<Action> {
        plan(pod, view, &Knowledge { started: &started(ids), remembered: &[] })
    }

    fn begin(name: &str) -> Action {
        Action::Start { name: name.into(), attempt: 0, after: None }
    }

    #[test]
    fn a_new_pod_gets_a_sandbox_first() {
        assert_eq!(decide(&pod("Always"), &PodView::default(), &[]), [Action::CreateSandbox { attempt: 0 }]);
    }

    #[test]
    fn a_lost_sandbox_is_replaced_by_the_next_attempt() {
        let mut view = view(vec![]);
        view.sandboxes[0].ready = false;
        assert_eq!(decide(&pod("Always"), &view, &[]), [Action::CreateSandbox { attempt: 1 }]);
    }

    #[test]
    fn a_lost_sandbox_ends_a_pod_that_never_restarts_and_has_begun() {
        let pod = pod("Never");
        let mut view = view(vec![record(&pod, "prepare", State::Exited, 0)]);
        view.sandboxes[0].ready = false;
        assert_eq!(decide(&pod, &view, &[]), [Action::Finish]);
        view.containers.clear();
        assert_eq!(decide(&pod, &view, &[]), [Action::CreateSandbox { attempt: 1 }]);
    }

    #[test]
    fn init_containers_run_one_after_the_other() {
        let pod = pod("Always");
        assert_eq!(decide(&pod, &view(vec![]), &[]), [begin("prepare")]);
        let running = view(vec![record(&pod, "prepare", State::Running, 0)]);
        assert_eq!(decide(&pod, &running, &[]), []);
        let done = view(vec![record(&pod, "prepare", State::Exited, 0)]);
        assert_eq!(decide(&pod, &done, &[]), [begin("proxy")]);
    }

    #[test]
    fn main_containers_wait_for_the_sidecar_to_have_started() {
        let pod = pod("Always");
        let view = view(vec![record(&pod, "proxy", State::Running, 0), record(&pod, "prepare", State::Exited, 0)]);
        assert_eq!(decide(&pod, &view, &[]), []);
        assert_eq!(decide(&pod, &view, &["proxy-id"]), [begin("main")]);
    }

    #[test]
    fn an_ended_sidecar_restarts_whatever_the_policy_while_main_runs() {
        let pod = pod("Never");
        let view = view(vec![record(&pod, "main", State::Running, 0), record(&pod, "proxy", State::Exited, 0)]);
        assert_eq!(decide(&pod, &view, &[]), [Action::Start { name: "proxy".into(), attempt: 1, after: Some(3) }]);
    }

    #[test]
    fn restarts_follow_the_policy() {
        for (policy, exit_code, again) in
            [("Always", 0, true), ("OnFailure", 0, false), ("OnFailure", 1, true), ("Never", 1, false)]
        {
            let pod = pod(policy);
            let view = view(vec![
                record(&pod, "main", State::Exited, exit_code),
                record(&pod, "proxy", State::Running, 0),
                record(&pod, "prepare", State::Exited, 0),
            ]);
            let expected = if again {
                vec![Action::Start { name: "main".into(), attempt: 1, after: Some(3) }]
            } else {
                vec![Action::Finish]
            };
            assert_eq!(decide(&pod, &view, &["proxy-id"]), expected, "{policy} {exit_code}");
        }
    }

    #[test]
    fn a_failed_init_container_ends_a_pod_that_never_restarts() {
        let pod = pod("Never");
        let view = view(vec![record(&pod, "prepare", State::Exited, 1)]);
        assert_eq!(decide(&pod, &view, &[]), [Action::Finish]);
    }

    #[test]
    fn a_changed_image_replaces_the_container() {
        let pod = pod("Always");
        let mut main = record(&pod, "main", State::Running, 0);
        main.hash = "other".into();
        let view = view(vec![main, record(&pod, "proxy", State::Running, 0)]);
        assert!(matches!(decide(&pod, &view, &["proxy-id"]).as_slice(), [Action::Stop { name, .. }] if name == "main"));
    }

    #[test]
    fn an_ephemeral_container_starts_once_whatever_the_others_do() {
        let mut pod = pod("Always");
        let debug = serde_json::from_value(json!([{"name": "debug", "image": "i"}])).unwrap();
        pod.spec.as_mut().unwrap().ephemeral_containers = Some(debug);
        assert_eq!(decide(&pod, &view(vec![]), &[]), [begin("debug"), begin("prepare")]);
        let mut ended = record(&pod, "debug", State::Exited, 1);
        assert_eq!(decide(&pod, &view(vec![ended.clone()]), &[]), [begin("prepare")]);
        ended.state = State::Running;
        assert_eq!(decide(&pod, &view(vec![ended]), &[]), [begin("prepare")]);
    }

    #[test]
    fn a_running_pod_is_left_alone() {
        let pod = pod("Always");
        let view = view(vec![
            record(&pod, "main", State::Running, 0),
            record(&pod, "proxy", State::Running, 0),
            record(&pod, "prepare", State::Exited, 0),
        ]);
        assert_eq!(decide(&pod, &view, &["proxy-id", "main-id"]), []);
    }
}
