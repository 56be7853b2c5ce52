//! Validation of a pod spec as a whole.

use k8s_openapi::api::core::v1::{PodDNSConfig, PodSecurityContext, PodSpec, PodTemplateSpec};
use skep_api::field::{Error, Errors, Path};
use skep_api::{meta, name};

use super::{container, scheduling, volume};
use crate::registry::checks::{self, one_of, text};

/// Checks labels, annotations and spec of a template.
pub(crate) fn validate_template(template: &PodTemplateSpec, path: &Path<'_>) -> Errors {
    let mut errors = Errors::new();
    if let Some(own) = &template.metadata {
        let path = path.child("metadata");
        if let Some(labels) = &own.labels {
            meta::validate_labels(labels, &path.child("labels"), &mut errors);
        }
        if let Some(annotations) = &own.annotations {
            meta::validate_annotations(annotations, &path.child("annotations"), &mut errors);
        }
    }
    let path = path.child("spec");
    let Some(spec) = &template.spec else {
        errors.push(Error::required(&path.child("containers"), ""));
        return errors;
    };
    if spec.ephemeral_containers.as_ref().is_some_and(|list| !list.is_empty()) {
        errors.push(Error::forbidden(
            &path.child("ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        ));
    }
    errors.extend(validate_spec(spec, &path));
    errors
}

/// Checks a pod spec after defaults were set.
pub(crate) fn validate_spec(spec: &PodSpec, path: &Path<'_>) -> Errors {
    let mut errors = Errors::new();
    let volumes = volume::validate(spec.volumes.as_deref().unwrap_or_default(), &path.child("volumes"), &mut errors);
    container::validate_all(spec, &volumes, path, &mut errors);
    one_of(&mut errors, &path.child("restartPolicy"), text(&spec.restart_policy), &["Always", "OnFailure", "Never"]);
    validate_dns(spec, path, &mut errors);
    if let Some(labels) = &spec.node_selector {
        meta::validate_labels(labels, &path.child("nodeSelector"), &mut errors);
    }
    validate_security(spec.security_context.as_ref(), &path.child("securityContext"), &mut errors);
    validate_names(spec, path, &mut errors);
    if let Some(seconds) = spec.active_deadline_seconds
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let why = format!("must be between 1 and {}, inclusive", i32::MAX);
        errors.push(Error::invalid(&path.child("activeDeadlineSeconds"), seconds, why));
    }
    if let Some(os) = &spec.os {
        one_of(&mut errors, &path.child("os.name"), &os.name, &["linux", "windows"]);
    }
    if let Some(policy) = spec.preemption_policy.as_deref()
        && !["PreemptLowerPriority", "Never"].contains(&policy)
    {
        errors.push(Error::not_supported(&path.child("preemptionPolicy"), policy, &["PreemptLowerPriority", "Never"]));
    }
    for (name, quantity) in spec.overhead.iter().flatten() {
        checks::quantity(&mut errors, &path.child("overhead").key(name), quantity);
    }
    let aliases = path.child("hostAliases");
    for (i, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let path = aliases.index(i);
        checks::name(&mut errors, &path.child("ip"), &alias.ip, name::ip);
        for hostname in alias.hostnames.iter().flatten() {
            checks::name(&mut errors, &path.child("hostnames"), hostname, name::dns1123_subdomain);
        }
    }
    let secrets = path.child("imagePullSecrets");
    for (i, secret) in spec.image_pull_secrets.iter().flatten().enumerate() {
        if secret.name.is_empty() {
            errors.push(Error::required(&secrets.index(i).child("name"), ""));
        }
    }
    scheduling::validate(spec, path, &mut errors);
    errors
}

fn validate_names(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let checks: [(&str, &Option<String>, name::Validator); 7] = [
        ("serviceAccountName", &spec.service_account_name, name::dns1123_subdomain),
        ("nodeName", &spec.node_name, name::dns1123_subdomain),
        ("priorityClassName", &spec.priority_class_name, name::dns1123_subdomain),
        ("runtimeClassName", &spec.runtime_class_name, name::dns1123_subdomain),
        ("hostname", &spec.hostname, name::dns1123_label),
        ("subdomain", &spec.subdomain, name::dns1123_label),
        ("schedulerName", &spec.scheduler_name, name::qualified_name),
    ];
    for (field, value, validator) in checks {
        let value = text(value);
        if !value.is_empty() {
            checks::name(errors, &path.child(field), value, validator);
        }
    }
}

fn validate_dns(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let supported = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    let policy = text(&spec.dns_policy);
    one_of(errors, &path.child("dnsPolicy"), policy, &supported);
    let empty = PodDNSConfig::default();
    let config = spec.dns_config.as_ref().unwrap_or(&empty);
    let path = path.child("dnsConfig");
    let servers = config.nameservers.as_deref().unwrap_or_default();
    if policy == "None" && servers.is_empty() {
        let at = path.child("nameservers");
        errors.push(Error::required(&at, "must provide at least one DNS nameserver when `dnsPolicy` is None"));
    }
    if servers.len() > 3 {
        errors.push(Error::invalid(&path.child("nameservers"), servers, "must not have more than 3 nameservers"));
    }
    let list = path.child("nameservers");
    for (i, server) in servers.iter().enumerate() {
        checks::name(errors, &list.index(i), server, name::ip);
    }
    let searches = config.searches.as_deref().unwrap_or_default();
    if searches.len() > 32 {
        errors.push(Error::invalid(&path.child("searches"), searches, "must not have more than 32 search paths"));
    }
    let list = path.child("options");
    for (i, option) in config.options.iter().flatten().enumerate() {
        if text(&option.name).is_empty() {
            errors.push(Error::required(&list.index(i), "must not be empty"));
        }
    }
}

fn validate_security(context: Option<&PodSecurityContext>, path: &Path<'_>, errors: &mut Errors) {
    let Some(context) = context else { return };
    let ids = [("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group), ("fsGroup", context.fs_group)];
    for (field, id) in ids {
        validate_id(id, &path.child(field), errors);
    }
    let groups = path.child("supplementalGroups");
    for (i, group) in context.supplemental_groups.iter().flatten().enumerate() {
        validate_id(Some(*group), &groups.index(i), errors);
    }
    if let Some(policy) = context.fs_group_change_policy.as_deref()
        && !["Always", "OnRootMismatch"].contains(&policy)
    {
        errors.push(Error::not_supported(&path.child("fsGroupChangePolicy"), policy, &["Always", "OnRootMismatch"]));
    }
    let list = path.child("sysctls");
    let mut seen: Vec<&str> = Vec::new();
    for (i, sysctl) in context.sysctls.iter().flatten().enumerate() {
        let path = list.index(i);
        if sysctl.name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        } else if seen.contains(&sysctl.name.as_str()) {
            errors.push(Error::duplicate(&path.child("name"), &sysctl.name));
        }
        seen.push(&sysctl.name);
    }
    if let Some(profile) = &context.seccomp_profile {
        let kinds = ["Localhost", "RuntimeDefault", "Unconfined"];
        let path = path.child("seccompProfile");
        one_of(errors, &path.child("type"), &profile.type_, &kinds);
        match (profile.type_.as_str(), text(&profile.localhost_profile)) {
            ("Localhost", "") => {
                let why = "must be set when seccomp type is Localhost";
                errors.push(Error::required(&path.child("localhostProfile"), why));
            }
            ("Localhost", _) | (_, "") => {}
            (_, given) => {
                let why = "can only be set when seccomp type is Localhost";
                errors.push(Error::invalid(&path.child("localhostProfile"), given, why));
            }
        }
    }
}

/// A user or group id.
pub(super) fn validate_id(id: Option<i64>, path: &Path<'_>, errors: &mut Errors) {
    if let Some(id) = id.filter(|id| !(0..=i64::from(i32::MAX)).contains(id)) {
        errors.push(Error::invalid(path, id, "must be between 0 and 2147483647, inclusive"));
    }
}
