//! What an object costs a ResourceQuota: which quotas it falls under and how much of what it takes.
//!
//! Shared by admission, which charges new objects, and by the controller that counts them again.

use k8s_openapi::{
    api::core::v1::{
        PersistentVolumeClaim, Pod, PodAffinityTerm, ResourceQuota, ScopedResourceSelectorRequirement, Service,
    },
    jiff::Timestamp,
};

use crate::{
    Quantity,
    amounts::{self, Amounts},
    quantity::Format,
};

const STORAGE_CLASS: &str = ".storageclass.storage.k8s.io/";
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// Resources whose objects are also counted under their bare name.
const ALIASED: [&str; 4] = ["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];
/// A quota over one of these demands that every container says how much of it it wants.
const REQUIRED: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
const POD_AMOUNTS: [&str; 10] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
];

/// An object as a quota sees it.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// Counted, and its containers' resources measured.
    Pod(&'a Pod),
    /// Counted, and its node ports and load balancer.
    Service(&'a Service),
    /// Counted, and its storage measured, also by storage class.
    Claim(&'a PersistentVolumeClaim),
    /// Only counted.
    Other,
}

/// The name under which objects of a resource are counted: `count/pods`, `count/deployments.apps`.
pub fn count_name(group: &str, plural: &str) -> String {
    if group.is_empty() { format!("count/{plural}") } else { format!("count/{plural}.{group}") }
}

/// Resources no quota is about: they are not stored, or were never counted.
pub fn is_ignored(group: &str, plural: &str) -> bool {
    match group {
        "" => matches!(plural, "bindings" | "componentstatuses" | "events"),
        "events.k8s.io" => plural == "events",
        "authentication.k8s.io" | "authorization.k8s.io" => true,
        _ => false,
    }
}

impl Subject<'_> {
    /// Of the resources a quota limits, whether this one is about objects like this, of that resource.
    pub fn tracks(&self, group: &str, plural: &str, resource: &str) -> bool {
        if resource == count_name(group, plural) {
            return true;
        }
        match self {
            Self::Pod(_) => {
                POD_AMOUNTS.contains(&resource)
                    || resource.starts_with("hugepages-")
                    || resource.starts_with("requests.hugepages-")
                    || (!amounts::is_native(resource) && resource.starts_with("requests."))
            }
            Self::Service(_) => matches!(resource, "services" | "services.nodeports" | "services.loadbalancers"),
            Self::Claim(_) => {
                let of_claims = |name: &str| matches!(name, "persistentvolumeclaims" | "requests.storage");
                of_claims(resource) || resource.split_once(STORAGE_CLASS).is_some_and(|(_, name)| of_claims(name))
            }
            Self::Other => group.is_empty() && ALIASED.contains(&plural) && resource == plural,
        }
    }

    /// Whether the quota's scopes take the object in.
    pub fn in_scope(&self, quota: &ResourceQuota) -> bool {
        let Some(spec) = &quota.spec else { return true };
        let exists = |scope: &String| ScopedResourceSelectorRequirement {
            scope_name: scope.clone(),
            operator: "Exists".to_owned(),
            values: None,
        };
        spec.scopes.iter().flatten().all(|scope| self.matches(&exists(scope)))
            && spec
                .scope_selector
                .iter()
                .flat_map(|selector| selector.match_expressions.iter().flatten())
                .all(|requirement| self.matches(requirement))
    }

    fn matches(&self, requirement: &ScopedResourceSelectorRequirement) -> bool {
        match (self, requirement.scope_name.as_str()) {
            (Self::Pod(pod), "Terminating") => is_terminating(pod),
            (Self::Pod(pod), "NotTerminating") => !is_terminating(pod),
            (Self::Pod(pod), "BestEffort") => is_best_effort(pod),
            (Self::Pod(pod), "NotBestEffort") => !is_best_effort(pod),
            (Self::Pod(pod), "PriorityClass") => {
                let class = pod.spec.as_ref().and_then(|spec| spec.priority_class_name.as_deref());
                selects(requirement, class.filter(|class| !class.is_empty()).as_slice())
            }
            (Self::Pod(pod), "CrossNamespacePodAffinity") => crosses_namespaces(pod),
            (Self::Claim(claim), "VolumeAttributesClass") => selects(requirement, &attributes_classes(claim)),
            // No other object has scopes: a quota with scopes is not about it.
            _ => false,
        }
    }

    /// What the object takes. Pods that ended, or should have by `now`, take nothing but their place.
    pub fn usage(&self, group: &str, plural: &str, now: Timestamp) -> Amounts {
        let mut usage = Amounts::from([(count_name(group, plural), one())]);
        match self {
            Self::Pod(pod) if is_charged(pod, now) => pod_usage(pod, &mut usage),
            Self::Pod(_) => {}
            Self::Service(service) => service_usage(service, &mut usage),
            Self::Claim(claim) => claim_usage(claim, &mut usage),
            Self::Other => {
                if group.is_empty() && ALIASED.contains(&plural) {
                    usage.insert(plural.to_owned(), one());
                }
            }
        }
        usage
    }

    /// What is missing when a quota limits `restricted`, in upstream's words.
    pub fn missing<'r>(&self, restricted: impl Iterator<Item = &'r str>) -> Option<String> {
        let Self::Pod(pod) = self else { return None };
        let spec = pod.spec.as_ref()?;
        let whole = compute(&pod_level_requests(pod), &pod_level_limits(pod));
        let mut missing = Vec::new();
        for resource in restricted.filter(|resource| REQUIRED.contains(resource)) {
            if whole.contains_key(resource) {
                continue;
            }
            let mut names: Vec<&str> = spec
                .containers
                .iter()
                .chain(spec.init_containers.iter().flatten())
                .filter(|container| {
                    let resources = container.resources.as_ref();
                    let requests = amounts::read(resources.and_then(|resources| resources.requests.as_ref()));
                    let limits = amounts::read(resources.and_then(|resources| resources.limits.as_ref()));
                    !compute(&requests, &limits).contains_key(resource)
                })
                .map(|container| container.name.as_str())
                .collect();
            names.sort_unstable();
            if !names.is_empty() {
                missing.push(format!("{resource} for: {}", names.join(",")));
            }
        }
        (!missing.is_empty()).then(|| format!("must specify {}", missing.join("; ")))
    }
}

