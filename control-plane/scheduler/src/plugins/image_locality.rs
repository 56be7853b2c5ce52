//! ImageLocality: prefers nodes that have the pod's images already, scaled down for images few nodes have.

use std::{collections::HashMap, sync::Arc};

use crate::{
    framework::{CycleState, MAX_NODE_SCORE, Plugin, PreScore, Registrar, Score, Status},
    node_info::NodeInfo,
    pod_info::PodInfo,
    snapshot::Snapshot,
};

pub(super) const NAME: &str = "ImageLocality";
const MIN_THRESHOLD: i64 = 23 * 1024 * 1024;
const MAX_CONTAINER_THRESHOLD: i64 = 1000 * 1024 * 1024;

pub(super) fn register(registrar: &mut Registrar<'_>) {
    let plugin = Arc::new(ImageLocality);
    registrar.pre_score(plugin.clone());
    registrar.score(plugin);
}

struct ImageLocality;

/// The pod's images with the share of nodes that have them; images no node has are left out.
struct Images {
    spread: HashMap<String, (i64, f64)>,
    containers: i64,
}

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        NAME
    }
}

impl PreScore for ImageLocality {
    fn pre_score(&self, state: &mut CycleState, pod: &PodInfo, _: &[Arc<NodeInfo>], snapshot: &Snapshot) -> Status {
        let Some(spec) = pod.spec() else { return Status::skip() };
        let nodes = snapshot.nodes().len().max(1) as f64;
        let mut spread: HashMap<String, (i64, f64)> = HashMap::new();
        let mut containers = 0;
        for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
            containers += 1;
            let image = normalized(container.image.as_deref().unwrap_or_default());
            let having = snapshot.nodes_with_image(&image);
            if having > 0 {
                spread.entry(image).or_insert((0, having as f64 / nodes)).0 += 1;
            }
        }
        if spread.is_empty() {
            return Status::skip();
        }
        state.write(Images { spread, containers });
        Status::success()
    }
}

impl Score for ImageLocality {
    fn score(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> Result<i64, Status> {
        let Some(Images { spread, containers }) = state.read() else { return Ok(0) };
        let sum = spread.iter().fold(0_i64, |sum, (image, (times, share))| {
            let size = node.facts.images.get(image).copied().unwrap_or_default();
            #[expect(clippy::cast_possible_truncation, reason = "float casts saturate, and sizes are far below")]
            let scaled = (size as f64 * share) as i64;
            sum.saturating_add(scaled.saturating_mul(*times))
        });
        let max = MAX_CONTAINER_THRESHOLD.saturating_mul(*containers);
        let sum = sum.clamp(MIN_THRESHOLD, max);
        Ok(i64::try_from(
            i128::from(MAX_NODE_SCORE) * i128::from(sum - MIN_THRESHOLD) / i128::from(max - MIN_THRESHOLD),
        )
        .unwrap_or_default())
    }
}

/// Image names on nodes carry a tag or digest; a name without one means `:latest`.
fn normalized(image: &str) -> String {
    let tagged = match (image.rfind(':'), image.rfind('/')) {
        (Some(colon), Some(slash)) => colon > slash,
        (colon, _) => colon.is_some(),
    };
    if tagged { image.to_owned() } else { format!("{image}:latest") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        cache::Cache,
        framework::Code,
        testing::{facts, pod_with},
    };

    #[test]
    fn a_node_with_the_image_scores_higher_the_more_nodes_have_it() {
        let with_image = |name: &str, image: Option<&str>| {
            let images = image.map(|image| json!({ "names": [image], "sizeBytes": 500 * 1024 * 1024 }));
            facts(
                json!({ "metadata": { "name": name }, "status": { "images": images.into_iter().collect::<Vec<_>>() } }),
            )
        };
        let mut cache = Cache::default();
        cache.set_node(with_image("a", Some("registry:5000/app:latest")));
        cache.set_node(with_image("b", None));
        let mut snapshot = Snapshot::default();
        cache.update_snapshot(&mut snapshot);
        let pod = pod_with("p", json!({ "containers": [{ "name": "c", "image": "registry:5000/app" }] }));
        let mut state = CycleState::default();
        assert!(ImageLocality.pre_score(&mut state, &pod, &[], &snapshot).is_success());
        let score = |name| ImageLocality.score(&state, &pod, snapshot.node(name).unwrap()).unwrap();
        assert_eq!((score("a"), score("b")), (100 * (250 - 23) / (1000 - 23), 0));

        let other = pod_with("q", json!({ "containers": [{ "name": "c", "image": "nowhere" }] }));
        let status = ImageLocality.pre_score(&mut CycleState::default(), &other, &[], &snapshot);
        assert_eq!(status.code(), Code::Skip);
    }
}
