//! What upstream's admission plugins Priority and DefaultTolerationSeconds set on every new pod.

use k8s_openapi::api::core::v1::{PodSpec, Toleration};

use crate::registry::checks::text;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const NO_EXECUTE: &str = "NoExecute";
const TOLERATION_SECONDS: i64 = 300;

pub(super) fn admit(spec: &mut PodSpec) {
    // Only the two classes every cluster has are known without a PriorityClass.
    let priority = match text(&spec.priority_class_name) {
        "system-node-critical" => 2_000_001_000,
        "system-cluster-critical" => 2_000_000_000,
        _ => 0,
    };
    spec.priority.get_or_insert(priority);
    spec.preemption_policy.get_or_insert_with(|| "PreemptLowerPriority".to_owned());
    for key in [NOT_READY, UNREACHABLE] {
        tolerate(spec, key);
    }
}

/// Unless the pod says otherwise, it stays for five minutes on a node that is in trouble.
fn tolerate(spec: &mut PodSpec, key: &str) {
    let covers = |t: &Toleration| ["", key].contains(&text(&t.key)) && ["", NO_EXECUTE].contains(&text(&t.effect));
    let tolerations = spec.tolerations.get_or_insert_default();
    if !tolerations.iter().any(covers) {
        tolerations.push(Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(NO_EXECUTE.to_owned()),
            toleration_seconds: Some(TOLERATION_SECONDS),
            value: None,
        });
    }
}
