//! How objects are converted between the versions of a definition: `spec.conversion`.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceConversion, WebhookClientConfig,
};
use skep_api::{
    field::{Error, Errors, Path},
    name,
};

use super::validate::one_of;

/// Checks it. Fields are named as in upstream's own form, which has no `webhook` between.
pub(super) fn validate(conversion: &CustomResourceConversion, path: &Path<'_>, errors: &mut Errors) {
    one_of(&conversion.strategy, &["None", "Webhook"], &path.child("strategy"), errors);
    if conversion.strategy != "Webhook" {
        let detail = "should not be set when strategy is not set to Webhook";
        let webhook = conversion.webhook.as_ref();
        if webhook.is_some_and(|webhook| webhook.client_config.is_some()) {
            errors.push(Error::forbidden(&path.child("webhookClientConfig"), detail));
        }
        if webhook.is_some_and(|webhook| !webhook.conversion_review_versions.is_empty()) {
            errors.push(Error::forbidden(&path.child("conversionReviewVersions"), detail));
        }
        return;
    }
    let client_at = path.child("webhookClientConfig");
    let client = conversion.webhook.as_ref().and_then(|webhook| webhook.client_config.as_ref());
    match client {
        None => errors.push(Error::required(&client_at, "required when strategy is set to Webhook")),
        Some(client) => self::client(client, &client_at, errors),
    }
    let versions = conversion.webhook.as_ref().map(|webhook| webhook.conversion_review_versions.as_slice());
    let versions = versions.unwrap_or_default();
    let at = path.child("conversionReviewVersions");
    if versions.is_empty() {
        errors.push(Error::required(&at, ""));
        return;
    }
    for (i, version) in versions.iter().enumerate() {
        if versions[..i].contains(version) {
            errors.push(Error::invalid(&at.index(i), version, "duplicate version"));
            continue;
        }
        for complaint in name::dns1035_label(version) {
            errors.push(Error::invalid(&at.index(i), version, complaint));
        }
    }
    if !versions.iter().any(|version| version == "v1" || version == "v1beta1") {
        errors.push(Error::invalid(&at, versions, "must include at least one of v1, v1beta1"));
    }
}

fn client(client: &WebhookClientConfig, path: &Path<'_>, errors: &mut Errors) {
    match (&client.url, &client.service) {
        (Some(url), None) => {
            let at = path.child("url");
            if !url.starts_with("https://") {
                let detail = "'https' is the only allowed URL scheme; desired format: https://host[/path]";
                errors.push(Error::invalid(&at, url, detail));
            } else if url.trim_start_matches("https://").starts_with('/') || url == "https://" {
                let detail = "host must be specified; desired format: https://host[/path]";
                errors.push(Error::invalid(&at, url, detail));
            }
        }
        (None, Some(service)) => {
            let path = path.child("service");
            if service.name.is_empty() {
                errors.push(Error::required(&path.child("name"), "service name is required"));
            }
            if service.namespace.is_empty() {
                errors.push(Error::required(&path.child("namespace"), "service namespace is required"));
            }
            if let Some(port) = service.port.filter(|port| !(1..=65535).contains(port)) {
                let detail = "port is not valid: must be between 1 and 65535, inclusive";
                errors.push(Error::invalid(&path.child("port"), port, detail));
            }
            if let Some(found) = service.path.as_ref().filter(|path| !path.is_empty() && !path.starts_with('/')) {
                errors.push(Error::invalid(&path.child("path"), found, "must start with a '/'"));
            }
        }
        _ => errors.push(Error::required(path, "exactly one of url or service is required")),
    }
}
