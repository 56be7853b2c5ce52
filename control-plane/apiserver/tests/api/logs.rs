//! Logs come through from whoever serves at the node's kubelet endpoint. The server here speaks the kubelet's protocol
//! over real TLS; the kubelet itself is tried in the cluster tests.

use std::sync::Arc;

use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use skep_pki::{CertRequest, ReloadableIdentity};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use crate::support::{TestServer, pod};

const PODS: &str = "/api/v1/namespaces/default/pods";

/// Answers one request with `answer`; what was asked, and by whom, comes back.
async fn kubelet(server: &TestServer, answer: &'static str) -> (u16, tokio::task::JoinHandle<(String, bool)>) {
    let ca = server.pki.ca();
    let identity = ca.issue(&CertRequest::server("system:node:n1", ["127.0.0.1"])).unwrap();
    let identity = ReloadableIdentity::new(&identity).unwrap();
    let tls = skep_pki::server_config(identity, Some(ca.certificate())).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut tls = TlsAcceptor::from(Arc::new(tls)).accept(stream).await.unwrap();
        let named = tls.get_ref().1.peer_certificates().is_some();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tls.read_u8().await.unwrap());
        }
        tls.write_all(answer.as_bytes()).await.unwrap();
        tls.shutdown().await.unwrap();
        (String::from_utf8(head).unwrap().lines().next().unwrap().to_owned(), named)
    });
    (port, task)
}

/// A pod on a node whose kubelet serves at `port`.
async fn place(server: &TestServer, port: u16) {
    let (code, node) = server.call(Method::POST, "/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
    assert_eq!(code, 201, "{node}");
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }});
    let uri = "/api/v1/nodes/n1/status";
    let (code, node) = server.raw(Method::PATCH, uri, "application/merge-patch+json", status.to_string()).await;
    assert_eq!(code, 200, "{node}");
    server.default_account().await;
    let mut pod = pod("a");
    pod["spec"]["nodeName"] = "n1".into();
    let (code, pod) = server.call(Method::POST, PODS, pod).await;
    assert_eq!(code, 201, "{pod}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_passed_through() {
    let server = TestServer::start().await;
    let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nline1\n\r\n6\r\nline2\n\r\n0\r\n\r\n";
    let (port, asked) = kubelet(&server, answer).await;
    place(&server, port).await;
    let request = http::Request::get(format!("{PODS}/a/log?follow=True&tailLines=2&timestamps=false"))
        .body(http_body_util::Full::default())
        .unwrap();
    let response = server.send(request).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/plain");
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "line1\nline2\n");
    let (line, named) = asked.await.unwrap();
    assert_eq!(line, "GET /containerLogs/default/a/main?follow=true&tailLines=2 HTTP/1.1");
    assert!(named, "the API server shows its client certificate");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_kubelet_refuses_is_told_in_its_words() {
    let server = TestServer::start().await;
    let answer = "HTTP/1.1 400 Bad Request\r\ncontent-length: 66\r\n\r\n\
                  container \"main\" in pod \"a\" is waiting to start: ContainerCreating";
    let (port, _asked) = kubelet(&server, answer).await;
    place(&server, port).await;
    let (code, body) = server.get(&format!("{PODS}/a/log")).await;
    assert_eq!(code, 400, "{body}");
    assert_eq!(body["message"], "container \"main\" in pod \"a\" is waiting to start: ContainerCreating");
    // Nobody listens any more.
    let (code, body): (_, Value) = server.get(&format!("{PODS}/a/log")).await;
    assert_eq!(code, 500, "{body}");
    assert!(body["message"].as_str().unwrap().contains("/containerLogs/default/a/main"), "{body}");
}
