//! IngressClasses.

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::IngressClass;
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::resource::ResourceInfo;

use super::GROUP;
use crate::registry::cell;
use crate::registry::checks::{self, text};
use crate::registry::strategy::{Column, Strategy};
use crate::registry::table_info::info;

/// The strategy of ingress classes.
#[derive(Debug)]
pub(crate) struct IngressClasses;

const MAX_CONTROLLER: usize = 250;
const SCOPES: [&str; 2] = ["Cluster", "Namespace"];

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Controller", "string", "Controller that is responsible for handling this class"),
    Column::new("Parameters", "string", "A reference to a resource with additional parameters"),
    Column::AGE,
];

impl Strategy for IngressClasses {
    type Object = IngressClass;

    fn info(&self) -> &'static ResourceInfo {
        info(GROUP, "ingressclasses")
    }

    fn prefix(&self) -> &'static str {
        "/registry/ingressclasses/"
    }

    fn default(&self, class: &mut IngressClass) {
        if let Some(parameters) = class.spec.as_mut().and_then(|s| s.parameters.as_mut()) {
            parameters.scope.get_or_insert_with(|| "Cluster".to_owned());
        }
    }

    fn validate(&self, class: &IngressClass) -> Errors {
        let mut errors = Errors::new();
        let spec = class.spec.clone().unwrap_or_default();
        let at = Path::new("spec.controller");
        let controller = text(&spec.controller);
        if controller.len() > MAX_CONTROLLER {
            errors.push(Error::too_long(&at, MAX_CONTROLLER));
        }
        errors.extend(domain_prefixed_path(controller, &at));
        if let Some(parameters) = &spec.parameters {
            let path = Path::new("spec.parameters");
            checks::required(&mut errors, &path.child("kind"), &parameters.kind);
            checks::required(&mut errors, &path.child("name"), &parameters.name);
            match (text(&parameters.scope), text(&parameters.namespace)) {
                ("", _) => errors.push(Error::required(&path.child("scope"), "")),
                ("Namespace", "") => {
                    let why = "`parameters.scope` is set to 'Namespace'";
                    errors.push(Error::required(&path.child("namespace"), why));
                }
                ("Cluster", namespace) if !namespace.is_empty() => {
                    let why = "`parameters.scope` is set to 'Cluster'";
                    errors.push(Error::forbidden(&path.child("namespace"), why));
                }
                ("Cluster" | "Namespace", _) => {}
                (other, _) => errors.push(Error::not_supported(&path.child("scope"), other, &SCOPES)),
            }
        }
        errors
    }

    fn validate_update(&self, class: &IngressClass, old: &IngressClass) -> Errors {
        let mut errors = Errors::new();
        let controller = |class: &IngressClass| class.spec.as_ref().and_then(|s| s.controller.clone());
        checks::immutable(&mut errors, &Path::new("spec.controller"), &controller(class), &controller(old));
        errors
    }

    fn bumps_generation(&self, class: &IngressClass, old: &IngressClass) -> bool {
        class.spec != old.spec
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, class: &IngressClass, now: Timestamp) -> Vec<Value> {
        let spec = class.spec.clone().unwrap_or_default();
        let parameters = spec.parameters.map_or_else(
            || "<none>".to_owned(),
            |p| match text(&p.api_group) {
                "" => format!("{}/{}", p.kind, p.name),
                group => format!("{}.{group}/{}", p.kind, p.name),
            },
        );
        vec![
            cell::name(&class.metadata),
            cell::text(&spec.controller),
            json!(parameters),
            cell::age(&class.metadata, now),
        ]
    }
}

/// `acme.io/controller`.
fn domain_prefixed_path(value: &str, path: &Path<'_>) -> Errors {
    let mut errors = Errors::new();
    if value.is_empty() {
        errors.push(Error::required(path, ""));
        return errors;
    }
    match value.split_once('/') {
        Some((host, rest)) if !host.is_empty() && !rest.is_empty() => {
            checks::name(&mut errors, path, host, skep_api::name::dns1123_subdomain);
        }
        _ => {
            let why = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            errors.push(Error::invalid(path, value, why));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_is_a_path_of_a_domain() {
        let class = |controller: &str| serde_json::from_value(json!({"spec": {"controller": controller}})).unwrap();
        assert_eq!(IngressClasses.validate(&class("acme.io/foo")), []);
        assert_eq!(
            IngressClasses.validate(&class("foo"))[0].to_string(),
            "spec.controller: Invalid value: \"foo\": must be a domain-prefixed path (such as \"acme.io/foo\")"
        );
        assert_eq!(IngressClasses.validate(&class(""))[0].to_string(), "spec.controller: Required value");
    }
}
