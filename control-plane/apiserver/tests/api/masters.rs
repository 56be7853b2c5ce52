//! Several API servers over one etcd: the `kubernetes` Service leads to all that live.

use std::{sync::Arc, time::Duration};

use skep_apiserver::{ApiServer, Config};
use skep_pki::ReloadableIdentity;
use skep_storage::Txn;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::support::TestServer;

/// Another server over the same etcd, advertising `address`.
pub(crate) async fn join(test: &TestServer, address: &str) -> ApiServer {
    let pki = &test.pki;
    let kubelet = skep_pki::client_config(pki.ca().certificate(), Some(pki.apiserver_kubelet_client())).unwrap();
    let range = "10.96.0.0/24".parse().unwrap();
    let config = Config::new(test.storage.clone(), range, address.parse().unwrap(), 6443, Arc::new(kubelet));
    ApiServer::new(config).await.unwrap()
}

/// Where the `kubernetes` Service leads, by its Endpoints and by its EndpointSlice.
async fn addresses(test: &TestServer) -> (Vec<String>, Vec<String>) {
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let (_, endpoints) = test.get("/api/v1/namespaces/default/endpoints/kubernetes").await;
    let (_, slice) = test.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await;
    let endpoints = endpoints["subsets"][0]["addresses"].as_array().unwrap();
    let slice = slice["endpoints"].as_array().unwrap();
    (
        endpoints.iter().map(|address| text(&address["ip"])).collect(),
        slice.iter().map(|endpoint| text(&endpoint["addresses"][0])).collect(),
    )
}

fn both(addresses: &[&str]) -> (Vec<String>, Vec<String>) {
    let addresses: Vec<String> = addresses.iter().map(|address| (*address).to_owned()).collect();
    (addresses.clone(), addresses)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kubernetes_service_leads_to_every_server_that_lives() {
    let test = TestServer::start().await;
    assert_eq!(addresses(&test).await, both(&["192.0.2.1"]));
    // A server that died a moment ago: its lease runs out. One of the other family has an EndpointSlice of its own.
    for (address, ttl) in [("192.0.2.9", 3), ("2001:db8::1", 60)] {
        let key = format!("/registry/masterleases/{address}");
        let value = r#"{"kind":"Endpoints","apiVersion":"v1","metadata":{}}"#;
        test.storage.commit(Txn::new().put(key, value, Some(ttl))).await.unwrap();
    }
    let second = join(&test, "192.0.2.2").await;
    assert_eq!(addresses(&test).await, both(&["192.0.2.1", "192.0.2.2", "192.0.2.9"]));
    let leases = test.storage.resource("/registry/masterleases/").unwrap();
    while leases.get("/registry/masterleases/192.0.2.9").is_some() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let _third = join(&test, "192.0.2.3").await;
    assert_eq!(addresses(&test).await, both(&["192.0.2.1", "192.0.2.2", "192.0.2.3"]));

    // One that stops takes itself off.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let identity = ReloadableIdentity::new(test.pki.apiserver()).unwrap();
    let tls = Arc::new(skep_pki::server_config(identity, Some(test.pki.ca().certificate())).unwrap());
    let stop = CancellationToken::new();
    stop.cancel();
    second.serve(listener, tls, stop).await.unwrap();
    assert_eq!(addresses(&test).await, both(&["192.0.2.1", "192.0.2.3"]));
}
