//! `pods/proxy`, `services/proxy` and `nodes/proxy`: whatever is asked below them is asked of a server in the cluster.

use std::{net::IpAddr, sync::Arc};

use http::{Method, Response};
use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, Pod, Service};
use rand::Rng as _;
use rustls_pki_types::ServerName;
use skep_api::{options::GetOptions, request::RequestInfo, status::StatusError};
use tokio_rustls::TlsConnector;

use super::location;
use crate::{
    dispatch::{Call, Registries},
    http::body::Body,
    kubelet_proxy::KubeletProxy,
    proxy::{self, Outgoing, Rewrite, Target, Transport},
    registry::generic::Registry,
};

/// Whether a request is for one of these.
pub(crate) fn is_proxy(request: &RequestInfo) -> bool {
    request.subresource.as_deref() == Some("proxy")
        && request.group.is_empty()
        && matches!(request.resource.as_deref(), Some("pods" | "services" | "nodes"))
}

/// How pods and nodes are reached.
#[derive(Clone)]
pub(crate) struct Reach {
    pub(crate) kubelet: KubeletProxy,
    /// For HTTPS with pods and Services: nobody can know whose certificate they show.
    pub(crate) unverified: TlsConnector,
    /// Which addresses may be passed on to; others would open this host to whoever may write a pod's status.
    pub(crate) proxyable: fn(IpAddr) -> bool,
}

/// Whether upstream passes requests on to an address: not to loopback, link-local, multicast or none at all.
pub fn is_proxyable(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            !(v4.is_unspecified() || v4.is_loopback() || v4.is_multicast() || v4.is_link_local() || v4.is_broadcast())
        }
        IpAddr::V6(v6) => !(v6.is_unspecified() || v6.is_loopback() || v6.is_multicast() || v6.is_unicast_link_local()),
    }
}

/// `name`, `name:port` or `scheme:name:port`.
#[derive(Debug, PartialEq, Eq)]
struct Id<'a> {
    https: bool,
    name: &'a str,
    port: &'a str,
}

impl<'a> Id<'a> {
    fn parse(kind: &str, id: &'a str) -> Result<Self, StatusError> {
        let parts: Vec<&str> = id.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => ("?", "", ""),
        };
        if name.is_empty() || !matches!(scheme, "" | "http" | "https") {
            return Err(StatusError::bad_request(format!("invalid {kind} request {id:?}")));
        }
        Ok(Self { https: scheme == "https", name, port })
    }
}

pub(crate) async fn answer(mut call: Call<'_>, registry: &Arc<Registry>) -> Result<Response<Body>, StatusError> {
    let request = call.request;
    let Some(id) = request.name.as_deref() else { return Err(StatusError::generic_not_found()) };
    if call.method == Method::CONNECT || call.method == Method::TRACE {
        return Err(call.wrong_method());
    }
    let namespace = call.namespace(registry);
    let finder = Finder { registries: call.registries, reach: call.reach, registry, namespace };
    let target = match request.resource.as_deref() {
        Some("pods") => finder.pod(id).await?,
        Some("services") => finder.service(id).await?,
        _ => finder.node(id).await?,
    };
    let path = proxy::target_path(&request.trailing_path, request.path.ends_with('/'), request.query.get("path"));
    let upgrade = call.upgrade.take();
    let upgrades = upgrade.is_some() && skep_stream::upgrade::is_upgrade(call.headers);
    if path.is_empty() && !upgrades && (call.method == Method::GET || call.method == Method::HEAD) {
        return proxy::to_root(call.uri);
    }
    let rewrite = Rewrite::new(call.uri.path(), &path);
    let path = if path.is_empty() { "/".to_owned() } else { path };
    let outgoing = Outgoing {
        method: call.method,
        headers: call.headers,
        uri: call.uri,
        path,
        peer: call.peer,
        rewrite: Some(rewrite),
        identity: http::HeaderMap::new(),
        host: None,
    };
    proxy::forward(&target, outgoing, call.body, upgrade).await
}

struct Finder<'a> {
    registries: &'a Registries,
    reach: &'a Reach,
    registry: &'a Arc<Registry>,
    namespace: Option<&'a str>,
}

