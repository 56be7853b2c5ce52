//! Lists of resources (`cpu: 500m, memory: 1Gi`) and what they come to for a pod.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, ContainerStatus, Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity as WireQuantity,
};

use crate::Quantity;

/// Amounts of named resources.
pub type Amounts = BTreeMap<String, Quantity>;

/// Reads a list of the API; what is no quantity is left out (validation names it).
pub fn read(list: Option<&BTreeMap<String, WireQuantity>>) -> Amounts {
    let parsed = |(name, wire): (&String, &WireQuantity)| Some((name.clone(), Quantity::parse(&wire.0).ok()?));
    list.into_iter().flatten().filter_map(parsed).collect()
}

/// Writes a list of the API.
pub fn write(amounts: &Amounts) -> BTreeMap<String, WireQuantity> {
    amounts.iter().map(|(name, amount)| (name.clone(), (*amount).into())).collect()
}

/// Adds `more` to `total`.
pub fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        total.entry(name.clone()).and_modify(|sum| *sum = *sum + *amount).or_insert(*amount);
    }
}

/// Raises `total` to the greater of both, resource by resource.
pub fn raise(total: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        total.entry(name.clone()).and_modify(|max| *max = (*max).max(*amount)).or_insert(*amount);
    }
}

/// `a=1,b=2Gi`, sorted by name, as upstream prints lists in errors.
pub fn text(amounts: &Amounts) -> String {
    amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
}

/// Whether a name belongs to Kubernetes: it has no domain, or one below `kubernetes.io`.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether a name is that of an extended resource, such as `example.com/gpu`.
pub fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.")
}

/// What a pod asks for at any one moment of its life (upstream's `resource.PodRequests`).
///
/// While a resize is under way that is the greater of what its spec says and what its node still holds (KEP-1287).
pub fn pod_requests(pod: &Pod) -> Amounts {
    let mut total = sum(pod, Side::Requests);
    for (name, amount) in pod_level(pod, Side::Requests) {
        total.insert(name, amount);
    }
    let overhead = read(pod.spec.as_ref().and_then(|spec| spec.overhead.as_ref()));
    add(&mut total, &overhead);
    total
}

/// What a pod may take at most (upstream's `resource.PodLimits`); overhead counts where there is a limit at all.
pub fn pod_limits(pod: &Pod) -> Amounts {
    let mut total = sum(pod, Side::Limits);
    for (name, amount) in pod_level(pod, Side::Limits) {
        total.insert(name, amount);
    }
    let overhead = read(pod.spec.as_ref().and_then(|spec| spec.overhead.as_ref()));
    for (name, amount) in overhead {
        if let Some(limit) = total.get_mut(&name).filter(|limit| !limit.is_zero()) {
            *limit = *limit + amount;
        }
    }
    total
}

#[derive(Clone, Copy)]
enum Side {
    Requests,
    Limits,
}

impl Side {
    fn of(self, resources: Option<&ResourceRequirements>) -> Amounts {
        let resources = resources.map(|resources| match self {
            Self::Requests => resources.requests.as_ref(),
            Self::Limits => resources.limits.as_ref(),
        });
        read(resources.flatten())
    }
}

/// Amounts of the pod as a whole stand for those of its containers (KEP-2837).
fn pod_level(pod: &Pod, side: Side) -> Amounts {
    let mut amounts = side.of(pod.spec.as_ref().and_then(|spec| spec.resources.as_ref()));
    amounts.retain(|name, _| name == "cpu" || name == "memory" || name.starts_with("hugepages-"));
    amounts
}

fn sum(pod: &Pod, side: Side) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let status = pod.status.as_ref();
    let running = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let inits = status.and_then(|status| status.init_container_statuses.as_deref()).unwrap_or_default();
    let infeasible = is_infeasible(pod);

    let mut total = Amounts::new();
    for container in &spec.containers {
        add(&mut total, &of_container(container, running, side, infeasible));
    }
    // Init containers run one after the other, beside the sidecars started before them.
    let mut sidecars = Amounts::new();
    let mut peak = Amounts::new();
    for container in spec.init_containers.iter().flatten() {
        let mut during = of_container(container, inits, side, infeasible);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut total, &during);
            add(&mut sidecars, &during);
            during = sidecars.clone();
        } else {
            add(&mut during, &sidecars);
        }
        raise(&mut peak, &during);
    }
    raise(&mut total, &peak);
    total
}

fn of_container(container: &Container, statuses: &[ContainerStatus], side: Side, infeasible: bool) -> Amounts {
    let wanted = side.of(container.resources.as_ref());
    let Some(status) = statuses.iter().find(|status| status.name == container.name) else { return wanted };
    let mut held = side.of(status.resources.as_ref());
    if matches!(side, Side::Requests) {
        raise(&mut held, &read(status.allocated_resources.as_ref()));
    }
    // A resize that cannot be done will not take anything.
    if infeasible && status.resources.is_some() {
        return held;
    }
    raise(&mut held, &wanted);
    held
}

fn is_infeasible(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions
        .iter()
        .any(|condition| condition.type_ == "PodResizePending" && condition.reason.as_deref() == Some("Infeasible"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": spec})).unwrap()
    }

    fn container(name: &str, request: &str, limit: &str) -> serde_json::Value {
        json!({"name": name, "resources": {"requests": {"cpu": request}, "limits": {"cpu": limit}}})
    }

    #[test]
    fn sidecars_run_beside_what_comes_later_and_overhead_comes_on_top() {
        let mut sidecar = container("s", "1", "2");
        sidecar["restartPolicy"] = json!("Always");
        let pod = pod(json!({
            "containers": [container("a", "1", "1")],
            "initContainers": [container("early", "2", "2"), sidecar, container("late", "3", "3")],
            "overhead": {"cpu": "250m", "memory": "1Mi"},
        }));
        assert_eq!(text(&pod_requests(&pod)), "cpu=4250m,memory=1Mi");
        assert_eq!(text(&pod_limits(&pod)), "cpu=5250m");
    }

    #[test]
    fn amounts_of_the_pod_stand_for_its_containers() {
        let pod = pod(json!({
            "containers": [container("a", "1", "1")],
            "resources": {"requests": {"cpu": "3"}, "limits": {"cpu": "4", "example.com/gpu": "1"}},
        }));
        assert_eq!((text(&pod_requests(&pod)), text(&pod_limits(&pod))), ("cpu=3".into(), "cpu=4".into()));
    }

    #[test]
    fn names_tell_whose_they_are() {
        assert!(is_native("cpu") && is_native("node.kubernetes.io/x") && !is_native("example.com/gpu"));
        assert!(is_extended("example.com/gpu") && !is_extended("requests.example.com/gpu"));
    }
}
