//! What the scheduler needs of a pod, computed once when the pod is seen.

mod requests;

use std::{fmt, sync::Arc};

use k8s_openapi::api::core::v1::{Pod, PodSpec, Toleration};
use kube::ResourceExt;

use crate::{
    host_ports::{HostPort, host_ports},
    resource::Resource,
};

/// Requests as scoring sees them: a container that asks for nothing still counts as 100m CPU and 200Mi.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NonZeroRequests {
    /// Thousandths of a CPU.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
}

/// A pod with everything derived from it that scheduling cycles ask for again and again.
pub struct PodInfo {
    /// The object itself.
    pub pod: Arc<Pod>,
    /// Its UID: two pods of one name are two pods.
    pub uid: Arc<str>,
    /// Effective requests: containers, init containers, sidecars, pod-level resources, overhead.
    pub requests: Resource,
    /// The same for scoring.
    pub non_zero: NonZeroRequests,
    /// Ports wanted on the host.
    pub host_ports: Vec<HostPort>,
    /// `spec.priority`, zero when unset.
    pub priority: i32,
}

impl PodInfo {
    /// Derives everything from `pod`.
    pub fn new(pod: Arc<Pod>) -> Self {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default().into();
        let (requests, non_zero) = requests::of(&pod);
        let host_ports = pod.spec.as_ref().map(host_ports).unwrap_or_default();
        let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or_default();
        Self { pod, uid, requests, non_zero, host_ports, priority }
    }

    /// The spec; only an object damaged in storage lacks one.
    pub fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }

    /// The tolerations, possibly none.
    pub fn tolerations(&self) -> &[Toleration] {
        self.spec().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
    }

    /// The node the pod is bound to.
    pub fn node_name(&self) -> Option<&str> {
        self.spec().and_then(|spec| spec.node_name.as_deref()).filter(|name| !name.is_empty())
    }

    /// `namespace/name`, for logs and messages.
    pub fn key(&self) -> String {
        format!("{}/{}", self.pod.metadata.namespace.as_deref().unwrap_or_default(), self.pod.name_any())
    }
}

impl fmt::Debug for PodInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodInfo").field("key", &self.key()).field("uid", &self.uid).finish_non_exhaustive()
    }
}
