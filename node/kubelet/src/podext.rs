//! Short questions to a Pod that many modules ask.

use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Resource;
use sha2::{Digest, Sha256};

use crate::quantity;

/// Upstream's default for pods that do not say.
const DEFAULT_GRACE: i64 = 30;

/// What a container is to its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Runs to its end before the main containers.
    Init,
    /// A restartable init container: starts in order, stays.
    Sidecar,
    /// A main container.
    Main,
}

pub(crate) trait PodExt {
    fn uid(&self) -> &str;
    fn ns(&self) -> &str;
    fn pod_name(&self) -> &str;
    fn key(&self) -> String;
    fn pod_spec(&self) -> &PodSpec;
    fn host_network(&self) -> bool;
    fn deleting(&self) -> Option<&Time>;
    fn grace_seconds(&self) -> i64;
    /// The phase in the API, if it is one that never changes again.
    fn ended_phase(&self) -> Option<&str>;
    fn restart_policy(&self) -> &str;
    fn all_containers(&self) -> impl Iterator<Item = (Role, &Container)>;
    fn container(&self, name: &str) -> Option<(Role, &Container)>;
    /// A container that was put into the running pod, as the container it otherwise is.
    fn ephemeral(&self, name: &str) -> Option<Container>;
    /// A container of any kind.
    fn any_container(&self, name: &str) -> Option<Container>;
    fn reference(&self) -> ObjectReference;
    fn container_reference(&self, name: &str) -> ObjectReference;
    fn qos(&self) -> Qos;
}

static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);

impl PodExt for Pod {
    fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    fn ns(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or("default")
    }

    fn pod_name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    fn key(&self) -> String {
        format!("{}/{}", self.ns(), self.pod_name())
    }

    fn pod_spec(&self) -> &PodSpec {
        self.spec.as_ref().unwrap_or(&EMPTY)
    }

    fn host_network(&self) -> bool {
        self.pod_spec().host_network.unwrap_or(false)
    }

    fn deleting(&self) -> Option<&Time> {
        self.metadata.deletion_timestamp.as_ref()
    }

    fn grace_seconds(&self) -> i64 {
        let of_spec = self.pod_spec().termination_grace_period_seconds;
        let asked = if self.deleting().is_some() { self.metadata.deletion_grace_period_seconds } else { None };
        asked.or(of_spec).unwrap_or(DEFAULT_GRACE).max(0)
    }

    fn ended_phase(&self) -> Option<&str> {
        let phase = self.status.as_ref()?.phase.as_deref()?;
        is_terminal(phase).then_some(phase)
    }

    fn restart_policy(&self) -> &str {
        self.pod_spec().restart_policy.as_deref().unwrap_or("Always")
    }

    fn all_containers(&self) -> impl Iterator<Item = (Role, &Container)> {
        let init = self.pod_spec().init_containers.iter().flatten().map(|container| {
            let sidecar = container.restart_policy.as_deref() == Some("Always");
            (if sidecar { Role::Sidecar } else { Role::Init }, container)
        });
        init.chain(self.pod_spec().containers.iter().map(|container| (Role::Main, container)))
    }

    fn container(&self, name: &str) -> Option<(Role, &Container)> {
        self.all_containers().find(|(_, container)| container.name == name)
    }

    fn ephemeral(&self, name: &str) -> Option<Container> {
        let found = self.pod_spec().ephemeral_containers.iter().flatten().find(|container| container.name == name)?;
        // The two types differ in nothing but the target.
        serde_json::from_value(serde_json::to_value(found).ok()?).ok()
    }

    fn any_container(&self, name: &str) -> Option<Container> {
        self.container(name).map(|(_, container)| container.clone()).or_else(|| self.ephemeral(name))
    }

    fn reference(&self) -> ObjectReference {
        self.object_ref(&())
    }

    fn container_reference(&self, name: &str) -> ObjectReference {
        let list = match self.container(name) {
            None if self.ephemeral(name).is_some() => "ephemeralContainers",
            Some((Role::Main, _)) | None => "containers",
            Some(_) => "initContainers",
        };
        ObjectReference { field_path: Some(format!("spec.{list}{{{name}}}")), ..self.reference() }
    }

    fn qos(&self) -> Qos {
        let mut any = false;
        let mut guaranteed = true;
        for (_, container) in self.all_containers() {
            let resources = container.resources.clone().unwrap_or_default();
            for kind in ["cpu", "memory"] {
                let amount = |list: &Option<std::collections::BTreeMap<String, _>>| {
                    list.as_ref().and_then(|list| list.get(kind)).and_then(quantity::milli).filter(|amount| *amount > 0)
                };
                let (request, limit) = (amount(&resources.requests), amount(&resources.limits));
                any |= request.is_some() || limit.is_some();
                guaranteed &= limit.is_some() && (request.is_none() || request == limit);
            }
        }
        match (any, guaranteed) {
            (false, _) => Qos::BestEffort,
            (true, true) => Qos::Guaranteed,
            (true, false) => Qos::Burstable,
        }
    }
}

/// Quality-of-service class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Qos::Guaranteed => "Guaranteed",
            Qos::Burstable => "Burstable",
            Qos::BestEffort => "BestEffort",
        }
    }
}

/// Whether a pod in this phase has ended for good.
pub(crate) fn is_terminal(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed")
}

/// Changes when the container must be replaced: the fields of a container spec that may change in place.
pub(crate) fn container_hash(container: &Container) -> String {
    let mut hasher = Sha256::new();
    hasher.update(container.name.as_bytes());
    hasher.update([0]);
    hasher.update(container.image.as_deref().unwrap_or_default().as_bytes());
    hex(&hasher.finalize()[..8])
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Nanoseconds since the epoch, now.
pub(crate) fn now_nanos() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// The runtime's times as the API tells them.
pub(crate) fn time(nanos: i64) -> Option<Time> {
    if nanos == 0 {
        return None;
    }
    jiff::Timestamp::from_nanosecond(i128::from(nanos)).ok().map(Time)
}
