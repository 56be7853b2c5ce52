//! The Service `kube-dns`: the addresses pods ask for names.
//!
//! In a dual-stack cluster it is a `PreferDualStack` Service with the tenth address of both Service ranges, the primary
//! family's first; else it is `SingleStack`. One that exists stays as it is: a cluster that became dual-stack later keeps one
//! address until somebody patches `ipFamilyPolicy`.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::Bootstrap;
use crate::Config;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-dns";

/// Creates it if it is missing and its addresses are free. A Service of that name that is there, such as that of a DNS server
/// in pods, stays as it is; the cluster works without, so trouble is only logged.
pub(super) async fn ensure(bootstrap: &Bootstrap<'_>, config: &Config) {
    let there = |group: &str, plural: &str, namespace: Option<&str>, name: &str| {
        let registry = bootstrap.registries.get(group, "v1", plural)?;
        registry.cache.get(&registry.key(namespace, name)?)
    };
    let taken = |address: &IpAddr| there("networking.k8s.io", "ipaddresses", None, &address.to_string()).is_some();
    let addresses = &config.cluster_dns;
    if addresses.is_empty() || addresses.iter().any(taken) || there("", "services", Some(NAMESPACE), NAME).is_some() {
        return;
    }
    if let Err(error) = bootstrap.ensure(("", "services"), Some(NAMESPACE), NAME, service(addresses), false).await {
        tracing::warn!(%error, "the Service of cluster DNS could not be created");
    }
}

/// Every node has the addresses itself and answers there, so the nodes' data planes leave it alone: that is what the label
/// `service-proxy-name` says. A DNS server in pods needs a Service without it.
fn service(addresses: &[IpAddr]) -> Value {
    let families: Vec<_> = addresses.iter().map(|address| if address.is_ipv4() { "IPv4" } else { "IPv6" }).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": NAME,
            "namespace": NAMESPACE,
            "labels": {
                "k8s-app": "kube-dns",
                "kubernetes.io/cluster-service": "true",
                "kubernetes.io/name": "CoreDNS",
                "service.kubernetes.io/service-proxy-name": "skep-dns",
            },
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": addresses.first(),
            "clusterIPs": addresses,
            "ipFamilies": families,
            "ipFamilyPolicy": if addresses.len() > 1 { "PreferDualStack" } else { "SingleStack" },
            "sessionAffinity": "None",
            "ports": [
                {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 53},
                {"name": "dns-tcp", "protocol": "TCP", "port": 53, "targetPort": 53},
            ],
        },
    })
}
