use proptest::prelude::*;

use super::*;
use crate::testing::{facts, pod};

fn request(uid: usize, cpu: u32, port: Option<u32>) -> Arc<PodInfo> {
    let mut object = serde_json::json!({
        "metadata": { "namespace": "ns", "name": format!("pod-{uid}"), "uid": format!("uid-{uid}") },
        "spec": { "containers": [{ "name": "c", "resources": { "requests": {
            "cpu": format!("{cpu}m"), "memory": "1Mi", "example.com/gpu": cpu.to_string(),
        } } }] },
    });
    if let Some(port) = port {
        object["spec"]["containers"][0]["ports"] = serde_json::json!([{ "containerPort": port, "hostPort": port }]);
    }
    pod(object)
}

fn node(name: &str, cpu: u32) -> Arc<NodeFacts> {
    facts(serde_json::json!({
        "metadata": { "name": name, "labels": { "topology.kubernetes.io/zone": format!("z{}", cpu % 2) } },
        "status": {
            "allocatable": { "cpu": cpu.to_string(), "memory": "1Gi", "pods": "110" },
            "images": [{ "names": [format!("image-{}", cpu % 3)], "sizeBytes": cpu }],
        },
    }))
}

fn snapshot_of(cache: &mut Cache) -> Snapshot {
    let mut snapshot = Snapshot::default();
    cache.layout_changed = true;
    cache.update_snapshot(&mut snapshot);
    snapshot
}

/// Everything a scheduling cycle can see, in comparable form.
fn seen(snapshot: &Snapshot) -> Vec<String> {
    let mut images: Vec<_> = snapshot.images.iter().collect();
    images.sort();
    let nodes = snapshot.nodes().iter().map(|node| {
        let mut pods: Vec<&str> = node.pods.iter().map(|pod| &*pod.uid).collect();
        pods.sort_unstable();
        let NodeInfo { facts, requested, non_zero, used_ports, .. } = &**node;
        format!("{:?} {requested:?} {non_zero:?} {used_ports:?} {pods:?} {:?}", facts.name, facts.allocatable)
    });
    nodes.chain([format!("{images:?}")]).collect()
}

#[test]
fn an_assumed_pod_counts_and_a_forgotten_one_does_not() {
    let mut cache = Cache::default();
    cache.set_node(node("n", 4));
    assert!(cache.assume_pod(request(1, 500, Some(80)), "n"));
    assert!(!cache.assume_pod(request(1, 500, Some(80)), "n"), "a pod is assumed once");
    assert_eq!(snapshot_of(&mut cache).node("n").unwrap().requested.milli_cpu, 500);
    cache.forget_pod("uid-1");
    assert_eq!(snapshot_of(&mut cache).node("n").unwrap().requested, Default::default());
}

#[test]
fn a_confirmed_pod_is_not_forgotten_when_its_binding_call_seemed_to_fail() {
    let mut cache = Cache::default();
    cache.set_node(node("n", 4));
    cache.assume_pod(request(1, 500, None), "n");
    cache.set_pod(request(1, 500, None), "n");
    cache.forget_pod("uid-1");
    assert_eq!(snapshot_of(&mut cache).node("n").unwrap().pods.len(), 1);
}

#[test]
fn a_pod_confirmed_on_another_node_moves_there() {
    let mut cache = Cache::default();
    cache.set_node(node("a", 4));
    cache.set_node(node("b", 4));
    cache.assume_pod(request(1, 500, None), "a");
    cache.set_pod(request(1, 500, None), "b");
    let snapshot = snapshot_of(&mut cache);
    assert_eq!(snapshot.node("a").unwrap().pods.len(), 0);
    assert_eq!(snapshot.node("b").unwrap().pods.len(), 1);
}

#[test]
fn only_a_finished_binding_expires() {
    let mut cache = Cache::default();
    let start = Instant::now();
    cache.set_node(node("n", 4));
    cache.assume_pod(request(1, 500, None), "n");
    assert!(cache.expire(start + 2 * ASSUMED_POD_TTL).is_empty());
    cache.finish_binding("uid-1", start);
    assert!(cache.expire(start + ASSUMED_POD_TTL / 2).is_empty());
    assert_eq!(cache.expire(start + ASSUMED_POD_TTL).len(), 1);
}

