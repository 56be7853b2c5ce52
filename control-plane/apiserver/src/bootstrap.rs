//! What every cluster has: the system namespaces and the `kubernetes` Service.

pub(crate) mod adopt;
mod cluster_dns;
pub(crate) mod masters;
pub(crate) mod rbac;
pub(crate) mod repair;
mod service_cidr;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};
use skep_api::{StatusError, options::FieldValidation};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use masters::Masters;

use crate::{
    Config, Error,
    config::nth_address,
    dispatch::Registries,
    error::Result,
    registry::{
        erased::{UnknownFields, UpdateKind},
        flowcontrol,
        generic::{Registry, Scope, update::Replacement},
        object::Object,
        priority_class,
    },
    service::Shared,
    user::UserInfo,
};

/// How often it is made sure that all of it is there (upstream: 10 s for the Service, 60 s for namespaces).
const INTERVAL: Duration = Duration::from_secs(10);
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Creates what is missing and corrects where the `kubernetes` Service leads.
pub(crate) async fn run(registries: &Registries, config: &Config) -> Result<()> {
    let user = UserInfo::master("system:apiserver");
    let bootstrap = Bootstrap { registries, user: &user };
    for name in NAMESPACES {
        let namespace = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
            "spec": {"finalizers": ["kubernetes"]},
        });
        bootstrap.ensure(("", "namespaces"), None, name, namespace, false).await?;
    }
    bootstrap.ensure(("", "services"), Some("default"), "kubernetes", service(config)?, false).await?;
    for class in &priority_class::SYSTEM {
        let value = json!({
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": class.name},
            "value": class.value,
            "description": class.description,
        });
        bootstrap.ensure(("scheduling.k8s.io", "priorityclasses"), None, class.name, value, false).await?;
    }
    for (name, value) in flowcontrol::bootstrap::priority_levels() {
        bootstrap.ensure((flowcontrol::GROUP, "prioritylevelconfigurations"), None, name, value, false).await?;
    }
    for (name, value) in flowcontrol::bootstrap::flow_schemas() {
        bootstrap.ensure((flowcontrol::GROUP, "flowschemas"), None, name, value, false).await?;
    }
    authentication(&bootstrap, config).await?;
    service_cidr::ensure(&bootstrap, config).await?;
    cluster_dns::ensure(&bootstrap, config).await;
    // No pod reaches this server by a loopback address, and validation refuses one.
    if config.advertise_address.is_loopback() {
        return Ok(());
    }
    let living = Masters { storage: &config.storage, address: config.advertise_address }.renew().await?;
    bootstrap.lead_to(&living, config).await
}

/// Keeps it all there until `stop`, or until the server is gone. At its end the `kubernetes` Service leads here no more.
pub(crate) fn keep(shared: Weak<Shared>, config: Config, stop: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let stopped = tokio::time::timeout(INTERVAL, stop.cancelled()).await.is_ok();
            let Some(shared) = shared.upgrade() else { return };
            if stopped {
                if let Err(error) = leave(&shared.registries, &config).await {
                    tracing::warn!(%error, "the kubernetes Service still leads to this server");
                }
                return;
            }
            if let Err(error) = run(&shared.registries, &config).await {
                tracing::warn!(%error, "system objects could not be kept");
            }
        }
    })
}

/// Takes this server out of the `kubernetes` Service. The last one stays: a Service without endpoints helps nobody.
async fn leave(registries: &Registries, config: &Config) -> Result<()> {
    if config.advertise_address.is_loopback() {
        return Ok(());
    }
    let others = Masters { storage: &config.storage, address: config.advertise_address }.leave().await?;
    if others.is_empty() {
        return Ok(());
    }
    let user = UserInfo::master("system:apiserver");
    Bootstrap { registries, user: &user }.lead_to(&others, config).await
}

