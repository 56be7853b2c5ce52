//! What the API is told about a pod: a pure function of spec, runtime and probes.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::images::Waiting;
use crate::plan;
use crate::podext::{PodExt, Role, is_terminal, time};
use crate::view::{ContainerRecord, PodView, State};

/// Everything a status is made of.
pub(crate) struct Inputs<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) view: &'a PodView,
    /// Why containers that are to run do not.
    pub(crate) waiting: &'a HashMap<String, Waiting>,
    /// Ids of containers whose readiness probe passes (or that have none).
    pub(crate) ready: &'a HashSet<String>,
    /// Ids of containers whose startup probe has passed (or that have none).
    pub(crate) started: &'a HashSet<String>,
    /// Names of containers whose postStart hook is still running.
    pub(crate) starting: &'a HashSet<String>,
    pub(crate) host_ips: &'a [String],
    /// The last status, for what must not change without cause: start time, transition times, restart counts.
    pub(crate) previous: &'a PodStatus,
    /// Nothing of the pod runs any more, and nothing will.
    pub(crate) ended: bool,
    /// Reason and message of a pod that this node failed as a whole.
    pub(crate) failure: Option<&'a Waiting>,
    pub(crate) now: Timestamp,
}

/// Computes the status.
pub(crate) fn compute(inputs: &Inputs<'_>) -> PodStatus {
    let pod = inputs.pod;
    let mut init = Vec::new();
    let mut main = Vec::new();
    for (role, container) in pod.all_containers() {
        let status = container_status(inputs, role, container);
        if role == Role::Main { main.push(status) } else { init.push(status) }
    }
    let own = if inputs.failure.is_some() { "Failed" } else { phase(inputs, &init, &main) };
    // What has ended in the API has ended, whatever the runtime shows.
    let phase = pod.ended_phase().unwrap_or(own);
    // A phase ends only when nothing runs any more: whoever waits for it may take the pod's resources then.
    let shown = match inputs.previous.phase.as_deref() {
        _ if inputs.ended || !is_terminal(phase) || pod.ended_phase().is_some() => phase,
        Some(before) => before,
        None => "Pending",
    };
    let failure = inputs.failure.filter(|_| shown == phase);
    let host_ips: Vec<_> = inputs.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect();
    let ips = pod_ips(inputs);
    let mut status = PodStatus {
        phase: Some(shown.to_owned()),
        host_ip: inputs.host_ips.first().cloned(),
        host_ips: Some(host_ips),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect()),
        start_time: inputs.previous.start_time.clone().or(Some(Time(inputs.now))),
        qos_class: inputs.previous.qos_class.clone().or_else(|| Some(pod.qos().name().to_owned())),
        observed_generation: pod.metadata.generation,
        reason: failure.map(|failure| failure.reason.to_owned()),
        message: failure.map(|failure| failure.message.clone()),
        ..Default::default()
    };
    status.conditions = Some(conditions(inputs, phase, &init, &main));
    status.container_statuses = Some(main);
    status.init_container_statuses = (!init.is_empty()).then_some(init);
    let ephemeral: Vec<_> = ephemeral_statuses(inputs).collect();
    status.ephemeral_container_statuses = (!ephemeral.is_empty()).then_some(ephemeral);
    status
}

fn pod_ips(inputs: &Inputs<'_>) -> Vec<String> {
    if inputs.pod.host_network() {
        return if inputs.view.sandboxes.is_empty() { Vec::new() } else { inputs.host_ips.to_vec() };
    }
    let of_sandbox = inputs.view.sandboxes.first().map(|sandbox| sandbox.ips.clone()).unwrap_or_default();
    if !of_sandbox.is_empty() {
        return of_sandbox;
    }
    // An ended pod keeps the address it had.
    let previous = inputs.previous.pod_ips.iter().flatten().map(|ip| ip.ip.clone());
    if inputs.ended { previous.collect() } else { Vec::new() }
}

// === containers ===

