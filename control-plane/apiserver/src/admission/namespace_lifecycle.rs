//! NamespaceLifecycle: nothing new in a namespace that does not exist or is going away.
//!
//! The namespace is looked up in the cache, which may be behind; the write itself then demands that the namespace has not
//! changed since, so nothing can slip into a namespace after its deletion began.

use std::sync::Arc;

use k8s_openapi::{api::core::v1::Namespace, apimachinery::pkg::apis::meta::v1::StatusCause};
use skep_api::status::{GroupResource, StatusError};
use skep_storage::{Compare, Object as Cached};

use super::{Admission, Attributes, Operation};
use crate::registry::generic::refresh;

impl Admission {
    pub(crate) async fn namespace_lifecycle(
        &self,
        attributes: &Attributes<'_>,
        object_name: &str,
    ) -> Result<Option<Compare>, StatusError> {
        if attributes.operation != Operation::Create || !attributes.info.namespaced {
            return Ok(None);
        }
        let (Some(name), Some(namespaces)) = (attributes.scope.namespace, &self.namespaces) else { return Ok(None) };
        let key = format!("/registry/namespaces/{name}");
        let mut found = namespaces.get(&key);
        if found.is_none() {
            // The cache may only be behind.
            refresh(&self.storage).await?;
            found = namespaces.get(&key);
        }
        let Some(namespace) = found else {
            return Err(StatusError::not_found(GroupResource { group: "", resource: "namespaces" }, name));
        };
        if is_terminating(&namespace) {
            let why = format!("unable to create new content in namespace {name} because it is being terminated");
            return Err(StatusError::forbidden(attributes.info, object_name, why).with_cause(StatusCause {
                reason: Some("NamespaceTerminating".to_owned()),
                message: Some(format!("namespace {name} is being terminated")),
                field: Some("metadata.namespace".to_owned()),
            }));
        }
        Ok(Some(Compare::AtRevision(key, namespace.mod_revision())))
    }
}

fn is_terminating(namespace: &Arc<Cached>) -> bool {
    // The selectable field says it without parsing.
    match namespace.field("status.phase") {
        Some(phase) => phase == "Terminating",
        None => serde_json::from_slice::<Namespace>(namespace.json()).is_ok_and(|namespace| {
            namespace.metadata.deletion_timestamp.is_some()
                || namespace.status.and_then(|status| status.phase).as_deref() == Some("Terminating")
        }),
    }
}
