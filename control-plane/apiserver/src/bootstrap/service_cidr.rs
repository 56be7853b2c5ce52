//! The ServiceCIDR `kubernetes`: the ranges this server was started with, as an object.

use std::sync::Once;

use http::StatusCode;
use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use serde_json::{Value, json};
use skep_api::StatusError;

use super::{Bootstrap, decode};
use crate::registry::erased::UpdateKind;
use crate::registry::generic::{Registry, Scope, update::Replacement};
use crate::registry::service::DEFAULT_RANGE as NAME;
use crate::{Config, Error, error::Result};

const RESOURCE: (&str, &str) = ("networking.k8s.io", "servicecidrs");

/// Creates the object, or gives it the second range of a cluster that has become dual-stack. Ranges that differ otherwise
/// stay as they are: Services hold addresses of them.
pub(super) async fn ensure(bootstrap: &Bootstrap<'_>, config: &Config) -> Result<()> {
    let Some(registry) = bootstrap.registries.get(RESOURCE.0, "v1", RESOURCE.1) else { return Ok(()) };
    let ranges: Vec<_> = std::iter::once(config.service_cidr).chain(config.secondary_service_cidr).collect();
    let stored = registry.key(None, NAME).and_then(|key| registry.cache.get(&key));
    let Some(stored) = stored else { return create(bootstrap, &registry, &ranges).await };
    let range: ServiceCIDR =
        serde_json::from_slice(stored.json()).map_err(|error| failed(StatusError::internal_error(error)))?;
    let there = range.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default();
    let wanted: Vec<String> = texts(&ranges);
    if there == wanted {
        return Ok(());
    }
    if wanted.len() == 2 && there == &wanted[..1] {
        return widen(bootstrap, &registry, stored.json(), &wanted).await;
    }
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        tracing::warn!(
            ?there,
            ?wanted,
            "the ServiceCIDR {NAME} differs from --service-cluster-ip-range; it stays in force"
        );
    });
    Ok(())
}

fn texts(ranges: &[IpNet]) -> Vec<String> {
    ranges.iter().map(|range| range.trunc().to_string()).collect()
}

fn failed(source: StatusError) -> Error {
    Error::Bootstrap { what: format!("{} {NAME}", RESOURCE.1), source }
}

async fn create(bootstrap: &Bootstrap<'_>, registry: &Registry, ranges: &[IpNet]) -> Result<()> {
    let mut range = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": NAME},
        "spec": {"cidrs": texts(ranges)},
    });
    bootstrap.ensure(RESOURCE, None, NAME, range.clone(), false).await?;
    range["status"] = json!({"conditions": [{
        "type": "Ready",
        "status": "True",
        "reason": "",
        "message": "Kubernetes default Service CIDR is ready",
        "lastTransitionTime": Timestamp::now(),
    }]});
    update(bootstrap, registry, UpdateKind::Status, range).await
}

async fn widen(bootstrap: &Bootstrap<'_>, registry: &Registry, json: &[u8], wanted: &[String]) -> Result<()> {
    let mut range: Value = serde_json::from_slice(json).map_err(|error| failed(StatusError::internal_error(error)))?;
    range["spec"]["cidrs"] = json!(wanted);
    match update(bootstrap, registry, UpdateKind::Main, range).await {
        // Somebody else has just written it; it is looked at again soon.
        Err(Error::Bootstrap { source, .. }) if source.code() == StatusCode::CONFLICT => Ok(()),
        Ok(()) => {
            tracing::info!(cidrs = ?wanted, "the cluster is dual-stack now");
            Ok(())
        }
        error => error,
    }
}

async fn update(bootstrap: &Bootstrap<'_>, registry: &Registry, kind: UpdateKind, range: Value) -> Result<()> {
    let scope = Scope::internal(bootstrap.user, None, Timestamp::now());
    let object = decode(registry, range).map_err(failed)?;
    registry.update(&scope, NAME, kind, &mut Replacement(object)).await.map(drop).map_err(failed)
}
