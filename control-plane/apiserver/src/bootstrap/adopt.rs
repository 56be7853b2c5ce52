//! Addresses and node ports of Services that another API server has stored: upstream counts node ports in a bitmap, and
//! older releases the addresses, too. Here each is a key, which is made before anything is given out, and again if it was
//! deleted.

use k8s_openapi::api::core::v1::Service;
use skep_storage::{Compare, Error, Storage, Txn};

use crate::{error::Result, registry::service};

/// Makes the keys that are missing.
pub(crate) async fn run(storage: &Storage) -> Result<()> {
    let Some(services) = storage.resource(service::PREFIX) else { return Ok(()) };
    let caches: Vec<_> =
        [service::ADDRESS_PREFIX, service::NODE_PORT_PREFIX].iter().filter_map(|p| storage.resource(p)).collect();
    for object in services.snapshot().iter() {
        let service: Service = match serde_json::from_slice(object.json()) {
            Ok(service) => service,
            Err(error) => {
                tracing::warn!(key = %object.key(), %error, "a Service cannot be read; what it holds may be given out");
                continue;
            }
        };
        for (key, value) in service::holdings(&service) {
            if caches.iter().any(|cache| cache.get(&key).is_some()) {
                continue;
            }
            let unchanged = Compare::AtRevision(object.key().to_string(), object.mod_revision());
            match storage.commit(Txn::new().compare(unchanged).create(key.as_str(), value)).await {
                Ok(_) => tracing::info!(service = %object.key(), %key, "took over what a Service holds"),
                // Another server was quicker, or the Service has changed.
                Err(Error::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}
