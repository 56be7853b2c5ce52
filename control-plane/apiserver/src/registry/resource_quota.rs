//! ResourceQuotas.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaSpec, ResourceQuotaStatus};
use serde_json::{Value, json};
use skep_api::Quantity;
use skep_api::field::{Error, Errors, Path};
use skep_api::name;
use skep_api::resource::ResourceInfo;

use super::cell;
use super::checks::{self, canonical, immutable};
use super::strategy::{Column, Context, Strategy};
use super::table_info::info;

/// The strategy of resource quotas.
#[derive(Debug)]
pub(crate) struct ResourceQuotas;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Request", "string", "Request represents a minimum amount of cpu/memory that a container may consume."),
    Column::new(
        "Limit",
        "string",
        "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.",
    ),
    Column::AGE,
];
/// Names without a domain that quotas may count.
const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];
/// Of those, what is counted and not measured.
const COUNTED: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];
const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];

/// Whether a scope says something about `resource`. Names that are not standard are left alone.
fn goes_with(scope: &str, resource: &str) -> bool {
    if !STANDARD.contains(&resource) {
        return true;
    }
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        _ => {
            let compute = resource.strip_prefix("requests.").or(resource.strip_prefix("limits.")).unwrap_or(resource);
            matches!(compute, "pods" | "cpu" | "memory")
        }
    }
}

impl Strategy for ResourceQuotas {
    type Object = ResourceQuota;

    fn info(&self) -> &'static ResourceInfo {
        info("", "resourcequotas")
    }

    fn prefix(&self) -> &'static str {
        "/registry/resourcequotas/"
    }

    fn default(&self, quota: &mut ResourceQuota) {
        if let Some(spec) = &mut quota.spec {
            canonical(&mut spec.hard);
        }
        if let Some(status) = &mut quota.status {
            canonical(&mut status.hard);
            canonical(&mut status.used);
        }
    }

    fn prepare_for_create(&self, _ctx: &Context<'_>, quota: &mut ResourceQuota) {
        quota.status = Some(ResourceQuotaStatus::default());
    }

    fn validate(&self, quota: &ResourceQuota) -> Errors {
        let mut errors = Errors::new();
        let empty = ResourceQuotaSpec::default();
        let spec = quota.spec.as_ref().unwrap_or(&empty);
        validate_amounts(spec.hard.iter().flatten(), &Path::new("spec.hard"), &mut errors);
        let path = Path::new("spec.scopes");
        let scopes: Vec<&str> = spec.scopes.iter().flatten().map(String::as_str).collect();
        for scope in &scopes {
            if !SCOPES.contains(scope) {
                errors.push(Error::invalid(&path, &spec.scopes, "unsupported scope"));
            }
            for _ in spec.hard.iter().flatten().filter(|(resource, _)| !goes_with(scope, resource)) {
                errors.push(Error::invalid(&path, &spec.scopes, "unsupported scope applied to resource"));
            }
        }
        for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
            if scopes.contains(&one) && scopes.contains(&other) {
                errors.push(Error::invalid(&path, &spec.scopes, "conflicting scopes"));
            }
        }
        let list = Path::new("spec.scopeSelector.matchExpressions");
        for (i, term) in spec.scope_selector.iter().flat_map(|s| s.match_expressions.iter().flatten()).enumerate() {
            let path = list.index(i);
            if !SCOPES.contains(&term.scope_name.as_str()) {
                errors.push(Error::invalid(&path.child("scopeName"), &term.scope_name, "unsupported scope"));
            }
            let empty = term.values.as_ref().is_none_or(Vec::is_empty);
            match term.operator.as_str() {
                "In" | "NotIn" if empty => {
                    let why = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                    errors.push(Error::required(&path.child("values"), why));
                }
                "Exists" | "DoesNotExist" if !empty => {
                    let why = "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector";
                    errors.push(Error::invalid(&path.child("values"), &term.values, why));
                }
                "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
                other => errors.push(Error::invalid(&path.child("operator"), other, "not a valid selector operator")),
            }
        }
        errors
    }

    fn prepare_for_update(&self, _ctx: &Context<'_>, quota: &mut ResourceQuota, old: &ResourceQuota) {
        quota.status.clone_from(&old.status);
    }

    fn validate_update(&self, quota: &ResourceQuota, old: &ResourceQuota) -> Errors {
        let mut errors = Errors::new();
        let scopes = |quota: &ResourceQuota| {
            let mut scopes = quota.spec.as_ref().and_then(|s| s.scopes.clone()).unwrap_or_default();
            scopes.sort();
            scopes
        };
        immutable(&mut errors, &Path::new("spec.scopes"), &scopes(quota), &scopes(old));
        errors
    }

    fn prepare_for_status_update(&self, _ctx: &Context<'_>, quota: &mut ResourceQuota, old: &ResourceQuota) {
        quota.spec.clone_from(&old.spec);
    }

    fn validate_status_update(&self, quota: &ResourceQuota, _old: &ResourceQuota) -> Errors {
        let mut errors = Errors::new();
        let Some(status) = &quota.status else { return errors };
        validate_amounts(status.hard.iter().flatten(), &Path::new("status.hard"), &mut errors);
        validate_amounts(status.used.iter().flatten(), &Path::new("status.used"), &mut errors);
        errors
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, quota: &ResourceQuota, now: Timestamp) -> Vec<Value> {
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        let status = quota.status.clone().unwrap_or_default();
        for (name, hard) in status.hard.iter().flatten() {
            let used = status.used.as_ref().and_then(|u| u.get(name)).map_or("0", |q| q.0.as_str());
            let list = if name.starts_with("limits") { &mut limits } else { &mut requests };
            list.push(format!("{name}: {used}/{}", hard.0));
        }
        vec![
            cell::name(&quota.metadata),
            json!(requests.join(", ")),
            json!(limits.join(", ")),
            cell::age(&quota.metadata, now),
        ]
    }
}

