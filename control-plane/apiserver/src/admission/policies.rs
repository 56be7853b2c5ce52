//! ValidatingAdmissionPolicies and their bindings.
//!
//! A policy says what to check of which requests, a binding where it holds, with which parameters and with what
//! consequence. Both are compiled when they change; a request evaluates.

use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause;
use serde_json::Value;
use skep_api::status::StatusError;
use skep_storage::Storage;

use super::{
    Attributes, External, Phase,
    conditions::{Subject, Verdict},
    follow::Followed,
    judge::Judge,
    matching::{Match, World, name_of, namespace_of},
    review,
    webhooks::{Round, json_of},
};
use crate::registry::object::Object;
use decision::Decision;
use policy::{Binding, Policy};

mod decision;
mod params;
pub(crate) mod policy;
mod variables;

/// Judges by policies.
pub(crate) struct Policies {
    world: Arc<World>,
    policies: Option<Followed<Policy>>,
    bindings: Option<Followed<Binding>>,
}

/// A refusal: who refuses, why, and with which reason.
struct Denial {
    message: String,
    reason: String,
}

impl Policies {
    pub(crate) fn new(storage: &Storage, world: Arc<World>) -> Self {
        Self {
            world,
            policies: storage
                .resource("/registry/validatingadmissionpolicies/")
                .map(|resource| Followed::new(resource, Policy::compile)),
            bindings: storage
                .resource("/registry/validatingadmissionpolicybindings/")
                .map(|resource| Followed::new(resource, Binding::compile)),
        }
    }

    fn active(&self) -> Option<(&Followed<Policy>, &Followed<Binding>)> {
        let (policies, bindings) = (self.policies.as_ref()?, self.bindings.as_ref()?);
        (policies.any() && bindings.any()).then_some((policies, bindings))
    }

    async fn judge_all(&self, attributes: &Attributes<'_>, object: Option<&dyn Object>) -> Result<(), StatusError> {
        let Some((policies, bindings)) = self.active() else { return Ok(()) };
        let (policies, bindings) = (policies.all(), bindings.all());
        let mut denials = Vec::new();
        for policy in policies.iter().filter(|policy| policy.matching.may_match(attributes)) {
            if !bindings.iter().any(|binding| binding.policy == policy.name) {
                continue;
            }
            let matched = policy.matching.matches(&self.world, attributes, object);
            if matched == Match::No {
                continue;
            }
            let subject = self.subject(attributes, object, &matched).await?;
            let judge = Judge::new(self.world.shared(), attributes, object);
            for binding in bindings.iter() {
                if binding.policy != policy.name {
                    continue;
                }
                let bound = binding.matching.as_ref();
                if bound.is_some_and(|bound| bound.matches(&self.world, attributes, object) == Match::No) {
                    continue;
                }
                self.bound(policy, binding, attributes, (&subject, &judge), &mut denials).await;
            }
        }
        match denials.into_iter().next() {
            None => Ok(()),
            Some(denial) => Err(denied(attributes, object, denial)),
        }
    }

    /// What the expressions of a policy look at.
    async fn subject(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&dyn Object>,
        matched: &Match,
    ) -> Result<Subject, StatusError> {
        let mut new = object.map_or(Ok(Value::Null), |object| json_of(attributes, object))?;
        let mut old = attributes.old.map_or(Ok(Value::Null), |old| json_of(attributes, old))?;
        if let Match::As { group, version } = matched {
            let info = attributes.info;
            for document in [&mut new, &mut old] {
                if !document.is_null() {
                    let (from, to) = ((&*info.group, &*info.version), (group.as_str(), version.as_str()));
                    *document = self.world.convert(&info.plural, from, to, document.take()).await?;
                }
            }
        }
        let request = Value::Object(review::request(attributes, object, matched));
        Ok(Subject { object: new, old, request })
    }

