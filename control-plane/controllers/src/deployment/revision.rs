//! Which ReplicaSet is the newest, and the annotations that carry the history.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;

use super::rolling;
use crate::meta;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
pub(super) const TEMPLATE_HASH: &str = "pod-template-hash";

/// What is the ReplicaSet's own and not copied from the deployment.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

/// Longest revision history kept, in characters.
const MAX_HISTORY: usize = 2000;

/// A ReplicaSet's revision; 0 without one.
pub(super) fn revision(set: &ReplicaSet) -> i64 {
    meta::annotation(&set.metadata, REVISION).and_then(|revision| revision.parse().ok()).unwrap_or(0)
}

/// The deployment's desired replicas when the set was last scaled.
pub(super) fn desired_replicas(set: &ReplicaSet) -> Option<i32> {
    meta::annotation(&set.metadata, DESIRED_REPLICAS)?.parse().ok()
}

/// desired + surge of the deployment when the set was last scaled.
pub(super) fn max_replicas(set: &ReplicaSet) -> Option<i32> {
    meta::annotation(&set.metadata, MAX_REPLICAS)?.parse().ok()
}

/// Writes the scale annotations; true if one changed.
pub(super) fn set_replicas_annotations(annotations: &mut BTreeMap<String, String>, spec: &DeploymentSpec) -> bool {
    let desired = rolling::desired(spec);
    let mut changed = false;
    for (key, value) in [(DESIRED_REPLICAS, desired), (MAX_REPLICAS, desired.saturating_add(rolling::max_surge(spec)))]
    {
        let value = value.to_string();
        if annotations.get(key) != Some(&value) {
            annotations.insert(key.to_owned(), value);
            changed = true;
        }
    }
    changed
}

/// Copies the deployment's annotations to its newest ReplicaSet and gives it its revision; true if something changed.
pub(super) fn set_new_set_annotations(
    deployment: &Deployment,
    annotations: &mut BTreeMap<String, String>,
    revision: i64,
    exists: bool,
) -> bool {
    let mut changed = false;
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) && annotations.get(key) != Some(value) {
            annotations.insert(key.clone(), value.clone());
            changed = true;
        }
    }
    let old = annotations.get(REVISION).cloned();
    let old_number: i64 = old.as_deref().and_then(|old| old.parse().ok()).unwrap_or(0);
    if old_number < revision {
        annotations.insert(REVISION.to_owned(), revision.to_string());
        changed = true;
        if let Some(old) = old {
            let history = annotations.get(REVISION_HISTORY).map(String::as_str).unwrap_or_default();
            annotations.insert(REVISION_HISTORY.to_owned(), append_history(history, &old));
        }
    }
    if !exists {
        changed |= set_replicas_annotations(annotations, super::spec(deployment));
    }
    changed
}

fn append_history(history: &str, revision: &str) -> String {
    let mut entries: Vec<&str> = history.split(',').filter(|entry| !entry.is_empty()).collect();
    entries.push(revision);
    while entries.len() > 1 && entries.iter().map(|entry| entry.len() + 1).sum::<usize>() > MAX_HISTORY {
        entries.remove(0);
    }
    entries.join(",")
}

/// Template equality without the hash label that ReplicaSets add.
pub(super) fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    fn plain(template: &PodTemplateSpec) -> PodTemplateSpec {
        let mut template = template.clone();
        let meta = template.metadata.get_or_insert_default();
        if let Some(labels) = &mut meta.labels {
            labels.remove(TEMPLATE_HASH);
        }
        for map in [&mut meta.labels, &mut meta.annotations] {
            if map.as_ref().is_some_and(BTreeMap::is_empty) {
                *map = None;
            }
        }
        meta.creation_timestamp = None;
        template
    }
    plain(a) == plain(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_compared_without_the_hash() {
        let a = PodTemplateSpec::default();
        let mut b = PodTemplateSpec::default();
        b.metadata.get_or_insert_default().labels = Some([(TEMPLATE_HASH.to_owned(), "x".to_owned())].into());
        assert!(same_template(&a, &b));
        b.spec.get_or_insert_default().host_network = Some(true);
        assert!(!same_template(&a, &b));
    }

    #[test]
    fn an_older_set_that_becomes_newest_again_keeps_its_history() {
        let deployment = Deployment::default();
        let mut annotations = BTreeMap::from([(REVISION.to_owned(), "1".to_owned())]);
        assert!(set_new_set_annotations(&deployment, &mut annotations, 3, true));
        assert_eq!(annotations[REVISION], "3");
        assert_eq!(annotations[REVISION_HISTORY], "1");
        assert!(!set_new_set_annotations(&deployment, &mut annotations, 3, true));
    }

    #[test]
    fn kubectl_bookkeeping_is_not_copied() {
        let mut deployment = Deployment::default();
        deployment.metadata.annotations =
            Some([(NOT_COPIED[0].to_owned(), "{}".to_owned()), ("note".to_owned(), "x".to_owned())].into());
        let mut annotations = BTreeMap::new();
        set_new_set_annotations(&deployment, &mut annotations, 1, true);
        assert_eq!(annotations.keys().collect::<Vec<_>>(), [REVISION, "note"]);
    }
}