#[test]
fn pods_seen_before_their_node_count_when_it_comes_and_after_it_came_back() {
    let mut cache = Cache::default();
    cache.set_pod(request(1, 500, None), "n");
    assert!(snapshot_of(&mut cache).nodes().is_empty());
    cache.set_node(node("n", 4));
    assert_eq!(snapshot_of(&mut cache).nodes()[0].pods.len(), 1);
    cache.remove_node("n");
    assert!(snapshot_of(&mut cache).nodes().is_empty());
    cache.set_node(node("n", 4));
    assert_eq!(snapshot_of(&mut cache).nodes()[0].pods.len(), 1);
    cache.remove_node("n");
    cache.remove_pod("uid-1");
    assert!(cache.nodes.is_empty(), "nothing is left behind");
}

#[derive(Clone, Debug)]
enum Step {
    SetNode(usize, u32),
    RemoveNode(usize),
    SetPod(usize, usize, u32),
    Assume(usize, usize, u32),
    Forget(usize),
    RemovePod(usize),
    Snapshot,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4usize, 1..8u32).prop_map(|(node, cpu)| Step::SetNode(node, cpu)),
        (0..4usize).prop_map(Step::RemoveNode),
        (0..8usize, 0..4usize, 0..4u32).prop_map(|(pod, node, cpu)| Step::SetPod(pod, node, cpu)),
        (0..8usize, 0..4usize, 0..4u32).prop_map(|(pod, node, cpu)| Step::Assume(pod, node, cpu)),
        (0..8usize).prop_map(Step::Forget),
        (0..8usize).prop_map(Step::RemovePod),
        Just(Step::Snapshot),
    ]
}

proptest! {
    #[test]
    fn the_incremental_cache_equals_one_rebuilt_from_scratch(steps in prop::collection::vec(step(), 0..80)) {
        let mut cache = Cache::default();
        let mut incremental = Snapshot::default();
        let mut nodes: HashMap<usize, u32> = HashMap::new();
        let mut pods: HashMap<usize, (usize, u32, bool)> = HashMap::new();
        let info = |pod: usize, cpu: u32| request(pod, cpu * 100, (cpu > 2).then_some(8000 + cpu));
        for step in steps {
            match step {
                Step::SetNode(node_id, cpu) => {
                    cache.set_node(node(&format!("node-{node_id}"), cpu));
                    nodes.insert(node_id, cpu);
                }
                Step::RemoveNode(node_id) => {
                    cache.remove_node(&format!("node-{node_id}"));
                    nodes.remove(&node_id);
                }
                Step::SetPod(id, node_id, cpu) => {
                    cache.set_pod(info(id, cpu), &format!("node-{node_id}"));
                    pods.insert(id, (node_id, cpu, false));
                }
                Step::Assume(id, node_id, cpu) => {
                    let assumed = cache.assume_pod(info(id, cpu), &format!("node-{node_id}"));
                    prop_assert_eq!(assumed, !pods.contains_key(&id));
                    pods.entry(id).or_insert((node_id, cpu, true));
                }
                Step::Forget(id) => {
                    cache.forget_pod(&format!("uid-{id}"));
                    if pods.get(&id).is_some_and(|(_, _, assumed)| *assumed) {
                        pods.remove(&id);
                    }
                }
                Step::RemovePod(id) => {
                    cache.remove_pod(&format!("uid-{id}"));
                    pods.remove(&id);
                }
                Step::Snapshot => cache.update_snapshot(&mut incremental),
            }
        }
        cache.update_snapshot(&mut incremental);

        let mut fresh = Cache::default();
        for (id, (node_id, cpu, _)) in &pods {
            fresh.set_pod(info(*id, *cpu), &format!("node-{node_id}"));
        }
        for (node_id, cpu) in &nodes {
            fresh.set_node(node(&format!("node-{node_id}"), *cpu));
        }
        let mut rebuilt = Snapshot::default();
        fresh.update_snapshot(&mut rebuilt);
        prop_assert_eq!(seen(&incremental), seen(&rebuilt));
        prop_assert_eq!(cache.sizes().0, nodes.len());
        prop_assert_eq!(cache.sizes().1, pods.len());
        prop_assert_eq!(cache.sizes().2, pods.values().filter(|(_, _, assumed)| *assumed).count());
    }
}
