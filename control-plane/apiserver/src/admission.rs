//! Admission: what a request must fit into beyond its own validity. One file a check.
//!
//! Every write passes two phases. The first may change the object ([`Admission::mutate`], before the strategy prepares and
//! validates it), the second only judges it ([`Admission::validate`], right before it is written). In each phase the checks
//! run in the order of upstream's default plugins: the server's own, then those from outside ([`External`]), then the quota.
//! What a webhook has changed, the server's own checks of the first phase see once more, and those of the second judge.
//!
//! A check asks for the resource before anything else, so a request that nobody cares about pays for a few comparisons of
//! names and for no future, allocation or JSON.

use std::sync::Arc;

use k8s_openapi::api::{
    networking::v1::IngressClass, node::v1::RuntimeClass, scheduling::v1::PriorityClass, storage::v1::StorageClass,
};
use serde_json::Value;
use skep_api::status::StatusError;
use skep_storage::{Compare, Op, Resource, Storage};

pub(crate) use attributes::{Attributes, Codec, External, Operation, Phase, Plain};
pub(crate) use matching::World;
pub(crate) use policies::Policies;
pub(crate) use warnings::WarningSink;
pub(crate) use webhooks::Webhooks;

use self::{
    classes::Classes,
    quota::{Charged, Quotas},
    webhooks::Round,
};
use crate::{
    authz::{Authorizer, escalation},
    registry::object::{JsonObject, Object},
};

mod attributes;
mod certificates;
mod claim_resize;
mod classes;
pub(crate) mod conditions;
mod default_class;
mod default_toleration_seconds;
mod follow;
mod in_use_protection;
mod judge;
mod limit_ranger;
mod managed_fields;
mod matching;
mod namespace_lifecycle;
mod node_restriction;
mod pod_security;
pub(crate) mod policies;
mod priority;
mod quota;
mod review;
mod runtime_class;
mod service_account;
mod taint_nodes_by_condition;
mod warnings;
mod webhooks;

/// The admission checks.
pub(crate) struct Admission {
    storage: Storage,
    namespaces: Option<Resource>,
    service_accounts: Option<Resource>,
    authorizer: Arc<Authorizer>,
    limit_ranges: Option<Resource>,
    pods: Option<Resource>,
    priority_classes: Classes<PriorityClass>,
    runtime_classes: Classes<RuntimeClass>,
    storage_classes: Classes<StorageClass>,
    ingress_classes: Classes<IngressClass>,
    quotas: Quotas,
    /// Webhooks and policies, in the order they are asked.
    external: Vec<Arc<dyn External>>,
}

/// What the decision to let a write pass rests on; the write must demand that it still holds.
#[derive(Debug, Default)]
pub(crate) struct Admitted {
    /// The namespace as it was seen.
    guard: Option<Compare>,
    /// What the quotas of the namespace come to with this write.
    charged: Option<Charged>,
}

impl Admitted {
    /// What the transaction compares besides the object's own key.
    pub(crate) fn compares(&self) -> impl Iterator<Item = &Compare> {
        self.guard.iter().chain(self.charged.iter().flat_map(Charged::compares))
    }

    /// What the transaction writes besides the object.
    pub(crate) fn ops(&self) -> impl Iterator<Item = Op> {
        self.charged.iter().flat_map(Charged::ops)
    }

    /// Notes that it was written at that revision.
    pub(crate) fn settle(&mut self, revision: i64) {
        if let Some(charged) = self.charged.take() {
            charged.settle(revision);
        }
    }
}

impl Admission {
    pub(crate) fn new(storage: &Storage, authorizer: Arc<Authorizer>) -> Self {
        Self {
            storage: storage.clone(),
            namespaces: storage.resource("/registry/namespaces/"),
            service_accounts: storage.resource("/registry/serviceaccounts/"),
            authorizer,
            limit_ranges: storage.resource("/registry/limitranges/"),
            pods: storage.resource("/registry/pods/"),
            priority_classes: Classes::new(storage, "/registry/priorityclasses/"),
            runtime_classes: Classes::new(storage, "/registry/runtimeclasses/"),
            storage_classes: Classes::new(storage, "/registry/storageclasses/"),
            ingress_classes: Classes::new(storage, "/registry/ingressclasses/"),
            quotas: Quotas::new(storage),
            external: Vec::new(),
        }
    }

