//! A server with its own etcd in its own directory, gone when dropped.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use skep_apiserver::{ApiServer, ApiService, Config, FrontProxy, UserInfo, resource_schemas};
use skep_pki::Pki;
use skep_storage::{
    EtcdConfig, Storage, Tuning,
    supervisor::{Supervisor, SupervisorConfig},
};
use tempfile::TempDir;
use tower::ServiceExt;

pub(crate) struct TestServer {
    // Fields drop in this order: the server, its etcd, the directory.
    pub(crate) server: ApiServer,
    pub(crate) storage: Storage,
    pub(crate) pki: Pki,
    pub(crate) etcd: Supervisor,
    _dir: TempDir,
}

impl TestServer {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_as(Tuning::default(), change).await
    }

    pub(crate) async fn start_tuned(tuning: Tuning) -> Self {
        Self::start_as(tuning, |_| ()).await
    }

    async fn start_as(tuning: Tuning, change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let etcd = Supervisor::start(SupervisorConfig::new(dir.path().join("etcd"))).await.unwrap();
        let storage = Storage::connect(EtcdConfig { tuning, ..etcd.etcd_config() }, resource_schemas()).await.unwrap();
        let pki = Pki::load_or_create(&dir.path().join("pki"), &["127.0.0.1".to_owned()]).unwrap();
        let kubelet = skep_pki::client_config(pki.ca().certificate(), Some(pki.apiserver_kubelet_client())).unwrap();
        let mut config = Config::new(
            storage.clone(),
            "10.96.0.0/24".parse().unwrap(),
            "192.0.2.1".parse().unwrap(),
            6443,
            Arc::new(kubelet),
        );
        config.client_ca = Some(pki.ca().certificate().to_owned());
        config.front_proxy = Some(FrontProxy {
            client: pki.front_proxy_client().clone(),
            ca: pki.front_proxy_ca().certificate().to_owned(),
            name: "front-proxy-client".to_owned(),
        });
        change(&mut config);
        let server = ApiServer::new(config).await.unwrap();
        Self { server, storage, pki, etcd, _dir: dir }
    }

    pub(crate) fn service(&self) -> ApiService {
        self.server.service().with_user(UserInfo::master("admin"))
    }

    pub(crate) fn client(&self) -> kube::Client {
        kube::Client::new(self.service(), "default")
    }

    /// A request with a JSON body (null: none); the code and the JSON of the answer.
    pub(crate) async fn call(&self, method: Method, uri: &str, body: Value) -> (StatusCode, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.raw(method, uri, "application/json", body).await
    }

    pub(crate) async fn get(&self, uri: &str) -> (StatusCode, Value) {
        self.call(Method::GET, uri, Value::Null).await
    }

    pub(crate) async fn raw(
        &self,
        method: Method,
        uri: &str,
        content_type: &str,
        body: impl Into<Bytes>,
    ) -> (StatusCode, Value) {
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("content-type", content_type)
            .body(Full::new(body.into()))
            .unwrap();
        let (parts, body) = self.send(request).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status, serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into()))
    }

    /// As [`Self::call`], as someone who is no administrator.
    pub(crate) async fn call_as(&self, user: &UserInfo, method: Method, uri: &str, body: Value) -> (StatusCode, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder().method(method).uri(uri).header("content-type", "application/json");
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let response = self.server.service().with_user(user.clone()).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status, serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into()))
    }

    /// Creates an object that nothing speaks against.
    pub(crate) async fn create(&self, uri: &str, object: Value) -> Value {
        let (code, body) = self.call(Method::POST, uri, object).await;
        assert_eq!(code, 201, "{body}");
        body
    }

    /// Waits until the watch cache has what was written.
    pub(crate) async fn settle(&self) {
        let revision = self.storage.read_revision().await.unwrap();
        self.storage.wait_for(revision).await.unwrap();
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Response<skep_apiserver::http::body::Body> {
        self.service().oneshot(request).await.unwrap()
    }

    /// Creates what pods need in `default`.
    pub(crate) async fn default_account(&self) {
        let account = serde_json::json!({"metadata": {"name": "default"}});
        let (code, body) = self.call(Method::POST, "/api/v1/namespaces/default/serviceaccounts", account).await;
        assert_eq!(code, 201, "{body}");
    }
}

/// A pod that every check lets pass.
pub(crate) fn pod(name: &str) -> Value {
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "main", "image": "registry.example/app:1"}]},
    })
}

pub(crate) fn config_map(name: &str, value: &str) -> Value {
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {"key": value},
    })
}
