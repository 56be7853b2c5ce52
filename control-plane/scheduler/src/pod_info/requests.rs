//! Effective requests of a pod (upstream's `resource.PodRequests`): what its containers need at any one moment of its life.

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};

use super::NonZeroRequests;
use crate::resource::{Resource, amount};

const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

pub(super) fn of(pod: &Pod) -> (Resource, NonZeroRequests) {
    let exact = sum(pod, false);
    let scored = sum(pod, true);
    (exact, NonZeroRequests { milli_cpu: scored.milli_cpu, memory: scored.memory })
}

fn sum(pod: &Pod, with_defaults: bool) -> Resource {
    let Some(spec) = &pod.spec else { return Resource::default() };
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let inits = status.and_then(|status| status.init_container_statuses.as_deref()).unwrap_or_default();

    let mut total = Resource::default();
    for container in &spec.containers {
        total.add(&requests(container, containers, with_defaults));
    }
    // Init containers run one after the other, beside the sidecars started before them.
    let mut sidecars = Resource::default();
    let mut peak = Resource::default();
    for container in spec.init_containers.iter().flatten() {
        let mut during = requests(container, inits, with_defaults);
        if container.restart_policy.as_deref() == Some("Always") {
            total.add(&during);
            sidecars.add(&during);
            during = sidecars.clone();
        } else {
            during.add(&sidecars);
        }
        peak.max(&during);
    }
    total.max(&peak);

    // Pod-level requests stand for the whole pod where they are given (KEP-2837).
    if let Some(list) = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()) {
        for (name, quantity) in list {
            if name == "cpu" || name == "memory" || name.starts_with("hugepages-") {
                total.set(name, amount(name, quantity));
            }
        }
    }
    if let Some(overhead) = &spec.overhead {
        total.add(&Resource::from_list(overhead));
    }
    total
}

fn requests(container: &Container, statuses: &[ContainerStatus], with_defaults: bool) -> Resource {
    let list = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let mut requests = list.map(Resource::from_list).unwrap_or_default();
    // While a resize is under way the node holds the greater of what is asked for and what is still allocated (KEP-1287).
    if let Some(status) = statuses.iter().find(|status| status.name == container.name) {
        let actual = status.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        for list in [actual, status.allocated_resources.as_ref()].into_iter().flatten() {
            requests.max(&Resource::from_list(list));
        }
    }
    if with_defaults {
        let given = |name| list.is_some_and(|list| list.contains_key(name));
        if !given("cpu") {
            requests.milli_cpu = requests.milli_cpu.max(DEFAULT_MILLI_CPU);
        }
        if !given("memory") {
            requests.memory = requests.memory.max(DEFAULT_MEMORY);
        }
    }
    requests
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "a" }, "spec": spec })).unwrap()
    }

    fn cpu(name: &str, cpu: &str) -> serde_json::Value {
        json!({ "name": name, "resources": { "requests": { "cpu": cpu } } })
    }

    #[test]
    fn an_init_container_counts_only_where_it_needs_more_than_the_rest() {
        let small = pod(json!({ "containers": [cpu("a", "1"), cpu("b", "1")], "initContainers": [cpu("i", "500m")] }));
        assert_eq!(of(&small).0.milli_cpu, 2000);
        let large = pod(json!({ "containers": [cpu("a", "1"), cpu("b", "1")], "initContainers": [cpu("i", "3")] }));
        assert_eq!(of(&large).0.milli_cpu, 3000);
    }

    #[test]
    fn a_sidecar_runs_beside_later_init_containers_and_the_containers() {
        let mut sidecar = cpu("s", "1");
        sidecar["restartPolicy"] = json!("Always");
        let spec =
            json!({ "containers": [cpu("a", "1")], "initContainers": [cpu("early", "2"), sidecar, cpu("late", "3")] });
        assert_eq!(of(&pod(spec)).0.milli_cpu, 4000, "late init container plus sidecar");
    }

    #[test]
    fn overhead_comes_on_top() {
        let spec = json!({ "containers": [cpu("a", "1")], "overhead": { "cpu": "250m", "memory": "1Mi" } });
        let (requests, _) = of(&pod(spec));
        assert_eq!((requests.milli_cpu, requests.memory), (1250, 1 << 20));
    }

    #[test]
    fn pod_level_requests_replace_the_sum_of_the_containers() {
        let spec = json!({ "containers": [cpu("a", "1")], "resources": { "requests": { "cpu": "3" } } });
        assert_eq!(of(&pod(spec)).0.milli_cpu, 3000);
    }

    #[test]
    fn containers_that_ask_for_nothing_still_weigh_in_scoring() {
        let spec = json!({ "containers": [{ "name": "a" }, cpu("b", "1")] });
        let (requests, scored) = of(&pod(spec));
        assert_eq!((requests.milli_cpu, requests.memory), (1000, 0));
        assert_eq!((scored.milli_cpu, scored.memory), (1100, 2 * DEFAULT_MEMORY));
    }

    #[test]
    fn a_resize_under_way_holds_the_greater_amount() {
        let mut pod = pod(json!({ "containers": [cpu("a", "1")] }));
        pod.status = serde_json::from_value(json!({ "containerStatuses": [{
            "name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0, "allocatedResources": { "cpu": "2" }
        }] }))
        .unwrap();
        assert_eq!(of(&pod).0.milli_cpu, 2000);
    }
}
