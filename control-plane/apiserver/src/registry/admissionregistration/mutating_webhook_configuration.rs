//! MutatingWebhookConfigurations.

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::resource::ResourceInfo;

use super::GROUP;
use super::webhook::{self, Defaults, Webhook};
use crate::registry::cell;
use crate::registry::strategy::{Column, Strategy};
use crate::registry::table_info::info;

/// The strategy of MutatingWebhookConfigurations.
#[derive(Debug)]
pub(crate) struct MutatingWebhookConfigurations;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Webhooks", "integer", "Webhooks indicates the number of webhooks registered in this configuration"),
    Column::AGE,
];

impl Strategy for MutatingWebhookConfigurations {
    type Object = MutatingWebhookConfiguration;

    fn info(&self) -> &'static ResourceInfo {
        info(GROUP, "mutatingwebhookconfigurations")
    }

    fn prefix(&self) -> &'static str {
        "/registry/mutatingwebhookconfigurations/"
    }

    fn default(&self, configuration: &mut MutatingWebhookConfiguration) {
        for hook in configuration.webhooks.iter_mut().flatten() {
            hook.reinvocation_policy.get_or_insert_with(|| "Never".to_owned());
            webhook::set_defaults(Defaults {
                client_config: &mut hook.client_config,
                rules: &mut hook.rules,
                failure_policy: &mut hook.failure_policy,
                match_policy: &mut hook.match_policy,
                timeout_seconds: &mut hook.timeout_seconds,
                selectors: [&mut hook.namespace_selector, &mut hook.object_selector],
            });
        }
    }

    fn validate(&self, configuration: &MutatingWebhookConfiguration) -> Errors {
        let mut errors = Errors::new();
        let list = Path::new("webhooks");
        let hooks = configuration.webhooks.as_deref().unwrap_or_default();
        for (i, hook) in hooks.iter().enumerate() {
            let path = list.index(i);
            let common = Webhook {
                name: &hook.name,
                client_config: &hook.client_config,
                rules: &hook.rules,
                failure_policy: &hook.failure_policy,
                match_policy: &hook.match_policy,
                side_effects: &hook.side_effects,
                timeout_seconds: hook.timeout_seconds,
                review_versions: &hook.admission_review_versions,
                selectors: [&hook.namespace_selector, &hook.object_selector],
                match_conditions: &hook.match_conditions,
            };
            webhook::validate(&common, &path, &mut errors);
            if hooks[..i].iter().any(|earlier| earlier.name == hook.name) {
                errors.push(Error::duplicate(&path.child("name"), &hook.name));
            }
        }
        errors
    }

    fn bumps_generation(
        &self,
        configuration: &MutatingWebhookConfiguration,
        old: &MutatingWebhookConfiguration,
    ) -> bool {
        configuration.webhooks != old.webhooks
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, configuration: &MutatingWebhookConfiguration, now: Timestamp) -> Vec<Value> {
        vec![
            cell::name(&configuration.metadata),
            json!(configuration.webhooks.as_ref().map_or(0, Vec::len)),
            cell::age(&configuration.metadata, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_has_a_name_and_an_address() {
        let made = |hook: Value| {
            let mut made = serde_json::from_value(json!({"webhooks": [hook]})).unwrap();
            MutatingWebhookConfigurations.default(&mut made);
            made
        };
        let good = made(json!({"name": "a.b.c", "clientConfig": {"service": {"name": "s", "namespace": "n"}},
            "sideEffects": "None", "admissionReviewVersions": ["v1"], "rules": [
            {"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}));
        assert_eq!(MutatingWebhookConfigurations.validate(&good), []);
        let shown = serde_json::to_value(&good).unwrap();
        assert_eq!(shown["webhooks"][0]["clientConfig"]["service"]["port"], 443);
        assert_eq!(
            (&shown["webhooks"][0]["timeoutSeconds"], &shown["webhooks"][0]["failurePolicy"]),
            (&json!(10), &json!("Fail"))
        );
        let texts: Vec<_> = MutatingWebhookConfigurations
            .validate(&made(json!({"name": "short"})))
            .iter()
            .map(Error::to_string)
            .collect();
        assert_eq!(
            texts,
            [
                "webhooks[0].name: Invalid value: \"short\": should be a domain with at least three segments separated by dots",
                "webhooks[0].admissionReviewVersions: Required value: must specify one of v1, v1beta1",
                "webhooks[0].sideEffects: Required value",
                "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
            ]
        );
    }
}