fn validate_amounts<'a>(
    amounts: impl Iterator<Item = (&'a String, &'a k8s_openapi::apimachinery::pkg::api::resource::Quantity)>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for (resource, amount) in amounts {
        let at = path.key(resource);
        checks::name(errors, &at, resource, name::qualified_name);
        if !resource.contains('/') && !STANDARD.contains(&resource.as_str()) {
            errors.push(Error::invalid(&at, resource, "must be a standard resource for quota"));
        }
        let parsed: Option<Quantity> = checks::quantity(errors, &at, amount);
        let counted = COUNTED.contains(&resource.as_str()) || resource.starts_with("count/");
        if counted && parsed.is_some_and(|q| q.milli_value() % 1000 != 0) {
            errors.push(Error::invalid(&at, &amount.0, "must be an integer"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(value: Value) -> ResourceQuota {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn amounts_are_named_and_whole_where_counted() {
        let found = ResourceQuotas.validate(&quota(json!({"spec": {"hard":
            {"pods": "1500m", "cpu": "500m", "odd": "1", "count/jobs.batch": "3"}}})));
        assert_eq!(
            found.iter().map(Error::to_string).collect::<Vec<_>>(),
            [
                "spec.hard[odd]: Invalid value: \"odd\": must be a standard resource for quota",
                "spec.hard[pods]: Invalid value: \"1500m\": must be an integer"
            ]
        );
    }

    #[test]
    fn a_scope_goes_with_what_it_selects() {
        let wrong = |scope: &str, resource: &str| {
            let spec = json!({"spec": {"hard": {resource: "1"}, "scopes": [scope]}});
            !ResourceQuotas.validate(&quota(spec)).is_empty()
        };
        for (scope, resource) in [
            ("Terminating", "pods"),
            ("NotBestEffort", "requests.cpu"),
            ("PriorityClass", "limits.memory"),
            ("BestEffort", "count/jobs.batch"),
        ] {
            assert!(!wrong(scope, resource), "{scope} {resource}");
        }
        for (scope, resource) in [("NotTerminating", "configmaps"), ("BestEffort", "cpu"), ("Terminating", "secrets")] {
            assert!(wrong(scope, resource), "{scope} {resource}");
        }
    }

    #[test]
    fn rows_tell_use_and_bound() {
        let row = ResourceQuotas.row(
            &quota(json!({"status": {"hard": {"pods": "3", "limits.cpu": "2"}, "used": {"pods": "1"}}})),
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(row[1..3], [json!("pods: 1/3"), json!("limits.cpu: 0/2")]);
    }
}
