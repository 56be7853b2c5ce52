//! `pods/binding`: the scheduler gives a pod its node.

use std::sync::Arc;

use http::{Response, StatusCode};
use k8s_openapi::{
    api::core::v1::{Binding, Pod, PodCondition},
    apimachinery::pkg::apis::meta::v1::{Status, Time},
};
use serde::Deserialize as _;
use skep_api::{
    field,
    options::CreateOptions,
    request::Verb,
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
        erased::UpdateKind,
        generic::{Registry, update::Mutation},
        object::Object,
    },
};

const BINDING: GroupResource<'static> = GroupResource { group: "", resource: "pods/binding" };

pub(crate) async fn answer(call: Call<'_>, registry: &Arc<Registry>) -> Result<Response<Body>, StatusError> {
    let (Verb::Create, Some(name)) = (call.request.verb, call.request.name.as_deref()) else {
        return Err(call.wrong_method());
    };
    let accepted = accept_plain(call.headers)?;
    let options = CreateOptions::parse(&call.request.query)?;
    let scope = call.scope(registry, options.dry_run);
    let headers = call.headers;
    let body = request_body::read(call.body).await?;
    let unreadable = |error: &dyn std::fmt::Display| {
        StatusError::bad_request(format!("Binding in version \"v1\" cannot be handled as a Binding: {error}"))
    };
    let binding: Binding = match document(headers, &body)? {
        Document::Json(json) => serde_json::from_slice(&json).map_err(|error| unreadable(&error))?,
        Document::Value(value) => Binding::deserialize(value).map_err(|error| unreadable(&error))?,
    };
    let binding = registry.admit_part(&scope, name, "binding", binding).await?;
    check(&binding, name, scope.namespace)?;
    let mut source = Mutation(|object: &mut dyn Object| match object.as_any_mut().downcast_mut::<Pod>() {
        Some(pod) => bind(pod, &binding, scope.now),
        None => Err(StatusError::internal_error("binding of something that is no pod")),
    });
    registry.update(&scope, name, UpdateKind::Internal, &mut source).await?;
    let status = Status { status: Some("Success".to_owned()), code: Some(201), ..Status::default() };
    Ok(response::object(StatusCode::CREATED, &accepted, &status))
}

fn check(binding: &Binding, name: &str, namespace: Option<&str>) -> Result<(), StatusError> {
    let given = binding.metadata.name.as_deref().unwrap_or_default();
    if !given.is_empty() && given != name {
        return Err(StatusError::bad_request("name in URL does not match name in Binding object"));
    }
    let given = binding.metadata.namespace.as_deref().unwrap_or_default();
    if !given.is_empty() && Some(given) != namespace {
        return Err(StatusError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let mut errors = field::Errors::new();
    let target = field::Path::new("target");
    let kind = binding.target.kind.as_deref().unwrap_or_default();
    if !kind.is_empty() && kind != "Node" {
        errors.push(field::Error::not_supported(&target.child("kind"), kind, &["Node", "<empty>"]));
    }
    if binding.target.name.as_deref().unwrap_or_default().is_empty() {
        errors.push(field::Error::required(&target.child("name"), ""));
    }
    if errors.is_empty() { Ok(()) } else { Err(StatusError::invalid("", "Binding", name, &errors)) }
}

/// Sets the node of a pod that has none.
fn bind(pod: &mut Pod, binding: &Binding, now: jiff::Timestamp) -> Result<(), StatusError> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let conflict = |why: String| Err(StatusError::conflict(BINDING, &name, why));
    if pod.metadata.deletion_timestamp.is_some() {
        return conflict(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    if let Some(uid) = binding.metadata.uid.as_deref().filter(|uid| !uid.is_empty())
        && Some(uid) != pod.metadata.uid.as_deref()
    {
        let stored = pod.metadata.uid.as_deref().unwrap_or_default();
        return conflict(format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {stored}"));
    }
    let spec = pod.spec.get_or_insert_default();
    if let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) {
        return conflict(format!("pod {name} is already assigned to node {node:?}"));
    }
    if spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()) {
        return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    spec.node_name.clone_from(&binding.target.name);
    if let Some(annotations) = &binding.metadata.annotations {
        let own = pod.metadata.annotations.get_or_insert_default();
        own.extend(annotations.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    let scheduled = conditions.iter_mut().find(|condition| condition.type_ == "PodScheduled");
    match scheduled {
        Some(condition) => {
            if condition.status != "True" {
                condition.last_transition_time = Some(Time(now));
            }
            condition.status = "True".to_owned();
            condition.reason = None;
            condition.message = None;
        }
        None => conditions.push(PodCondition {
            type_: "PodScheduled".to_owned(),
            status: "True".to_owned(),
            last_transition_time: Some(Time(now)),
            ..PodCondition::default()
        }),
    }
    Ok(())
}
