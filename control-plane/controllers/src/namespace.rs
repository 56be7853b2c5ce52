//! Namespaces: empties a namespace that is being deleted, then lets it go.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, NamespaceStatus, Pod};
use kube::api::{Api, PostParams};
use tracing::{debug, info};

use crate::context::Context;
use crate::controller::{Queue, Reconciler};
use crate::error::{Context as _, Error};
use crate::informer::Delta;
use crate::meta::{self, ObjectKey};

mod condition;
mod content;

const FINALIZER: &str = "kubernetes";

/// The Namespace controller.
pub(crate) struct NamespaceController {
    context: Context,
    queue: Queue,
}

impl NamespaceController {
    /// The controller, with its event handlers registered.
    pub(crate) fn new(context: Context, queue: Queue) -> Arc<Self> {
        let this = Arc::new(Self { context, queue });
        let queue = this.queue.clone();
        this.context.informers.namespaces.on_change(move |delta| {
            let namespace = delta.object();
            if meta::is_deleting(&namespace.metadata) {
                queue.add(ObjectKey::of(&namespace.metadata));
            }
        });
        // The last pod gone is what most namespaces wait for: no need to sit out the estimate.
        let (queue, informers) = (this.queue.clone(), this.context.informers.clone());
        this.context.informers.pods.on_change(move |delta: &Delta<Pod>| {
            let name = meta::namespace(&delta.object().metadata);
            if matches!(delta, Delta::Deleted(_))
                && informers.namespaces.get("", name).is_some_and(|namespace| meta::is_deleting(&namespace.metadata))
                && informers.pods.in_namespace(name).is_empty()
            {
                queue.add(ObjectKey::new("", name));
            }
        });
        this
    }

    fn api(&self) -> Api<Namespace> {
        Api::all(self.context.client.clone())
    }

    async fn write_status(&self, namespace: &Namespace) -> Result<Namespace, Error> {
        let name = meta::name(&namespace.metadata);
        let written = self
            .api()
            .replace_status(name, &PostParams::default(), namespace)
            .await
            .context(|| format!("updating status of namespace {name}"))?;
        self.context.informers.namespaces.wrote(&written);
        Ok(written)
    }

    async fn finalize(&self, mut namespace: Namespace) -> Result<(), Error> {
        let name = meta::name(&namespace.metadata).to_owned();
        if let Some(finalizers) = namespace.spec.get_or_insert_default().finalizers.as_mut() {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
        let api = self.api();
        match api
            .replace_subresource("finalize", &name, &PostParams::default(), &namespace)
            .await
            .context(|| format!("finalizing namespace {name}"))
        {
            Ok(_) => {
                info!(namespace = %name, "namespace is empty and finalized");
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Reconciler for NamespaceController {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        // Live: emptying a namespace on the word of a stale cache would be unforgivable.
        let live = self.api().get_opt(&key.name).await.context(|| format!("reading namespace {key}"))?;
        let Some(mut namespace) = live.filter(|namespace| meta::is_deleting(&namespace.metadata)) else {
            return Ok(None);
        };
        let ours = namespace
            .spec
            .as_ref()
            .and_then(|spec| spec.finalizers.as_ref())
            .is_some_and(|f| f.iter().any(|f| f == FINALIZER));
        if !ours {
            return Ok(None);
        }
        if namespace.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Terminating") {
            namespace.status.get_or_insert_default().phase = Some("Terminating".to_owned());
            namespace = self.write_status(&namespace).await?;
        }
        let outcome = content::delete_all(&self.context.client, &key.name).await;
        let mut status: NamespaceStatus = namespace.status.clone().unwrap_or_default();
        condition::update(&mut status, &outcome);
        if namespace.status.as_ref() != Some(&status) {
            namespace.status = Some(status);
            namespace = self.write_status(&namespace).await?;
        }
        if !outcome.is_clean() {
            return Err(Error::Retry(format!("namespace {key} could not be emptied: {}", outcome.failure_text())));
        }
        if let Some(wait) = outcome.wait() {
            debug!(namespace = %key, ?wait, "content remains in namespace");
            return Ok(Some(wait));
        }
        self.finalize(namespace).await.map(|()| None)
    }
}