fn container_status(inputs: &Inputs<'_>, role: Role, container: &Container) -> ContainerStatus {
    let records: Vec<_> = inputs.view.containers.iter().filter(|record| record.name == container.name).collect();
    let latest = records.first().copied();
    let before = records.get(1).copied();
    let previous = previous_of(inputs.previous, &container.name);
    let waiting = inputs.waiting.get(&container.name);
    let starting = inputs.starting.contains(&container.name);
    if let (None, true, Some(previous)) = (latest, inputs.ended, previous)
        && previous.state.as_ref().is_some_and(|state| state.terminated.is_some())
    {
        // The runtime has forgotten it since; how it ended stays true.
        return previous.clone();
    }
    let (state, last_state) = match (latest, waiting) {
        (None, _) => (waiting_state(inputs, role, waiting), previous.and_then(terminated_of)),
        (Some(record), _) if record.state == State::Running && starting => {
            (waiting_state(inputs, role, waiting), before.map(terminated))
        }
        (Some(record), _) if record.state == State::Running => (running(record), before.map(terminated)),
        (Some(record), Some(waiting)) if !inputs.ended && record.state == State::Exited => {
            (waiting_state(inputs, role, Some(waiting)), Some(terminated(record)))
        }
        (Some(record), _) if record.state == State::Exited => (terminated(record), before.map(terminated)),
        (Some(record), _) if record.state == State::Unknown => (unknown(record), before.map(terminated)),
        (Some(_), _) => (waiting_state(inputs, role, waiting), before.map(terminated)),
    };
    let up = latest.filter(|record| record.state == State::Running && !starting);
    let started = up.is_some_and(|record| inputs.started.contains(&record.id));
    let ready = match role {
        Role::Init => latest.is_some_and(|record| record.state == State::Exited && record.exit_code == 0),
        _ => started && up.is_some_and(|record| inputs.ready.contains(&record.id)),
    };
    ContainerStatus {
        name: container.name.clone(),
        image: latest
            .map(|record| record.image.clone())
            .filter(|image| !image.is_empty() && !image.starts_with("sha256:"))
            .or_else(|| container.image.clone())
            .unwrap_or_default(),
        image_id: latest.map(|record| record.image_id.clone()).unwrap_or_default(),
        container_id: latest.map(|record| container_id(&record.id)),
        restart_count: latest.map_or_else(
            || previous.map_or(0, |status| status.restart_count),
            |record| i32::try_from(record.attempt).unwrap_or(i32::MAX),
        ),
        ready,
        started: Some(started),
        state: Some(state),
        last_state,
        ..Default::default()
    }
}

/// Ephemeral containers are never ready: nobody relies on them.
fn ephemeral_statuses(inputs: &Inputs<'_>) -> impl Iterator<Item = ContainerStatus> {
    let containers = inputs.pod.pod_spec().ephemeral_containers.iter().flatten();
    containers.filter_map(|container| {
        let container = inputs.pod.ephemeral(&container.name)?;
        let status = container_status(inputs, Role::Main, &container);
        Some(ContainerStatus { ready: false, started: None, ..status })
    })
}

/// The id with the runtime's name, as the API shows it.
pub(crate) fn container_id(id: &str) -> String {
    format!("containerd://{id}")
}

/// The status of a container within a pod status.
pub(crate) fn previous_of<'a>(status: &'a PodStatus, name: &str) -> Option<&'a ContainerStatus> {
    let main = status.container_statuses.iter().flatten();
    let init = status.init_container_statuses.iter().flatten();
    main.chain(init).chain(status.ephemeral_container_statuses.iter().flatten()).find(|status| status.name == name)
}

fn terminated_of(status: &ContainerStatus) -> Option<ContainerState> {
    let of = |state: &Option<ContainerState>| state.clone().filter(|state| state.terminated.is_some());
    of(&status.state).or_else(|| of(&status.last_state))
}

