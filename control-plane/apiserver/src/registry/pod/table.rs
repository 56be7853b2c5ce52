//! How `kubectl get pods` looks.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodSpec, PodStatus,
};
use serde_json::{Value, json};

use crate::registry::checks::text;
use crate::registry::strategy::{Column, age};

pub(super) const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Ready", "string", "The aggregate readiness state of this pod for accepting traffic."),
    Column::new("Status", "string", "The aggregate status of the containers in this pod."),
    Column::new(
        "Restarts",
        "string",
        "The number of times the containers in this pod have been restarted and when the last container in this pod has \
         restarted.",
    ),
    Column::AGE,
    Column::wide(
        "IP",
        "string",
        "podIP address allocated to the pod. Routable at least within the cluster. Empty if not yet allocated.",
    ),
    Column::wide(
        "Node",
        "string",
        "NodeName indicates in which node this pod is scheduled. If empty, this pod is a candidate for scheduling by the \
         scheduler defined in schedulerName. Once this field is set, the kubelet for this node becomes responsible for \
         the lifecycle of this pod. This field should not be used to express a desire for the pod to be scheduled on a \
         specific node. \
         https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#nodename",
    ),
    Column::wide(
        "Nominated Node",
        "string",
        "nominatedNodeName is set only when this pod preempts other pods on the node, but it cannot be scheduled right \
         away as preemption victims receive their graceful termination periods. This field does not guarantee that the \
         pod will be scheduled on this node. Scheduler may decide to place the pod elsewhere if other nodes become \
         available sooner. Scheduler may also decide to give the resources on this node to a higher priority pod that is \
         created after preemption. As a result, this field may be different than PodSpec.nodeName when the pod is \
         scheduled.",
    ),
    Column::wide(
        "Readiness Gates",
        "string",
        "If specified, all readiness gates will be evaluated for pod readiness. A pod is ready when all its containers \
         are ready AND all conditions specified in the readiness gates have status equal to \"True\" More info: \
         https://git.k8s.io/enhancements/keps/sig-network/580-pod-readiness-gates",
    ),
];

pub(super) fn row(pod: &Pod, now: Timestamp) -> Vec<Value> {
    let (no_spec, no_status) = (PodSpec::default(), PodStatus::default());
    let spec = pod.spec.as_ref().unwrap_or(&no_spec);
    let status = pod.status.as_ref().unwrap_or(&no_status);
    let summary = Summary::of(pod, spec, status);
    let restarts = match summary.restarts.last {
        Some(last) if summary.restarts.count != 0 => {
            format!("{} ({} ago)", summary.restarts.count, age(Some(last), now))
        }
        _ => summary.restarts.count.to_string(),
    };
    let ip = status.pod_ips.as_ref().and_then(|ips| ips.first()).map_or("", |ip| ip.ip.as_str());
    vec![
        json!(text(&pod.metadata.name)),
        json!(format!("{}/{}", summary.ready, summary.total)),
        json!(summary.reason),
        json!(restarts),
        json!(age(pod.metadata.creation_timestamp.as_ref().map(|t| t.0), now)),
        json!(or_none(ip)),
        json!(or_none(text(&spec.node_name))),
        json!(or_none(text(&status.nominated_node_name))),
        json!(readiness_gates(spec, status)),
    ]
}

fn or_none(value: &str) -> &str {
    if value.is_empty() { "<none>" } else { value }
}

fn readiness_gates(spec: &PodSpec, status: &PodStatus) -> String {
    let gates = spec.readiness_gates.as_deref().unwrap_or_default();
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open = gates.iter().filter(|gate| has_condition(status, &gate.condition_type)).count();
    format!("{open}/{}", gates.len())
}

fn has_condition(status: &PodStatus, kind: &str) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == kind && c.status == "True")
}

