//! Expressions over requests: what they may mention, and the match conditions of webhooks and policies.

use k8s_openapi::api::admissionregistration::v1::MatchCondition;
use serde_json::Value;
use skep_cel::{Budget, Environment, Inputs, ObjectType, Opaque, Program, Type, Want};

use super::judge::Judge;

/// `request` in expressions.
fn request_type() -> Type {
    let text = || Type::TEXT;
    let gvk = Type::object(ObjectType::of(
        "kubernetes.GroupVersionKind",
        [("group", text()), ("version", text()), ("kind", text())],
    ));
    let gvr = Type::object(ObjectType::of(
        "kubernetes.GroupVersionResource",
        [("group", text()), ("version", text()), ("resource", text())],
    ));
    let user = Type::object(ObjectType::of(
        "kubernetes.UserInfo",
        [
            ("username", text()),
            ("uid", text()),
            ("groups", Type::list(text())),
            ("extra", Type::map(text(), Type::list(text()))),
        ],
    ));
    Type::object(ObjectType::of(
        "kubernetes.AdmissionRequest",
        [
            ("kind", gvk.clone()),
            ("resource", gvr.clone()),
            ("subResource", text()),
            ("requestKind", gvk),
            ("requestResource", gvr),
            ("requestSubResource", text()),
            ("name", text()),
            ("namespace", text()),
            ("operation", text()),
            ("userInfo", user),
            ("dryRun", Type::Bool),
            ("options", Type::Dyn),
        ],
    ))
}

/// What match conditions of webhooks may mention; policies add to it.
pub(crate) fn environment() -> Environment {
    Environment::new()
        .with("object", Type::Dyn)
        .with("oldObject", Type::Dyn)
        .with("request", request_type())
        .with("authorizer", Type::Opaque(Opaque::Authorizer))
        .with("authorizer.requestResource", Type::Opaque(Opaque::ResourceCheck))
}

/// Compiled conditions. One that does not compile (it was refused when it was written) counts as one that fails.
pub(super) struct Conditions(Vec<(String, Result<Program, String>)>);

/// What conditions say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All are true.
    Asked,
    /// One, of this name, is false.
    Spared,
    /// None is false, and some could not be told.
    Unknown(String),
}

impl Conditions {
    pub(super) fn compile(conditions: Vec<MatchCondition>, environment: &Environment) -> Self {
        let compile = |condition: MatchCondition| {
            let program = environment.compile(&condition.expression, Want::Bool).map_err(|error| error.to_string());
            (condition.name, program)
        };
        Self(conditions.into_iter().map(compile).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn judge<'a>(&'a self, inputs: &Inputs<'a>) -> Verdict {
        let mut budget = Budget::new(Budget::MATCH_CONDITIONS);
        let mut errors = Vec::new();
        for (name, program) in &self.0 {
            let outcome = match program {
                Ok(program) => program.evaluate_bool(inputs, &mut budget).map_err(|error| {
                    if budget.is_exhausted() {
                        "validation failed due to running out of cost budget, no further validation rules will be run"
                            .to_owned()
                    } else {
                        format!("expression '{}' resulted in error: {error}", program.source())
                    }
                }),
                Err(error) => Err(format!("compilation error: {error}")),
            };
            match outcome {
                Ok(true) => {}
                Ok(false) => return Verdict::Spared,
                Err(error) => errors.push(format!("{name}: {error}")),
            }
        }
        match errors.as_slice() {
            [] => Verdict::Asked,
            [only] => Verdict::Unknown(only.clone()),
            several => Verdict::Unknown(format!("[{}]", several.join(", "))),
        }
    }
}

/// What expressions about one request look at.
pub(super) struct Subject {
    pub(super) object: Value,
    pub(super) old: Value,
    pub(super) request: Value,
}

impl Subject {
    /// The inputs every expression about a request has.
    pub(super) fn inputs<'a>(&'a self, judge: &'a Judge<'a>) -> Inputs<'a> {
        Inputs::new()
            .json("object", &self.object)
            .json("oldObject", &self.old)
            .json("request", &self.request)
            .authorizer(judge, Some(judge.question()))
    }
}
