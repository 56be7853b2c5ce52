//! Filter, score, choose: which node is best for a pod. No I/O.

use std::{collections::BTreeSet, sync::Arc};

use super::failure::{Diagnosis, Unscheduled};
use crate::{
    framework::{Code, CycleState, Framework, Status},
    node_info::NodeInfo,
    pod_info::PodInfo,
    snapshot::Snapshot,
};

/// Below this many nodes all are looked at.
const MIN_FEASIBLE_NODES: usize = 100;
const MIN_PERCENTAGE: usize = 5;

/// The algorithm and what it carries from one pod to the next.
pub(super) struct Algorithm {
    pub(super) snapshot: Snapshot,
    percentage: u8,
    /// Where the next search begins, so that all nodes get their turn.
    next_start: usize,
}

impl Algorithm {
    pub(super) fn new(percentage: u8) -> Self {
        Self { snapshot: Snapshot::default(), percentage, next_start: 0 }
    }

    /// The name of the best node for `pod`.
    pub(super) fn schedule(
        &mut self,
        framework: &Framework,
        state: &mut CycleState,
        pod: &PodInfo,
    ) -> Result<Arc<str>, Unscheduled> {
        if self.snapshot.nodes().is_empty() {
            return Err(Unscheduled::NoNodes);
        }
        let (feasible, diagnosis) = self.find_feasible(framework, state, pod)?;
        match feasible.as_slice() {
            [] => Err(self.post_filter(framework, state, pod, diagnosis)),
            [only] => Ok(only.name().clone()),
            nodes => {
                let scores = framework.run_score(state, pod, nodes, &self.snapshot).map_err(Unscheduled::Rejected)?;
                Ok(best(nodes, &scores).name().clone())
            }
        }
    }

    fn find_feasible(
        &mut self,
        framework: &Framework,
        state: &mut CycleState,
        pod: &PodInfo,
    ) -> Result<(Vec<Arc<NodeInfo>>, Diagnosis), Unscheduled> {
        let all = self.snapshot.nodes().len();
        let mut diagnosis = Diagnosis { nodes: all, ..Diagnosis::default() };
        let (only, narrowed_by) = match framework.run_pre_filter(state, pod, &self.snapshot) {
            Ok(narrowed) => narrowed,
            Err(status) if status.is_rejected() => {
                diagnosis.plugins.insert(status.plugin());
                diagnosis.pre_filter = Some(status.message());
                diagnosis.absent = Some((all, status));
                return Ok((Vec::new(), diagnosis));
            }
            Err(status) => return Err(Unscheduled::Rejected(status)),
        };
        let narrowed: Vec<Arc<NodeInfo>>;
        let candidates = match only {
            None => self.snapshot.nodes(),
            Some(names) => {
                narrowed = names.iter().filter_map(|name| self.snapshot.node(name)).cloned().collect();
                diagnosis.set_narrowed(all - narrowed.len(), &narrowed_by);
                &narrowed
            }
        };
        let wanted = self.nodes_to_find(candidates.len());
        let start = self.next_start % candidates.len().max(1);
        let (behind, ahead) = candidates.split_at(start.min(candidates.len()));
        let mut feasible = Vec::new();
        let mut visited = 0;
        for node in ahead.iter().chain(behind) {
            if feasible.len() == wanted {
                break;
            }
            visited += 1;
            let status = framework.run_filter(state, pod, node);
            if status.is_success() {
                feasible.push(node.clone());
            } else if status.is_rejected() {
                diagnosis.plugins.insert(status.plugin());
                diagnosis.rejections.push((node.name().clone(), status));
            } else {
                return Err(Unscheduled::Rejected(status));
            }
        }
        self.next_start = (start + visited) % all;
        Ok((feasible, diagnosis))
    }

    /// Upstream's numFeasibleNodesToFind.
    fn nodes_to_find(&self, nodes: usize) -> usize {
        if nodes < MIN_FEASIBLE_NODES {
            return nodes;
        }
        let percentage = match self.percentage {
            0 => 50_usize.saturating_sub(nodes / 125).max(MIN_PERCENTAGE),
            percentage => usize::from(percentage.min(100)),
        };
        (nodes * percentage / 100).max(MIN_FEASIBLE_NODES)
    }

    fn post_filter(
        &self,
        framework: &Framework,
        state: &CycleState,
        pod: &PodInfo,
        mut diagnosis: Diagnosis,
    ) -> Unscheduled {
        let (status, _nominated) = framework.run_post_filter(state, pod, &self.snapshot, &diagnosis.rejections);
        match status.code() {
            Code::Error => return Unscheduled::Rejected(status),
            _ => diagnosis.post_filter = Some(status.message()).filter(|message| !message.is_empty()),
        }
        Unscheduled::Unfit(Box::new(diagnosis))
    }
}

