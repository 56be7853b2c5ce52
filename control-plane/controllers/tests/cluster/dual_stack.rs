//! Two families of addresses: pod CIDRs of nodes, and the slices of a Service through its changes. KEP-563.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use skep_controllers::Config;

use crate::harness::{Cluster, create, eventually, merge};

/// Address type and endpoints of each slice of a Service.
async fn slices(cluster: &Cluster, service: &str) -> BTreeSet<(String, BTreeSet<String>)> {
    let api = cluster.api::<EndpointSlice>("default");
    let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    let slices = api.list(&of_service).await.unwrap().items;
    let endpoints = |slice: &EndpointSlice| slice.endpoints.iter().flat_map(|e| e.addresses.clone()).collect();
    slices.iter().map(|slice| (slice.address_type.clone(), endpoints(slice))).collect()
}

/// Waits for one slice of each of these address types, with an address of each pod.
async fn slices_of(cluster: &Cluster, service: &str, types: &[&str]) {
    eventually(&format!("slices {types:?} of {service}"), || async {
        let mut wanted: BTreeSet<_> = types.iter().map(|kind| ((*kind).to_owned(), BTreeSet::new())).collect();
        for pod in cluster.pods("default").await {
            let ips = pod.status?.pod_ips?;
            wanted = wanted
                .into_iter()
                .map(|(kind, mut addresses)| {
                    addresses
                        .extend(ips.iter().map(|ip| ip.ip.clone()).filter(|ip| ip.contains(':') == (kind == "IPv6")));
                    (kind, addresses)
                })
                .collect();
        }
        (slices(cluster, service).await == wanted).then_some(())
    })
    .await;
}

fn service(name: &str, mut spec: Value) -> Value {
    spec["selector"] = json!({"app": "web"});
    spec["ports"] = json!([{"port": 80}]);
    json!({"metadata": {"name": name}, "spec": spec})
}

async fn endpoints(cluster: &Cluster, service: &str) -> BTreeSet<String> {
    let found = cluster.api::<Endpoints>("default").get(service).await.unwrap();
    found.subsets.iter().flatten().flat_map(|s| s.addresses.iter().flatten()).map(|a| a.ip.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_has_slices_of_each_of_its_families() {
    let cluster = Cluster::start_dual_stack(Config::default()).await;
    let services = cluster.api::<Service>("default");
    let both = json!({"ipFamilyPolicy": "RequireDualStack"});
    let v6_first = json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6", "IPv4"]});
    let headless = json!({"clusterIP": "None", "ipFamilyPolicy": "PreferDualStack"});
    create(&services, service("single", json!({}))).await;
    create(&services, service("v6", json!({"ipFamilies": ["IPv6"]}))).await;
    create(&services, service("both", both)).await;
    create(&services, service("v6-first", v6_first)).await;
    create(&services, service("headless", headless)).await;
    // Each address type has a slice also while there is no endpoint.
    slices_of(&cluster, "both", &["IPv4", "IPv6"]).await;
    for name in ["p1", "p2"] {
        let spec = json!({"containers": [{"name": "c", "image": "i"}]});
        let pod = json!({"metadata": {"name": name, "labels": {"app": "web"}}, "spec": spec});
        create(&cluster.api::<Pod>("default"), pod).await;
    }
    eventually("addresses of the pods", || async {
        let pods = cluster.pods("default").await;
        pods.iter().all(|pod| pod.status.as_ref().is_some_and(|status| status.pod_ips.is_some())).then_some(())
    })
    .await;
    slices_of(&cluster, "single", &["IPv4"]).await;
    slices_of(&cluster, "v6", &["IPv6"]).await;
    for name in ["both", "v6-first", "headless"] {
        slices_of(&cluster, name, &["IPv4", "IPv6"]).await;
    }
    // Endpoints have room for one family: the first.
    for (name, first_is_v6) in [("single", false), ("v6", true), ("both", false), ("v6-first", true)] {
        eventually("endpoints of the first family", || async {
            let found = endpoints(&cluster, name).await;
            (found.len() == 2 && found.iter().all(|ip| ip.contains(':') == first_is_v6)).then_some(())
        })
        .await;
    }

    merge(&services, "both", json!({"spec": {"ipFamilyPolicy": "SingleStack"}})).await;
    slices_of(&cluster, "both", &["IPv4"]).await;
    merge(&services, "both", json!({"spec": {"ipFamilyPolicy": "PreferDualStack"}})).await;
    slices_of(&cluster, "both", &["IPv4", "IPv6"]).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_written_by_hand_are_mirrored_for_each_family() {
    let cluster = Cluster::start_dual_stack(Config::default()).await;
    let headless = json!({"metadata": {"name": "db"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}});
    let headless = create(&cluster.api::<Service>("default"), headless).await;
    assert_eq!(headless.spec.unwrap().ip_families.unwrap(), ["IPv4", "IPv6"]);
    let addresses = json!([{"ip": "192.0.2.7"}, {"ip": "2001:db8::7"}]);
    let subsets = json!([{"addresses": addresses, "ports": [{"port": 80}]}]);
    create(&cluster.api::<Endpoints>("default"), json!({"metadata": {"name": "db"}, "subsets": subsets})).await;
    let wanted = [("IPv4", "192.0.2.7"), ("IPv6", "2001:db8::7")];
    let wanted = wanted.map(|(kind, ip)| (kind.to_owned(), BTreeSet::from([ip.to_owned()])));
    eventually("a slice of each family", || async {
        (slices(&cluster, "db").await == BTreeSet::from(wanted.clone())).then_some(())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_get_pod_cidrs_of_both_families_and_those_with_one_stay() {
    let config = Config {
        cluster_cidr: Some("10.244.0.0/16".parse().unwrap()),
        secondary_cluster_cidr: Some("fd00:244::/56".parse().unwrap()),
        service_cidr: Some("10.244.0.0/24".parse().unwrap()),
        secondary_service_cidr: Some("fd00:244::/112".parse().unwrap()),
        node_cidr_mask_ipv6: 68,
        allocate_node_cidrs: true,
        ..Config::default()
    };
    let cluster = Cluster::start_dual_stack(config).await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let old = json!({"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]});
    create(&nodes, json!({"metadata": {"name": "old"}, "spec": old})).await;
    let cidrs =
        async |name: &str| eventually("pod CIDRs", || async { nodes.get(name).await.unwrap().spec?.pod_cidrs }).await;
    let mut all = Vec::new();
    for name in ["a", "b"] {
        create(&nodes, json!({"metadata": {"name": name}})).await;
        all.push(cidrs(name).await);
    }
    // What Services have, and what the old node has, is left out.
    assert_eq!(all, [["10.244.2.0/24", "fd00:244:0:0:1000::/68"], ["10.244.3.0/24", "fd00:244:0:0:2000::/68"]]);
    assert_eq!(cidrs("old").await, ["10.244.1.0/24"]);
    cluster.stop().await;
}
