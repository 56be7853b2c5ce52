//! What probes say of a pod's containers, and what follows.

use k8s_openapi::api::core::v1::Pod;

use super::{Stage, Worker};
use crate::podext::{PodExt, Role};
use crate::probes::{self, Kind, Target, Verdict};
use crate::status;
use crate::view::State;

impl Worker {
    /// A restarted node takes over what the API knows, so that a pod that serves stays ready while the first probes run.
    pub(super) fn recall_health(&mut self) {
        let statuses = self.status.container_statuses.iter().chain(&self.status.init_container_statuses).flatten();
        for known in statuses {
            let Some(id) = known.container_id.as_deref().and_then(|id| id.split_once("://")).map(|(_, id)| id) else {
                continue;
            };
            if known.started == Some(true) {
                self.started.insert(id.to_owned());
            }
            if known.ready {
                self.ready.insert(id.to_owned());
            }
        }
    }

    /// Starts and ends probes so that they fit the running containers.
    pub(super) fn watch_health(&mut self) {
        let pod = self.pod.clone();
        let running: Vec<_> = self.view.containers.iter().filter(|r| r.state == State::Running).cloned().collect();
        let alive = |id: &str| running.iter().any(|record| record.id == id);
        self.probes.retain(alive);
        let known = |id: &String| alive(id) || self.view.containers.is_empty();
        self.started.retain(known);
        self.ready.retain(known);
        if self.stage != Stage::Alive {
            // A pod on its way out is not judged any more, except for its readiness.
            for record in &running {
                self.probes.stop(&record.id, Kind::Liveness);
                self.probes.stop(&record.id, Kind::Startup);
            }
            return;
        }
        let ips = self.view.sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default();
        let pod_ip = self.context.pod_ip(&pod, &ips);
        for record in &running {
            let Some((role, container)) = pod.container(&record.name) else { continue };
            if self.is_starting(&record.name) {
                continue;
            }
            let has = |kind| role != Role::Init && probes::of(container, kind).is_some();
            let target = Target {
                context: self.context.clone(),
                pod: pod.clone(),
                container_name: record.name.clone(),
                container_id: record.id.clone(),
                pod_ip: pod_ip.clone(),
                started_at: record.started_at,
            };
            if !self.started.contains(&record.id) {
                if has(Kind::Startup) {
                    self.probes.ensure(Kind::Startup, target, &self.to_self);
                    continue;
                }
                self.started.insert(record.id.clone());
            }
            self.probes.stop(&record.id, Kind::Startup);
            for kind in [Kind::Liveness, Kind::Readiness] {
                if has(kind) {
                    self.probes.ensure(kind, target.clone(), &self.to_self);
                }
            }
            if !has(Kind::Readiness) {
                self.ready.insert(record.id.clone());
            }
        }
    }

    /// Acts upon a probe's opinion.
    pub(super) fn heed(&mut self, verdict: Verdict) {
        let Verdict { container_id, kind, healthy } = verdict;
        let Some(name) = self.view.containers.iter().find(|r| r.id == container_id).map(|r| r.name.clone()) else {
            return;
        };
        match (kind, healthy) {
            (Kind::Startup, true) => {
                self.started.insert(container_id);
            }
            (Kind::Readiness, true) => {
                self.ready.insert(container_id);
            }
            (Kind::Readiness, false) => {
                self.ready.remove(&container_id);
            }
            (Kind::Liveness, true) => {}
            // It is being stopped already, with all the others.
            (Kind::Startup | Kind::Liveness, false) if self.stage != Stage::Alive => {}
            (Kind::Startup | Kind::Liveness, false) => {
                let pod = self.pod.clone();
                let Some((role, container)) = pod.container(&name) else { return };
                let grace = probes::of(container, kind).and_then(|probe| probe.termination_grace_period_seconds);
                self.stop_container(&container_id, &name, killing_message(role, &pod, &name, kind), grace);
            }
        }
        tracing::debug!(pod = %self.pod.key(), container = name, probe = kind.name(), healthy, id = %status::container_id(&name), "probe");
    }
}

/// Upstream's words for the event of a container that is stopped for its probe.
fn killing_message(role: Role, pod: &Pod, name: &str, kind: Kind) -> String {
    let probe = kind.name().to_lowercase();
    match role {
        Role::Init | Role::Sidecar => format!("Init container {name} failed {probe} probe"),
        Role::Main if pod.restart_policy() == "Never" => format!("Container {name} failed {probe} probe"),
        Role::Main => format!("Container {name} failed {probe} probe, will be restarted"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_says_whether_the_container_comes_back() {
        let pod = |policy: &str| -> Pod {
            serde_json::from_value(serde_json::json!({"spec": {"restartPolicy": policy, "containers": []}})).unwrap()
        };
        let text = |role, policy| killing_message(role, &pod(policy), "c", Kind::Liveness);
        assert_eq!(text(Role::Main, "Always"), "Container c failed liveness probe, will be restarted");
        assert_eq!(text(Role::Main, "Never"), "Container c failed liveness probe");
        assert_eq!(text(Role::Sidecar, "Never"), "Init container c failed liveness probe");
    }
}
