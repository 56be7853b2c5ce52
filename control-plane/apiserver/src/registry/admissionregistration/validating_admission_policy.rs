//! ValidatingAdmissionPolicies.

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyStatus};
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::name;
use skep_api::resource::ResourceInfo;
use skep_cel::{Type, Want};

use super::webhook::{compiles, validate_conditions, validate_policies};
use super::{GROUP, policy};
use crate::admission::policies::policy::{VariableTypes, environment};
use crate::registry::cell;
use crate::registry::checks::{self, text};
use crate::registry::strategy::{Column, Context, Strategy};
use crate::registry::table_info::info;

/// The strategy of validating admission policies.
#[derive(Debug)]
pub(crate) struct ValidatingAdmissionPolicies;

type Policy = ValidatingAdmissionPolicy;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new(
        "Validations",
        "integer",
        "Validations indicates the number of validation rules defined in this configuration",
    ),
    Column::new("ParamKind", "string", "ParamKind specifies the kind of resources used to parameterize this policy"),
    Column::AGE,
];
const REASONS: [&str; 4] = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];

impl Strategy for ValidatingAdmissionPolicies {
    type Object = Policy;

    fn info(&self) -> &'static ResourceInfo {
        info(GROUP, "validatingadmissionpolicies")
    }

    fn prefix(&self) -> &'static str {
        "/registry/validatingadmissionpolicies/"
    }

    fn default(&self, object: &mut Policy) {
        let spec = object.spec.get_or_insert_default();
        spec.failure_policy.get_or_insert_with(|| "Fail".to_owned());
        if let Some(matching) = &mut spec.match_constraints {
            policy::set_defaults(matching);
        }
    }

    fn prepare_for_create(&self, _ctx: &Context<'_>, object: &mut Policy) {
        object.status = Some(ValidatingAdmissionPolicyStatus::default());
    }

    fn validate(&self, object: &Policy) -> Errors {
        let mut errors = Errors::new();
        let spec = object.spec.clone().unwrap_or_default();
        let path = Path::new("spec");
        validate_policies(&spec.failure_policy, &None, &path, &mut errors);
        if let Some(kind) = &spec.param_kind {
            let path = path.child("paramKind");
            checks::required(&mut errors, &path.child("apiVersion"), text(&kind.api_version));
            checks::required(&mut errors, &path.child("kind"), text(&kind.kind));
        }
        let at = path.child("matchConstraints");
        match &spec.match_constraints {
            None => errors.push(Error::required(&at, "")),
            Some(matching) => {
                policy::validate(matching, &at, &mut errors);
                if matching.resource_rules.as_ref().is_none_or(Vec::is_empty) {
                    errors.push(Error::required(&at.child("resourceRules"), ""));
                }
            }
        }
        let has_params = spec.param_kind.is_some();
        validate_conditions(
            &spec.match_conditions,
            &environment(has_params),
            &path.child("matchConditions"),
            &mut errors,
        );
        let list = path.child("variables");
        let mut variables = VariableTypes::new();
        for (i, variable) in spec.variables.iter().flatten().enumerate() {
            let path = list.index(i);
            let at = path.child("name");
            if variable.name.is_empty() {
                errors.push(Error::required(&at, "name is not specified"));
            } else if !is_identifier(&variable.name) {
                errors.push(Error::invalid(&at, &variable.name, "name is not a valid CEL identifier"));
            }
            let at = path.child("expression");
            let mut ty = Type::Dyn;
            if variable.expression.trim().is_empty() {
                errors.push(Error::required(&at, "expression is not specified"));
            } else if let Some(program) =
                compiles(&variables.environment(has_params), &variable.expression, Want::Any, &at, &mut errors)
            {
                ty = program.result_type().clone();
            }
            variables.add(&variable.name, ty);
        }
        let known = variables.environment(has_params);
        let empty = |length: Option<usize>| length.unwrap_or(0) == 0;
        let list = path.child("validations");
        if empty(spec.validations.as_ref().map(Vec::len)) && empty(spec.audit_annotations.as_ref().map(Vec::len)) {
            let why = "validations or auditAnnotations must be specified";
            errors.push(Error::required(&list, format!("{why}; at least one is required")));
            let at = path.child("auditAnnotations");
            errors.push(Error::required(&at, format!("{why}; at least one is required")));
        }
        for (i, validation) in spec.validations.iter().flatten().enumerate() {
            let path = list.index(i);
            if validation.expression.trim().is_empty() {
                errors.push(Error::required(&path.child("expression"), "expression is not specified"));
            } else {
                compiles(&known, &validation.expression, Want::Bool, &path.child("expression"), &mut errors);
            }
            if let Some(made) = validation.message_expression.as_deref() {
                let at = path.child("messageExpression");
                if made.trim().is_empty() {
                    errors.push(Error::invalid(&at, made, "must be non-empty if specified"));
                } else {
                    compiles(&known, made, Want::String, &at, &mut errors);
                }
            }
            let message = validation.message.as_deref();
            if message.is_some_and(|m| m.trim().is_empty()) {
                let why = "message must be non-empty if specified";
                errors.push(Error::invalid(&path.child("message"), message, why));
            }
            if let Some(reason) = validation.reason.as_deref().filter(|r| !REASONS.contains(r)) {
                errors.push(Error::not_supported(&path.child("reason"), reason, &REASONS));
            }
        }
        let list = path.child("auditAnnotations");
        for (i, note) in spec.audit_annotations.iter().flatten().enumerate() {
            let path = list.index(i);
            checks::name(&mut errors, &path.child("key"), &note.key, name::qualified_name);
            let at = path.child("valueExpression");
            if note.value_expression.trim().is_empty() {
                errors.push(Error::required(&at, "valueExpression is not specified"));
            } else if let Some(program) = compiles(&known, &note.value_expression, Want::Any, &at, &mut errors)
                && !matches!(program.result_type(), Type::String(_) | Type::Null | Type::Dyn)
            {
                errors.push(Error::invalid(&at, &note.value_expression, "must evaluate to string or null_type"));
            }
        }
        errors
    }

    fn prepare_for_update(&self, _ctx: &Context<'_>, object: &mut Policy, old: &Policy) {
        object.status.clone_from(&old.status);
    }

    fn bumps_generation(&self, object: &Policy, old: &Policy) -> bool {
        object.spec != old.spec
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn prepare_for_status_update(&self, _ctx: &Context<'_>, object: &mut Policy, old: &Policy) {
        object.spec.clone_from(&old.spec);
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Policy, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let kind = spec
            .param_kind
            .as_ref()
            .map_or_else(|| "<unset>".to_owned(), |kind| format!("{}/{}", text(&kind.api_version), text(&kind.kind)));
        vec![
            cell::name(&object.metadata),
            json!(spec.validations.as_ref().map_or(0, Vec::len)),
            json!(kind),
            cell::age(&object.metadata, now),
        ]
    }
}

/// What the language takes for a name.
fn is_identifier(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && skep_cel::escape(name).as_deref() == Some(name)
}