fn one() -> Quantity {
    count(1)
}

fn count(number: usize) -> Quantity {
    Quantity::from_units(i64::try_from(number).unwrap_or(i64::MAX), Format::DecimalSi)
}

/// Whether one of `names` is what a scope selector asks for.
fn selects(requirement: &ScopedResourceSelectorRequirement, names: &[&str]) -> bool {
    let listed = |name: &&str| requirement.values.iter().flatten().any(|value| value == name);
    match requirement.operator.as_str() {
        "Exists" => !names.is_empty(),
        "DoesNotExist" => names.is_empty(),
        "In" => names.iter().any(listed),
        "NotIn" => names.is_empty() || names.iter().any(|name| !listed(name)),
        _ => false,
    }
}

// --- pods ---

fn is_terminating(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds).is_some_and(|seconds| seconds >= 0)
}

fn is_best_effort(pod: &Pod) -> bool {
    if let Some(class) = pod.status.as_ref().and_then(|status| status.qos_class.as_deref()).filter(|c| !c.is_empty()) {
        return class == "BestEffort";
    }
    let Some(spec) = &pod.spec else { return true };
    let given = |list: Amounts| {
        list.iter().any(|(name, amount)| matches!(name.as_str(), "cpu" | "memory") && !amount.is_zero())
    };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let all = containers.map(|container| container.resources.as_ref()).chain([spec.resources.as_ref()]);
    !all.flatten().any(|resources| {
        given(amounts::read(resources.requests.as_ref())) || given(amounts::read(resources.limits.as_ref()))
    })
}

fn crosses_namespaces(pod: &Pod) -> bool {
    let Some(affinity) = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()) else { return false };
    let crosses = |term: &PodAffinityTerm| {
        term.namespaces.as_ref().is_some_and(|namespaces| !namespaces.is_empty()) || term.namespace_selector.is_some()
    };
    let near = affinity.pod_affinity.iter().flat_map(|affinity| {
        let preferred = affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        let required = affinity.required_during_scheduling_ignored_during_execution.iter().flatten();
        required.chain(preferred.map(|weighted| &weighted.pod_affinity_term))
    });
    let far = affinity.pod_anti_affinity.iter().flat_map(|affinity| {
        let preferred = affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        let required = affinity.required_during_scheduling_ignored_during_execution.iter().flatten();
        required.chain(preferred.map(|weighted| &weighted.pod_affinity_term))
    });
    near.chain(far).any(crosses)
}

