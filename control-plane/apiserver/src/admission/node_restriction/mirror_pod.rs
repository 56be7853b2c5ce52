//! The pods a node creates: images of its static pods, which refer to nothing else in the API.

use k8s_openapi::{
    api::core::v1::{Container, Node, Pod, PodSpec, Volume},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use skep_api::{field::quote, status::StatusError};

use super::{Admission, Request, runs_on};
use crate::admission::service_account::MIRROR;

impl Admission {
    pub(super) async fn mirror_pod(&self, request: &Request<'_>) -> Result<(), StatusError> {
        let pod = request.incoming::<Pod>()?;
        let node = quote(request.node);
        let is_mirror = pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(MIRROR));
        request.demand(is_mirror, || {
            format!("pod does not have {MIRROR:?} annotation, node {node} can only create mirror pods")
        })?;
        let only = |what: &str| format!("node {node} can only create pods with {what} set to itself");
        request.demand(runs_on(pod, request.node), || only("spec.nodeName"))?;
        let owner = match pod.metadata.owner_references.as_deref().unwrap_or_default() {
            [owner] => owner,
            [] => return Err(request.forbidden(only("an owner reference"))),
            _ => return Err(request.forbidden(only("a single owner reference"))),
        };
        let is_node = owner.api_version == "v1" && owner.kind == "Node" && owner.name == request.node;
        request.demand(is_node, || only("an owner reference"))?;
        request.demand(owner.controller == Some(true), || only("a controller owner reference"))?;
        request.demand(owner.block_owner_deletion != Some(true), || {
            format!("node {node} must not set blockOwnerDeletion on an owner reference")
        })?;
        self.same_node(request, owner).await?;
        match pod.spec.as_ref().and_then(reference) {
            None => Ok(()),
            Some(what) => Err(request.forbidden(format!("node {node} can not create pods that reference {what}"))),
        }
    }

    async fn same_node(&self, request: &Request<'_>, owner: &OwnerReference) -> Result<(), StatusError> {
        let nodes = self.storage.resource("/registry/minions/");
        let node: Node = self.stored(nodes.as_ref(), "/registry/minions/", None, request.node, "node").await?;
        let uid = node.metadata.uid.unwrap_or_default();
        request.demand(owner.uid == uid, || {
            format!("node {} UID mismatch: expected {} got {uid}", request.node, owner.uid)
        })
    }
}

/// What other object of the API a pod refers to, if any.
fn reference(spec: &PodSpec) -> Option<&'static str> {
    let volumes = || spec.volumes.iter().flatten();
    let sources = || volumes().filter_map(|volume| volume.projected.as_ref()?.sources.as_ref()).flatten();
    let named = |name: &Option<String>| name.as_deref().is_some_and(|name| !name.is_empty());
    if named(&spec.service_account_name) {
        Some("a service account")
    } else if names_secrets(spec) {
        Some("secrets")
    } else if volumes().any(|volume| volume.config_map.is_some())
        || sources().any(|source| source.config_map.is_some())
        || containers(spec).any(|container| env_names(container).1)
    {
        Some("configmaps")
    } else if sources().any(|source| source.cluster_trust_bundle.is_some()) {
        Some("clustertrustbundles")
    } else if volumes().any(|volume| volume.persistent_volume_claim.is_some()) {
        Some("persistentvolumeclaims")
    } else if spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        Some("resourceclaims")
    } else {
        None
    }
}

/// Whether a pod refers to Secrets.
pub(in crate::admission) fn names_secrets(spec: &PodSpec) -> bool {
    let projected = |volume: &Volume| {
        let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        sources.into_iter().any(|source| source.secret.is_some())
    };
    spec.image_pull_secrets.as_ref().is_some_and(|secrets| !secrets.is_empty())
        || spec.volumes.iter().flatten().any(|volume| names_secret(volume) || projected(volume))
        || containers(spec).any(|container| env_names(container).0)
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.containers.iter().chain(spec.init_containers.iter().flatten())
}

/// Whether the environment of a container comes from Secrets, and whether from ConfigMaps.
fn env_names(container: &Container) -> (bool, bool) {
    let values = || container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref());
    let whole = || container.env_from.iter().flatten();
    let secret =
        values().any(|value| value.secret_key_ref.is_some()) || whole().any(|source| source.secret_ref.is_some());
    let map = values().any(|value| value.config_map_key_ref.is_some())
        || whole().any(|source| source.config_map_ref.is_some());
    (secret, map)
}

fn names_secret(volume: &Volume) -> bool {
    volume.secret.is_some()
        || volume.azure_file.is_some()
        || volume.scale_io.is_some()
        || volume.cephfs.as_ref().is_some_and(|source| source.secret_ref.is_some())
        || volume.cinder.as_ref().is_some_and(|source| source.secret_ref.is_some())
        || volume.flex_volume.as_ref().is_some_and(|source| source.secret_ref.is_some())
        || volume.rbd.as_ref().is_some_and(|source| source.secret_ref.is_some())
        || volume.iscsi.as_ref().is_some_and(|source| source.secret_ref.is_some())
        || volume.storageos.as_ref().is_some_and(|source| source.secret_ref.is_some())
        || volume.csi.as_ref().is_some_and(|source| source.node_publish_secret_ref.is_some())
}