fn waiting_state(inputs: &Inputs<'_>, role: Role, waiting: Option<&Waiting>) -> ContainerState {
    if inputs.ended {
        // What never ran, or was lost: upstream's words for it.
        return ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: 137,
                reason: Some("ContainerStatusUnknown".to_owned()),
                message: Some("The container could not be located when the pod was terminated".to_owned()),
                ..Default::default()
            }),
            ..Default::default()
        };
    }
    let has_init = inputs.pod.pod_spec().init_containers.as_ref().is_some_and(|init| !init.is_empty());
    let default = if has_init || role != Role::Main { "PodInitializing" } else { "ContainerCreating" };
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(waiting.map_or(default, |waiting| waiting.reason).to_owned()),
            message: waiting.map(|waiting| waiting.message.clone()).filter(|message| !message.is_empty()),
        }),
        ..Default::default()
    }
}

fn running(record: &ContainerRecord) -> ContainerState {
    let running = ContainerStateRunning { started_at: time(record.started_at) };
    ContainerState { running: Some(running), ..Default::default() }
}

fn terminated(record: &ContainerRecord) -> ContainerState {
    let reason = match record.reason.as_str() {
        "" if record.exit_code == 0 => "Completed",
        "" => "Error",
        reason => reason,
    };
    let terminated = ContainerStateTerminated {
        exit_code: record.exit_code,
        reason: Some(reason.to_owned()),
        message: Some(record.message.clone()).filter(|message| !message.is_empty()),
        started_at: time(record.started_at),
        finished_at: time(record.finished_at),
        container_id: Some(container_id(&record.id)),
        ..Default::default()
    };
    ContainerState { terminated: Some(terminated), ..Default::default() }
}

fn unknown(record: &ContainerRecord) -> ContainerState {
    let terminated = ContainerStateTerminated {
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".to_owned()),
        message: Some("The container could not be located when the pod was terminated".to_owned()),
        container_id: Some(container_id(&record.id)),
        ..Default::default()
    };
    ContainerState { terminated: Some(terminated), ..Default::default() }
}

// === phase ===

