//! Requests and limits as the kernel's numbers.

use k8s_openapi::api::core::v1::{Container, Pod};
use skep_cri::api::LinuxContainerResources;

use crate::cgroups::{Limits, PERIOD};
use crate::podext::{PodExt, Qos, Role};
use crate::quantity;

const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
const MIN_QUOTA: i64 = 1000;

fn shares(milli: i64) -> i64 {
    (milli.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

fn quota(milli: i64) -> i64 {
    (milli.saturating_mul(PERIOD) / 1000).max(MIN_QUOTA)
}

/// A container's own resources.
pub(crate) fn container(pod: &Pod, container: &Container, memory_capacity: i64) -> LinuxContainerResources {
    let resources = container.resources.clone().unwrap_or_default();
    let limit = quantity::cpu_milli(&resources.limits).filter(|milli| *milli > 0);
    let request = quantity::cpu_milli(&resources.requests).or(limit).unwrap_or(0);
    LinuxContainerResources {
        cpu_period: PERIOD,
        cpu_quota: limit.map_or(0, quota),
        cpu_shares: shares(request),
        memory_limit_in_bytes: quantity::memory(&resources.limits).unwrap_or(0).max(0),
        oom_score_adj: oom_score_adj(pod, container, memory_capacity),
        ..Default::default()
    }
}

/// Who is killed first when memory runs out: those who asked for least of it (upstream's qos/policy.go).
fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: i64) -> i64 {
    match pod.qos() {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let requests = container.resources.as_ref().and_then(|resources| resources.requests.clone());
            let request = quantity::memory(&requests).unwrap_or(0);
            let adjust = 1000 - request.saturating_mul(1000) / memory_capacity.max(1);
            adjust.clamp(3, 999)
        }
    }
}

/// The limits of the pod's cgroup: sums over what runs at the same time; unlimited as soon as one container is.
pub(crate) fn pod_limits(pod: &Pod) -> Limits {
    let mut requests = Totals::default();
    let mut cpu_limit = Totals::default();
    let mut memory_limit = Totals::default();
    for (role, container) in pod.all_containers() {
        let resources = container.resources.clone().unwrap_or_default();
        let limit = quantity::cpu_milli(&resources.limits).filter(|milli| *milli > 0);
        requests.add(role, Some(quantity::cpu_milli(&resources.requests).or(limit).unwrap_or(0)));
        cpu_limit.add(role, limit);
        memory_limit.add(role, quantity::memory(&resources.limits).filter(|bytes| *bytes > 0));
    }
    Limits {
        cpu_shares: requests.total().map(shares),
        cpu_quota: cpu_limit.total().map(quota),
        memory: memory_limit.total(),
    }
}

/// Sum of what stays, or the peak while an init container runs.
#[derive(Default)]
struct Totals {
    staying: i64,
    sidecars: i64,
    peak: i64,
    unlimited: bool,
}

impl Totals {
    fn add(&mut self, role: Role, amount: Option<i64>) {
        let Some(amount) = amount else {
            self.unlimited = true;
            return;
        };
        match role {
            Role::Init => self.peak = self.peak.max(self.sidecars + amount),
            Role::Sidecar => {
                self.sidecars += amount;
                self.staying += amount;
                self.peak = self.peak.max(self.sidecars);
            }
            Role::Main => self.staying += amount,
        }
    }

    fn total(&self) -> Option<i64> {
        (!self.unlimited).then_some(self.staying.max(self.peak))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    #[test]
    fn a_pod_is_limited_only_when_all_its_containers_are() {
        let limited = json!({"limits": {"cpu": "500m", "memory": "100"}});
        let both =
            pod(json!({"containers": [{"name": "a", "resources": limited}, {"name": "b", "resources": limited}]}));
        assert_eq!(pod_limits(&both), Limits { cpu_shares: Some(1024), cpu_quota: Some(100_000), memory: Some(200) });
        let one = pod(json!({"containers": [{"name": "a", "resources": limited}, {"name": "b"}]}));
        assert_eq!(pod_limits(&one), Limits { cpu_shares: Some(512), cpu_quota: None, memory: None });
    }

    #[test]
    fn the_more_memory_asked_for_the_later_killed() {
        let burstable = pod(json!({"containers": [{"name": "a", "resources": {"requests": {"memory": "500"}}}]}));
        assert_eq!(container(&burstable, &burstable.pod_spec().containers[0], 1000).oom_score_adj, 500);
        let best_effort = pod(json!({"containers": [{"name": "a"}]}));
        let resources = container(&best_effort, &best_effort.pod_spec().containers[0], 1000);
        assert_eq!((resources.oom_score_adj, resources.cpu_shares, resources.cpu_quota), (1000, 2, 0));
    }
}