/// One of the nodes with the highest score, each with the same chance.
fn best<'a>(nodes: &'a [Arc<NodeInfo>], scores: &[i64]) -> &'a NodeInfo {
    let mut best = &nodes[0];
    let (mut highest, mut ties) = (i64::MIN, 0_u32);
    for (node, score) in nodes.iter().zip(scores) {
        if *score > highest {
            (best, highest, ties) = (node, *score, 1);
        } else if *score == highest {
            ties += 1;
            if rand::random_range(0..ties) == 0 {
                best = node;
            }
        }
    }
    best
}

impl Diagnosis {
    /// Nodes that PreFilter plugins have left out.
    fn set_narrowed(&mut self, left_out: usize, by: &BTreeSet<&'static str>) {
        if left_out == 0 {
            return;
        }
        let names: Vec<&str> = by.iter().copied().collect();
        let reason = format!("node(s) didn't satisfy plugin(s) [{}]", names.join(" "));
        self.absent = Some((left_out, Status::unresolvable(reason)));
        self.plugins.extend(by);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        cache::Cache,
        framework::{Profile, Registry},
        testing::{facts, pod_with},
    };

    fn framework() -> Arc<Framework> {
        Arc::new(Registry::default().build(&Profile::default_plugins("default-scheduler"), None).unwrap())
    }

    fn algorithm(nodes: impl IntoIterator<Item = Value>) -> (Cache, Algorithm) {
        let mut cache = Cache::default();
        for node in nodes {
            cache.set_node(facts(node));
        }
        let mut algorithm = Algorithm::new(0);
        cache.update_snapshot(&mut algorithm.snapshot);
        (cache, algorithm)
    }

    fn node(name: &str, cpu: &str) -> Value {
        json!({ "metadata": { "name": name },
            "status": { "allocatable": { "cpu": cpu, "memory": "8Gi", "pods": "110" } } })
    }

    fn requesting(name: &str, cpu: &str) -> Arc<PodInfo> {
        let requests = json!({ "requests": { "cpu": cpu } });
        pod_with(name, json!({ "containers": [{ "name": "c", "resources": requests }] }))
    }

    fn failure(algorithm: &mut Algorithm, pod: &PodInfo) -> String {
        algorithm.schedule(&framework(), &mut CycleState::default(), pod).unwrap_err().message()
    }

    #[test]
    fn without_nodes_the_message_says_so() {
        let (_, mut algorithm) = algorithm([]);
        assert_eq!(failure(&mut algorithm, &requesting("a", "1")), "no nodes available to schedule pods");
    }

    #[test]
    fn the_message_counts_every_reason_as_upstream_words_it() {
        let mut cordoned = node("cordoned", "8");
        cordoned["spec"] = json!({ "unschedulable": true });
        let mut tainted = node("tainted", "8");
        tainted["spec"] = json!({ "taints": [{ "key": "k", "effect": "NoSchedule" }] });
        let (_, mut algorithm) = algorithm([cordoned, tainted, node("small", "1"), node("small-too", "1")]);
        assert_eq!(
            failure(&mut algorithm, &requesting("a", "2")),
            "0/4 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable, 2 Insufficient cpu."
        );
    }

    #[test]
    fn a_pod_for_one_named_node_says_why_that_node_will_not_do_and_counts_the_others() {
        let (_, mut algorithm) = algorithm([node("a", "1"), node("b", "8"), node("c", "8")]);
        let field = json!([{ "key": "metadata.name", "operator": "In", "values": ["a"] }]);
        let required = json!({ "nodeSelectorTerms": [{ "matchFields": field }] });
        let affinity = json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": required } });
        let requests = json!({ "requests": { "cpu": "2" } });
        let containers = json!([{ "name": "c", "resources": requests }]);
        let pod = pod_with("p", json!({ "affinity": affinity, "containers": containers }));
        assert_eq!(
            failure(&mut algorithm, &pod),
            "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]."
        );
    }

    #[test]
    fn pods_spread_over_equal_nodes_as_each_is_assumed() {
        let (mut cache, mut algorithm) = algorithm((0..5).map(|index| node(&format!("n{index}"), "8")));
        let framework = framework();
        let mut used = BTreeSet::new();
        for index in 0..5 {
            let pod = requesting(&format!("p{index}"), "1");
            cache.update_snapshot(&mut algorithm.snapshot);
            let node = algorithm.schedule(&framework, &mut CycleState::default(), &pod).unwrap();
            assert!(cache.assume_pod(pod, &node));
            used.insert(node);
        }
        assert_eq!(used.len(), 5);
    }

    #[test]
    fn a_large_cluster_is_searched_in_part_and_in_turns() {
        let (_, mut algorithm) = algorithm((0..1000).map(|index| node(&format!("n{index:04}"), "8")));
        assert_eq!(algorithm.nodes_to_find(99), 99);
        assert_eq!(algorithm.nodes_to_find(100), 100);
        assert_eq!(algorithm.nodes_to_find(1000), 420);
        assert_eq!(algorithm.nodes_to_find(10_000), 500);
        let framework = framework();
        for expected in [420, 840, 260] {
            algorithm.schedule(&framework, &mut CycleState::default(), &requesting("a", "1")).unwrap();
            assert_eq!(algorithm.next_start, expected);
        }
    }
}
