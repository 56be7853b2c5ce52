//! Publishes the cluster's CA to every namespace (ConfigMap `kube-root-ca.crt`), so that pods can trust the API server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ObjectMeta, PostParams};

use crate::context::Context;
use crate::controller::{Queue, Reconciler};
use crate::error::{Context as _, Error};
use crate::meta::{self, ObjectKey};

const NAME: &str = "kube-root-ca.crt";
/// Restricts the shared watch to the ConfigMaps this controller writes.
pub(crate) const FIELD_SELECTOR: &str = "metadata.name=kube-root-ca.crt";
const KEY: &str = "ca.crt";
const DESCRIPTION: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the \
     internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes \
     clusters.",
);

/// The publisher; its keys are namespaces.
pub(crate) struct RootCaPublisher {
    context: Context,
}

impl RootCaPublisher {
    /// The controller, with its event handlers registered.
    pub(crate) fn new(context: Context, queue: Queue) -> Arc<Self> {
        let add = queue.clone();
        context.informers.namespaces.on_change(move |delta| add.add(ObjectKey::of(&delta.object().metadata)));
        context.informers.root_ca_maps.on_change(move |delta| {
            queue.add(ObjectKey::new("", meta::namespace(&delta.object().metadata)));
        });
        Arc::new(Self { context })
    }
}

impl Reconciler for RootCaPublisher {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "root-ca-certificate-publisher-controller"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let informers = &self.context.informers;
        let Some(certificate) = &self.context.config.root_ca else { return Ok(None) };
        let Some(namespace) = informers.namespaces.by_key(key) else { return Ok(None) };
        if meta::is_deleting(&namespace.metadata) {
            return Ok(None);
        }
        let data = BTreeMap::from([(KEY.to_owned(), certificate.clone())]);
        let api: Api<ConfigMap> = Api::namespaced(self.context.client.clone(), &key.name);
        let result = match informers.root_ca_maps.get(&key.name, NAME) {
            Some(known) if known.data.as_ref() == Some(&data) => return Ok(None),
            Some(known) => {
                let changed = ConfigMap { data: Some(data), ..known.as_ref().clone() };
                api.replace(NAME, &PostParams::default(), &changed).await
            }
            None => {
                let metadata = ObjectMeta {
                    name: Some(NAME.to_owned()),
                    namespace: Some(key.name.clone()),
                    annotations: Some([(DESCRIPTION.0.to_owned(), DESCRIPTION.1.to_owned())].into()),
                    ..ObjectMeta::default()
                };
                let map = ConfigMap { metadata, data: Some(data), ..ConfigMap::default() };
                api.create(&PostParams::default(), &map).await
            }
        };
        match result.context(|| format!("publishing the root CA to namespace {key}")) {
            Ok(written) => informers.root_ca_maps.wrote(&written),
            Err(error) if error.is_namespace_terminating() || error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        Ok(None)
    }
}
