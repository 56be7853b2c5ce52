//! EndpointSlices in the API: which a manager has made for a Service, and the writes that carry a plan out.

use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};

use super::packing::Change;
use super::{MANAGED_BY_LABEL, SERVICE_NAME_LABEL};
use crate::context::Context;
use crate::error::{Context as _, Error};
use crate::informers::{BY_SERVICE, Informers};
use crate::meta::{self, ObjectKey};

/// True if the slice says that `manager` has made it.
pub(crate) fn is_managed_by(slice: &EndpointSlice, manager: &str) -> bool {
    meta::label(&slice.metadata, MANAGED_BY_LABEL) == Some(manager)
}

/// The Service the slice belongs to.
pub(crate) fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let service = meta::label(&slice.metadata, SERVICE_NAME_LABEL)?;
    Some(ObjectKey::new(meta::namespace(&slice.metadata), service))
}

/// The slices `manager` has made for a Service, without those that are going.
pub(crate) fn of_service(informers: &Informers, service: &ObjectKey, manager: &str) -> Vec<Arc<EndpointSlice>> {
    let mut slices = informers.endpoint_slices.indexed(BY_SERVICE, &service.to_string());
    slices.retain(|slice| is_managed_by(slice, manager) && !meta::is_deleting(&slice.metadata));
    slices
}

/// Writes what a plan says, creates and updates before deletes, so that no endpoint is missing in between. That a
/// namespace takes no new slices because it goes is no error.
pub(crate) async fn apply(context: &Context, service: &ObjectKey, changes: Vec<Change>) -> Result<(), Error> {
    let (deletes, writes): (Vec<_>, Vec<_>) =
        changes.into_iter().partition(|change| matches!(change, Change::Delete(_)));
    let mut errors = Vec::new();
    for changes in [writes, deletes] {
        let results = join_all(changes.into_iter().map(|change| write(context, service, change))).await;
        errors.extend(results.into_iter().filter_map(Result::err));
    }
    errors.retain(|error| !error.is_namespace_terminating());
    Error::from_batch(errors)
}

async fn write(context: &Context, service: &ObjectKey, change: Change) -> Result<(), Error> {
    let namespace = &service.namespace;
    let api: Api<EndpointSlice> = Api::namespaced(context.client.clone(), namespace);
    let informer = &context.informers.endpoint_slices;
    match change {
        Change::Create(slice) => {
            let created = api
                .create(&PostParams::default(), &slice)
                .await
                .context(|| format!("creating EndpointSlice for Service {service}"))?;
            informer.wrote(&created);
        }
        Change::Update(slice) => {
            let name = meta::name(&slice.metadata);
            let updated = api
                .replace(name, &PostParams::default(), &slice)
                .await
                .context(|| format!("updating EndpointSlice {namespace}/{name}"))?;
            informer.wrote(&updated);
        }
        Change::Delete(slice) => {
            let name = meta::name(&slice.metadata);
            let params = DeleteParams::default()
                .preconditions(Preconditions { uid: slice.metadata.uid.clone(), resource_version: None });
            match api.delete(name, &params).await.context(|| format!("deleting EndpointSlice {namespace}/{name}")) {
                Ok(answer) => informer.deleted(&slice.metadata, answer.left()),
                Err(error) if error.is_not_found() => informer.removed(&slice.metadata),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}
