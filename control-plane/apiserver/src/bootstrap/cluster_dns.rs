//! The Service `kube-dns`: the address pods ask for names.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::Bootstrap;
use crate::Config;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-dns";

/// Creates it if it is missing and its address is free. A Service of that name that is there, such as that of a DNS server
/// in pods, stays as it is; the cluster works without, so trouble is only logged.
pub(super) async fn ensure(bootstrap: &Bootstrap<'_>, config: &Config) {
    let Some(address) = config.cluster_dns else { return };
    let there = |group: &str, plural: &str, namespace: Option<&str>, name: &str| {
        let registry = bootstrap.registries.get(group, "v1", plural)?;
        registry.cache.get(&registry.key(namespace, name)?)
    };
    let taken = there("networking.k8s.io", "ipaddresses", None, &address.to_string()).is_some();
    if taken || there("", "services", Some(NAMESPACE), NAME).is_some() {
        return;
    }
    if let Err(error) = bootstrap.ensure(("", "services"), Some(NAMESPACE), NAME, service(address), false).await {
        tracing::warn!(%error, "the Service of cluster DNS could not be created");
    }
}

/// Every node has the address itself and answers there, so the nodes' data planes leave it alone: that is what the label
/// `service-proxy-name` says. A DNS server in pods needs a Service without it.
fn service(address: IpAddr) -> Value {
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
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
            "clusterIP": address.to_string(),
            "clusterIPs": [address.to_string()],
            "ipFamilies": [family],
            "ipFamilyPolicy": "SingleStack",
            "sessionAffinity": "None",
            "ports": [
                {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 53},
                {"name": "dns-tcp", "protocol": "TCP", "port": 53, "targetPort": 53},
            ],
        },
    })
}
