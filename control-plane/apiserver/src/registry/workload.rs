//! What Deployments and ReplicaSets have in common: replicas, a selector, a pod template.

use k8s_openapi::api::autoscaling::v1::{Scale, ScaleSpec, ScaleStatus};
use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as WireSelector;
use skep_api::field::{Error, Errors, Path};
use skep_api::meta;
use skep_api::selector::LabelSelector;

use super::checks::{self, text};
use super::pod_template;

/// Sets the defaults of the template.
pub(crate) fn set_defaults(template: &mut PodTemplateSpec) {
    pod_template::set_defaults(template.spec.get_or_insert_default());
}

/// Checks what both kinds check.
pub(crate) fn validate(
    replicas: Option<i32>,
    min_ready_seconds: Option<i32>,
    selector: &WireSelector,
    template: &PodTemplateSpec,
) -> Errors {
    let mut errors = Errors::new();
    let path = Path::new("spec");
    checks::not_negative(&mut errors, &path.child("replicas"), replicas);
    checks::not_negative(&mut errors, &path.child("minReadySeconds"), min_ready_seconds);
    let at = path.child("selector");
    // `{}` reads the same as nothing at all.
    let empty = *selector == WireSelector::default();
    if empty {
        errors.push(Error::required(&at, ""));
    }
    let problems = meta::validate_label_selector(selector, &at);
    if problems.is_empty() && empty {
        // A selector that is missing matches nothing.
        no_match(template, &path.child("template"), &mut errors);
    } else if problems.is_empty() {
        validate_match(selector, template, &path.child("template"), &mut errors);
    }
    errors.extend(problems);
    validate_template("ReplicaSet", template, &path.child("template"), &mut errors);
    errors
}

/// A selector that must say something, and fit the template's labels.
pub(crate) fn validate_selector(kind: &str, selector: &WireSelector, template: &PodTemplateSpec, errors: &mut Errors) {
    let path = Path::new("spec.selector");
    let problems = meta::validate_label_selector(selector, &path);
    let valid = problems.is_empty();
    errors.extend(problems);
    if *selector == WireSelector::default() {
        errors.push(Error::invalid(&path, selector, format!("empty selector is invalid for {kind}")));
    }
    if valid {
        validate_match(selector, template, &Path::new("spec.template"), errors);
    }
}

pub(crate) fn validate_match(
    selector: &WireSelector,
    template: &PodTemplateSpec,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let Ok(selector) = LabelSelector::try_from(selector) else { return };
    let labels = template.metadata.as_ref().and_then(|m| m.labels.as_ref());
    if !selector.matches(|key| labels.and_then(|l| l.get(key)).map(String::as_str)) {
        no_match(template, path, errors);
    }
}

pub(crate) fn no_match(template: &PodTemplateSpec, path: &Path<'_>, errors: &mut Errors) {
    let labels = template.metadata.as_ref().and_then(|m| m.labels.as_ref());
    let why = "`selector` does not match template `labels`";
    errors.push(Error::invalid(&path.child("metadata.labels"), labels, why));
}

/// Checks the template of a workload whose pods run for ever.
pub(crate) fn validate_template(kind: &str, template: &PodTemplateSpec, path: &Path<'_>, errors: &mut Errors) {
    errors.extend(pod_template::validate_template(template, path));
    let empty = PodSpec::default();
    let spec = template.spec.as_ref().unwrap_or(&empty);
    let policy = text(&spec.restart_policy);
    if policy != "Always" {
        errors.push(Error::not_supported(&path.child("spec.restartPolicy"), policy, &["Always"]));
    }
    if spec.active_deadline_seconds.is_some() {
        let why = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.push(Error::forbidden(&path.child("spec.activeDeadlineSeconds"), why));
    }
}

/// The selector of a workload does not change.
pub(crate) fn validate_same_selector(new: &WireSelector, old: &WireSelector) -> Errors {
    if new == old {
        return Errors::new();
    }
    vec![Error::invalid(&Path::new("spec.selector"), new, meta::IMMUTABLE)]
}

/// The scale subresource.
pub(crate) fn scale(wanted: Option<i32>, have: Option<i32>, selector: &WireSelector) -> Scale {
    Scale {
        spec: Some(ScaleSpec { replicas: Some(wanted.unwrap_or(1)) }),
        status: Some(ScaleStatus { replicas: have.unwrap_or(0), selector: Some(selector_text(selector)) }),
        ..Scale::default()
    }
}

/// A selector in the form of a query.
pub(crate) fn selector_text(selector: &WireSelector) -> String {
    LabelSelector::try_from(selector).map_or_else(|_| "<error>".to_owned(), |s| s.to_string())
}

/// The selector column of a table.
pub(crate) fn selector_cell(selector: &WireSelector) -> String {
    let text = selector_text(selector);
    if text.is_empty() { "<none>".to_owned() } else { text }
}

/// Names and images of a template's containers, joined with commas.
pub(crate) fn container_cells(template: Option<&PodTemplateSpec>) -> (String, String) {
    let containers = template.and_then(|t| t.spec.as_ref()).map_or(&[][..], |s| &s.containers);
    let join =
        |f: fn(&k8s_openapi::api::core::v1::Container) -> &str| containers.iter().map(f).collect::<Vec<_>>().join(",");
    (join(|c| &c.name), join(|c| text(&c.image)))
}
