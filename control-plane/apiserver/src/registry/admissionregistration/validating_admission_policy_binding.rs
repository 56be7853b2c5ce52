//! ValidatingAdmissionPolicyBindings.

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::resource::ResourceInfo;

use super::{GROUP, policy};
use crate::registry::cell;
use crate::registry::checks::{self, one_of, text};
use crate::registry::strategy::{Column, Strategy};
use crate::registry::table_info::info;

/// The strategy of bindings of validating admission policies.
#[derive(Debug)]
pub(crate) struct ValidatingAdmissionPolicyBindings;

type Binding = ValidatingAdmissionPolicyBinding;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new(
        "PolicyName",
        "string",
        "PolicyName indicates the policy definition which the policy binding binded to",
    ),
    Column::new("ParamRef", "string", "ParamRef indicates the param resource which sets the configration param"),
    Column::AGE,
];
const ACTIONS: [&str; 3] = ["Audit", "Deny", "Warn"];

impl Strategy for ValidatingAdmissionPolicyBindings {
    type Object = Binding;

    fn info(&self) -> &'static ResourceInfo {
        info(GROUP, "validatingadmissionpolicybindings")
    }

    fn prefix(&self) -> &'static str {
        "/registry/validatingadmissionpolicybindings/"
    }

    fn default(&self, binding: &mut Binding) {
        if let Some(matching) = binding.spec.as_mut().and_then(|s| s.match_resources.as_mut()) {
            policy::set_defaults(matching);
        }
    }

    fn validate(&self, binding: &Binding) -> Errors {
        let mut errors = Errors::new();
        let spec = binding.spec.clone().unwrap_or_default();
        let path = Path::new("spec");
        checks::required(&mut errors, &path.child("policyName"), text(&spec.policy_name));
        if let Some(param) = &spec.param_ref {
            let path = path.child("paramRef");
            let named = !text(&param.name).is_empty();
            match (named, &param.selector) {
                (true, Some(_)) => {
                    let why = "name and selector are mutually exclusive";
                    errors.push(Error::forbidden(&path.child("name"), why));
                }
                (false, None) => errors.push(Error::required(&path, "one of name or selector must be specified")),
                _ => {}
            }
            let action = text(&param.parameter_not_found_action);
            one_of(&mut errors, &path.child("parameterNotFoundAction"), action, &["Allow", "Deny"]);
        }
        if let Some(matching) = &spec.match_resources {
            policy::validate(matching, &path.child("matchResources"), &mut errors);
        }
        let list = path.child("validationActions");
        let actions = spec.validation_actions.as_deref().unwrap_or_default();
        if actions.is_empty() {
            errors.push(Error::required(&list, "at least one validation action is required"));
        }
        for (i, action) in actions.iter().enumerate() {
            if !ACTIONS.contains(&action.as_str()) {
                errors.push(Error::not_supported(&list.index(i), action, &ACTIONS));
            }
            if actions[..i].contains(action) {
                errors.push(Error::duplicate(&list.index(i), action));
            }
        }
        let has = |name: &str| actions.iter().any(|action| action == name);
        if has("Deny") && has("Warn") {
            let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API \
                       response and headers serves no purpose)";
            errors.push(Error::invalid(&list, actions, why));
        }
        errors
    }

    fn bumps_generation(&self, binding: &Binding, old: &Binding) -> bool {
        binding.spec != old.spec
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, binding: &Binding, now: Timestamp) -> Vec<Value> {
        let spec = binding.spec.clone().unwrap_or_default();
        let param = spec.param_ref.as_ref().map_or_else(
            || "<unset>".to_owned(),
            |param| match (text(&param.namespace), text(&param.name)) {
                (_, "") => "*".to_owned(),
                ("", name) => name.to_owned(),
                (namespace, name) => format!("{namespace}/{name}"),
            },
        );
        vec![
            cell::name(&binding.metadata),
            cell::text(&spec.policy_name),
            json!(param),
            cell::age(&binding.metadata, now),
        ]
    }
}