/// What aggregated API servers know this server and its clients by.
async fn authentication(bootstrap: &Bootstrap<'_>, config: &Config) -> Result<()> {
    let mut data = serde_json::Map::new();
    if let Some(ca) = &config.client_ca {
        data.insert("client-ca-file".to_owned(), ca.clone().into());
    }
    if let Some(proxy) = &config.front_proxy {
        let list = |value: &str| Value::from(json!([value]).to_string());
        data.insert("requestheader-allowed-names".to_owned(), list(&proxy.name));
        data.insert("requestheader-client-ca-file".to_owned(), proxy.ca.clone().into());
        data.insert("requestheader-extra-headers-prefix".to_owned(), list("X-Remote-Extra-"));
        data.insert("requestheader-group-headers".to_owned(), list("X-Remote-Group"));
        data.insert("requestheader-uid-headers".to_owned(), list("X-Remote-Uid"));
        data.insert("requestheader-username-headers".to_owned(), list("X-Remote-User"));
    }
    if data.is_empty() {
        return Ok(());
    }
    const NAME: &str = "extension-apiserver-authentication";
    const NAMESPACE: &str = "kube-system";
    let map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "data": data,
    });
    // Written only where it says something else: this is done every few seconds.
    let registry = bootstrap.registries.get("", "v1", "configmaps");
    let stored = registry.and_then(|registry| registry.cache.get(&registry.key(Some(NAMESPACE), NAME)?));
    let stored: Option<Value> = stored.and_then(|stored| serde_json::from_slice(stored.json()).ok());
    if stored.is_some_and(|stored| stored["data"] == map["data"]) {
        return Ok(());
    }
    bootstrap.ensure(("", "configmaps"), Some(NAMESPACE), NAME, map, true).await
}

struct Bootstrap<'a> {
    registries: &'a Registries,
    user: &'a UserInfo,
}

impl Bootstrap<'_> {
    /// Makes the `kubernetes` Service lead to these servers.
    async fn lead_to(&self, servers: &BTreeSet<IpAddr>, config: &Config) -> Result<()> {
        let port = config.secure_port;
        self.ensure(("", "endpoints"), Some("default"), "kubernetes", endpoints(servers, port), true).await?;
        let slice = endpoint_slice(servers, port);
        self.ensure(("discovery.k8s.io", "endpointslices"), Some("default"), "kubernetes", slice, true).await
    }

    /// Creates the object if it is missing; corrects it if `correct`.
    async fn ensure(
        &self,
        (group, plural): (&str, &str),
        namespace: Option<&str>,
        name: &str,
        value: Value,
        correct: bool,
    ) -> Result<()> {
        let Some(registry) = self.registries.get(group, "v1", plural) else { return Ok(()) };
        let scope = Scope::internal(self.user, namespace, Timestamp::now());
        self.try_ensure(&registry, &scope, name, value, correct)
            .await
            .map_err(|source| Error::Bootstrap { what: format!("{plural} {name}"), source })
    }

    async fn try_ensure(
        &self,
        registry: &Arc<Registry>,
        scope: &Scope<'_>,
        name: &str,
        value: Value,
        correct: bool,
    ) -> Result<(), StatusError> {
        let there = registry.key(scope.namespace, name).is_some_and(|key| registry.cache.get(&key).is_some());
        if there && !correct {
            return Ok(());
        }
        let object = decode(registry, value)?;
        if there {
            return registry.update(scope, name, UpdateKind::Main, &mut Replacement(object)).await.map(drop);
        }
        match registry.create(scope, object.boxed_clone()).await {
            Err(error) if error.code() == StatusCode::CONFLICT && correct => {
                registry.update(scope, name, UpdateKind::Main, &mut Replacement(object)).await.map(drop)
            }
            Err(error) if error.code() == StatusCode::CONFLICT => Ok(()),
            other => other.map(drop),
        }
    }
}

/// An object from its JSON.
pub(crate) fn decode(registry: &Registry, value: Value) -> Result<Box<dyn Object>, StatusError> {
    let mut warnings = UnknownFields::new();
    registry.decode_patched(value, FieldValidation::Strict, &mut warnings)
}

/// The first address of the range; clients in the cluster know it.
fn first_service_ip(config: &Config) -> Result<IpAddr> {
    nth_address(config.service_cidr, 1)
        .ok_or_else(|| Error::Config(format!("the service range {} has no addresses", config.service_cidr)))
}

fn service(config: &Config) -> Result<Value> {
    let ip = first_service_ip(config)?;
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": ip.to_string(),
            "clusterIPs": [ip.to_string()],
            "ipFamilies": [family],
            "ipFamilyPolicy": "SingleStack",
            "sessionAffinity": "None",
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": config.secure_port}],
        },
    }))
}

fn endpoints(servers: &BTreeSet<IpAddr>, port: u16) -> Value {
    let addresses: Vec<_> = servers.iter().map(|server| json!({"ip": server.to_string()})).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{
            "addresses": addresses,
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        }],
    })
}

fn endpoint_slice(servers: &BTreeSet<IpAddr>, port: u16) -> Value {
    let is_ipv4 = servers.iter().all(IpAddr::is_ipv4);
    let endpoint = |server: &IpAddr| json!({"addresses": [server.to_string()], "conditions": {"ready": true}});
    let endpoints: Vec<_> = servers.iter().map(endpoint).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": if is_ipv4 { "IPv4" } else { "IPv6" },
        "endpoints": endpoints,
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    })
}
