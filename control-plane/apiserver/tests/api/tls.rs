//! Over the network: certificates are identities.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::{StreamExt, TryStreamExt};
use http::Method;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api, Client, Config,
    api::{ListParams, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use skep_apiserver::ApiServer;
use skep_pki::{CertRequest, Identity, Pki, ReloadableIdentity};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::support::{TestServer, config_map};

pub(crate) struct Serving {
    pub(crate) address: SocketAddr,
    pub(crate) stop: CancellationToken,
    task: JoinHandle<skep_apiserver::Result<()>>,
}

pub(crate) async fn serve(server: ApiServer, pki: &Pki) -> Serving {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let identity = ReloadableIdentity::new(pki.apiserver()).unwrap();
    let tls = Arc::new(skep_pki::server_config(identity, Some(pki.ca().certificate())).unwrap());
    let stop = CancellationToken::new();
    let task = tokio::spawn(server.serve(listener, tls, stop.clone()));
    Serving { address, stop, task }
}

/// A client that trusts the cluster's CA and shows `identity`.
async fn client(address: SocketAddr, ca: &str, identity: Option<Identity>) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = format!("https://{address}");
    let nobody = Identity { certificate: String::new(), key: String::new() };
    let mut kubeconfig =
        skep_pki::Kubeconfig::new(&server, ca, "u", identity.as_ref().unwrap_or(&nobody)).to_yaml().unwrap();
    if identity.is_none() {
        kubeconfig = kubeconfig.lines().filter(|line| !line.contains("client-")).collect::<Vec<_>>().join("\n");
        kubeconfig = kubeconfig.replace("user:\n", "user: {}\n");
    }
    let kubeconfig = Kubeconfig::from_yaml(&kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_identities_and_a_stop_ends_watches() {
    let test = TestServer::start().await;
    test.call(Method::POST, "/api/v1/namespaces/default/configmaps", config_map("a", "1")).await;
    let TestServer { server, pki, etcd: _etcd, .. } = test;
    let ca = pki.ca().certificate().to_owned();
    let serving = serve(server, &pki).await;

    let admin = pki.ca().issue(&CertRequest::client("admin", ["system:masters"])).unwrap();
    let admin = client(serving.address, &ca, Some(admin)).await;
    let maps: Api<ConfigMap> = Api::namespaced(admin.clone(), "default");
    assert_eq!(maps.list(&ListParams::default()).await.unwrap().items.len(), 1);

    let nobody = pki.ca().issue(&CertRequest::client("jane", ["dev"])).unwrap();
    let nobody: Api<Pod> = Api::namespaced(client(serving.address, &ca, Some(nobody)).await, "default");
    let error = nobody.list(&ListParams::default()).await.unwrap_err().to_string();
    assert!(error.contains("pods is forbidden: User \"jane\" cannot list resource \"pods\""), "{error}");

    let nameless = client(serving.address, &ca, None).await;
    assert_eq!(nameless.apiserver_version().await.unwrap().minor, "35");
    let pods: Api<Pod> = Api::namespaced(nameless, "default");
    let kube::Error::Api(status) = pods.list(&ListParams::default()).await.unwrap_err() else { panic!() };
    assert_eq!(status.code, 403);
    assert!(status.message.contains("User \"system:anonymous\" cannot list resource \"pods\""), "{status}");

    let mut watch = maps.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    assert!(watch.try_next().await.unwrap().is_some());
    serving.stop.cancel();
    let end = timeout(Duration::from_secs(60), async { while let Ok(Some(_)) = watch.try_next().await {} }).await;
    assert!(end.is_ok(), "the watch ends");
    let stopped = timeout(Duration::from_secs(60), serving.task).await;
    stopped.expect("the server stops").unwrap().unwrap();
    assert!(TcpStream::connect(serving.address).await.is_err(), "nobody listens any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_tls_does_not_disturb_others() {
    let test = TestServer::start().await;
    let TestServer { server, pki, etcd: _etcd, .. } = test;
    let ca = pki.ca().certificate().to_owned();
    let serving = serve(server, &pki).await;
    let mut garbage = TcpStream::connect(serving.address).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let _silent = TcpStream::connect(serving.address).await.unwrap();
    let mut answer = Vec::new();
    let _ = garbage.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/"));
    let admin = pki.ca().issue(&CertRequest::client("admin", ["system:masters"])).unwrap();
    let admin = client(serving.address, &ca, Some(admin)).await;
    assert!(admin.apiserver_version().await.is_ok());
    serving.stop.cancel();
}
