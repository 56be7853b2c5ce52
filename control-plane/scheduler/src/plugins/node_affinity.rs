//! NodeAffinity: `nodeSelector`, required and preferred node affinity.

use std::{collections::BTreeSet, sync::Arc};

use super::node_selector::Term;
use crate::{
    framework::{
        ClusterEvent, Code, CycleState, Filter, Plugin, PreFilter, PreScore, QueueingHint, Registrar, Score, Status,
        default_normalize_score,
    },
    node_info::{NodeFacts, NodeInfo},
    pod_info::PodInfo,
    snapshot::Snapshot,
};

pub(super) const NAME: &str = "NodeAffinity";
const REASON: &str = "node(s) didn't match Pod's node affinity/selector";
const CONFLICT: &str = "pod affinity terms conflict";

pub(super) fn register(registrar: &mut Registrar<'_>) {
    let plugin = Arc::new(NodeAffinity);
    registrar.pre_filter(plugin.clone());
    registrar.filter(plugin.clone());
    registrar.pre_score(plugin.clone());
    registrar.score(plugin.clone());
    registrar.hints(plugin);
}

struct NodeAffinity;

/// What a pod requires of its node.
struct Required {
    selector: Vec<(String, String)>,
    /// `None` when the pod has no required affinity; otherwise one of these must match.
    terms: Option<Vec<Term>>,
}

impl Required {
    fn of(pod: &PodInfo) -> Self {
        let spec = pod.spec();
        let selector = spec.and_then(|spec| spec.node_selector.clone()).unwrap_or_default();
        let affinity = spec.and_then(|spec| spec.affinity.as_ref()?.node_affinity.as_ref());
        let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        Self {
            selector: selector.into_iter().collect(),
            terms: required.map(|required| required.node_selector_terms.iter().filter_map(Term::parse).collect()),
        }
    }

    fn is_empty(&self) -> bool {
        self.selector.is_empty() && self.terms.is_none()
    }

    fn matches(&self, node: &NodeFacts) -> bool {
        self.selector.iter().all(|(key, value)| node.labels.get(key) == Some(value))
            && self.terms.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(node)))
    }

    /// The nodes named by `matchFields`, if every term names one; names that contradict each other within a term drop out.
    fn names(&self) -> Option<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for term in self.terms.as_ref()?.iter() {
            match term.wanted_names().as_slice() {
                [] => return None,
                [name] => {
                    names.insert((*name).to_owned());
                }
                _ => {}
            }
        }
        Some(names)
    }
}

/// Preferred terms with their weights.
struct Preferred(Vec<(Term, i64)>);

impl Preferred {
    fn of(pod: &PodInfo) -> Self {
        let affinity = pod.spec().and_then(|spec| spec.affinity.as_ref()?.node_affinity.as_ref());
        let preferred = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
        let terms = preferred.unwrap_or_default().iter().filter(|preferred| preferred.weight != 0);
        Self(terms.filter_map(|term| Some((Term::parse(&term.preference)?, i64::from(term.weight)))).collect())
    }
}

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queueing_hint(&self, event: &ClusterEvent, pod: &PodInfo) -> QueueingHint {
        let required = Required::of(pod);
        event.node_now_fits(|node| required.matches(node)).into()
    }
}

impl PreFilter for NodeAffinity {
    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, _: &Snapshot) -> (Status, Option<BTreeSet<String>>) {
        let required = Required::of(pod);
        if required.is_empty() {
            return (Status::skip(), None);
        }
        let names = required.names();
        // Terms there are, each names its node, and none can be met.
        let terms = required.terms.as_ref().map_or(0, Vec::len);
        if terms > 0 && names.as_ref().is_some_and(BTreeSet::is_empty) {
            return (Status::new(Code::UnschedulableAndUnresolvable, CONFLICT), None);
        }
        state.write(required);
        (Status::success(), names.filter(|names| !names.is_empty()))
    }
}

impl Filter for NodeAffinity {
    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Status {
        let matches = match state.read::<Required>() {
            Some(required) => required.matches(&node.facts),
            None => Required::of(pod).matches(&node.facts),
        };
        if matches { Status::success() } else { Status::unresolvable(REASON) }
    }
}

impl PreScore for NodeAffinity {
    fn pre_score(&self, state: &mut CycleState, pod: &PodInfo, _: &[Arc<NodeInfo>], _: &Snapshot) -> Status {
        let preferred = Preferred::of(pod);
        if preferred.0.is_empty() {
            return Status::skip();
        }
        state.write(preferred);
        Status::success()
    }
}

