//! Admission: what a request must fit into beyond its own validity. One file a check.
//!
//! Every write passes two phases. The first may change the object ([`Admission::mutate`], before the strategy prepares and
//! validates it), the second only judges it ([`Admission::validate`], right before it is written). In each phase the checks
//! run in the order of upstream's default plugins: the server's own, then those from outside ([`External`]), then the quota.
//!
//! A check asks for the resource before anything else, so a request that nobody cares about pays for a few comparisons of
//! names and for no future, allocation or JSON.

use std::sync::Arc;

use serde_json::Value;
use skep_api::status::StatusError;
use skep_storage::{Compare, Resource, Storage};

pub(crate) use attributes::{Attributes, Codec, External, Operation, Phase, Plain};
pub(crate) use warnings::WarningSink;

use crate::{
    authz::{Authorizer, escalation},
    registry::object::{JsonObject, Object},
};

mod attributes;
mod certificates;
mod namespace_lifecycle;
mod service_account;
mod warnings;

/// The admission checks.
pub(crate) struct Admission {
    storage: Storage,
    namespaces: Option<Resource>,
    service_accounts: Option<Resource>,
    authorizer: Arc<Authorizer>,
    /// Webhooks and policies, in the order they are asked.
    external: Vec<Arc<dyn External>>,
}

/// What the decision to let a write pass rests on; the write must demand that it still holds.
#[derive(Debug, Default)]
pub(crate) struct Admitted {
    /// The namespace as it was seen.
    guard: Option<Compare>,
}

impl Admitted {
    /// What the transaction compares besides the object's own key.
    pub(crate) fn compares(&self) -> impl Iterator<Item = &Compare> {
        self.guard.iter()
    }
}

impl Admission {
    pub(crate) fn new(storage: &Storage, authorizer: Arc<Authorizer>) -> Self {
        Self {
            storage: storage.clone(),
            namespaces: storage.resource("/registry/namespaces/"),
            service_accounts: storage.resource("/registry/serviceaccounts/"),
            authorizer,
            external: Vec::new(),
        }
    }

    /// Lets checks from outside take part, after those there are.
    #[expect(dead_code, reason = "webhooks and policies come with their own change")]
    pub(crate) fn with(mut self, external: Arc<dyn External>) -> Self {
        self.external.push(external);
        self
    }

    /// The first phase of a create or update: fills in what admission fills in, refuses what can be refused early.
    pub(crate) async fn mutate(
        &self,
        attributes: &Attributes<'_>,
        object: &mut Box<dyn Object>,
    ) -> Result<Admitted, StatusError> {
        let guard = self.namespace_lifecycle(attributes, object.name()).await?;
        if attributes.info.group.is_empty()
            && attributes.info.plural == "pods"
            && attributes.subresource.is_empty()
            && attributes.operation == Operation::Create
        {
            self.service_account(attributes, &mut **object).await?;
        }
        for external in self.external.iter().filter(|external| external.cares(Phase::Mutate, attributes)) {
            external.mutate(attributes, Some(&mut *object)).await?;
        }
        // Upstream's registry of RBAC asks this after admission has changed the object and before it is validated.
        escalation::check(&self.authorizer, attributes, &**object)?;
        Ok(Admitted { guard })
    }

    /// The second phase of a create or update: judges the object as it will be written.
    pub(crate) async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: &dyn Object,
        admitted: &mut Admitted,
    ) -> Result<(), StatusError> {
        let _ = admitted;
        if attributes.info.group == "certificates.k8s.io" {
            self.certificate_request(attributes, object)?;
        }
        self.ask_external(attributes, Some(object)).await
    }

    /// Renews what a write rested on after the write found it changed.
    pub(crate) async fn renew(
        &self,
        attributes: &Attributes<'_>,
        object: &dyn Object,
        admitted: &mut Admitted,
    ) -> Result<(), StatusError> {
        admitted.guard = self.namespace_lifecycle(attributes, object.name()).await?;
        Ok(())
    }

    /// Both phases of a deletion of `attributes.old`.
    pub(crate) async fn delete(&self, attributes: &Attributes<'_>) -> Result<(), StatusError> {
        for external in self.external.iter().filter(|external| external.cares(Phase::Mutate, attributes)) {
            external.mutate(attributes, None).await?;
        }
        self.ask_external(attributes, None).await
    }

    /// Both phases of a connection (exec, attach, portforward, proxy); `options` is what upstream takes for its object,
    /// such as a PodExecOptions.
    pub(crate) async fn connect(
        &self,
        attributes: &Attributes<'_>,
        options: impl FnOnce() -> Value,
    ) -> Result<(), StatusError> {
        if self.external.is_empty() {
            return Ok(());
        }
        let mut object: Box<dyn Object> = Box::new(JsonObject::new(options()));
        for external in self.external.iter().filter(|external| external.cares(Phase::Mutate, attributes)) {
            external.mutate(attributes, Some(&mut object)).await?;
        }
        self.ask_external(attributes, Some(&*object)).await
    }

    async fn ask_external(&self, attributes: &Attributes<'_>, object: Option<&dyn Object>) -> Result<(), StatusError> {
        for external in self.external.iter().filter(|external| external.cares(Phase::Validate, attributes)) {
            external.validate(attributes, object).await?;
        }
        Ok(())
    }
}
