//! ServiceAccounts: a `default` one in every namespace.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, ObjectMeta, PostParams};

use crate::context::Context;
use crate::controller::{Queue, Reconciler};
use crate::error::{Context as _, Error};
use crate::meta::{self, ObjectKey};

const DEFAULT: &str = "default";

/// The ServiceAccounts controller; its keys are namespaces.
pub(crate) struct ServiceAccountController {
    context: Context,
    queue: Queue,
}

impl ServiceAccountController {
    /// The controller, with its event handlers registered.
    pub(crate) fn new(context: Context, queue: Queue) -> Arc<Self> {
        let this = Arc::new(Self { context, queue });
        let queue = this.queue.clone();
        this.context.informers.namespaces.on_change(move |delta| queue.add(ObjectKey::of(&delta.object().metadata)));
        let queue = this.queue.clone();
        this.context.informers.service_accounts.on_change(move |delta| {
            queue.add(ObjectKey::new("", meta::namespace(&delta.object().metadata)));
        });
        this
    }
}

impl Reconciler for ServiceAccountController {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "serviceaccount-controller"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let informers = &self.context.informers;
        let Some(namespace) = informers.namespaces.by_key(key) else { return Ok(None) };
        let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
        if phase == Some("Terminating")
            || meta::is_deleting(&namespace.metadata)
            || informers.service_accounts.get(&key.name, DEFAULT).is_some()
        {
            return Ok(None);
        }
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some(DEFAULT.to_owned()),
                namespace: Some(key.name.clone()),
                ..ObjectMeta::default()
            },
            ..ServiceAccount::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.context.client.clone(), &key.name);
        let result = api.create(&PostParams::default(), &account).await;
        match result.context(|| format!("creating service account {}/{DEFAULT}", key.name)) {
            Ok(created) => informers.service_accounts.wrote(&created),
            Err(error) if error.is_already_exists() || error.is_namespace_terminating() || error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        Ok(None)
    }
}
