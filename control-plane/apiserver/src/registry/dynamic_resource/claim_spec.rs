//! What a claim asks for.

use k8s_openapi::api::resource::v1::{DeviceSelector, ResourceClaimSpec};
use skep_api::field::{Error, Errors, Path};
use skep_api::name;

use crate::registry::checks::{self, or, positive, text};

const MAX: usize = 32;
const MODES: [&str; 2] = ["All", "ExactCount"];

pub(super) fn set_defaults(spec: &mut ResourceClaimSpec) {
    for request in spec.devices.iter_mut().flat_map(|d| d.requests.iter_mut().flatten()) {
        if let Some(exactly) = &mut request.exactly {
            set_count(&mut exactly.allocation_mode, &mut exactly.count);
        }
        for alternative in request.first_available.iter_mut().flatten() {
            set_count(&mut alternative.allocation_mode, &mut alternative.count);
        }
    }
}

fn set_count(mode: &mut Option<String>, count: &mut Option<i64>) {
    or(mode, "ExactCount");
    if text(mode) == "ExactCount" {
        *count = count.filter(|count| *count != 0).or(Some(1));
    }
}

pub(super) fn validate(spec: &ResourceClaimSpec, path: &Path<'_>) -> Errors {
    let mut errors = Errors::new();
    let list = path.child("devices.requests");
    let requests = spec.devices.as_ref().and_then(|d| d.requests.as_deref()).unwrap_or_default();
    if requests.len() > MAX {
        errors.push(Error::too_many(&list, requests.len(), MAX));
    }
    for (i, request) in requests.iter().enumerate() {
        let path = list.index(i);
        validate_name(&request.name, &path, &mut errors);
        if requests[..i].iter().any(|earlier| earlier.name == request.name) {
            errors.push(Error::duplicate(&path.child("name"), &request.name));
        }
        let alternatives = request.first_available.as_deref().unwrap_or_default();
        match (&request.exactly, alternatives.is_empty()) {
            (None, true) => {
                errors.push(Error::required(&path, "exactly one of `exactly` or `firstAvailable` is required"));
            }
            (Some(_), false) => {
                let why = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
                errors.push(Error::invalid(&path, "", why));
            }
            _ => {}
        }
        if let Some(exactly) = &request.exactly {
            let path = path.child("exactly");
            validate_class(&exactly.device_class_name, &path, &mut errors);
            validate_count(&exactly.allocation_mode, exactly.count, &path, &mut errors);
            validate_selectors(&exactly.selectors, &path, &mut errors);
        }
        let list = path.child("firstAvailable");
        for (i, alternative) in alternatives.iter().enumerate() {
            let path = list.index(i);
            validate_name(&alternative.name, &path, &mut errors);
            validate_class(&alternative.device_class_name, &path, &mut errors);
            validate_count(&alternative.allocation_mode, alternative.count, &path, &mut errors);
            validate_selectors(&alternative.selectors, &path, &mut errors);
        }
    }
    errors
}

fn validate_name(own: &str, path: &Path<'_>, errors: &mut Errors) {
    if own.is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    } else {
        checks::name(errors, &path.child("name"), own, name::dns1123_label);
    }
}

fn validate_class(class: &str, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("deviceClassName");
    if class.is_empty() {
        errors.push(Error::required(&at, ""));
    } else {
        checks::name(errors, &at, class, name::dns1123_subdomain);
    }
}

fn validate_count(mode: &Option<String>, count: Option<i64>, path: &Path<'_>, errors: &mut Errors) {
    match text(mode) {
        "All" => {
            if let Some(count) = count.filter(|count| *count != 0) {
                let why = "must not be specified when allocationMode is 'All'";
                errors.push(Error::invalid(&path.child("count"), count, why));
            }
        }
        "ExactCount" => positive(errors, &path.child("count"), count),
        other => errors.push(Error::not_supported(&path.child("allocationMode"), other, &MODES)),
    }
}

/// Selectors have an expression; that it compiles is not checked.
pub(super) fn validate_selectors(selectors: &Option<Vec<DeviceSelector>>, path: &Path<'_>, errors: &mut Errors) {
    let list = path.child("selectors");
    let selectors = selectors.as_deref().unwrap_or_default();
    if selectors.len() > MAX {
        errors.push(Error::too_many(&list, selectors.len(), MAX));
    }
    for (i, selector) in selectors.iter().enumerate() {
        let path = list.index(i);
        match &selector.cel {
            None => errors.push(Error::required(&path.child("cel"), "")),
            Some(cel) => checks::required(errors, &path.child("cel.expression"), &cel.expression),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_are_named_and_counted() {
        let mut spec: ResourceClaimSpec = serde_json::from_value(json!({"devices": {"requests": [
            {"name": "gpu", "exactly": {"deviceClassName": "gpu.example.com"}}, {"name": "gpu"}]}}))
        .unwrap();
        set_defaults(&mut spec);
        let shown = serde_json::to_value(&spec).unwrap();
        assert_eq!(shown["devices"]["requests"][0]["exactly"]["count"], 1);
        let texts: Vec<_> = validate(&spec, &Path::new("spec")).iter().map(Error::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.devices.requests[1].name: Duplicate value: \"gpu\"",
                "spec.devices.requests[1]: Required value: exactly one of `exactly` or `firstAvailable` is required"
            ]
        );
    }
}
