//! Keeps what Services hold and the keys that say so in step, as upstream's repair loop of IPAddresses does. The server
//! itself never lets them differ; people and other programs can delete or create an IPAddress.

use std::sync::Weak;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::IPAddress;
use skep_storage::{Compare, Error, Object, Storage, Txn};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::adopt;
use crate::registry::service;
use crate::{error::Result, service::Shared};

const MANAGED_BY_LABEL: &str = "ipaddress.kubernetes.io/managed-by";
const MANAGED_BY: &str = "ipallocator.k8s.io";
/// So long an IPAddress may be without its Service: an upstream API server writes the two one after the other.
const GRACE: Duration = Duration::from_secs(60);

/// Looks each `interval` until `stop`, or until the server is gone.
pub(crate) fn keep(
    shared: Weak<Shared>,
    storage: Storage,
    interval: Duration,
    stop: CancellationToken,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        while tokio::time::timeout(interval, stop.cancelled()).await.is_err() && shared.strong_count() > 0 {
            if let Err(error) = run(&storage).await {
                tracing::warn!(%error, "addresses of Services could not be looked after");
            }
        }
    })
}

/// Frees addresses that no Service holds, then takes those that one holds: an address under a wrong name gets the right one.
async fn run(storage: &Storage) -> Result<()> {
    let caches = (storage.resource(service::ADDRESS_PREFIX), storage.resource(service::PREFIX));
    let (Some(addresses), Some(services)) = caches else { return Ok(()) };
    for object in addresses.snapshot().iter().filter(|object| object.label(MANAGED_BY_LABEL) == Some(MANAGED_BY)) {
        // There may be many; others want the thread, too.
        tokio::task::yield_now().await;
        let Some(parent) = parent(object) else { continue };
        let holder = parent.as_ref().and_then(|key| services.get(key));
        if holder.as_ref().is_some_and(|holder| holds(holder, object.key())) {
            continue;
        }
        let mut txn = Txn::new().delete(&**object.key(), object.mod_revision());
        // The cache may be behind: etcd decides whether the Service is still as it was seen here.
        txn.compares.extend(parent.map(|key| match holder {
            Some(holder) => Compare::AtRevision(key, holder.mod_revision()),
            None => Compare::Absent(key),
        }));
        match storage.commit(txn).await {
            Ok(_) => tracing::warn!(address = object.name(), "an address that no Service holds was freed"),
            Err(Error::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let revision = storage.read_revision().await?;
    storage.wait_for(revision).await?;
    adopt::run(storage).await
}

/// The key of the Service an address names, `Some(None)` if it names something else; None if it is too young to judge, or
/// cannot be read.
fn parent(object: &Object) -> Option<Option<String>> {
    let address: IPAddress = serde_json::from_slice(object.json()).ok()?;
    let created = address.metadata.creation_timestamp?;
    if Duration::try_from(Timestamp::now().duration_since(created.0)).is_ok_and(|age| age < GRACE) {
        return None;
    }
    let parent = address.spec?.parent_ref;
    let is_service = parent.resource == "services" && parent.group.unwrap_or_default().is_empty();
    Some(is_service.then(|| format!("{}{}/{}", service::PREFIX, parent.namespace.unwrap_or_default(), parent.name)))
}

fn holds(service: &Object, address: &str) -> bool {
    // What cannot be read is left alone.
    serde_json::from_slice::<Service>(service.json())
        .map_or(true, |service| service::holdings(&service).iter().any(|(key, _)| key == address))
}