    /// One policy as one binding has it.
    async fn bound(
        &self,
        policy: &Policy,
        binding: &Binding,
        attributes: &Attributes<'_>,
        (subject, judge): (&Subject, &Judge<'_>),
        denials: &mut Vec<Denial>,
    ) {
        let namespace = namespace_of(attributes);
        let params = match params::find(&self.world, policy, binding, namespace).await {
            Ok(params) => params,
            Err(why) if policy.fails => {
                let message = format!(
                    "ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {why}",
                    policy.name, binding.name
                );
                denials.push(Denial { message, reason: String::new() });
                return;
            }
            Err(why) => {
                tracing::warn!(policy = %policy.name, binding = %binding.name, %why, "a policy is passed over");
                return;
            }
        };
        let namespace_object = self.world.namespace(namespace).filter(|_| !namespace.is_empty());
        let namespace_object = namespace_object
            .and_then(|namespace| serde_json::from_slice::<Value>(namespace.json()).ok())
            .unwrap_or(Value::Null);
        for param in params {
            let decisions = decide(policy, subject, judge, (&param, &namespace_object));
            for decision in decisions {
                consequences(policy, binding, attributes, decision, denials);
            }
        }
    }
}

fn decide(
    policy: &Policy,
    subject: &Subject,
    judge: &Judge<'_>,
    (param, namespace): (&Value, &Value),
) -> Vec<Decision> {
    let inputs = subject.inputs(judge).json("namespaceObject", namespace).json("params", param);
    match policy.conditions.judge(&inputs) {
        Verdict::Asked => decision::decide(policy, inputs),
        Verdict::Spared => Vec::new(),
        Verdict::Unknown(why) if policy.fails => vec![Decision { message: why, reason: String::new() }],
        Verdict::Unknown(_) => Vec::new(),
    }
}

fn consequences(
    policy: &Policy,
    binding: &Binding,
    attributes: &Attributes<'_>,
    decision: Decision,
    denials: &mut Vec<Denial>,
) {
    let (policy, name) = (&policy.name, &binding.name);
    for action in &binding.actions {
        match action.as_str() {
            "Deny" => denials.push(Denial {
                message: format!(
                    "ValidatingAdmissionPolicy '{policy}' with binding '{name}' denied request: {}",
                    decision.message
                ),
                reason: decision.reason.clone(),
            }),
            "Warn" => attributes.scope.warn(format!(
                "Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{name}': {}",
                decision.message
            )),
            // What an audit log would say.
            _ => tracing::info!(%policy, binding = %name, message = %decision.message, "a validation failed"),
        }
    }
}

fn denied(attributes: &Attributes<'_>, object: Option<&dyn Object>, denial: Denial) -> StatusError {
    let name = match name_of(attributes, object) {
        "" => "Unknown",
        name => name,
    };
    let error = StatusError::forbidden(attributes.info, name, &denial.message);
    let (reason, code) = match denial.reason.as_str() {
        "Forbidden" => ("Forbidden", 403),
        "Unauthorized" => ("Unauthorized", 401),
        "RequestEntityTooLarge" => ("RequestEntityTooLarge", 413),
        _ => ("Invalid", 422),
    };
    let mut status =
        error.with_cause(StatusCause { message: Some(denial.message), ..StatusCause::default() }).into_status();
    status.reason = Some(reason.to_owned());
    status.code = Some(code);
    StatusError::from(status)
}

impl External for Policies {
    fn cares(&self, phase: Phase, attributes: &Attributes<'_>) -> bool {
        phase == Phase::Validate
            && self
                .active()
                .is_some_and(|(policies, _)| policies.all().iter().any(|policy| policy.matching.may_match(attributes)))
    }

    fn mutate<'a>(
        &'a self,
        _: &'a Attributes<'_>,
        _: Option<&'a mut Box<dyn Object>>,
        _: &'a mut Round,
    ) -> BoxFuture<'a, Result<(), StatusError>> {
        Box::pin(async { Ok(()) })
    }

    fn validate<'a>(
        &'a self,
        attributes: &'a Attributes<'_>,
        object: Option<&'a dyn Object>,
    ) -> BoxFuture<'a, Result<(), StatusError>> {
        Box::pin(self.judge_all(attributes, object))
    }
}
