//! `proxy` subresources, with real servers on loopback behind them.

use std::{io::Read, sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use futures::{FutureExt, StreamExt, stream};
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use skep_pki::{CertRequest, ReloadableIdentity};
use skep_storage::{Op, Txn};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    backend::{Answer, Backend, answer, echo},
    support::{TestServer, pod},
    tls,
};

const PODS: &str = "/api/v1/namespaces/default/pods";
const PAGE: &str = "<html><body><a href=\"/next?a=1\">x</a><img src='pic.png'><p>&amp; text</p></body></html>";

async fn start() -> TestServer {
    let server = TestServer::start_with(|config| config.proxyable = |_| true).await;
    server.default_account().await;
    server
}

async fn site() -> Backend {
    Backend::start(None, |request| serve(request).boxed()).await
}

async fn serve(request: Request<hyper::body::Incoming>) -> Answer {
    match request.uri().path() {
        "/page" => answer(200, "text/html; charset=utf-8", PAGE),
        "/packed" => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            std::io::Write::write_all(&mut encoder, PAGE.as_bytes()).unwrap();
            let mut packed = answer(200, "text/html", encoder.finish().unwrap());
            packed.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
            packed
        }
        "/redirect" => {
            let mut moved = answer(302, "text/plain", "moved");
            moved.headers_mut().insert("location", "/elsewhere?x=1".parse().unwrap());
            moved.headers_mut().insert("access-control-allow-origin", "*".parse().unwrap());
            moved
        }
        "/endless" => {
            let first = stream::once(async { Ok(Frame::data(Bytes::from_static(b"first"))) });
            Response::new(BodyExt::boxed(StreamBody::new(first.chain(stream::pending()))))
        }
        "/switch" => {
            let mut request = request;
            let on = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut io = TokioIo::new(on.await.unwrap());
                let mut word = [0; 4];
                while io.read_exact(&mut word).await.is_ok() {
                    word.make_ascii_uppercase();
                    io.write_all(&word).await.unwrap();
                    io.flush().await.unwrap();
                }
            });
            let asked = request.headers().get("authorization").is_some();
            Response::builder()
                .status(101)
                .header("connection", "Upgrade")
                .header("upgrade", "websocket")
                .header("x-saw-credentials", asked.to_string())
                .body(Full::default().boxed())
                .unwrap()
        }
        _ => answer(200, "application/json", echo(request).await.to_string()),
    }
}

