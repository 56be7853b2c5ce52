//! The flow schemas and priority levels every cluster starts with: upstream's mandatory and suggested ones.

use serde_json::{Value, json};

/// A queue's measures: how many, hand size, length.
type Queuing = (i32, i32, i32);
/// Levels with a limit: name, shares, lendable percent, and how requests wait (none: not at all).
const LIMITED: [(&str, i32, i32, Option<Queuing>); 7] = [
    ("catch-all", 5, 0, None),
    ("system", 30, 33, Some((64, 6, 50))),
    ("node-high", 40, 25, Some((64, 6, 50))),
    ("leader-election", 10, 0, Some((16, 4, 50))),
    ("workload-high", 40, 50, Some((128, 6, 50))),
    ("workload-low", 100, 90, Some((128, 6, 50))),
    ("global-default", 20, 50, Some((128, 6, 50))),
];

/// The priority levels, by name.
pub(crate) fn priority_levels() -> Vec<(&'static str, Value)> {
    let mut levels =
        vec![("exempt", json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}}))];
    for (name, shares, lendable, queuing) in LIMITED {
        let response = match queuing {
            None => json!({"type": "Reject"}),
            Some((queues, hand, length)) => json!({
                "type": "Queue",
                "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": length},
            }),
        };
        let limited =
            json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response});
        levels.push((name, json!({"type": "Limited", "limited": limited})));
    }
    levels.into_iter().map(|(name, spec)| (name, object("PriorityLevelConfiguration", name, spec))).collect()
}

/// The flow schemas, by name.
pub(crate) fn flow_schemas() -> Vec<(&'static str, Value)> {
    let masters = json!([group("system:masters")]);
    let nodes = json!([group("system:nodes")]);
    let everyone = json!([group("system:unauthenticated"), group("system:authenticated")]);
    let all = || (json!([resources(&["*"], &["*"], &["*"], true)]), json!([paths(&["*"])]));
    let leases = |subjects: Value| {
        rule(
            subjects,
            json!([resources(&["get", "create", "update"], &["coordination.k8s.io"], &["leases"], false)]),
            Value::Null,
        )
    };
    let everything = |subjects: Value| {
        let (resources, paths) = all();
        rule(subjects, resources, paths)
    };
    let components =
        json!([user("system:kube-controller-manager"), user("system:kube-scheduler"), account("kube-system", "*")]);
    let node_objects = json!([
        resources(&["*"], &[""], &["nodes", "nodes/status"], true),
        resources(&["*"], &["coordination.k8s.io"], &["leases"], false),
    ]);
    vec![
        schema("exempt", "exempt", 1, None, vec![everything(masters)]),
        schema("catch-all", "catch-all", 10_000, Some("ByUser"), vec![everything(everyone.clone())]),
        schema(
            "probes",
            "exempt",
            2,
            None,
            vec![rule(
                everyone.clone(),
                Value::Null,
                json!([{
            "verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]),
            )],
        ),
        schema("system-leader-election", "leader-election", 100, Some("ByUser"), vec![leases(components.clone())]),
        schema(
            "endpoint-controller",
            "workload-high",
            150,
            Some("ByUser"),
            vec![rule(
                json!([
                    user("system:kube-controller-manager"),
                    account("kube-system", "endpoint-controller"),
                    account("kube-system", "endpointslicemirroring-controller")
                ]),
                json!([resources(&["get", "create", "update"], &[""], &["endpoints"], false)]),
                Value::Null,
            )],
        ),
        schema(
            "workload-leader-election",
            "leader-election",
            200,
            Some("ByUser"),
            vec![leases(json!([account("kube-system", "*")]))],
        ),
        schema(
            "system-node-high",
            "node-high",
            400,
            Some("ByUser"),
            vec![rule(nodes.clone(), node_objects, Value::Null)],
        ),
        schema("system-nodes", "system", 500, Some("ByUser"), vec![everything(nodes)]),
        schema(
            "kube-controller-manager",
            "workload-high",
            800,
            Some("ByNamespace"),
            vec![everything(json!([user("system:kube-controller-manager")]))],
        ),
        schema(
            "kube-scheduler",
            "workload-high",
            800,
            Some("ByNamespace"),
            vec![everything(json!([user("system:kube-scheduler")]))],
        ),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            Some("ByNamespace"),
            vec![everything(json!([account("kube-system", "*")]))],
        ),
        schema(
            "service-accounts",
            "workload-low",
            9000,
            Some("ByUser"),
            vec![everything(json!([group("system:serviceaccounts")]))],
        ),
        schema("global-default", "global-default", 9900, Some("ByUser"), vec![everything(everyone)]),
    ]
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}},
        "spec": spec,
    })
}

fn schema(
    name: &'static str,
    level: &str,
    precedence: i32,
    by: Option<&str>,
    rules: Vec<Value>,
) -> (&'static str, Value) {
    let mut spec = json!({
        "priorityLevelConfiguration": {"name": level},
        "matchingPrecedence": precedence,
        "rules": rules,
    });
    if let Some(by) = by {
        spec["distinguisherMethod"] = json!({"type": by});
    }
    (name, object("FlowSchema", name, spec))
}

fn rule(subjects: Value, resources: Value, paths: Value) -> Value {
    let mut rule = json!({"subjects": subjects});
    if !resources.is_null() {
        rule["resourceRules"] = resources;
    }
    if !paths.is_null() {
        rule["nonResourceRules"] = paths;
    }
    rule
}

fn resources(verbs: &[&str], groups: &[&str], resources: &[&str], cluster: bool) -> Value {
    let mut rule = json!({"verbs": verbs, "apiGroups": groups, "resources": resources, "namespaces": ["*"]});
    if cluster {
        rule["clusterScope"] = json!(true);
    }
    rule
}

fn paths(urls: &[&str]) -> Value {
    json!({"verbs": ["*"], "nonResourceURLs": urls})
}

fn user(name: &str) -> Value {
    json!({"kind": "User", "user": {"name": name}})
}

fn group(name: &str) -> Value {
    json!({"kind": "Group", "group": {"name": name}})
}

fn account(namespace: &str, name: &str) -> Value {
    json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": namespace, "name": name}})
}

#[cfg(test)]
mod tests {
    use super::super::{FlowSchemas, PriorityLevelConfigurations};
    use super::*;
    use crate::registry::strategy::Strategy as _;

    #[test]
    fn what_every_cluster_has_is_valid_and_complete() {
        let levels = priority_levels();
        for (name, value) in &levels {
            let mut level = serde_json::from_value(value.clone()).unwrap();
            PriorityLevelConfigurations.default(&mut level);
            assert_eq!(PriorityLevelConfigurations.validate(&level), [], "{name}");
        }
        for (name, value) in flow_schemas() {
            let mut schema = serde_json::from_value(value).unwrap();
            FlowSchemas.default(&mut schema);
            assert_eq!(FlowSchemas.validate(&schema), [], "{name}");
            let level = schema.spec.unwrap().priority_level_configuration.name;
            assert!(levels.iter().any(|(name, _)| *name == level), "{level}");
        }
    }
}