/// Whether a pod still takes what it asks for.
fn is_charged(pod: &Pod, now: Timestamp) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    if matches!(phase, "Failed" | "Succeeded") {
        return false;
    }
    // A pod that should be gone must not keep others from taking its place.
    match (&pod.metadata.deletion_timestamp, pod.metadata.deletion_grace_period_seconds) {
        (Some(time), Some(grace)) => now.as_second() <= time.0.as_second().saturating_add(grace),
        _ => true,
    }
}

fn pod_level_requests(pod: &Pod) -> Amounts {
    amounts::read(pod.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref()))
}

fn pod_level_limits(pod: &Pod) -> Amounts {
    amounts::read(pod.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.limits.as_ref()))
}

fn pod_usage(pod: &Pod, usage: &mut Amounts) {
    usage.insert("pods".to_owned(), one());
    usage.extend(compute(&amounts::pod_requests(pod), &amounts::pod_limits(pod)));
}

/// Requests and limits under the names quotas know them by.
fn compute(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut usage = Amounts::new();
    for (name, amount) in requests {
        let measured =
            matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
        if measured {
            usage.insert(name.clone(), *amount);
        }
        if measured || amounts::is_extended(name) {
            usage.insert(format!("requests.{name}"), *amount);
        }
    }
    for (name, amount) in limits {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            usage.insert(format!("limits.{name}"), *amount);
        }
    }
    usage
}

// --- services ---

fn service_usage(service: &Service, usage: &mut Amounts) {
    let spec = service.spec.clone().unwrap_or_default();
    let ports = spec.ports.unwrap_or_default();
    let (node_ports, balancers) = match spec.type_.as_deref() {
        Some("NodePort") => (ports.len(), 0),
        Some("LoadBalancer") if spec.allocate_load_balancer_node_ports == Some(false) => {
            (ports.iter().filter(|port| port.node_port.unwrap_or(0) != 0).count(), 1)
        }
        Some("LoadBalancer") => (ports.len(), 1),
        _ => (0, 0),
    };
    usage.insert("services".to_owned(), one());
    usage.insert("services.nodeports".to_owned(), count(node_ports));
    usage.insert("services.loadbalancers".to_owned(), count(balancers));
}

// --- claims ---

/// The storage class of a claim; the annotation is the older way to say it.
pub fn storage_class(claim: &PersistentVolumeClaim) -> Option<&str> {
    let annotation = claim.metadata.annotations.as_ref().and_then(|annotations| annotations.get(CLASS_ANNOTATION));
    annotation.map(String::as_str).or_else(|| claim.spec.as_ref()?.storage_class_name.as_deref())
}

fn claim_usage(claim: &PersistentVolumeClaim, usage: &mut Amounts) {
    let class = storage_class(claim).filter(|class| !class.is_empty());
    let mut put = |name: &str, amount: Quantity| {
        if let Some(class) = class {
            usage.insert(format!("{class}{STORAGE_CLASS}{name}"), amount);
        }
        usage.insert(name.to_owned(), amount);
    };
    put("persistentvolumeclaims", one());
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let asked = amounts::read(resources.and_then(|resources| resources.requests.as_ref()));
    let held = amounts::read(claim.status.as_ref().and_then(|status| status.allocated_resources.as_ref()));
    if let Some(asked) = asked.get("storage") {
        let amount = held.get("storage").map_or(*asked, |held| (*held).max(*asked));
        // Whole bytes, so that the sum is one a quota may hold.
        let whole = Quantity::from_units(amount.value(), amount.format());
        put("requests.storage", if whole == amount { amount } else { whole });
    }
}

