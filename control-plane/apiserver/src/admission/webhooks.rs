//! Admission webhooks: MutatingWebhookConfigurations and ValidatingWebhookConfigurations.
//!
//! Configurations are asked in the order of their names, and the webhooks of one in their own order. Mutating webhooks are
//! called one after the other, each sees what those before it made, in up to two rounds ([`Round`]); validating ones all at
//! once.

use std::{collections::BTreeSet, sync::Arc};

use futures::future::{BoxFuture, join_all};
use serde_json::Value;
use skep_api::status::StatusError;
use skep_storage::Storage;

use super::{
    Attributes, External, Phase,
    conditions::{Subject, Verdict},
    follow::Followed,
    judge::Judge,
    matching::{Match, World, name_of},
    review,
};
use crate::{registry::object::Object, webhook::WebhookClient};
use call::{Call, Failure};
use hook::{Hook, Hooks};

mod call;
mod hook;

/// Asks webhooks.
pub(crate) struct Webhooks {
    world: Arc<World>,
    client: Arc<WebhookClient>,
    mutating: Option<Followed<Hooks>>,
    validating: Option<Followed<Hooks>>,
}

impl Webhooks {
    pub(crate) fn new(storage: &Storage, world: Arc<World>, client: Arc<WebhookClient>) -> Self {
        Self {
            world,
            client,
            mutating: storage
                .resource("/registry/mutatingwebhookconfigurations/")
                .map(|resource| Followed::new(resource, hook::mutating)),
            validating: storage
                .resource("/registry/validatingwebhookconfigurations/")
                .map(|resource| Followed::new(resource, hook::validating)),
        }
    }

    fn of(&self, phase: Phase) -> Option<&Followed<Hooks>> {
        match phase {
            Phase::Mutate => self.mutating.as_ref(),
            Phase::Validate => self.validating.as_ref(),
        }
        .filter(|followed| followed.any())
    }

    async fn mutate_in_turn(
        &self,
        attributes: &Attributes<'_>,
        mut object: Option<&mut Box<dyn Object>>,
        round: &mut Round,
    ) -> Result<(), StatusError> {
        let all = match (&round.all, self.of(Phase::Mutate)) {
            (Some(all), _) => Arc::clone(all),
            (None, Some(followed)) => followed.all(),
            (None, None) => return Ok(()),
        };
        round.all = Some(Arc::clone(&all));
        let mut documents = Documents::default();
        for (place, hook) in all.iter().flat_map(|hooks| &hooks.0).enumerate() {
            if round.second && !round.again.contains(&place) {
                continue;
            }
            let asked = self.ask(hook, attributes, &mut documents, object.as_deref_mut()).await?;
            if asked == Asked::Changed {
                round.changed = true;
                round.again.extend(&round.called);
            }
            if asked != Asked::No && hook.reinvoke {
                round.called.push(place);
            }
        }
        Ok(())
    }

    /// Calls one mutating webhook if the request is its business.
    async fn ask(
        &self,
        hook: &Hook,
        attributes: &Attributes<'_>,
        documents: &mut Documents,
        object: Option<&mut Box<dyn Object>>,
    ) -> Result<Asked, StatusError> {
        let seen = object.as_deref().map(|object| &**object);
        let Some(call) = self.prepare(hook, attributes, documents, seen).await? else { return Ok(Asked::No) };
        let response = match call.send(&self.client).await {
            Ok(response) => response,
            Err(failure) => return failed(hook, failure).map(|()| Asked::Yes),
        };
        response.warnings.iter().for_each(|warning| attributes.scope.warn(warning.as_str()));
        let Some(patch) = response.patch else { return Ok(Asked::Yes) };
        let Some(object) = object else {
            let why = format!(
                "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
                hook.name
            );
            return Err(StatusError::internal_error(why));
        };
        let before = call.object.clone();
        let patched = skep_api::patch::json::apply(before.clone(), &patch)
            .map_err(|error| StatusError::internal_error(call::patch_error(&error)))?;
        if patched == before {
            return Ok(Asked::Yes);
        }
        let json = match &call.matched {
            Match::As { group, version } => {
                let info = attributes.info;
                self.world.convert(&info.plural, (group, version), (&info.group, &info.version), patched).await?
            }
            _ => patched,
        };
        *object = attributes.codec.to_object(json)?;
        documents.object = None;
        Ok(Asked::Changed)
    }

    async fn judge_all(&self, attributes: &Attributes<'_>, object: Option<&dyn Object>) -> Result<(), StatusError> {
        let Some(followed) = self.of(Phase::Validate) else { return Ok(()) };
        let all = followed.all();
        let mut documents = Documents::default();
        let mut calls = Vec::new();
        for hook in all.iter().flat_map(|hooks| &hooks.0) {
            if let Some(call) = self.prepare(hook, attributes, &mut documents, object).await? {
                calls.push((hook, call));
            }
        }
        let answers = join_all(calls.iter().map(|(_, call)| call.send(&self.client))).await;
        let mut first = Ok(());
        for ((hook, _), answer) in calls.iter().zip(answers) {
            let outcome = match answer {
                Ok(response) => {
                    response.warnings.iter().for_each(|warning| attributes.scope.warn(warning.as_str()));
                    Ok(())
                }
                Err(failure) => {
                    failure.warnings().iter().for_each(|warning| attributes.scope.warn(warning.as_str()));
                    failed(hook, failure)
                }
            };
            first = first.and(outcome);
        }
        first
    }

