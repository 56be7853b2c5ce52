//! How many pods the controllers of some pods want.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DynamicObject};
use kube::discovery::ApiResource;

use crate::context::Context;
use crate::discovery;
use crate::error::{Context as _, Error};
use crate::meta;

pub(super) struct Expected {
    /// The sum over all controllers.
    pub(super) replicas: i32,
    /// Pods that nobody controls.
    pub(super) unmanaged: Vec<String>,
}

/// What one controller wants; several of the pods' owners may lead to it.
struct Wanted {
    uid: String,
    replicas: i32,
}

pub(super) async fn expected(context: &Context, pods: &[Arc<Pod>]) -> Result<Expected, Error> {
    let mut unmanaged = Vec::new();
    let mut owners: HashMap<&str, ()> = HashMap::new();
    let mut wanted: HashMap<String, i32> = HashMap::new();
    for pod in pods {
        let Some(owner) = meta::controller_of(&pod.metadata) else {
            unmanaged.push(meta::name(&pod.metadata).to_owned());
            continue;
        };
        if owners.insert(&owner.uid, ()).is_some() {
            continue;
        }
        let found = find(context, meta::namespace(&pod.metadata), owner).await?;
        let Some(Wanted { uid, replicas }) = found else {
            return Err(Error::Retry(format!("found no controllers for pod {:?}", meta::name(&pod.metadata))));
        };
        wanted.insert(uid, replicas);
    }
    let replicas = wanted.values().fold(0, |sum: i32, replicas| sum.saturating_add(*replicas));
    Ok(Expected { replicas, unmanaged })
}

async fn find(context: &Context, namespace: &str, owner: &OwnerReference) -> Result<Option<Wanted>, Error> {
    if owner.kind != "ReplicaSet" || !owner.api_version.starts_with("apps/") {
        return by_scale(context, namespace, owner).await;
    }
    let informers = &context.informers;
    let set = informers.replica_sets.get(namespace, &owner.name).filter(|set| meta::uid(&set.metadata) == owner.uid);
    let Some(set) = set else { return Ok(None) };
    // The parts of a rollout are one workload.
    if let Some(parent) = meta::controller_of(&set.metadata).filter(|parent| parent.kind == "Deployment") {
        let deployment = informers.deployments.get(namespace, &parent.name);
        return Ok(deployment.filter(|deployment| meta::uid(&deployment.metadata) == parent.uid).map(|deployment| {
            let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
            Wanted { uid: parent.uid.clone(), replicas }
        }));
    }
    let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
    Ok(Some(Wanted { uid: owner.uid.clone(), replicas }))
}

/// Asks the owner's `scale` subresource, whatever the owner is.
async fn by_scale(context: &Context, namespace: &str, owner: &OwnerReference) -> Result<Option<Wanted>, Error> {
    let Some(resource) = resource_of(context, owner).await? else { return Ok(None) };
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), namespace, &resource);
    let scale = api.get_scale(&owner.name).await;
    match scale.context(|| format!("reading the scale of {} {namespace}/{}", owner.kind, owner.name)) {
        Ok(scale) if meta::uid(&scale.metadata) == owner.uid => {
            let replicas = scale.spec.and_then(|spec| spec.replicas).unwrap_or(0);
            Ok(Some(Wanted { uid: owner.uid.clone(), replicas }))
        }
        Ok(_) => Ok(None),
        Err(error) if error.is_not_found() => {
            let there = api.get_metadata_opt(&owner.name).await.context(|| format!("reading {}", owner.name))?;
            if there.is_none_or(|object| meta::uid(&object.metadata) != owner.uid) {
                return Ok(None);
            }
            let what = if resource.group.is_empty() {
                resource.plural
            } else {
                format!("{}.{}", resource.plural, resource.group)
            };
            Err(Error::Retry(format!("{what} does not implement the scale subresource")))
        }
        Err(error) => Err(error),
    }
}

async fn resource_of(context: &Context, owner: &OwnerReference) -> Result<Option<ApiResource>, Error> {
    let known = match (owner.api_version.as_str(), owner.kind.as_str()) {
        ("v1", "ReplicationController") => Some("replicationcontrollers"),
        ("apps/v1", "StatefulSet") => Some("statefulsets"),
        ("apps/v1", "DaemonSet") => Some("daemonsets"),
        ("batch/v1", "Job") => Some("jobs"),
        _ => None,
    };
    let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
    if let Some(plural) = known {
        return Ok(Some(ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: owner.api_version.clone(),
            kind: owner.kind.clone(),
            plural: plural.to_owned(),
        }));
    }
    let found = discovery::discover(&context.client).await?;
    Ok(found
        .types
        .into_iter()
        .map(|kind| kind.resource)
        .find(|resource| resource.kind == owner.kind && resource.group == group))
}
