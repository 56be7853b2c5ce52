//! `pods/eviction`: a deletion that a PodDisruptionBudget may refuse.
//!
//! The budget is decremented and the pod noted in it before the pod is deleted, in a write that fails if the budget has
//! changed: of evictions that race for the last allowed disruption, one wins.

use std::sync::Arc;

use http::{Response, StatusCode};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::{Pod, PodCondition},
        policy::v1::{Eviction, PodDisruptionBudget, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::apis::meta::v1::{Condition, Preconditions, Status, StatusCause, Time},
};
use serde_json::Value;
use skep_api::{
    options::{CreateOptions, DeleteOptions},
    request::Verb,
    selector::LabelSelector,
    status::{GroupResource, StatusError},
};

use crate::{
    dispatch::Call,
    http::{
        body::Body,
        negotiate::accept_plain,
        request_body::{self, Document, document},
        response,
    },
    registry::{
        checks::text,
        erased::UpdateKind,
        generic::{Registry, Scope, update::Mutation},
        object::Object,
    },
};

/// Evictions a budget's controller need not have seen yet; beyond that it must catch up first.
const MOST_DISRUPTED: usize = 2000;
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
const ALLOWED: &str = "DisruptionAllowed";

pub(crate) async fn answer(call: Call<'_>, registry: &Arc<Registry>) -> Result<Response<Body>, StatusError> {
    let (Verb::Create, Some(name)) = (call.request.verb, call.request.name.as_deref()) else {
        return Err(call.wrong_method());
    };
    let accepted = accept_plain(call.headers)?;
    let create = CreateOptions::parse(&call.request.query)?;
    let mut scope = call.scope(registry, create.dry_run);
    let headers = call.headers;
    let registries = call.registries;
    let body = request_body::read(call.body).await?;
    let eviction = read(match document(headers, &body)? {
        Document::Json(json) => serde_json::from_slice(&json).map_err(|error| unreadable(&error))?,
        Document::Value(value) => value,
    })?;
    if eviction.metadata.name.as_deref() != Some(name) {
        return Err(StatusError::bad_request("name in URL does not match name in Eviction object"));
    }
    let eviction = registry.admit_part(&scope, name, "eviction", eviction).await?;
    let options = DeleteOptions::from_body(eviction.delete_options.unwrap_or_default())?;
    scope.dry_run |= options.dry_run;
    let budgets = registries.get("policy", "v1", "poddisruptionbudgets").ok_or_else(StatusError::generic_not_found)?;
    Evictor { pods: registry, budgets: &budgets, scope: &scope, name }.evict(options).await?;
    let status = Status { status: Some("Success".to_owned()), code: Some(201), ..Status::default() };
    Ok(response::object(StatusCode::CREATED, &accepted, &status))
}

/// An Eviction of `policy/v1`, or of the version before, which is the same.
fn read(mut value: Value) -> Result<Eviction, StatusError> {
    if value["apiVersion"] == "policy/v1beta1" {
        value["apiVersion"] = "policy/v1".into();
    }
    serde_json::from_value(value).map_err(|error| unreadable(&error))
}

fn unreadable(error: &serde_json::Error) -> StatusError {
    StatusError::bad_request(format!("Eviction in version \"v1\" cannot be handled as a Eviction: {error}"))
}

struct Evictor<'a> {
    pods: &'a Arc<Registry>,
    budgets: &'a Arc<Registry>,
    scope: &'a Scope<'a>,
    name: &'a str,
}