fn phase(inputs: &Inputs<'_>, init: &[ContainerStatus], main: &[ContainerStatus]) -> &'static str {
    let pod = inputs.pod;
    if plan::init_failed(pod, inputs.view) {
        return "Failed";
    }
    if !is_initialized(inputs, init) && !inputs.ended {
        return "Pending";
    }
    let (mut waiting, mut running, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for status in main {
        let Some(state) = &status.state else { continue };
        if state.running.is_some() {
            running += 1;
        } else if let Some(terminated) = &state.terminated {
            stopped += 1;
            succeeded += usize::from(terminated.exit_code == 0);
        } else if status.last_state.as_ref().is_some_and(|last| last.terminated.is_some()) {
            stopped += 1;
        } else {
            waiting += 1;
        }
    }
    match (waiting, running, stopped) {
        (1.., ..) => "Pending",
        (0, 1.., _) => "Running",
        (0, 0, 0) => "Pending",
        _ if inputs.ended => {
            if succeeded == stopped {
                "Succeeded"
            } else {
                "Failed"
            }
        }
        _ if pod.restart_policy() == "Always" => "Running",
        _ if succeeded == stopped => "Succeeded",
        _ if pod.restart_policy() == "Never" => "Failed",
        _ => "Running",
    }
}

fn is_initialized(inputs: &Inputs<'_>, init: &[ContainerStatus]) -> bool {
    let main_ran =
        inputs.pod.pod_spec().containers.iter().any(|container| inputs.view.latest(&container.name).is_some());
    main_ran || incomplete(inputs, init).is_empty()
}

/// Init containers that keep the main ones from starting.
fn incomplete(inputs: &Inputs<'_>, init: &[ContainerStatus]) -> Vec<String> {
    let pod = inputs.pod;
    let missing = init.iter().filter(|status| match pod.container(&status.name) {
        Some((Role::Sidecar, _)) => status.started != Some(true),
        _ => !status.ready,
    });
    missing.map(|status| status.name.clone()).collect()
}

// === conditions ===

struct Verdict {
    kind: &'static str,
    ok: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    fn yes(kind: &'static str) -> Self {
        Self { kind, ok: true, reason: None, message: None }
    }

    fn no(kind: &'static str, reason: &'static str, message: Option<String>) -> Self {
        Self { kind, ok: false, reason: Some(reason), message }
    }
}

fn conditions(
    inputs: &Inputs<'_>,
    phase: &str,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
) -> Vec<PodCondition> {
    let sandbox = inputs.view.sandbox();
    let has_network = sandbox.is_some_and(|sandbox| inputs.pod.host_network() || !sandbox.ips.is_empty());
    let containers_ready = containers_ready(inputs, phase, init, main);
    let ready = ready(inputs, &containers_ready);
    let verdicts = [
        Verdict { kind: "PodReadyToStartContainers", ok: has_network, reason: None, message: None },
        initialized(inputs, phase, init),
        ready,
        containers_ready,
        Verdict::yes("PodScheduled"),
    ];
    verdicts.into_iter().map(|verdict| condition(inputs, verdict)).collect()
}

fn initialized(inputs: &Inputs<'_>, phase: &str, init: &[ContainerStatus]) -> Verdict {
    const KIND: &str = "Initialized";
    if phase == "Succeeded" {
        return Verdict { reason: Some("PodCompleted"), ..Verdict::yes(KIND) };
    }
    if is_initialized(inputs, init) {
        return Verdict::yes(KIND);
    }
    let names = incomplete(inputs, init).join(" ");
    Verdict::no(KIND, "ContainersNotInitialized", Some(format!("containers with incomplete status: [{names}]")))
}

fn containers_ready(inputs: &Inputs<'_>, phase: &str, init: &[ContainerStatus], main: &[ContainerStatus]) -> Verdict {
    const KIND: &str = "ContainersReady";
    match phase {
        "Succeeded" => return Verdict::no(KIND, "PodCompleted", None),
        "Failed" => return Verdict::no(KIND, "PodFailed", None),
        _ => {}
    }
    let sidecars = init.iter().filter(|status| matches!(inputs.pod.container(&status.name), Some((Role::Sidecar, _))));
    let unready: Vec<_> = sidecars.chain(main).filter(|status| !status.ready).map(|s| s.name.as_str()).collect();
    if unready.is_empty() {
        return Verdict::yes(KIND);
    }
    Verdict::no(KIND, "ContainersNotReady", Some(format!("containers with unready status: [{}]", unready.join(" "))))
}

fn ready(inputs: &Inputs<'_>, containers: &Verdict) -> Verdict {
    const KIND: &str = "Ready";
    if !containers.ok {
        return Verdict { kind: KIND, ok: false, reason: containers.reason, message: containers.message.clone() };
    }
    let given: Vec<_> = inputs.pod.status.iter().filter_map(|status| status.conditions.as_ref()).flatten().collect();
    let mut missing = Vec::new();
    for gate in inputs.pod.pod_spec().readiness_gates.iter().flatten() {
        match given.iter().find(|condition| condition.type_ == gate.condition_type) {
            None => missing.push(format!(
                "corresponding condition of pod readiness gate {:?} does not exist.",
                gate.condition_type
            )),
            Some(condition) if condition.status != "True" => missing.push(format!(
                "the status of pod readiness gate {:?} is not \"True\", but {}",
                gate.condition_type, condition.status
            )),
            Some(_) => {}
        }
    }
    if missing.is_empty() {
        return Verdict::yes(KIND);
    }
    Verdict::no(KIND, "ReadinessGatesNotReady", Some(missing.join(", ")))
}

fn condition(inputs: &Inputs<'_>, verdict: Verdict) -> PodCondition {
    let status = if verdict.ok { "True" } else { "False" };
    let old = inputs.previous.conditions.iter().flatten().find(|old| old.type_ == verdict.kind);
    let since = old.filter(|old| old.status == status).and_then(|old| old.last_transition_time.clone());
    PodCondition {
        type_: verdict.kind.to_owned(),
        status: status.to_owned(),
        last_transition_time: since.or(Some(Time(inputs.now))),
        reason: verdict.reason.map(str::to_owned),
        message: verdict.message,
        observed_generation: inputs.pod.metadata.generation,
        ..Default::default()
    }
}

#[cfg(test)]
#[path = "status/tests.rs"]
mod tests;
