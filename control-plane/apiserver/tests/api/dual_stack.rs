//! Clusters of two families, of IPv6 first and of IPv6 alone; Services of further ServiceCIDRs.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use skep_apiserver::{ApiServer, Config};
use skep_storage::Txn;

use crate::support::TestServer;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";
const MERGE: &str = "application/merge-patch+json";

/// A server whose Services have these ranges; nobody calls it by its address.
async fn server(primary: &str, secondary: Option<&str>, address: &str) -> TestServer {
    TestServer::start_with(|config| ranges(config, primary, secondary, address)).await
}

fn ranges(config: &mut Config, primary: &str, secondary: Option<&str>, address: &str) {
    config.service_cidr = primary.parse().unwrap();
    config.secondary_service_cidr = secondary.map(|range| range.parse().unwrap());
    config.advertise_address = address.parse().unwrap();
    let all = std::iter::once(config.service_cidr).chain(config.secondary_service_cidr);
    config.cluster_dns = all.filter_map(|range| skep_apiserver::nth_address(range, 10)).collect();
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().map(|list| list.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

fn service(name: &str, mut spec: Value) -> Value {
    spec["ports"] = json!([{"port": 80}]);
    json!({"metadata": {"name": name}, "spec": spec})
}

async fn holder(server: &TestServer, address: &str) -> Option<String> {
    let (code, object) = server.get(&format!("{ADDRESSES}/{address}")).await;
    (code == 200).then(|| object["spec"]["parentRef"]["name"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dual_stack_cluster_has_both_families_in_its_own_objects() {
    let server = server("10.96.0.0/24", Some("fd00::/112"), "192.0.2.1").await;
    let (_, kubernetes) = server.get(&format!("{SERVICES}/kubernetes")).await;
    assert_eq!(texts(&kubernetes["spec"]["clusterIPs"]), ["10.96.0.1"]);
    assert_eq!(kubernetes["spec"]["ipFamilyPolicy"], "SingleStack");
    let (_, range) = server.get(&format!("{RANGES}/kubernetes")).await;
    assert_eq!(texts(&range["spec"]["cidrs"]), ["10.96.0.0/24", "fd00::/112"]);
    let (_, dns) = server.get("/api/v1/namespaces/kube-system/services/kube-dns").await;
    assert_eq!(texts(&dns["spec"]["clusterIPs"]), ["10.96.0.10", "fd00::a"]);
    assert_eq!(texts(&dns["spec"]["ipFamilies"]), ["IPv4", "IPv6"]);
    assert_eq!(dns["spec"]["ipFamilyPolicy"], "PreferDualStack");
    assert_eq!(holder(&server, "fd00::a").await.as_deref(), Some("kube-dns"));
}

#[tokio::test(flavor = "multi_thread")]
async fn both_addresses_of_a_service_are_held_and_given_back() {
    let server = server("10.96.0.0/24", Some("fd00::/112"), "192.0.2.1").await;
    let dry = format!("{SERVICES}?dryRun=All");
    let wish = service("web", json!({"ipFamilyPolicy": "RequireDualStack"}));
    let tried = server.create(&dry, wish.clone()).await;
    let tried = texts(&tried["spec"]["clusterIPs"]);
    assert_eq!((tried.len(), holder(&server, tried[0]).await), (2, None), "a dry run takes nothing");

    let created = server.create(SERVICES, wish).await;
    let ips: Vec<String> = texts(&created["spec"]["clusterIPs"]).iter().map(|ip| (*ip).to_owned()).collect();
    for ip in &ips {
        assert_eq!(holder(&server, ip).await.as_deref(), Some("web"));
    }
    let other = service("other", json!({"clusterIP": ips[1], "clusterIPs": [ips[1]]}));
    let (code, body) = server.call(Method::POST, SERVICES, other).await;
    assert_eq!(code, 422, "{body}");
    let message = body["message"].as_str().unwrap();
    assert!(
        message.ends_with(&format!("failed to allocate IP {}: provided IP is already allocated", ips[1])),
        "{message}"
    );

    let uri = format!("{SERVICES}/web");
    let patch = |policy: &str| json!({"spec": {"ipFamilyPolicy": policy}}).to_string();
    let (code, single) = server.raw(Method::PATCH, &uri, MERGE, patch("SingleStack")).await;
    assert_eq!(code, 200, "{single}");
    assert_eq!(texts(&single["spec"]["clusterIPs"]), [&ips[0]]);
    assert_eq!(holder(&server, &ips[1]).await, None);
    let (code, dual) = server.raw(Method::PATCH, &uri, MERGE, patch("PreferDualStack")).await;
    assert_eq!(code, 200, "{dual}");
    let second = texts(&dual["spec"]["clusterIPs"])[1];
    assert_eq!(holder(&server, second).await.as_deref(), Some("web"));

    let (code, _) = server.call(Method::DELETE, &uri, Value::Null).await;
    assert_eq!(code, 200);
    for ip in [&ips[0], second] {
        assert_eq!(holder(&server, ip).await, None, "{ip}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_that_are_created_at_once_share_no_address() {
    let server = server("10.96.0.0/26", Some("fd00::/122"), "192.0.2.1").await;
    let all = (0..40)
        .map(|i| server.create(SERVICES, service(&format!("s{i}"), json!({"ipFamilyPolicy": "RequireDualStack"}))));
    let created = futures::future::join_all(all).await;
    let ips: HashSet<&str> = created.iter().flat_map(|service| texts(&service["spec"]["clusterIPs"])).collect();
    assert_eq!(ips.len(), 80);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_ipv6_alone_or_first_has_its_own_services_there() {
    for (secondary, dns) in [(None, &["fd00::a"][..]), (Some("10.96.0.0/24"), &["fd00::a", "10.96.0.10"])] {
        let server = server("fd00::/112", secondary, "2001:db8::1").await;
        let (_, kubernetes) = server.get(&format!("{SERVICES}/kubernetes")).await;
        assert_eq!(texts(&kubernetes["spec"]["clusterIPs"]), ["fd00::1"]);
        let (_, slice) = server.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await;
        assert_eq!(slice["addressType"], "IPv6");
        assert_eq!(texts(&slice["endpoints"][0]["addresses"]), ["2001:db8::1"]);
        let (_, found) = server.get("/api/v1/namespaces/kube-system/services/kube-dns").await;
        assert_eq!(texts(&found["spec"]["clusterIPs"]), dns);

        let plain = server.create(SERVICES, service("plain", json!({}))).await;
        assert_eq!(texts(&plain["spec"]["ipFamilies"]), ["IPv6"]);
        let wish = service("v4", json!({"ipFamilies": ["IPv4"]}));
        let (code, body) = server.call(Method::POST, SERVICES, wish).await;
        if secondary.is_some() {
            assert_eq!(code, 201, "{body}");
        } else {
            assert_eq!(code, 422);
            let message = body["message"].as_str().unwrap();
            assert!(message.ends_with("\"IPv4\": not configured on this cluster"), "{message}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_becomes_dual_stack_and_its_services_stay_until_told() {
    let mut test = server("10.96.0.0/24", None, "192.0.2.1").await;
    let old = test.create(SERVICES, service("old", json!({"ipFamilyPolicy": "PreferDualStack"}))).await;
    let kubelet = skep_pki::client_config(test.pki.ca().certificate(), None).unwrap();
    let range = "10.96.0.0/24".parse().unwrap();
    let mut config = Config::new(test.storage.clone(), range, "192.0.2.2".parse().unwrap(), 6443, Arc::new(kubelet));
    ranges(&mut config, "10.96.0.0/24", Some("fd00::/112"), "192.0.2.2");
    test.server = ApiServer::new(config).await.unwrap();

    let (_, range) = test.get(&format!("{RANGES}/kubernetes")).await;
    assert_eq!(texts(&range["spec"]["cidrs"]), ["10.96.0.0/24", "fd00::/112"]);
    assert_eq!(range["status"]["conditions"][0]["status"], "True");
    let uri = format!("{SERVICES}/old");
    let (_, now) = test.raw(Method::PATCH, &uri, MERGE, json!({"metadata": {"labels": {"a": "b"}}}).to_string()).await;
    assert_eq!(now["spec"]["clusterIPs"], old["spec"]["clusterIPs"], "a preference is not looked at again");
    let policy = json!({"spec": {"ipFamilyPolicy": "RequireDualStack"}});
    for uri in [uri, "/api/v1/namespaces/kube-system/services/kube-dns".to_owned()] {
        let (code, now) = test.raw(Method::PATCH, &uri, MERGE, policy.to_string()).await;
        assert_eq!((code.as_u16(), texts(&now["spec"]["ipFamilies"])), (200, vec!["IPv4", "IPv6"]), "{now}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn further_ranges_give_addresses_when_they_are_asked_for_or_the_first_is_full() {
    let server = server("10.96.0.0/29", None, "192.0.2.1").await;
    let outside = service("outside", json!({"clusterIP": "203.0.113.9"}));
    let (code, body) = server.call(Method::POST, SERVICES, outside.clone()).await;
    assert_eq!(code, 422);
    let message = body["message"].as_str().unwrap();
    assert!(message.ends_with("the provided network does not match the current range"), "{message}");

    let range = json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["203.0.113.0/28", "fd00::/124"]}});
    server.create(RANGES, range).await;
    server.settle().await;
    server.create(SERVICES, outside).await;
    // The family of the cluster stays what it was.
    let (code, _) = server.call(Method::POST, SERVICES, service("v6", json!({"ipFamilies": ["IPv6"]}))).await;
    assert_eq!(code, 422);
    // Six in the first range, of which `kubernetes` has one; fourteen in the second, of which one is asked for.
    let mut inside = 0;
    for i in 0..18 {
        let created = server.create(SERVICES, service(&format!("s{i}"), json!({}))).await;
        let ip = texts(&created["spec"]["clusterIPs"])[0].to_owned();
        inside += usize::from(ip.starts_with("10.96.0."));
    }
    assert_eq!(inside, 5);
    let (code, body) = server.call(Method::POST, SERVICES, service("full", json!({}))).await;
    assert_eq!(code, 500);
    assert!(body["message"].as_str().unwrap().contains("range is full"), "{body}");

    // One that goes gives nothing more, and what it gave stays.
    server.call(Method::DELETE, &format!("{SERVICES}/s17"), Value::Null).await;
    server.call(Method::DELETE, &format!("{RANGES}/more"), Value::Null).await;
    server.settle().await;
    let (code, _) = server.call(Method::POST, SERVICES, service("late", json!({}))).await;
    assert_eq!(code, 500);
    let uri = format!("{SERVICES}/outside");
    let (code, _) =
        server.raw(Method::PATCH, &uri, MERGE, json!({"metadata": {"labels": {"a": "b"}}}).to_string()).await;
    assert_eq!(code, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_taken_again_when_deleted_and_freed_when_nobody_holds_them() {
    let server = TestServer::start_with(|config| {
        ranges(config, "10.96.0.0/24", Some("fd00::/112"), "192.0.2.1");
        config.repair_interval = Duration::from_millis(50);
    })
    .await;
    let wish = json!({"ipFamilyPolicy": "RequireDualStack", "clusterIP": "10.96.0.7",
        "clusterIPs": ["10.96.0.7", "fd00::7"]});
    server.create(SERVICES, service("web", wish)).await;
    let foreign = |name: &str, labels: Value, created: &str| {
        let parent = json!({"group": "", "resource": "services", "namespace": "default", "name": "gone"});
        let uid = format!("00000000-0000-0000-0000-{:0>12}", name.replace(['.', ':'], ""));
        let metadata = json!({"name": name, "uid": uid, "labels": labels, "creationTimestamp": created});
        let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": metadata,
            "spec": {"parentRef": parent}});
        Txn::new().put(format!("/registry/ipaddresses/{name}"), object.to_string(), None)
    };
    let ours = json!({"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"});
    let (old, new) = ("2020-01-01T00:00:00Z", &jiff::Timestamp::now().to_string()[..]);
    // In the place of a Service's address; left over; too young to judge; somebody else's.
    for txn in [
        foreign("fd00::7", ours.clone(), old),
        foreign("10.96.0.50", ours.clone(), old),
        foreign("10.96.0.51", ours, new),
        foreign("10.96.0.52", json!({}), old),
    ] {
        server.storage.commit(txn).await.unwrap();
    }
    let (code, _) = server.call(Method::DELETE, &format!("{ADDRESSES}/10.96.0.7"), Value::Null).await;
    assert_eq!(code, 200);
    let repaired = async {
        loop {
            let held = [holder(&server, "10.96.0.7").await, holder(&server, "fd00::7").await];
            if held == [Some("web".to_owned()), Some("web".to_owned())] && holder(&server, "10.96.0.50").await.is_none()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), repaired).await.expect("the addresses are not put right");
    for left in ["10.96.0.51", "10.96.0.52", "10.96.0.1"] {
        assert!(holder(&server, left).await.is_some(), "{left}");
    }
}
