//! What webhooks of both kinds have in common.

use k8s_openapi::api::admissionregistration::v1::{MatchCondition, RuleWithOperations, WebhookClientConfig};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use skep_api::field::{Error, Errors, Path};
use skep_api::name;
use skep_cel::{Environment, Program, Want};

use crate::{
    admission::conditions,
    registry::checks::{self, text},
};

const DEFAULT_TIMEOUT: i32 = 10;
const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: [&str; 3] = ["*", "Cluster", "Namespaced"];
const MAX_CONDITIONS: usize = 64;

/// The fields both kinds of webhooks have.
pub(super) struct Webhook<'a> {
    pub(super) name: &'a str,
    pub(super) client_config: &'a WebhookClientConfig,
    pub(super) rules: &'a Option<Vec<RuleWithOperations>>,
    pub(super) failure_policy: &'a Option<String>,
    pub(super) match_policy: &'a Option<String>,
    pub(super) side_effects: &'a str,
    pub(super) timeout_seconds: Option<i32>,
    pub(super) review_versions: &'a [String],
    pub(super) selectors: [&'a Option<LabelSelector>; 2],
    pub(super) match_conditions: &'a Option<Vec<MatchCondition>>,
}

/// The fields both kinds get defaults for.
pub(super) struct Defaults<'a> {
    pub(super) client_config: &'a mut WebhookClientConfig,
    pub(super) rules: &'a mut Option<Vec<RuleWithOperations>>,
    pub(super) failure_policy: &'a mut Option<String>,
    pub(super) match_policy: &'a mut Option<String>,
    pub(super) timeout_seconds: &'a mut Option<i32>,
    pub(super) selectors: [&'a mut Option<LabelSelector>; 2],
}

pub(super) fn set_defaults(webhook: Defaults<'_>) {
    webhook.failure_policy.get_or_insert_with(|| "Fail".to_owned());
    webhook.match_policy.get_or_insert_with(|| "Equivalent".to_owned());
    webhook.timeout_seconds.get_or_insert(DEFAULT_TIMEOUT);
    for selector in webhook.selectors {
        selector.get_or_insert_default();
    }
    for rule in webhook.rules.iter_mut().flatten() {
        rule.scope.get_or_insert_with(|| "*".to_owned());
    }
    if let Some(service) = &mut webhook.client_config.service {
        service.port.get_or_insert(443);
    }
}

pub(super) fn validate(webhook: &Webhook<'_>, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("name");
    if webhook.name.is_empty() {
        errors.push(Error::required(&at, ""));
    } else {
        checks::name(errors, &at, webhook.name, name::dns1123_subdomain);
        if webhook.name.split('.').count() < 3 {
            let why = "should be a domain with at least three segments separated by dots";
            errors.push(Error::invalid(&at, webhook.name, why));
        }
    }
    let at = path.child("admissionReviewVersions");
    if webhook.review_versions.is_empty() {
        errors.push(Error::required(&at, "must specify one of v1, v1beta1"));
    } else if !webhook.review_versions.iter().any(|v| ["v1", "v1beta1"].contains(&v.as_str())) {
        let why = "must include at least one of v1, v1beta1";
        errors.push(Error::invalid(&at, webhook.review_versions, why));
    }
    let list = path.child("rules");
    for (i, rule) in webhook.rules.iter().flatten().enumerate() {
        let path = list.index(i);
        validate_operations(&rule.operations, &path, errors);
        validate_rule(&rule.api_groups, &rule.api_versions, &rule.resources, &rule.scope, &path, errors);
    }
    validate_policies(webhook.failure_policy, webhook.match_policy, path, errors);
    let effects = ["None", "NoneOnDryRun"];
    checks::one_of(errors, &path.child("sideEffects"), webhook.side_effects, &effects);
    if let Some(seconds) = webhook.timeout_seconds.filter(|s| !(1..=30).contains(s)) {
        let why = "the timeout value must be between 1 and 30 seconds";
        errors.push(Error::invalid(&path.child("timeoutSeconds"), seconds, why));
    }
    for (field, selector) in ["namespaceSelector", "objectSelector"].into_iter().zip(webhook.selectors) {
        if let Some(selector) = selector {
            checks::selector(errors, &path.child(field), selector);
        }
    }
    validate_client(webhook.client_config, &path.child("clientConfig"), errors);
    validate_conditions(webhook.match_conditions, &conditions::environment(), &path.child("matchConditions"), errors);
}

pub(super) fn validate_policies(
    failure: &Option<String>,
    matching: &Option<String>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if let Some(policy) = failure.as_deref().filter(|p| !["Fail", "Ignore"].contains(p)) {
        errors.push(Error::not_supported(&path.child("failurePolicy"), policy, &["Fail", "Ignore"]));
    }
    if let Some(policy) = matching.as_deref().filter(|p| !["Equivalent", "Exact"].contains(p)) {
        errors.push(Error::not_supported(&path.child("matchPolicy"), policy, &["Equivalent", "Exact"]));
    }
}

pub(super) fn validate_operations(operations: &Option<Vec<String>>, path: &Path<'_>, errors: &mut Errors) {
    let list = path.child("operations");
    let operations = operations.as_deref().unwrap_or_default();
    if operations.is_empty() {
        errors.push(Error::required(&list, ""));
    }
    if operations.len() > 1 && operations.iter().any(|o| o == "*") {
        let why = "if '*' is present, must not specify other operations";
        errors.push(Error::invalid(&list, operations, why));
    }
    for (i, operation) in operations.iter().enumerate() {
        if !OPERATIONS.contains(&operation.as_str()) {
            errors.push(Error::not_supported(&list.index(i), operation, &OPERATIONS));
        }
    }
}

