//! Conversion by a webhook.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, WebhookClientConfig,
};
use serde_json::Value;
use skep_api::status::StatusError;
use skep_crd::review;
use uuid::Uuid;

use super::conversion::Converter;
use crate::webhook::{Target, WebhookClient};

/// How long a webhook may take (upstream: 30 s).
const WAIT: Duration = Duration::from_secs(30);

/// The webhook of a definition.
struct Webhook {
    target: Target,
    /// The version of reviews it understands.
    review: String,
    caller: Arc<WebhookClient>,
}

/// How a definition's versions are converted; none where only the name of the version changes.
pub(super) fn converter(crd: &CustomResourceDefinition, caller: &Arc<WebhookClient>) -> Option<Arc<dyn Converter>> {
    let conversion = crd.spec.conversion.as_ref().filter(|conversion| conversion.strategy == "Webhook")?;
    let webhook = conversion.webhook.clone().unwrap_or_default();
    let review = review::version(&webhook.conversion_review_versions).unwrap_or("v1").to_owned();
    let target = target(&webhook.client_config.unwrap_or_default());
    Some(Arc::new(Webhook { target, review, caller: Arc::clone(caller) }))
}

fn target(config: &WebhookClientConfig) -> Target {
    let ca = config.ca_bundle.as_ref().map_or(&[][..], |ca| &ca.0);
    match &config.service {
        Some(service) => Target::service(&service.namespace, &service.name, service.port, service.path.as_deref(), ca),
        None => Target::url(config.url.clone().unwrap_or_default(), ca),
    }
}

impl Webhook {
    /// The error is upstream's text after `conversion webhook for <type> `.
    async fn ask(&self, objects: &[Value], to: &str) -> Result<Vec<Value>, String> {
        let uid = Uuid::new_v4().to_string();
        let asked = review::request(&self.review, &uid, to, objects);
        let answer = self.caller.post(&self.target, Bytes::from(asked.to_string()), WAIT).await;
        // That it could not be called is said by whoever needed the conversion.
        let answer = answer.map_err(|why| why.replacen("failed to call webhook: ", "failed: ", 1))?;
        let answer = serde_json::from_slice(&answer).map_err(|error| format!("failed: {error}"))?;
        review::objects(answer, &self.review, &uid, to, objects)
    }
}

impl Converter for Webhook {
    fn convert<'a>(&'a self, objects: Vec<Value>, to: &'a str) -> BoxFuture<'a, Result<Vec<Value>, StatusError>> {
        async move {
            self.ask(&objects, to).await.map_err(|why| {
                let of = |name: &str| objects.first().and_then(|object| object.get(name)?.as_str()).unwrap_or_default();
                let (version, kind) = (of("apiVersion"), of("kind"));
                StatusError::new(500, "", format!("conversion webhook for {version}, Kind={kind} {why}"))
            })
        }
        .boxed()
    }
}
