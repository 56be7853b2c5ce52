//! Validation of resource requests and limits.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use skep_api::field::{Error, Errors, Path};
use skep_api::{Quantity, name};

use crate::registry::checks;

/// Resources that may be overcommitted: a request below its limit is all right.
fn is_native(resource: &str) -> bool {
    !resource.contains('/') || resource.contains("kubernetes.io/")
}

/// Checks names, amounts, and that no request is above its limit.
pub(super) fn validate(requirements: &ResourceRequirements, path: &Path<'_>, errors: &mut Errors) {
    let empty = BTreeMap::new();
    let limits = read(requirements.limits.as_ref().unwrap_or(&empty), &path.child("limits"), errors);
    let requests = read(requirements.requests.as_ref().unwrap_or(&empty), &path.child("requests"), errors);
    let list = path.child("requests");
    for (resource, request) in &requests {
        let exact = !is_native(resource) || resource.starts_with("hugepages-");
        match limits.get(resource) {
            Some(limit) if exact && request != limit => {
                let why = format!("must be equal to {resource} limit of {limit}");
                errors.push(Error::invalid(&list, request.to_string(), why));
            }
            Some(limit) if request > limit => {
                let why = format!("must be less than or equal to {resource} limit of {limit}");
                errors.push(Error::invalid(&list, request.to_string(), why));
            }
            None if exact => {
                errors
                    .push(Error::required(&path.child("limits"), "Limit must be set for non overcommitable resources"));
            }
            _ => {}
        }
    }
}

fn read<'a>(
    list: &'a BTreeMap<String, WireQuantity>,
    path: &Path<'_>,
    errors: &mut Errors,
) -> BTreeMap<&'a str, Quantity> {
    let mut out = BTreeMap::new();
    for (resource, wire) in list {
        let path = path.key(resource);
        checks::name(errors, &path, resource, name::qualified_name);
        let standard = ["cpu", "memory", "ephemeral-storage"].contains(&resource.as_str());
        if !resource.contains('/') && !standard && !resource.starts_with("hugepages-") {
            errors.push(Error::invalid(&path, resource, "must be a standard resource for containers"));
        }
        let Some(quantity) = checks::quantity(errors, &path, wire) else { continue };
        if !is_native(resource) && quantity.milli_value() % 1000 != 0 {
            errors.push(Error::invalid(&path, quantity.to_string(), "must be an integer"));
        }
        out.insert(resource.as_str(), quantity);
    }
    out
}