pub(super) fn validate_rule(
    groups: &Option<Vec<String>>,
    versions: &Option<Vec<String>>,
    resources: &Option<Vec<String>>,
    scope: &Option<String>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let what = [("apiGroups", groups, "API groups"), ("apiVersions", versions, "API versions")];
    for (field, values, words) in what {
        let list = path.child(field);
        let values = values.as_deref().unwrap_or_default();
        if values.is_empty() {
            errors.push(Error::required(&list, ""));
        }
        if values.len() > 1 && values.iter().any(|v| v == "*") {
            errors.push(Error::invalid(&list, values, format!("if '*' is present, must not specify other {words}")));
        }
        for (i, value) in values.iter().enumerate() {
            if value.is_empty() && field == "apiVersions" {
                errors.push(Error::required(&list.index(i), ""));
            }
        }
    }
    let list = path.child("resources");
    let resources = resources.as_deref().unwrap_or_default();
    if resources.is_empty() {
        errors.push(Error::required(&list, ""));
    }
    let has = |name: &str| resources.iter().any(|r| r == name);
    for (i, resource) in resources.iter().enumerate() {
        if resource.is_empty() {
            errors.push(Error::required(&list.index(i), ""));
        }
        if let Some((parent, child)) = resource.split_once('/') {
            if parent != "*" && has(&format!("{parent}/*")) && child != "*" {
                let why = format!("if '{parent}/*' is present, must not specify {resource}");
                errors.push(Error::invalid(&list.index(i), resource, why));
            }
            if child != "*" && has(&format!("*/{child}")) && parent != "*" {
                let why = format!("if '*/{child}' is present, must not specify {resource}");
                errors.push(Error::invalid(&list.index(i), resource, why));
            }
        }
    }
    if has("*/*") && resources.len() > 1 {
        errors.push(Error::invalid(&list, resources, "if '*/*' is present, must not specify other resources"));
    }
    if has("*") && resources.iter().any(|r| r != "*" && !r.contains('/')) {
        let why = "if '*' is present, must not specify other resources without subresources";
        errors.push(Error::invalid(&list, resources, why));
    }
    if let Some(scope) = scope.as_deref().filter(|s| !SCOPES.contains(s)) {
        errors.push(Error::not_supported(&path.child("scope"), scope, &SCOPES));
    }
}

fn validate_client(config: &WebhookClientConfig, path: &Path<'_>, errors: &mut Errors) {
    match (&config.url, &config.service) {
        (None, None) | (Some(_), Some(_)) => {
            errors.push(Error::required(path, "exactly one of url or service is required"));
        }
        (Some(url), None) => {
            let at = path.child("url");
            let form = "; desired format: https://host[/path]";
            if !url.starts_with("https://") {
                let why = format!("'https' is the only allowed URL scheme{form}");
                errors.push(Error::invalid(&at, url, why));
            } else if url["https://".len()..].split('/').next().is_none_or(str::is_empty) {
                errors.push(Error::invalid(&at, url, format!("host must be specified{form}")));
            }
            for (mark, what) in [
                ('#', "fragments are not permitted in the URL"),
                ('?', "query parameters are not permitted in the URL"),
            ] {
                if url.contains(mark) {
                    errors.push(Error::invalid(&at, url, what));
                }
            }
        }
        (None, Some(service)) => {
            let path = path.child("service");
            for (field, value) in [("name", &service.name), ("namespace", &service.namespace)] {
                if value.is_empty() {
                    errors.push(Error::required(&path.child(field), format!("service {field} is required")));
                }
            }
            let port = service.port.unwrap_or(443);
            if !(1..=65535).contains(&port) {
                let why = "port is not valid: must be between 1 and 65535, inclusive";
                errors.push(Error::invalid(&path.child("port"), port, why));
            }
            let target = text(&service.path);
            if !target.is_empty() && !target.starts_with('/') {
                let why = "must start with a '/'";
                errors.push(Error::invalid(&path.child("path"), target, why));
            }
        }
    }
}

/// Conditions have names, and expressions that say yes or no about what `environment` has.
pub(super) fn validate_conditions(
    conditions: &Option<Vec<MatchCondition>>,
    environment: &Environment,
    list: &Path<'_>,
    errors: &mut Errors,
) {
    let conditions = conditions.as_deref().unwrap_or_default();
    if conditions.len() > MAX_CONDITIONS {
        errors.push(Error::too_many(list, conditions.len(), MAX_CONDITIONS));
    }
    for (i, condition) in conditions.iter().enumerate() {
        let path = list.index(i);
        if condition.expression.trim().is_empty() {
            errors.push(Error::required(&path.child("expression"), ""));
        } else {
            compiles(environment, &condition.expression, Want::Bool, &path.child("expression"), errors);
        }
        if condition.name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        } else {
            checks::name(errors, &path.child("name"), &condition.name, name::qualified_name);
        }
        if conditions[..i].iter().any(|earlier| earlier.name == condition.name) {
            errors.push(Error::duplicate(&path.child("name"), &condition.name));
        }
    }
}

/// The expression compiles, and is of the type that is wanted.
pub(super) fn compiles(
    environment: &Environment,
    expression: &str,
    want: Want,
    path: &Path<'_>,
    errors: &mut Errors,
) -> Option<Program> {
    match environment.compile(expression, want) {
        Ok(program) => Some(program),
        Err(error) => {
            let text = error.to_string();
            let why = if text.starts_with("must ") { text } else { format!("compilation failed: {text}") };
            errors.push(Error::invalid(path, expression, why));
            None
        }
    }
}
