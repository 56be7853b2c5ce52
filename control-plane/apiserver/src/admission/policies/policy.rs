//! Policies and bindings, compiled.

use k8s_openapi::api::admissionregistration::v1::{
    ParamKind, ParamRef, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingAdmissionPolicySpec,
};
use skep_api::status::StatusError;
use skep_cel::{Environment, Field, ObjectType, Program, Type, Want};
use skep_storage::Object as Cached;

use crate::admission::{
    conditions::{self, Conditions},
    matching::Matching,
};

/// An expression that compiled, or why it did not.
pub(super) type Compiled = Result<Program, String>;

/// A policy.
pub(super) struct Policy {
    pub(super) name: String,
    pub(super) matching: Matching,
    pub(super) fails: bool,
    pub(super) param_kind: Option<ParamKind>,
    pub(super) conditions: Conditions,
    pub(super) variables: Vec<(String, Compiled)>,
    pub(super) validations: Vec<Validation>,
    pub(super) annotations: Vec<Compiled>,
}

/// One thing a policy demands.
pub(super) struct Validation {
    pub(super) program: Compiled,
    pub(super) expression: String,
    pub(super) message: Option<String>,
    pub(super) message_program: Option<Compiled>,
    pub(super) reason: String,
}

/// Where a policy holds.
pub(super) struct Binding {
    pub(super) name: String,
    pub(super) policy: String,
    pub(super) matching: Option<Matching>,
    pub(super) param_ref: Option<ParamRef>,
    pub(super) actions: Vec<String>,
}

/// The variables of a policy so far, as the type of `variables`.
#[derive(Default)]
pub(crate) struct VariableTypes(ObjectType);

impl VariableTypes {
    pub(crate) fn new() -> Self {
        Self(ObjectType { name: "kubernetes.variables".to_owned(), ..ObjectType::default() })
    }

    /// One more variable.
    pub(crate) fn add(&mut self, name: &str, ty: Type) {
        self.0.fields.insert(name.to_owned(), Field { json: name.to_owned(), ty });
    }

    /// What expressions after these variables may mention.
    pub(crate) fn environment(&self, has_params: bool) -> Environment {
        environment(has_params).with("variables", Type::object(self.0.clone()))
    }
}

/// What match conditions of a policy may mention.
pub(crate) fn environment(has_params: bool) -> Environment {
    let environment = conditions::environment().with("namespaceObject", Type::Dyn);
    if has_params { environment.with("params", Type::Dyn) } else { environment }
}

impl Policy {
    /// A stored policy; none if it cannot be used.
    pub(super) fn compile(cached: &Cached) -> Option<Self> {
        let policy: ValidatingAdmissionPolicy = read(cached)?;
        let name = policy.metadata.name.unwrap_or_default();
        let compiled = Self::of(name, policy.spec.unwrap_or_default());
        compiled.inspect_err(|error| tracing::error!(key = %cached.key(), %error, "a policy cannot be used")).ok()
    }

    fn of(name: String, spec: ValidatingAdmissionPolicySpec) -> Result<Self, StatusError> {
        let has_params = spec.param_kind.is_some();
        let compile = |environment: &Environment, expression: &str, want: Want| {
            environment.compile(expression, want).map_err(|error| format!("compilation error: {error}"))
        };
        let mut types = VariableTypes::new();
        let mut variables = Vec::new();
        for variable in spec.variables.unwrap_or_default() {
            let program = compile(&types.environment(has_params), &variable.expression, Want::Any);
            types.add(&variable.name, program.as_ref().map_or(Type::Dyn, |program| program.result_type().clone()));
            variables.push((variable.name, program));
        }
        let environment = types.environment(has_params);
        let validations = spec.validations.unwrap_or_default().into_iter().map(|validation| Validation {
            program: compile(&environment, &validation.expression, Want::Bool),
            message_program: validation
                .message_expression
                .filter(|expression| !expression.is_empty())
                .map(|expression| compile(&environment, &expression, Want::String)),
            expression: validation.expression,
            message: validation.message.filter(|message| !message.is_empty()),
            reason: validation.reason.unwrap_or_default(),
        });
        let annotations = spec.audit_annotations.unwrap_or_default().into_iter();
        Ok(Self {
            name,
            matching: Matching::of(spec.match_constraints.unwrap_or_default(), false)?,
            fails: spec.failure_policy.as_deref() != Some("Ignore"),
            conditions: Conditions::compile(spec.match_conditions.unwrap_or_default(), &self::environment(has_params)),
            variables,
            validations: validations.collect(),
            annotations: annotations.map(|note| compile(&environment, &note.value_expression, Want::Any)).collect(),
            param_kind: spec.param_kind,
        })
    }
}

impl Binding {
    /// A stored binding; none if it cannot be used.
    pub(super) fn compile(cached: &Cached) -> Option<Self> {
        let binding: ValidatingAdmissionPolicyBinding = read(cached)?;
        let spec = binding.spec.unwrap_or_default();
        let matching = spec.match_resources.map(|matching| Matching::of(matching, true)).transpose();
        let matching = matching
            .inspect_err(|error| tracing::error!(key = %cached.key(), %error, "a policy binding cannot be used"))
            .ok()?;
        Some(Self {
            name: binding.metadata.name.unwrap_or_default(),
            policy: spec.policy_name.unwrap_or_default(),
            matching,
            param_ref: spec.param_ref,
            actions: spec.validation_actions.unwrap_or_default(),
        })
    }
}

fn read<T: serde::de::DeserializeOwned>(cached: &Cached) -> Option<T> {
    let read = serde_json::from_slice(cached.json());
    read.inspect_err(|error| tracing::error!(key = %cached.key(), %error, "a policy cannot be read")).ok()
}