impl Finder<'_> {
    async fn pod(&self, id: &str) -> Result<Target, StatusError> {
        let id = Id::parse("pod", id)?;
        let object = self.registry.get_object(self.namespace, id.name).await?;
        let pod = object.as_any().downcast_ref::<Pod>().ok_or_else(StatusError::generic_not_found)?;
        let port = match id.port {
            "" => first_port(pod),
            port => Some(number(port)?),
        };
        self.target(pod_ip(pod).unwrap_or_default(), port, id.https)
    }

    async fn service(&self, asked: &str) -> Result<Target, StatusError> {
        let id = Id::parse("service", asked)?;
        let mut port = id.port.to_owned();
        if let Ok(number) = id.port.parse::<i64>() {
            let object = self.registry.get_object(self.namespace, id.name).await?;
            let service = object.as_any().downcast_ref::<Service>().ok_or_else(StatusError::generic_not_found)?;
            let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
            let named = ports.iter().find(|port| i64::from(port.port) == number).ok_or_else(|| {
                StatusError::service_unavailable(format!("no service port {number} found for service {:?}", id.name))
            })?;
            port = named.name.clone().unwrap_or_default();
        }
        let none =
            |name: &str| StatusError::service_unavailable(format!("no endpoints available for service {name:?}"));
        let endpoints = self.registries.get("", "v1", "endpoints").ok_or_else(|| none(id.name))?;
        let object = endpoints.get_object(self.namespace, id.name).await?;
        let endpoints = object.as_any().downcast_ref::<Endpoints>().ok_or_else(|| none(id.name))?;
        let subsets = endpoints.subsets.as_deref().unwrap_or_default();
        if subsets.is_empty() {
            return Err(none(id.name));
        }
        for subset in rotated(subsets) {
            let ports = subset.ports.iter().flatten();
            for named in ports.filter(|named| named.name.as_deref().unwrap_or_default() == port) {
                for address in rotated(subset.addresses.as_deref().unwrap_or_default()) {
                    if self.is_a_pods(address).await {
                        return self.target(&address.ip, u16::try_from(named.port).ok(), id.https);
                    }
                }
            }
        }
        Err(none(asked))
    }

    /// Whoever may write Endpoints must not reach what is no pod of the namespace.
    async fn is_a_pods(&self, address: &EndpointAddress) -> bool {
        let Some(reference) = &address.target_ref else { return false };
        let (Some(name), Some(pods)) = (reference.name.as_deref(), self.registries.get("", "v1", "pods")) else {
            return false;
        };
        if reference.namespace.as_deref() != self.namespace {
            return false;
        }
        let cached = pods.get(self.namespace, name, &GetOptions { resource_version: Some(0) }).await;
        let Some(pod) = cached.ok().and_then(|cached| serde_json::from_slice::<Pod>(cached.json()).ok()) else {
            return false;
        };
        let Some(status) = pod.status else { return false };
        status.pod_ips.iter().flatten().any(|ip| ip.ip == address.ip)
    }

    async fn node(&self, id: &str) -> Result<Target, StatusError> {
        let id = Id::parse("node", id)?;
        let endpoint = location::kubelet(self.registries, id.name).await?;
        let port = if id.port.is_empty() { endpoint.port } else { number(id.port)? };
        if port == endpoint.port {
            let transport = Transport::Tls(self.reach.kubelet.connector(), server_name(&endpoint.host)?);
            return Ok(Target { transport, host: endpoint.host, port: Some(port) });
        }
        match endpoint.host.parse::<IpAddr>() {
            Ok(_) => self.target(&endpoint.host, Some(port), id.https),
            Err(_) => self.named(endpoint.host, port, id.https).await,
        }
    }

    /// A node that is known by name: no address of it may be one that is not passed on to.
    async fn named(&self, host: String, port: u16, https: bool) -> Result<Target, StatusError> {
        let found = tokio::net::lookup_host((host.as_str(), port)).await;
        let addresses: Vec<IpAddr> =
            found.map_err(|error| StatusError::bad_request(error.to_string()))?.map(|found| found.ip()).collect();
        if addresses.is_empty() {
            return Err(StatusError::bad_request("no addresses for hostname"));
        }
        if !addresses.into_iter().all(self.reach.proxyable) {
            return Err(StatusError::bad_request("address not allowed"));
        }
        Ok(Target { transport: self.transport(https, &host)?, host, port: Some(port) })
    }

    fn target(&self, ip: &str, port: Option<u16>, https: bool) -> Result<Target, StatusError> {
        let allowed = ip.parse().is_ok_and(self.reach.proxyable);
        if !allowed {
            return Err(StatusError::bad_request("address not allowed"));
        }
        Ok(Target { transport: self.transport(https, ip)?, host: ip.to_owned(), port })
    }

    fn transport(&self, https: bool, host: &str) -> Result<Transport, StatusError> {
        if !https {
            return Ok(Transport::Plain);
        }
        Ok(Transport::Tls(self.reach.unverified.clone(), server_name(host)?))
    }
}

fn server_name(host: &str) -> Result<ServerName<'static>, StatusError> {
    ServerName::try_from(host.to_owned()).map_err(StatusError::internal_error)
}

fn number(port: &str) -> Result<u16, StatusError> {
    port.parse().map_err(|_| {
        StatusError::service_unavailable(format!(
            "error trying to reach service: dial tcp: lookup tcp/{port}: unknown port"
        ))
    })
}

/// The port to take where none is asked for.
fn first_port(pod: &Pod) -> Option<u16> {
    let containers = pod.spec.as_ref()?.containers.iter();
    let port = containers.filter_map(|container| container.ports.as_ref()?.first()).next()?;
    u16::try_from(port.container_port).ok()
}

fn pod_ip(pod: &Pod) -> Option<&str> {
    let status = pod.status.as_ref()?;
    let first = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).find(|ip| !ip.is_empty());
    first.or(status.pod_ip.as_deref())
}

/// All of them, beginning anywhere.
fn rotated<T>(all: &[T]) -> impl Iterator<Item = &T> {
    let start = if all.is_empty() { 0 } else { rand::rng().random_range(0..all.len()) };
    all.iter().cycle().skip(start).take(all.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_carry_scheme_and_port() {
        let id = |text| Id::parse("pod", text).map(|id| (id.https, id.name, id.port)).map_err(|e| e.to_string());
        assert_eq!(id("a"), Ok((false, "a", "")));
        assert_eq!(id("a:80"), Ok((false, "a", "80")));
        assert_eq!(id("https:a:"), Ok((true, "a", "")));
        assert_eq!(id("http:a:web"), Ok((false, "a", "web")));
        for bad in ["ftp:a:80", "https::80", ":80", "a:b:c:d"] {
            assert_eq!(id(bad), Err(format!("invalid pod request {bad:?}")));
        }
    }

    #[test]
    fn requests_do_not_come_back_to_this_host() {
        for bad in ["127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "fe80::1"] {
            assert!(!is_proxyable(bad.parse().unwrap()), "{bad}");
        }
        for good in ["10.0.0.1", "203.0.113.9", "fd00::1"] {
            assert!(is_proxyable(good.parse().unwrap()), "{good}");
        }
    }
}
