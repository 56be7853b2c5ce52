//! The labels and annotations by which a restarted node finds its pods in the runtime again; upstream's names.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::podext::{PodExt, container_hash};

pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";

pub(crate) const HASH: &str = "io.kubernetes.container.hash";
pub(crate) const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
pub(crate) const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
pub(crate) const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
pub(crate) const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// Selects everything of one pod.
pub(crate) fn of_pod(uid: &str) -> HashMap<String, String> {
    HashMap::from([(POD_UID.to_owned(), uid.to_owned())])
}

/// Labels of a pod's sandbox; the pod's own come along.
pub(crate) fn sandbox(pod: &Pod) -> HashMap<String, String> {
    let mut labels: HashMap<_, _> = pod.metadata.labels.clone().unwrap_or_default().into_iter().collect();
    labels.extend(identity(pod));
    labels
}

/// Labels of a container.
pub(crate) fn container(pod: &Pod, container: &Container) -> HashMap<String, String> {
    let mut labels: HashMap<_, _> = identity(pod).into();
    labels.insert(CONTAINER_NAME.to_owned(), container.name.clone());
    labels
}

/// Annotations of a container.
pub(crate) fn annotations(pod: &Pod, container: &Container, attempt: u32) -> HashMap<String, String> {
    let mut annotations = HashMap::from([
        (HASH.to_owned(), container_hash(container)),
        (RESTART_COUNT.to_owned(), attempt.to_string()),
        (MESSAGE_PATH.to_owned(), message_path(container).to_owned()),
        (MESSAGE_POLICY.to_owned(), container.termination_message_policy.clone().unwrap_or_else(|| "File".to_owned())),
    ]);
    if let Some(grace) = pod.pod_spec().termination_grace_period_seconds {
        annotations.insert(GRACE.to_owned(), grace.to_string());
    }
    annotations
}

pub(crate) fn message_path(container: &Container) -> &str {
    container.termination_message_path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/dev/termination-log")
}

fn identity(pod: &Pod) -> [(String, String); 3] {
    [(POD_NAME, pod.pod_name()), (POD_NAMESPACE, pod.ns()), (POD_UID, pod.uid())]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
}
