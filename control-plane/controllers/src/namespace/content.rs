//! Deleting everything in a namespace: pods first (they may need what else is there to shut down), then the rest.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams};
use kube::core::PartialObjectMeta;
use tracing::debug;

use crate::discovery::{self, ResourceType};
use crate::error::{Context as _, Error};
use crate::meta;
use crate::pod;

/// How long finalizers are given before the next look.
const FINALIZER_ESTIMATE: u64 = 15;

/// What was found and what is left.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Groups that could not be discovered, with the reason.
    pub(super) undiscovered: Vec<(String, String)>,
    /// Deletions that failed.
    pub(super) failures: Vec<String>,
    /// Objects left by `resource.group`.
    pub(super) remaining: BTreeMap<String, usize>,
    /// Objects left by finalizer.
    pub(super) finalizers: BTreeMap<String, usize>,
    estimate: u64,
}

impl Outcome {
    /// True if everything that was to be done could be done.
    pub(super) fn is_clean(&self) -> bool {
        self.undiscovered.is_empty() && self.failures.is_empty()
    }

    /// How long to wait for the rest to go; None if nothing is left. Half the estimate plus a second, as upstream.
    pub(super) fn wait(&self) -> Option<Duration> {
        (!self.remaining.is_empty()).then(|| Duration::from_secs(self.estimate / 2 + 1))
    }

    pub(super) fn failure_text(&self) -> String {
        let undiscovered = self.undiscovered.iter().map(|(group, reason)| format!("{group}: {reason}"));
        undiscovered.chain(self.failures.iter().cloned()).collect::<Vec<_>>().join("; ")
    }
}

/// Deletes what can be deleted and says what remains.
pub(super) async fn delete_all(client: &Client, namespace: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let discovered = match discovery::discover(client).await {
        Ok(discovered) => discovered,
        Err(error) => {
            outcome.undiscovered.push(("*".to_owned(), error.to_string()));
            return outcome;
        }
    };
    outcome.undiscovered.extend(discovered.failed.into_iter().map(|(group, error)| (group, error.to_string())));
    let types = discovered
        .types
        .into_iter()
        .filter(|t| t.namespaced && (t.supports("delete") || t.supports("deletecollection")));
    let (pods, others): (Vec<_>, Vec<_>) =
        types.partition(|t| t.resource.group.is_empty() && t.resource.plural == "pods");
    for kind in [pods, others] {
        let results = join_all(kind.iter().map(|kind| delete_type(client, namespace, kind))).await;
        for (kind, result) in kind.iter().zip(results) {
            match result {
                Ok(left) => outcome.note(kind, &left),
                Err(error) => outcome.failures.push(format!("{}: {error}", kind.group_resource())),
            }
        }
        // KEP-5080: the rest waits until the pods are gone, or a pod could outlive its NetworkPolicy.
        if !outcome.remaining.is_empty() || !outcome.failures.is_empty() {
            break;
        }
    }
    outcome
}

/// What is left of one type.
struct Left {
    count: usize,
    finalizers: BTreeMap<String, usize>,
    grace: u64,
}

impl Outcome {
    fn note(&mut self, kind: &ResourceType, left: &Left) {
        if left.count == 0 {
            return;
        }
        self.remaining.insert(kind.group_resource(), left.count);
        for (finalizer, count) in &left.finalizers {
            *self.finalizers.entry(finalizer.clone()).or_default() += count;
        }
        let estimate = if left.finalizers.is_empty() { left.grace } else { left.grace.max(FINALIZER_ESTIMATE) };
        self.estimate = self.estimate.max(estimate);
    }
}

async fn delete_type(client: &Client, namespace: &str, kind: &ResourceType) -> Result<Left, Error> {
    let is_pods = kind.resource.group.is_empty() && kind.resource.plural == "pods";
    let grace = if is_pods { grace_of_pods(client, namespace).await? } else { 0 };
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind.resource);
    let what = || format!("deleting {} in namespace {namespace}", kind.group_resource());
    if kind.supports("deletecollection") {
        match api.delete_collection(&DeleteParams::background(), &ListParams::default()).await.context(what) {
            Ok(_) => {}
            Err(error) if error.status().is_some_and(|s| s.code == 405 || s.code == 404) => {
                delete_each(&api, kind, namespace).await?
            }
            Err(error) => return Err(error),
        }
    } else {
        delete_each(&api, kind, namespace).await?;
    }
    let left = list(&api, kind, namespace).await?;
    let mut finalizers = BTreeMap::new();
    for finalizer in left.iter().flat_map(|object| object.metadata.finalizers.iter().flatten()) {
        *finalizers.entry(finalizer.clone()).or_default() += 1;
    }
    debug!(namespace, resource = %kind.group_resource(), left = left.len(), "deleted collection");
    Ok(Left { count: left.len(), finalizers, grace })
}

async fn list(
    api: &Api<DynamicObject>,
    kind: &ResourceType,
    namespace: &str,
) -> Result<Vec<PartialObjectMeta<DynamicObject>>, Error> {
    if !kind.supports("list") {
        return Ok(Vec::new());
    }
    match api
        .list_metadata(&ListParams::default())
        .await
        .context(|| format!("listing {} in namespace {namespace}", kind.group_resource()))
    {
        Ok(list) => Ok(list.items),
        // The type went away meanwhile, and its objects with it.
        Err(error) if error.status().is_some_and(|s| s.code == 404 || s.code == 405) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

async fn delete_each(api: &Api<DynamicObject>, kind: &ResourceType, namespace: &str) -> Result<(), Error> {
    for object in list(api, kind, namespace).await? {
        let name = meta::name(&object.metadata);
        match api
            .delete(name, &DeleteParams::background())
            .await
            .context(|| format!("deleting {} {namespace}/{name}", kind.resource.plural))
        {
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The longest time a pod of the namespace may take to shut down.
async fn grace_of_pods(client: &Client, namespace: &str) -> Result<u64, Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pods = api.list(&ListParams::default()).await.context(|| format!("listing pods in namespace {namespace}"))?;
    let running = pods.items.iter().filter(|pod| !pod::is_terminal(pod));
    let grace = running.filter_map(|pod| pod.spec.as_ref()?.termination_grace_period_seconds).max().unwrap_or(0);
    Ok(u64::try_from(grace).unwrap_or(0))
}