impl Score for NodeAffinity {
    fn score(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> Result<i64, Status> {
        let Some(Preferred(terms)) = state.read() else { return Ok(0) };
        Ok(terms.iter().filter(|(term, _)| term.matches(&node.facts)).map(|(_, weight)| weight).sum())
    }

    fn normalize_score(&self, _: &CycleState, _: &PodInfo, scores: &mut [i64]) {
        default_normalize_score(scores, false);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{arrival, message, node, pod_with};

    fn labelled(name: &str, labels: Value) -> NodeInfo {
        node(json!({ "metadata": { "name": name, "labels": labels } }))
    }

    fn requiring(terms: Value) -> Arc<PodInfo> {
        let required = json!({ "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": terms } });
        pod_with("a", json!({ "affinity": { "nodeAffinity": required } }))
    }

    fn expression(key: &str, operator: &str, values: Value) -> Value {
        json!([{ "matchExpressions": [{ "key": key, "operator": operator, "values": values }] }])
    }

    fn fits(pod: &PodInfo, node: &NodeInfo) -> bool {
        let mut state = CycleState::default();
        let (status, _) = NodeAffinity.pre_filter(&mut state, pod, &Snapshot::default());
        match status.code() {
            Code::Skip => true,
            Code::Success => NodeAffinity.filter(&state, pod, node).is_success(),
            _ => false,
        }
    }

    #[test]
    fn a_node_selector_wants_every_label() {
        let pod = pod_with("a", json!({ "nodeSelector": { "disk": "ssd", "arch": "arm" } }));
        assert!(fits(&pod, &labelled("n", json!({ "disk": "ssd", "arch": "arm" }))));
        let node = labelled("n", json!({ "disk": "ssd" }));
        let mut state = CycleState::default();
        NodeAffinity.pre_filter(&mut state, &pod, &Snapshot::default());
        assert_eq!(message(&NodeAffinity.filter(&state, &pod, &node)), REASON);
    }

    #[test]
    fn every_operator_means_what_upstream_means() {
        let node = labelled("n", json!({ "disk": "ssd", "cores": "8" }));
        let cases = [
            ("disk", "In", json!(["ssd", "nvme"]), true),
            ("disk", "In", json!(["hdd"]), false),
            ("disk", "NotIn", json!(["hdd"]), true),
            ("absent", "NotIn", json!(["x"]), true),
            ("disk", "Exists", json!([]), true),
            ("absent", "Exists", json!([]), false),
            ("absent", "DoesNotExist", json!([]), true),
            ("cores", "Gt", json!(["7"]), true),
            ("cores", "Gt", json!(["8"]), false),
            ("cores", "Lt", json!(["9"]), true),
            ("disk", "Lt", json!(["9"]), false),
            ("cores", "Gt", json!(["x"]), false),
            ("cores", "Nonsense", json!([]), false),
        ];
        for (key, operator, values, expected) in cases {
            assert_eq!(fits(&requiring(expression(key, operator, values)), &node), expected, "{key} {operator}");
        }
    }

    #[test]
    fn terms_are_alternatives_and_an_empty_one_matches_nothing() {
        let node = labelled("n", json!({ "a": "1" }));
        let mut terms = expression("a", "In", json!(["2"]));
        assert!(!fits(&requiring(terms.clone()), &node));
        terms.as_array_mut().unwrap().extend(expression("a", "In", json!(["1"])).as_array().unwrap().clone());
        assert!(fits(&requiring(terms), &node));
        assert!(!fits(&requiring(json!([{}])), &node));
        assert!(!fits(&requiring(json!([])), &node));
    }

    #[test]
    fn fields_that_name_a_node_narrow_the_search_to_it() {
        let by_name = |names: &[&str]| {
            let fields: Vec<Value> = names
                .iter()
                .map(|name| json!({ "key": "metadata.name", "operator": "In", "values": [name] }))
                .collect();
            requiring(json!([{ "matchFields": fields }]))
        };
        let mut state = CycleState::default();
        let (status, names) = NodeAffinity.pre_filter(&mut state, &by_name(&["n1"]), &Snapshot::default());
        assert!(status.is_success());
        assert_eq!(names, Some(BTreeSet::from(["n1".to_owned()])));
        let (status, _) = NodeAffinity.pre_filter(&mut state, &by_name(&["n1", "n2"]), &Snapshot::default());
        assert_eq!(message(&status), CONFLICT);
    }

    #[test]
    fn preferred_terms_add_their_weights() {
        let term = |key: &str, weight: i32| {
            json!({ "weight": weight, "preference": {
            "matchExpressions": [{ "key": key, "operator": "Exists" }] } })
        };
        let preferred = json!({ "preferredDuringSchedulingIgnoredDuringExecution": [term("a", 10), term("b", 30)] });
        let pod = pod_with("p", json!({ "affinity": { "nodeAffinity": preferred } }));
        let nodes = [json!({ "a": "", "b": "" }), json!({ "a": "" }), json!({})].map(|labels| labelled("n", labels));
        let mut state = CycleState::default();
        assert!(NodeAffinity.pre_score(&mut state, &pod, &[], &Snapshot::default()).is_success());
        let mut scores = nodes.map(|node| NodeAffinity.score(&state, &pod, &node).unwrap());
        assert_eq!(scores, [40, 10, 0]);
        NodeAffinity.normalize_score(&state, &pod, &mut scores);
        assert_eq!(scores, [100, 25, 0]);
    }

    #[test]
    fn only_a_node_that_matches_is_worth_another_attempt() {
        let pod = pod_with("a", json!({ "nodeSelector": { "disk": "ssd" } }));
        let hint = |labels| NodeAffinity.queueing_hint(&arrival(&labelled("n", labels)), &pod);
        assert_eq!(hint(json!({ "disk": "ssd" })), QueueingHint::Queue);
        assert_eq!(hint(json!({})), QueueingHint::Skip);
    }
}
