//! What a check may know about a request, and how checks from outside the server take part.

use futures::future::BoxFuture;
use serde_json::{Map, Value, json};
use skep_api::{
    options::{DeleteOptions, PropagationPolicy},
    resource::ResourceInfo,
    status::StatusError,
};

use super::webhooks::Round;
use crate::registry::{generic::Scope, object::Object};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    /// As rules of webhooks and policies write it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// The two phases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Mutate,
    Validate,
}

/// A request as admission sees it; upstream's `admission.Attributes`, but for the object, which is handed over beside it
/// because the first phase may change it.
#[derive(Clone, Copy)]
pub(crate) struct Attributes<'a> {
    pub(crate) operation: Operation,
    /// The resource, in the version of the request.
    pub(crate) info: &'a ResourceInfo,
    /// Empty for the object itself.
    pub(crate) subresource: &'a str,
    /// The name in the request's path; empty for a new object, which may have its own (or none yet).
    pub(crate) name: &'a str,
    /// Who asks, in which namespace, and whether it is a dry run.
    pub(crate) scope: &'a Scope<'a>,
    /// The object stored now, of updates and deletions.
    pub(crate) old: Option<&'a dyn Object>,
    /// Of deletions.
    pub(crate) delete: Option<&'a DeleteOptions>,
    /// Between objects and the JSON clients of this version know.
    pub(crate) codec: &'a dyn Codec,
}

impl<'a> Attributes<'a> {
    /// Group, version and kind of the object; a subresource may speak another than the resource itself (`Scale`).
    pub(crate) fn kind(&self) -> (&'a str, &'a str, &'a str) {
        match self.info.subresource(self.subresource) {
            Some(part) if part.version.is_empty() => (&self.info.group, &self.info.version, &part.kind),
            Some(part) => (&part.group, &part.version, &part.kind),
            None => self.info.gvk(),
        }
    }

    /// Whether the request is for objects (not a subresource) of this resource.
    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        self.subresource.is_empty() && self.info.plural == plural && self.info.group == group
    }

    /// `metav1.CreateOptions`, `UpdateOptions` or `DeleteOptions` of the request; none of a connection.
    pub(crate) fn options(&self) -> Option<Value> {
        let mut options = Map::new();
        let kind = match self.operation {
            Operation::Create => "CreateOptions",
            Operation::Update => "UpdateOptions",
            Operation::Delete => "DeleteOptions",
            Operation::Connect => return None,
        };
        options.insert("kind".to_owned(), kind.into());
        options.insert("apiVersion".to_owned(), "meta.k8s.io/v1".into());
        if self.scope.dry_run {
            options.insert("dryRun".to_owned(), json!(["All"]));
        }
        match self.delete {
            Some(delete) => delete_options(delete, &mut options),
            None => {
                let query = self.scope.query;
                for key in ["fieldManager", "fieldValidation"] {
                    let given = query.and_then(|query| query.get(key)).filter(|text| !text.is_empty());
                    options.extend(given.map(|text| (key.to_owned(), text.into())));
                }
            }
        }
        Some(Value::Object(options))
    }

    /// 403, in upstream's words; a new object that has no name yet goes by what its name will begin with.
    pub(crate) fn forbidden(&self, object: &dyn Object, why: impl std::fmt::Display) -> StatusError {
        let meta = object.meta();
        let given = |name: &'_ Option<String>| name.clone().filter(|name| !name.is_empty());
        let name = Some(self.name.to_owned()).filter(|name| !name.is_empty());
        let name = name.or_else(|| given(&meta.name)).or_else(|| given(&meta.generate_name));
        StatusError::forbidden(self.info, &name.unwrap_or_else(|| "Unknown".to_owned()), why)
    }

    /// The same request with another object stored.
    pub(crate) fn with_old(self, old: &'a dyn Object) -> Self {
        Self { old: Some(old), ..self }
    }
}

fn delete_options(delete: &DeleteOptions, options: &mut Map<String, Value>) {
    if let Some(seconds) = delete.grace_period_seconds {
        options.insert("gracePeriodSeconds".to_owned(), seconds.into());
    }
    if let Some(preconditions) = &delete.preconditions {
        options.insert("preconditions".to_owned(), json!(preconditions));
    }
    if let Some(orphan) = delete.orphan_dependents {
        options.insert("orphanDependents".to_owned(), orphan.into());
    }
    if let Some(policy) = delete.propagation_policy {
        let policy = match policy {
            PropagationPolicy::Orphan => "Orphan",
            PropagationPolicy::Background => "Background",
            PropagationPolicy::Foreground => "Foreground",
        };
        options.insert("propagationPolicy".to_owned(), policy.into());
    }
}

/// Between an object and its JSON in the version of the request.
pub(crate) trait Codec: Send + Sync {
    /// The object's JSON, apiVersion and kind included.
    fn to_json(&self, object: &dyn Object) -> Result<Vec<u8>, StatusError>;

    /// The object of a JSON that someone changed, defaults filled in.
    fn to_object(&self, json: Value) -> Result<Box<dyn Object>, StatusError>;
}

/// The codec of an object that is its own JSON.
pub(crate) struct Plain<T>(std::marker::PhantomData<fn() -> T>);

impl<T> Plain<T> {
    pub(crate) const fn new() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<T: Object + serde::de::DeserializeOwned> Codec for Plain<T> {
    fn to_json(&self, object: &dyn Object) -> Result<Vec<u8>, StatusError> {
        object.to_json().map_err(StatusError::internal_error)
    }

    fn to_object(&self, json: Value) -> Result<Box<dyn Object>, StatusError> {
        Ok(Box::new(serde_json::from_value::<T>(json).map_err(StatusError::internal_error)?))
    }
}

/// A check that is not the server's own: webhooks, policies. They come last in their phase (but for the quota).
///
/// The object's JSON is made by [`Attributes::codec`] when one needs it; nothing is made for those that do not care.
pub(crate) trait External: Send + Sync {
    /// Whether any rule may match; asked for every write, so it should look at the resource first.
    fn cares(&self, phase: Phase, attributes: &Attributes<'_>) -> bool;

    /// May replace the object; there is none in deletions.
    fn mutate<'a>(
        &'a self,
        attributes: &'a Attributes<'_>,
        object: Option<&'a mut Box<dyn Object>>,
        round: &'a mut Round,
    ) -> BoxFuture<'a, Result<(), StatusError>>;

    /// Judges the object; there is none in deletions.
    fn validate<'a>(
        &'a self,
        attributes: &'a Attributes<'_>,
        object: Option<&'a dyn Object>,
    ) -> BoxFuture<'a, Result<(), StatusError>>;
}