/// A pod whose address is a backend's.
async fn place(server: &TestServer, backend: &Backend) {
    let mut pod = pod("web");
    pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": backend.address.port()}]);
    let (code, made) = server.call(Method::POST, PODS, pod).await;
    assert_eq!(code, 201, "{made}");
    let status = json!({"status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}}).to_string();
    let uri = format!("{PODS}/web/status");
    let (code, made) = server.raw(Method::PATCH, &uri, "application/merge-patch+json", status).await;
    assert_eq!(code, 200, "{made}");
}

async fn get(server: &TestServer, uri: &str) -> Response<Bytes> {
    let (parts, body) = server.send(Request::get(uri).body(Full::default()).unwrap()).await.into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_answers_every_method_and_is_told_where_it_is_seen() {
    let (server, backend) = (start().await, site().await);
    place(&server, &backend).await;
    for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS] {
        let request = Request::builder()
            .method(&method)
            .uri(format!("{PODS}/web/proxy/some/path/?q=a%20b"))
            .header("authorization", "Bearer secret")
            .header("x-own", "kept")
            .body(Full::from("hello"))
            .unwrap();
        let response = server.send(request).await;
        assert_eq!(response.status(), 200, "{method}");
        let seen: Value = serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
        assert_eq!(seen["method"], method.as_str());
        assert_eq!(seen["uri"], "/some/path/?q=a%20b");
        assert_eq!(seen["body"], "hello");
        assert_eq!(seen["headers"]["x-own"], "kept");
        assert_eq!(seen["headers"]["x-forwarded-uri"], format!("{PODS}/web/proxy/some/path/"));
        assert!(seen["headers"]["authorization"].is_null());
    }
    let head = Request::head(format!("{PODS}/web/proxy/")).body(Full::default()).unwrap();
    assert_eq!(server.send(head).await.status(), 200);
    let by_name = get(&server, &format!("{PODS}/http:web:{}/proxy/a", backend.address.port())).await;
    assert_eq!(by_name.status(), 200);
    let moved = get(&server, &format!("{PODS}/web/proxy?a=1")).await;
    assert_eq!(
        (moved.status().as_u16(), &moved.headers()["location"]),
        (301, &format!("{PODS}/web/proxy/?a=1")[..].parse().unwrap())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn links_and_redirections_lead_back_through_the_proxy() {
    let (server, backend) = (start().await, site().await);
    place(&server, &backend).await;
    let moved = get(&server, &format!("{PODS}/web/proxy/redirect")).await;
    assert_eq!(moved.status(), 302);
    assert_eq!(moved.headers()["location"], format!("{PODS}/web/proxy/elsewhere?x=1"));
    assert!(!moved.headers().contains_key("access-control-allow-origin"));
    let want = PAGE.replace("/next", &format!("{PODS}/web/proxy/next"));
    let page = get(&server, &format!("{PODS}/web/proxy/page")).await;
    assert_eq!(String::from_utf8_lossy(page.body()), want);
    let packed = get(&server, &format!("{PODS}/web/proxy/packed")).await;
    let mut text = String::new();
    GzDecoder::new(&packed.body()[..]).read_to_string(&mut text).unwrap();
    assert_eq!(text, want);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_found_by_its_endpoints_and_only_pods_are_reached() {
    let (server, backend) = (start().await, site().await);
    place(&server, &backend).await;
    let services = "/api/v1/namespaces/default/services";
    let service = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"name": "http", "port": 80}]}});
    assert_eq!(server.call(Method::POST, services, service).await.0, 201);
    let endpoints = |target: Value| {
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "web", "namespace": "default"}, "subsets": [{
            "addresses": [{"ip": "127.0.0.1", "targetRef": target}],
            "ports": [{"name": "http", "port": backend.address.port()}],
        }]})
    };
    // Written past validation, which lets no endpoint be on loopback.
    let write = async |endpoints: Value| {
        let op = Op::Put {
            key: "/registry/services/endpoints/default/web".to_owned(),
            value: endpoints.to_string().into(),
            ttl: None,
        };
        server.storage.commit(Txn { compares: Vec::new(), ops: vec![op] }).await.unwrap();
    };
    let other = endpoints(json!({"kind": "Pod", "name": "other", "namespace": "default"}));
    write(other).await;
    let (code, body) = server.get(&format!("{services}/web:http/proxy/")).await;
    assert_eq!(code, 503, "{body}");
    assert_eq!(body["message"], "no endpoints available for service \"web:http\"");
    let right = endpoints(json!({"kind": "Pod", "name": "web", "namespace": "default"}));
    write(right).await;
    for id in ["web:http", "web:80", "http:web:http"] {
        let (code, body) = server.get(&format!("{services}/{id}/proxy/x")).await;
        assert_eq!((code.as_u16(), &body["uri"]), (200, &"/x".into()), "{id} {body}");
    }
    let (_, body) = server.get(&format!("{services}/web:81/proxy/")).await;
    assert_eq!(body["message"], "no service port 81 found for service \"web\"");
    let (_, body) = server.get(&format!("{services}/ftp:web:80/proxy/")).await;
    assert_eq!(body["message"], "invalid service request \"ftp:web:80\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reached_is_503_and_this_host_is_out_of_bounds() {
    let (server, backend) = (start().await, site().await);
    place(&server, &backend).await;
    drop(backend);
    let mut answer = server.get(&format!("{PODS}/web/proxy/")).await;
    while answer.0 == 200 {
        answer = server.get(&format!("{PODS}/web/proxy/")).await;
    }
    assert_eq!(answer.0, 503);
    let text = answer.1["message"].as_str().unwrap();
    assert!(text.starts_with("error trying to reach service: "), "{text}");

    let strict = TestServer::start().await;
    strict.default_account().await;
    let backend = site().await;
    place(&strict, &backend).await;
    let (code, body) = strict.get(&format!("{PODS}/web/proxy/")).await;
    assert_eq!((code.as_u16(), &body["message"]), (400, &"address not allowed".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn https_backends_and_kubelets_are_reached_over_tls() {
    let server = start().await;
    let ca = server.pki.ca();
    let identity = ca.issue(&CertRequest::server("system:node:n1", ["127.0.0.1"])).unwrap();
    let tls = skep_pki::server_config(ReloadableIdentity::new(&identity).unwrap(), Some(ca.certificate())).unwrap();
    let backend = Backend::start(Some(tls), |request| serve(request).boxed()).await;
    place(&server, &backend).await;
    let port = backend.address.port();
    let (code, body) = server.get(&format!("{PODS}/https:web:{port}/proxy/x")).await;
    assert_eq!((code.as_u16(), &body["uri"]), (200, &"/x".into()), "{body}");
    assert_eq!(server.call(Method::POST, "/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await.0, 201);
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }});
    let uri = "/api/v1/nodes/n1/status";
    assert_eq!(server.raw(Method::PATCH, uri, "application/merge-patch+json", status.to_string()).await.0, 200);
    for id in ["n1".to_owned(), format!("n1:{port}")] {
        let (code, body) = server.get(&format!("/api/v1/nodes/{id}/proxy/configz")).await;
        assert_eq!((code.as_u16(), &body["uri"]), (200, &"/configz".into()), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aborted_client_leaves_no_connection_behind() {
    let (server, backend) = (start().await, site().await);
    place(&server, &backend).await;
    let request = Request::get(format!("{PODS}/web/proxy/endless")).body(Full::default()).unwrap();
    let mut body = server.send(request).await.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "first", "bytes come as they are sent");
    assert_eq!(backend.open.load(Ordering::SeqCst), 1);
    drop(body);
    while backend.open.load(Ordering::SeqCst) > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_joins_client_and_pod() {
    let (server, backend) = (start().await, site().await);
    place(&server, &backend).await;
    let TestServer { server, pki, etcd: _etcd, .. } = server;
    let serving = tls::serve(server, &pki).await;
    let admin = pki.ca().issue(&CertRequest::client("admin", ["system:masters"])).unwrap();
    let client = skep_pki::client_config(pki.ca().certificate(), Some(&admin)).unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(client));
    let stream = TcpStream::connect(serving.address).await.unwrap();
    let mut io = connector.connect("127.0.0.1".try_into().unwrap(), stream).await.unwrap();
    let head =
        format!("GET {PODS}/web/proxy/switch HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n");
    io.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(io.read_u8().await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap().to_lowercase();
    assert!(answer.starts_with("http/1.1 101"), "{answer}");
    assert!(answer.contains("upgrade: websocket") && answer.contains("x-saw-credentials: false"), "{answer}");
    for (said, heard) in [(b"ping", b"PING"), (b"pong", b"PONG")] {
        io.write_all(said).await.unwrap();
        let mut word = [0; 4];
        io.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, heard);
    }
    drop(io);
    while backend.open.load(Ordering::SeqCst) > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    serving.stop.cancel();
}