    /// What would be sent to a webhook, if the request is its business.
    async fn prepare<'h>(
        &self,
        hook: &'h Hook,
        attributes: &Attributes<'_>,
        documents: &mut Documents,
        object: Option<&dyn Object>,
    ) -> Result<Option<Call<'h>>, StatusError> {
        let matched = hook.matching.matches(&self.world, attributes, object);
        if matched == Match::No {
            return Ok(None);
        }
        documents.see(attributes, object)?;
        let (mut new, mut old) = (documents.object.clone().unwrap_or(Value::Null), documents.old.clone());
        if let Match::As { group, version } = &matched {
            let info = attributes.info;
            let (from, to) = ((&*info.group, &*info.version), (group.as_str(), version.as_str()));
            for document in [&mut new, &mut old] {
                if !document.is_null() {
                    *document = self.world.convert(&info.plural, from, to, document.take()).await?;
                }
            }
        }
        let request = review::request(attributes, object, &matched);
        if !hook.conditions.is_empty() {
            let subject = Subject { object: new, old, request: Value::Object(request) };
            match self.conditions(hook, attributes, object, &subject) {
                Verdict::Asked => {}
                Verdict::Spared => return Ok(None),
                Verdict::Unknown(why) if hook.fails => {
                    return Err(StatusError::forbidden(attributes.info, name_of(attributes, object), why));
                }
                Verdict::Unknown(why) => {
                    tracing::warn!(webhook = %hook.name, %why, "the match conditions of a webhook failed");
                    return Ok(None);
                }
            }
            let Subject { object, old, request } = subject;
            return checked(hook, attributes, Call::new(hook, matched, object, old, request));
        }
        checked(hook, attributes, Call::new(hook, matched, new, old, Value::Object(request)))
    }

    fn conditions(
        &self,
        hook: &Hook,
        attributes: &Attributes<'_>,
        object: Option<&dyn Object>,
        subject: &Subject,
    ) -> Verdict {
        let judge = Judge::new(self.world.shared(), attributes, object);
        hook.conditions.judge(&subject.inputs(&judge))
    }
}

/// A dry run must have no effects, so those that may have some are not called in one.
fn checked<'h>(hook: &Hook, attributes: &Attributes<'_>, call: Call<'h>) -> Result<Option<Call<'h>>, StatusError> {
    if attributes.scope.dry_run && hook.side_effects {
        let why = format!("admission webhook {:?} does not support dry run", hook.name);
        return Err(StatusError::bad_request(why));
    }
    Ok(Some(call))
}

/// What a failure means to the request.
fn failed(hook: &Hook, failure: Failure) -> Result<(), StatusError> {
    match failure {
        Failure::Rejected { error, .. } => Err(*error),
        Failure::Calling(why) if hook.fails => {
            Err(StatusError::internal_error(format!("failed calling webhook {:?}: {why}", hook.name)))
        }
        Failure::Calling(why) => {
            tracing::warn!(webhook = %hook.name, %why, "failed calling a webhook, failing open");
            Ok(())
        }
    }
}

/// Mutating webhooks are asked in one round, or in two if one of them has changed the object: then the server's own checks
/// run again, and those webhooks are asked once more that want to see what was changed after them.
#[derive(Default)]
pub(crate) struct Round {
    second: bool,
    changed: bool,
    /// The webhooks of the first round; they are those of the second.
    all: Option<Arc<Vec<Arc<Hooks>>>>,
    /// Those that were asked and want to be asked again, by their places.
    called: Vec<usize>,
    /// Those after which the object has changed.
    again: BTreeSet<usize>,
}

impl Round {
    /// Whether a webhook has changed the object.
    pub(super) fn has_changed(&self) -> bool {
        self.changed
    }

    /// Begins the second round; `changed` tells whether the server's own checks have changed the object in between.
    pub(super) fn begin_second(&mut self, changed: bool) {
        self.second = true;
        if changed {
            self.again.extend(&self.called);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    No,
    Yes,
    Changed,
}

/// The JSON of the objects of a request, made when the first webhook needs it.
#[derive(Default)]
struct Documents {
    object: Option<Value>,
    old: Value,
    seen: bool,
}

impl Documents {
    fn see(&mut self, attributes: &Attributes<'_>, object: Option<&dyn Object>) -> Result<(), StatusError> {
        if !self.seen {
            self.seen = true;
            if let Some(old) = attributes.old {
                self.old = json_of(attributes, old)?;
            }
        }
        if let (None, Some(object)) = (&self.object, object) {
            self.object = Some(json_of(attributes, object)?);
        }
        Ok(())
    }
}

/// An object's JSON in the version of the request.
pub(super) fn json_of(attributes: &Attributes<'_>, object: &dyn Object) -> Result<Value, StatusError> {
    serde_json::from_slice(&attributes.codec.to_json(object)?).map_err(StatusError::internal_error)
}

impl External for Webhooks {
    fn cares(&self, phase: Phase, attributes: &Attributes<'_>) -> bool {
        self.of(phase).is_some_and(|followed| {
            followed.all().iter().flat_map(|hooks| &hooks.0).any(|hook| hook.matching.may_match(attributes))
        })
    }

    fn mutate<'a>(
        &'a self,
        attributes: &'a Attributes<'_>,
        object: Option<&'a mut Box<dyn Object>>,
        round: &'a mut Round,
    ) -> BoxFuture<'a, Result<(), StatusError>> {
        Box::pin(self.mutate_in_turn(attributes, object, round))
    }

    fn validate<'a>(
        &'a self,
        attributes: &'a Attributes<'_>,
        object: Option<&'a dyn Object>,
    ) -> BoxFuture<'a, Result<(), StatusError>> {
        Box::pin(self.judge_all(attributes, object))
    }
}