fn attributes_classes(claim: &PersistentVolumeClaim) -> Vec<&str> {
    let status = claim.status.as_ref();
    let names = [
        claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref()),
        status.and_then(|status| status.current_volume_attributes_class_name.as_deref()),
        status.and_then(|status| status.modify_volume_status.as_ref()?.target_volume_attributes_class_name.as_deref()),
    ];
    names.into_iter().flatten().filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": spec})).unwrap()
    }

    fn quota(spec: serde_json::Value) -> ResourceQuota {
        serde_json::from_value(json!({"metadata": {"name": "q"}, "spec": spec})).unwrap()
    }

    #[test]
    fn a_pod_is_counted_and_measured() {
        let resources = json!({"requests": {"cpu": "1", "example.com/gpu": "2"}, "limits": {"memory": "1Gi"}});
        let pod = pod(json!({"containers": [{"name": "a", "resources": resources}]}));
        assert_eq!(
            amounts::text(&Subject::Pod(&pod).usage("", "pods", NOW)),
            "count/pods=1,cpu=1,limits.memory=1Gi,pods=1,requests.cpu=1,requests.example.com/gpu=2"
        );
    }

    #[test]
    fn a_pod_that_ended_takes_only_its_place() {
        let mut ended = pod(json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]}));
        ended.status = serde_json::from_value(json!({"phase": "Succeeded"})).unwrap();
        assert_eq!(amounts::text(&Subject::Pod(&ended).usage("", "pods", NOW)), "count/pods=1");
    }

    #[test]
    fn what_containers_leave_out_is_named() {
        let resources = json!({"requests": {"cpu": "1"}});
        let pod = pod(json!({"containers": [{"name": "b"}, {"name": "a", "resources": resources}, {"name": "0"}]}));
        let missing = Subject::Pod(&pod).missing(["limits.cpu", "pods", "requests.cpu"].into_iter());
        assert_eq!(missing.unwrap(), "must specify limits.cpu for: 0,a,b; requests.cpu for: 0,b");
        assert!(Subject::Pod(&pod).missing(["pods"].into_iter()).is_none());
    }

    #[test]
    fn scopes_choose_pods() {
        let of = |spec| Subject::Pod(Box::leak(Box::new(pod(spec))));
        let urgent = of(json!({"containers": [], "priorityClassName": "urgent", "activeDeadlineSeconds": 5}));
        let plain = of(json!({"containers": []}));
        let selector = |operator: &str, values: &[&str]| {
            let expression = json!({"scopeName": "PriorityClass", "operator": operator, "values": values});
            quota(json!({"scopeSelector": {"matchExpressions": [expression]}}))
        };
        for (quota, takes_urgent, takes_plain) in [
            (quota(json!({"scopes": ["Terminating"]})), true, false),
            (quota(json!({"scopes": ["NotTerminating", "BestEffort"]})), false, true),
            (selector("In", &["urgent", "other"]), true, false),
            (selector("NotIn", &["urgent"]), false, true),
            (selector("Exists", &[]), true, false),
            (selector("DoesNotExist", &[]), false, true),
        ] {
            assert_eq!((urgent.in_scope(&quota), plain.in_scope(&quota)), (takes_urgent, takes_plain), "{quota:?}");
        }
        assert!(!Subject::Other.in_scope(&quota(json!({"scopes": ["BestEffort"]}))));
    }

    #[test]
    fn services_and_claims_are_measured() {
        let service = json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}});
        let service: Service = serde_json::from_value(service).unwrap();
        assert_eq!(
            amounts::text(&Subject::Service(&service).usage("", "services", NOW)),
            "count/services=1,services=1,services.loadbalancers=1,services.nodeports=2"
        );
        let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "2Gi"}}}});
        let claim: PersistentVolumeClaim = serde_json::from_value(claim).unwrap();
        assert_eq!(
            amounts::text(&Subject::Claim(&claim).usage("", "persistentvolumeclaims", NOW)),
            "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,\
             gold.storageclass.storage.k8s.io/requests.storage=2Gi,persistentvolumeclaims=1,requests.storage=2Gi"
        );
        assert!(Subject::Claim(&claim).tracks(
            "",
            "persistentvolumeclaims",
            "x.storageclass.storage.k8s.io/requests.storage"
        ));
    }

    #[test]
    fn other_objects_are_counted() {
        assert_eq!(amounts::text(&Subject::Other.usage("apps", "deployments", NOW)), "count/deployments.apps=1");
        assert_eq!(amounts::text(&Subject::Other.usage("", "secrets", NOW)), "count/secrets=1,secrets=1");
        assert!(Subject::Other.tracks("", "secrets", "secrets") && !Subject::Other.tracks("", "secrets", "configmaps"));
    }
}
