//! What probes say of a pod's containers, and what follows.

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
        for record in &running {
            let Some((role, container)) = pod.container(&record.name) else { continue };
            let has = |kind| role != Role::Init && probes::of(container, kind).is_some();
            let target = || Target {
                context: self.context.clone(),
                pod: pod.clone(),
                container: container.clone(),
                container_id: record.id.clone(),
                pod_ip: self.probe_ip(),
                started_at: record.started_at,
            };
            if !self.started.contains(&record.id) {
                if has(Kind::Startup) {
                    let target = target();
                    self.probes.ensure(Kind::Startup, target, &self.to_self);
                    continue;
                }
                self.started.insert(record.id.clone());
            }
            self.probes.stop(&record.id, Kind::Startup);
            for kind in [Kind::Liveness, Kind::Readiness] {
                if has(kind) {
                    let target = Target {
                        context: self.context.clone(),
                        pod: pod.clone(),
                        container: container.clone(),
                        container_id: record.id.clone(),
                        pod_ip: self.probe_ip(),
                        started_at: record.started_at,
                    };
                    self.probes.ensure(kind, target, &self.to_self);
                }
            }
            if !has(Kind::Readiness) {
                self.ready.insert(record.id.clone());
            }
        }
    }

    fn probe_ip(&self) -> String {
        if self.pod.host_network() {
            return self.context.host_ips().into_iter().next().unwrap_or_default();
        }
        self.view.sandbox().and_then(|sandbox| sandbox.ips.first().cloned()).unwrap_or_default()
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
            (Kind::Startup | Kind::Liveness, false) => {
                let what = kind.name().to_lowercase();
                self.stop_container(
                    &container_id,
                    &name,
                    format!("Container {name} failed {what} probe, will be restarted"),
                );
            }
        }
        tracing::debug!(pod = %self.pod.key(), container = name, probe = kind.name(), healthy, id = %status::container_id(&name), "probe");
    }
}