impl Evictor<'_> {
    async fn evict(&self, mut options: DeleteOptions) -> Result<(), StatusError> {
        let object = self.pods.get_object(self.scope.namespace, self.name).await?;
        let pod = object.as_any().downcast_ref::<Pod>().ok_or_else(StatusError::generic_not_found)?;
        let chosen = options.preconditions.as_ref().is_some_and(|given| given.resource_version.is_some());
        // A pod that does not run, or is on its way out, disrupts nothing more.
        let phase = pod.status.as_ref().map_or("", |status| text(&status.phase));
        let leaving = pod.metadata.deletion_timestamp.is_some();
        if leaving || matches!(phase, "Succeeded" | "Failed") {
            return self.delete(&options).await;
        }
        if phase == "Pending" {
            if !chosen {
                demand_version(&mut options, pod);
            }
            return match self.delete(&options).await {
                // It has changed, perhaps begun to run.
                Err(error) if error.code() == StatusCode::CONFLICT && !chosen => {
                    Box::pin(self.evict(unversioned(options))).await
                }
                other => other,
            };
        }
        let budgets = self.budgets_of(pod)?;
        let budget = match budgets.as_slice() {
            [] => return self.mark_and_delete(options).await,
            [one] => one,
            _ => {
                let why =
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(StatusError::new(500, "", why));
            }
        };
        let budget_name = text(&budget.metadata.name);
        if !is_ready(pod) && may_lose_unready(budget) {
            demand_version_unless(chosen, &mut options, pod);
            return match self.mark_and_delete(options).await {
                // It may be ready by now.
                Err(error) if error.code() == StatusCode::CONFLICT && !chosen => Err(not_settled(budget_name)),
                other => other,
            };
        }
        let mut decrement = Mutation(|object: &mut dyn Object| {
            let budget = object.as_any_mut().downcast_mut::<PodDisruptionBudget>();
            let budget = budget.ok_or_else(|| StatusError::internal_error("no disruption budget"))?;
            decrement(budget, self.name, self.scope.now)
        });
        self.budgets.update(self.scope, budget_name, UpdateKind::Internal, &mut decrement).await?;
        self.mark_and_delete(options).await
    }

    /// The budgets that guard a pod.
    fn budgets_of(&self, pod: &Pod) -> Result<Vec<PodDisruptionBudget>, StatusError> {
        let scope = self.budgets.key_scope(self.scope.namespace);
        let snapshot = self.budgets.cache.snapshot();
        let labels = pod.metadata.labels.as_ref();
        let mut guarding = Vec::new();
        for cached in snapshot.range(&scope, "") {
            let object = self.budgets.decode_stored(cached, cached.json())?;
            let Some(budget) = object.as_any().downcast_ref::<PodDisruptionBudget>() else { continue };
            let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            let Ok(selector) = LabelSelector::from_optional(selector) else { continue };
            if selector.matches(|key| labels?.get(key).map(String::as_str)) {
                guarding.push(budget.clone());
            }
        }
        Ok(guarding)
    }

    /// Says in the pod why it goes, then deletes it.
    async fn mark_and_delete(&self, mut options: DeleteOptions) -> Result<(), StatusError> {
        if !self.scope.dry_run {
            let wanted = options.preconditions.as_ref().and_then(|given| given.resource_version.clone());
            let now = self.scope.now;
            let mut mark = Mutation(|object: &mut dyn Object| {
                // What the client saw must still be so; the update checks it.
                if wanted.is_some() {
                    object.meta_mut().resource_version.clone_from(&wanted);
                }
                if let Some(pod) = object.as_any_mut().downcast_mut::<Pod>() {
                    mark(pod, now);
                }
                Ok(())
            });
            let written = self.pods.update(self.scope, self.name, UpdateKind::Internal, &mut mark).await?;
            if wanted.is_some()
                && let Some(preconditions) = &mut options.preconditions
            {
                let object = self.pods.strategy.decode(&written.json, &mut Vec::new());
                let meta = object.map_err(StatusError::internal_error)?;
                preconditions.resource_version.clone_from(&meta.meta().resource_version);
            }
        }
        self.delete(&options).await
    }

    async fn delete(&self, options: &DeleteOptions) -> Result<(), StatusError> {
        // The eviction was admitted; the deletion that follows from it is not asked for again.
        self.pods.delete_admitted(self.scope, self.name, options).await.map(drop)
    }
}

