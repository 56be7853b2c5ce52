//! Creating and deleting pods on behalf of a controller, with the events people expect.

use std::collections::BTreeMap;
use std::future::Future;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use skep_client::Recorder;

use crate::error::{Context as _, Error};
use crate::informer::Informer;
use crate::meta;
use crate::ref_manager::Owner;

/// Most pods one reconcile creates or deletes (upstream's BurstReplicas).
pub(crate) const BURST: usize = 500;

/// Acts on pods for one kind of controller.
#[derive(Clone)]
pub(crate) struct PodControl {
    pub(crate) client: Client,
    pub(crate) pods: Informer<Pod>,
    pub(crate) recorder: Recorder,
}

impl PodControl {
    /// Creates a pod from a template and notes it in the store.
    pub(crate) async fn create(&self, owner: &Owner<'_>, template: &PodTemplateSpec) -> Result<(), Error> {
        let namespace = meta::namespace(owner.meta);
        let pod = pod_from_template(owner, template);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        match api
            .create(&PostParams::default(), &pod)
            .await
            .context(|| format!("creating a pod of {namespace}/{}", meta::name(owner.meta)))
        {
            Ok(created) => {
                self.pods.wrote(&created);
                self.recorder.normal(
                    owner.object.clone(),
                    "SuccessfulCreate",
                    format!("Created pod: {}", meta::name(&created.metadata)),
                );
                Ok(())
            }
            // Nothing can be done about it and the namespace's end will take the owner as well.
            Err(error) if error.is_namespace_terminating() => Ok(()),
            Err(error) => {
                self.recorder.warning(
                    owner.object.clone(),
                    "FailedCreate",
                    format!("Error creating: {}", text(&error)),
                );
                Err(error)
            }
        }
    }

    /// Deletes a pod and notes it in the store.
    pub(crate) async fn delete(&self, owner: &Owner<'_>, pod: &Pod) -> Result<(), Error> {
        let (namespace, name) = (meta::namespace(&pod.metadata), meta::name(&pod.metadata));
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let params = DeleteParams::default()
            .preconditions(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None });
        match api.delete(name, &params).await.context(|| format!("deleting pod {namespace}/{name}")) {
            Ok(answer) => {
                self.pods.deleted(&pod.metadata, answer.left());
                self.recorder.normal(owner.object.clone(), "SuccessfulDelete", format!("Deleted pod: {name}"));
                Ok(())
            }
            // Gone, or another pod of that name by now.
            Err(error) if error.is_not_found() || error.is_conflict() => {
                self.pods.removed(&pod.metadata);
                Ok(())
            }
            Err(error) => {
                self.recorder.warning(
                    owner.object.clone(),
                    "FailedDelete",
                    format!("Error deleting: {}", text(&error)),
                );
                Err(error)
            }
        }
    }
}

/// The message people should read of an error: the API's own words where there are any.
pub(crate) fn text(error: &Error) -> String {
    error.status().map_or_else(|| error.to_string(), |status| status.message.clone())
}

fn pod_from_template(owner: &Owner<'_>, template: &PodTemplateSpec) -> Pod {
    let given = template.metadata.clone().unwrap_or_default();
    let metadata = ObjectMeta {
        generate_name: Some(format!("{}-", meta::name(owner.meta))),
        namespace: owner.meta.namespace.clone(),
        labels: given.labels,
        annotations: given.annotations,
        finalizers: given.finalizers,
        owner_references: Some(vec![owner.reference.clone()]),
        ..ObjectMeta::default()
    };
    Pod { metadata, spec: template.spec.clone(), status: None }
}

/// Runs `count` operations in batches of 1, 2, 4 .. so that a request that always fails fails few times. Stops after the
/// batch with the first failure. Returns the number of successes and that failure.
pub(crate) async fn slow_start<F>(count: usize, operation: impl Fn() -> F) -> (usize, Result<(), Error>)
where
    F: Future<Output = Result<(), Error>>,
{
    let (mut done, mut batch) = (0, 1);
    while done < count {
        let size = batch.min(count - done);
        let results = join_all((0..size).map(|_| operation())).await;
        let errors: Vec<_> = results.into_iter().filter_map(Result::err).collect();
        done += size - errors.len();
        if !errors.is_empty() {
            return (done, Error::from_batch(errors));
        }
        batch *= 2;
    }
    (done, Ok(()))
}

/// True if `labels` has all of `wanted`.
pub(crate) fn has_labels(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn slow_start_stops_after_the_first_failing_batch() {
        let calls = AtomicUsize::new(0);
        let (done, result) = slow_start(100, || async {
            let call = calls.fetch_add(1, Ordering::SeqCst);
            if call < 3 { Ok(()) } else { Err(Error::Retry("no".into())) }
        })
        .await;
        // Batches of 1 and 2 succeed, the batch of 4 fails.
        assert_eq!((done, calls.load(Ordering::SeqCst)), (3, 7));
        assert!(result.is_err());
    }

    #[tokio::test]
    async fn slow_start_does_all_when_nothing_fails() {
        let (done, result) = slow_start(10, || async { Ok(()) }).await;
        assert_eq!(done, 10);
        assert!(result.is_ok());
    }
}
