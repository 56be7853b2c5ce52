//! ServiceCIDRs: when they are ready, and when they may go.

use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use kube::Api;
use kube::api::DeleteParams;
use serde_json::json;
use skep_controllers::Config;

use crate::harness::{Cluster, create, eventually};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";

/// Status, reason and message of the Ready condition of a protected range.
async fn ready(api: &Api<ServiceCIDR>, name: &str) -> Option<(String, String, String)> {
    let range = api.get(name).await.unwrap();
    let protected = range.metadata.finalizers?.iter().any(|finalizer| finalizer == FINALIZER);
    let ready = range.status?.conditions?.into_iter().find(|condition| condition.type_ == "Ready")?;
    protected.then_some((ready.status, ready.reason, ready.message))
}

async fn goes(api: &Api<ServiceCIDR>, name: &str) {
    eventually("the range to go", || async { api.get_opt(name).await.unwrap().is_none().then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_stays_while_addresses_depend_on_it() {
    let cluster = Cluster::start(Config::default()).await;
    let ranges: Api<ServiceCIDR> = Api::all(cluster.client.clone());
    let addresses: Api<IPAddress> = Api::all(cluster.client.clone());
    let default = eventually("the default range", || ready(&ranges, "kubernetes")).await;
    assert_eq!(default.0, "True");
    for (name, cidr) in [("wide", "203.0.113.0/24"), ("narrow", "203.0.113.64/26")] {
        create(&ranges, json!({"metadata": {"name": name}, "spec": {"cidrs": [cidr]}})).await;
        let said = eventually("the range to be ready", || ready(&ranges, name)).await;
        assert_eq!(said, ("True".to_owned(), String::new(), "Kubernetes Service CIDR is ready".to_owned()));
    }
    let address = json!({
        "metadata": {"name": "203.0.113.70", "labels": {
            "ipaddress.kubernetes.io/ip-family": "IPv4",
            "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
        }},
        "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "held"}},
    });
    create(&addresses, address).await;

    // The narrow range has the address as well, so the wide one may go.
    ranges.delete("wide", &DeleteParams::default()).await.unwrap();
    goes(&ranges, "wide").await;
    ranges.delete("narrow", &DeleteParams::default()).await.unwrap();
    let (_, reason, message) = eventually("word of what holds the range", || async {
        ready(&ranges, "narrow").await.filter(|(status, ..)| status == "False")
    })
    .await;
    assert_eq!(reason, "Terminating");
    assert!(message.starts_with("There are still IPAddresses referencing the ServiceCIDR"));
    addresses.delete("203.0.113.70", &DeleteParams::default()).await.unwrap();
    goes(&ranges, "narrow").await;
    assert_eq!(eventually("the default range", || ready(&ranges, "kubernetes")).await, default);
    cluster.stop().await;
}