/// Whether a budget lets a pod go that is not ready, without counting it.
fn may_lose_unready(budget: &PodDisruptionBudget) -> bool {
    let policy = budget.spec.as_ref().and_then(|spec| spec.unhealthy_pod_eviction_policy.as_deref());
    let healthy = budget
        .status
        .as_ref()
        .is_some_and(|status| status.current_healthy >= status.desired_healthy && status.desired_healthy > 0);
    policy == Some("AlwaysAllow") || healthy
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn demand_version(options: &mut DeleteOptions, pod: &Pod) {
    let preconditions = options.preconditions.get_or_insert_with(Preconditions::default);
    preconditions.resource_version.clone_from(&pod.metadata.resource_version);
}

fn demand_version_unless(chosen: bool, options: &mut DeleteOptions, pod: &Pod) {
    if !chosen {
        demand_version(options, pod);
    }
}

fn unversioned(mut options: DeleteOptions) -> DeleteOptions {
    if let Some(preconditions) = &mut options.preconditions {
        preconditions.resource_version = None;
    }
    options
}

fn mark(pod: &mut Pod, now: Timestamp) {
    let observed = pod.metadata.generation;
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    let condition = PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some("EvictionByEvictionAPI".to_owned()),
        message: Some("Eviction API: evicting".to_owned()),
        last_transition_time: Some(Time(now)),
        observed_generation: observed,
        ..PodCondition::default()
    };
    match conditions.iter_mut().find(|present| present.type_ == condition.type_) {
        Some(present) => {
            let since = present.last_transition_time.clone().filter(|_| present.status == condition.status);
            *present = condition;
            present.last_transition_time = since.or_else(|| present.last_transition_time.clone());
        }
        None => conditions.push(condition),
    }
}

/// Takes one disruption from the budget, if it has one.
fn decrement(budget: &mut PodDisruptionBudget, pod: &str, now: Timestamp) -> Result<(), StatusError> {
    let name = text(&budget.metadata.name).to_owned();
    let generation = budget.metadata.generation.unwrap_or(0);
    let status = budget.status.get_or_insert_default();
    if status.observed_generation.unwrap_or(0) < generation {
        return Err(not_settled(&name));
    }
    let what = GroupResource { group: "policy", resource: "poddisruptionbudget" };
    if status.disruptions_allowed < 0 {
        return Err(StatusError::forbidden(what, &name, "pdb disruptions allowed is negative"));
    }
    if status.disrupted_pods.as_ref().map_or(0, std::collections::BTreeMap::len) > MOST_DISRUPTED {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(StatusError::forbidden(what, &name, why));
    }
    if status.disruptions_allowed == 0 {
        return Err(refused(0, exhausted(&name, status)));
    }
    status.disruptions_allowed -= 1;
    if status.disruptions_allowed == 0 {
        no_more_allowed(status, generation, now);
    }
    status.disrupted_pods.get_or_insert_default().insert(pod.to_owned(), Time(now));
    Ok(())
}

fn exhausted(name: &str, status: &PodDisruptionBudgetStatus) -> String {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let failed = conditions.iter().find(|condition| {
        condition.type_ == ALLOWED && condition.status == "False" && condition.reason == "SyncFailed"
    });
    match failed {
        Some(condition) => format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {}",
            condition.message
        ),
        None => format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            status.desired_healthy, status.current_healthy
        ),
    }
}

fn no_more_allowed(status: &mut PodDisruptionBudgetStatus, generation: i64, now: Timestamp) {
    let conditions = status.conditions.get_or_insert_default();
    let since = conditions.iter().find(|one| one.type_ == ALLOWED && one.status == "False");
    let since = since.map_or(Time(now), |one| one.last_transition_time.clone());
    conditions.retain(|condition| condition.type_ != ALLOWED);
    conditions.push(Condition {
        type_: ALLOWED.to_owned(),
        status: "False".to_owned(),
        reason: "InsufficientPods".to_owned(),
        message: String::new(),
        observed_generation: Some(generation),
        last_transition_time: since,
    });
}

/// 429 with the budget's say.
fn refused(retry: u32, why: String) -> StatusError {
    StatusError::too_many_requests(REFUSED, retry).with_cause(StatusCause {
        reason: Some("DisruptionBudget".to_owned()),
        message: Some(why),
        field: None,
    })
}

fn not_settled(name: &str) -> StatusError {
    refused(10, format!("The disruption budget {name} is still being processed by the server."))
}
