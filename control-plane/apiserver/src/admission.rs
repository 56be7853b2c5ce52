//! Admission: what a request must fit into beyond its own validity. One file a check.

use skep_api::{resource::ResourceInfo, status::StatusError};
use skep_storage::{Compare, Resource, Storage};

use crate::registry::{generic::Scope, object::Object};

mod namespace_lifecycle;
mod service_account;

/// The admission checks, in upstream's order.
pub(crate) struct Admission {
    storage: Storage,
    namespaces: Option<Resource>,
    service_accounts: Option<Resource>,
}

impl Admission {
    pub(crate) fn new(storage: &Storage) -> Self {
        Self {
            storage: storage.clone(),
            namespaces: storage.resource("/registry/namespaces/"),
            service_accounts: storage.resource("/registry/serviceaccounts/"),
        }
    }

    /// Admits a new object, and fills in what admission fills in. What the decision rests on must still hold when the
    /// object is written.
    pub(crate) async fn create(
        &self,
        scope: &Scope<'_>,
        info: &ResourceInfo,
        object: &mut dyn Object,
    ) -> Result<Option<Compare>, StatusError> {
        let mut guard = None;
        if info.namespaced {
            guard = self.namespace_lifecycle(scope, info, object).await?;
        }
        if info.plural == "pods" && info.group.is_empty() {
            self.service_account(scope, info, object).await?;
        }
        Ok(guard)
    }
}
