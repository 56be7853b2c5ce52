//! Webhooks, compiled from their configurations.

use std::{sync::LazyLock, time::Duration};

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhook, MutatingWebhookConfiguration, ValidatingWebhook, ValidatingWebhookConfiguration,
};
use skep_api::status::StatusError;
use skep_cel::Environment;
use skep_storage::Object as Cached;

use crate::{
    admission::{
        conditions::{self, Conditions},
        matching::Matching,
    },
    webhook::Target,
};

/// How long a webhook may take that does not say so itself.
const TIMEOUT: i32 = 10;

/// The webhooks of one configuration.
pub(super) struct Hooks(pub(super) Vec<Hook>);

/// One webhook.
pub(super) struct Hook {
    pub(super) name: String,
    pub(super) matching: Matching,
    pub(super) conditions: Conditions,
    pub(super) target: Target,
    pub(super) timeout: Duration,
    /// Whether the request fails when it cannot be asked.
    pub(super) fails: bool,
    /// Whether it may have effects besides its answer, in dry runs too.
    pub(super) side_effects: bool,
    /// Whether it wants to see again what later webhooks changed.
    pub(super) reinvoke: bool,
    /// Whether it understands `admission.k8s.io/v1`.
    pub(super) speaks_v1: bool,
}

static ENVIRONMENT: LazyLock<Environment> = LazyLock::new(conditions::environment);

/// The webhooks of a stored configuration.
pub(super) fn mutating(cached: &Cached) -> Option<Hooks> {
    let configuration: MutatingWebhookConfiguration = read(cached)?;
    let hooks = configuration.webhooks.unwrap_or_default().into_iter().filter_map(|hook| {
        let reinvoke = hook.reinvocation_policy.as_deref() == Some("IfNeeded");
        let MutatingWebhook {
            admission_review_versions,
            client_config,
            failure_policy,
            match_conditions,
            match_policy,
            name,
            namespace_selector,
            object_selector,
            rules,
            side_effects,
            timeout_seconds,
            ..
        } = hook;
        let hook = ValidatingWebhook {
            admission_review_versions,
            client_config,
            failure_policy,
            match_conditions,
            match_policy,
            name,
            namespace_selector,
            object_selector,
            rules,
            side_effects,
            timeout_seconds,
        };
        usable(hook, reinvoke)
    });
    Some(Hooks(hooks.collect()))
}

/// The webhooks of a stored configuration.
pub(super) fn validating(cached: &Cached) -> Option<Hooks> {
    let configuration: ValidatingWebhookConfiguration = read(cached)?;
    let hooks = configuration.webhooks.unwrap_or_default().into_iter().filter_map(|hook| usable(hook, false));
    Some(Hooks(hooks.collect()))
}

fn read<T: serde::de::DeserializeOwned>(cached: &Cached) -> Option<T> {
    let read = serde_json::from_slice(cached.json());
    read.inspect_err(|error| tracing::error!(key = %cached.key(), %error, "a webhook configuration cannot be read"))
        .ok()
}

fn usable(hook: ValidatingWebhook, reinvoke: bool) -> Option<Hook> {
    let name = hook.name.clone();
    let compiled = compile(hook, reinvoke);
    compiled.inspect_err(|error| tracing::error!(webhook = %name, %error, "a webhook cannot be used")).ok()
}

fn compile(hook: ValidatingWebhook, reinvoke: bool) -> Result<Hook, StatusError> {
    let seconds = hook.timeout_seconds.unwrap_or(TIMEOUT).clamp(1, 30);
    Ok(Hook {
        matching: Matching::new(
            hook.rules.unwrap_or_default(),
            hook.match_policy.as_deref(),
            hook.namespace_selector.as_ref(),
            hook.object_selector.as_ref(),
        )?,
        conditions: Conditions::compile(hook.match_conditions.unwrap_or_default(), &ENVIRONMENT),
        target: Target::of(&hook.client_config),
        timeout: Duration::from_secs(u64::from(seconds.unsigned_abs())),
        fails: hook.failure_policy.as_deref() != Some("Ignore"),
        side_effects: !matches!(hook.side_effects.as_str(), "None" | "NoneOnDryRun"),
        reinvoke,
        speaks_v1: hook.admission_review_versions.iter().any(|version| version == "v1"),
        name: hook.name,
    })
}