/// How often containers restarted, and when last.
#[derive(Clone, Copy, Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, container: &ContainerStatus) {
        self.count += i64::from(container.restart_count);
        let ended =
            container.last_state.as_ref().and_then(|s| s.terminated.as_ref()).and_then(|t| t.finished_at.as_ref());
        self.last = self.last.max(ended.map(|time| time.0));
    }
}

/// What one line can say of a pod.
struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: Restarts,
}

impl Summary {
    fn of(pod: &Pod, spec: &PodSpec, status: &PodStatus) -> Summary {
        let sidecars = spec.init_containers.iter().flatten().filter(|c| is_sidecar(c)).count();
        let phase = text(&status.phase);
        let reason = if text(&status.reason).is_empty() { phase } else { text(&status.reason) };
        let gated = |c: &k8s_openapi::api::core::v1::PodCondition| {
            c.type_ == "PodScheduled" && c.reason.as_deref() == Some("SchedulingGated")
        };
        let gated = status.conditions.iter().flatten().any(gated);
        let mut summary = Summary {
            ready: 0,
            total: spec.containers.len() + sidecars,
            reason: if gated { "SchedulingGated" } else { reason }.to_owned(),
            restarts: Restarts::default(),
        };
        let (initializing, of_sidecars) = summary.read_init_containers(spec, status);
        if !initializing || has_condition(status, "Initialized") {
            summary.restarts = of_sidecars;
            summary.read_containers(status);
        }
        if pod.metadata.deletion_timestamp.is_some() {
            if text(&status.reason) == "NodeLost" {
                summary.reason = "Unknown".to_owned();
            } else if !matches!(phase, "Failed" | "Succeeded") {
                summary.reason = "Terminating".to_owned();
            }
        }
        summary
    }

    /// Whether init containers still hold the pod up, and the restarts of those that keep running.
    fn read_init_containers(&mut self, spec: &PodSpec, status: &PodStatus) -> (bool, Restarts) {
        let mut of_sidecars = Restarts::default();
        let find = |name: &str| spec.init_containers.iter().flatten().find(|c| c.name == name);
        for (i, container) in status.init_container_statuses.iter().flatten().enumerate() {
            let sidecar = find(&container.name).is_some_and(is_sidecar);
            self.restarts.add(container);
            if sidecar {
                of_sidecars.add(container);
            }
            let none = ContainerState::default();
            let state = container.state.as_ref().unwrap_or(&none);
            let waiting = state.waiting.as_ref().map_or("", |w| text(&w.reason));
            match &state.terminated {
                Some(ended) if ended.exit_code == 0 => continue,
                _ if sidecar && container.started == Some(true) => {
                    self.ready += usize::from(container.ready);
                    continue;
                }
                Some(ended) => self.reason = format!("Init:{}", ending(ended)),
                None if !waiting.is_empty() && waiting != "PodInitializing" => self.reason = format!("Init:{waiting}"),
                None => self.reason = format!("Init:{i}/{}", spec.init_containers.as_ref().map_or(0, Vec::len)),
            }
            return (true, of_sidecars);
        }
        (false, of_sidecars)
    }

    fn read_containers(&mut self, status: &PodStatus) {
        let mut running = false;
        for container in status.container_statuses.iter().flatten().rev() {
            self.restarts.add(container);
            let none = ContainerState::default();
            let state = container.state.as_ref().unwrap_or(&none);
            match (&state.waiting, &state.terminated) {
                (Some(waiting), _) if !text(&waiting.reason).is_empty() => {
                    text(&waiting.reason).clone_into(&mut self.reason)
                }
                (_, Some(ended)) => self.reason = ending(ended),
                _ if container.ready && state.running.is_some() => {
                    running = true;
                    self.ready += 1;
                }
                _ => {}
            }
        }
        // One container that is done does not make a running pod a finished one.
        if self.reason == "Completed" && running {
            self.reason = if has_condition(status, "Ready") { "Running" } else { "NotReady" }.to_owned();
        }
    }
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn ending(ended: &ContainerStateTerminated) -> String {
    match (text(&ended.reason), ended.signal.unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", ended.exit_code),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}