    /// Lets checks from outside take part, after those there are.
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
        self.mutate_by_resource(attributes, &mut **object).await?;
        if self.external.iter().any(|external| external.cares(Phase::Mutate, attributes)) {
            self.mutate_by_others(attributes, object).await?;
        }
        // Upstream's registry of RBAC asks this after admission has changed the object and before it is validated.
        escalation::check(&self.authorizer, attributes, &**object)?;
        Ok(Admitted { guard, charged: None })
    }

    /// Lets webhooks change the object. If they do, the server's own checks see it again, and then those webhooks that want to
    /// see what was changed after them.
    async fn mutate_by_others(
        &self,
        attributes: &Attributes<'_>,
        object: &mut Box<dyn Object>,
    ) -> Result<(), StatusError> {
        let owners = object.meta().managed_fields.clone();
        let mut round = Round::default();
        self.ask_to_mutate(attributes, Some(object), &mut round).await?;
        if round.has_changed() {
            let before = attributes.codec.to_json(&**object)?;
            self.mutate_by_resource(attributes, &mut **object).await?;
            round.begin_second(attributes.codec.to_json(&**object)? != before);
            self.ask_to_mutate(attributes, Some(object), &mut round).await?;
            managed_fields::restore(attributes, object.meta_mut(), owners);
        }
        Ok(())
    }

    async fn ask_to_mutate(
        &self,
        attributes: &Attributes<'_>,
        mut object: Option<&mut Box<dyn Object>>,
        round: &mut Round,
    ) -> Result<(), StatusError> {
        for external in self.external.iter().filter(|external| external.cares(Phase::Mutate, attributes)) {
            external.mutate(attributes, object.as_deref_mut(), round).await?;
        }
        Ok(())
    }

    /// The second phase of a create or update: judges the object as it will be written.
    pub(crate) async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: &dyn Object,
        admitted: &mut Admitted,
    ) -> Result<(), StatusError> {
        // Dropped first: whoever charges a namespace twice would wait for himself.
        admitted.charged = None;
        self.validate_by_resource(attributes, object).await?;
        self.ask_external(attributes, Some(object)).await?;
        admitted.charged = self.quotas.charge(&self.storage, attributes, object).await?;
        Ok(())
    }

    /// The server's own checks of the first phase. Of those that concern one resource, the order is upstream's.
    async fn mutate_by_resource(
        &self,
        attributes: &Attributes<'_>,
        object: &mut dyn Object,
    ) -> Result<(), StatusError> {
        let create = attributes.operation == Operation::Create && attributes.subresource.is_empty();
        if !(create && attributes.is("", "pods")) {
            self.node_restriction(attributes, Some(object)).await?;
        }
        match (&*attributes.info.plural, &*attributes.info.group) {
            ("pods", "") if create => {
                self.limit_defaults(attributes, object);
                self.service_account(attributes, object).await?;
                self.node_restriction(attributes, Some(object)).await?;
                self.priority(attributes, object).await?;
                default_toleration_seconds::tolerate(object);
                self.runtime_class(attributes, object).await?;
            }
            ("pods", "") if attributes.operation == Operation::Update => match attributes.subresource {
                "" => {
                    priority::keep_priority(attributes, object);
                    default_toleration_seconds::tolerate(object);
                }
                "resize" => self.limit_defaults(attributes, object),
                _ => {}
            },
            ("nodes", "") if create => taint_nodes_by_condition::taint(object),
            ("persistentvolumeclaims", "") if create => self.default_storage_class(object).await?,
            ("ingresses", "networking.k8s.io") if create => self.default_ingress_class(object).await?,
            _ => {}
        }
        if create && let Some(finalizer) = in_use_protection::finalizer(&attributes.info.group, &attributes.info.plural)
        {
            in_use_protection::protect(object, finalizer);
        }
        Ok(())
    }

    /// The server's own checks of the second phase, but for the quota.
    async fn validate_by_resource(&self, attributes: &Attributes<'_>, object: &dyn Object) -> Result<(), StatusError> {
        match (&*attributes.info.plural, &*attributes.info.group) {
            ("pods", "") => {
                self.limits(attributes, object)?;
                self.pod_security(attributes, object)?;
                if attributes.operation == Operation::Create && attributes.subresource.is_empty() {
                    self.runs_as_account(attributes, object).await?;
                    self.runtime_overhead(attributes, object).await?;
                }
            }
            ("persistentvolumeclaims", "") if attributes.subresource.is_empty() => {
                self.limits(attributes, object)?;
                if attributes.operation == Operation::Update {
                    self.claim_resize(attributes, object).await?;
                }
            }
            ("certificatesigningrequests", _) => self.certificate_request(attributes, object)?,
            ("namespaces", "") if attributes.subresource.is_empty() => self.pod_security_labels(attributes, object)?,
            ("priorityclasses", "scheduling.k8s.io") => self.only_default_priority(attributes, object)?,
            ("replicationcontrollers" | "podtemplates", "")
            | ("deployments" | "replicasets" | "statefulsets" | "daemonsets", "apps")
            | ("jobs" | "cronjobs", "batch")
                if attributes.subresource.is_empty() =>
            {
                self.pod_security(attributes, object)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Renews what a write rested on after the write found it changed.
    pub(crate) async fn renew(
        &self,
        attributes: &Attributes<'_>,
        object: &dyn Object,
        admitted: &mut Admitted,
    ) -> Result<(), StatusError> {
        admitted.guard = self.namespace_lifecycle(attributes, object.name()).await?;
        if admitted.charged.take().is_some() {
            admitted.charged = self.quotas.charge(&self.storage, attributes, object).await?;
        }
        Ok(())
    }

    /// Both phases of a deletion of `attributes.old`.
    pub(crate) async fn delete(&self, attributes: &Attributes<'_>) -> Result<(), StatusError> {
        self.node_restriction(attributes, None).await?;
        self.ask_to_mutate(attributes, None, &mut Round::default()).await?;
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
        let mut round = Round::default();
        self.ask_to_mutate(attributes, Some(&mut object), &mut round).await?;
        if round.has_changed() {
            round.begin_second(false);
            self.ask_to_mutate(attributes, Some(&mut object), &mut round).await?;
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
