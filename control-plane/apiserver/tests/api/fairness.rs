//! Priority and fairness under a flood: told by counts and by order, never by the clock.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::stream;
use http::{Method, Request, StatusCode};
use http_body::Frame;
use http_body_util::{Full, StreamBody};
use skep_apiserver::UserInfo;
use tokio::{sync::Semaphore, task::JoinSet};
use tower::ServiceExt;

use crate::support::TestServer;

const LEVELS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";
const EVENTS: &str = "/api/v1/namespaces/default/events";

fn node(name: &str) -> UserInfo {
    UserInfo::authenticated(format!("system:node:{name}"), ["system:nodes".to_owned()])
}

/// Few seats: four of them are the level `system`, which is where nodes are; it lends and borrows none here.
async fn start() -> TestServer {
    let server = TestServer::start_with(|config| {
        config.max_reads_in_flight = 20;
        config.max_writes_in_flight = 10;
    })
    .await;
    // The objects are followed, so they hold a moment after they were made.
    wait_for(&server, "nominal_limit_seats", 4).await;
    let path = format!("{LEVELS}/system");
    let (_, mut level) = server.get(&path).await;
    level["spec"]["limited"]["lendablePercent"] = 0.into();
    level["spec"]["limited"]["borrowingLimitPercent"] = 0.into();
    assert_eq!(server.call(Method::PUT, &path, level).await.0, 200);
    for limit in ["lower_limit_seats", "upper_limit_seats", "current_limit_seats"] {
        wait_for(&server, limit, 4).await;
    }
    server
}

/// What a metric says of the level `system`.
async fn gauge(server: &TestServer, name: &str) -> usize {
    let (code, text) = server.get("/metrics").await;
    assert_eq!(code, 200, "the administrator gets through");
    let prefix = format!("apiserver_flowcontrol_{name}{{priority_level=\"system\"}} ");
    let text = text.as_str().unwrap();
    text.lines().find_map(|line| line.strip_prefix(&prefix)).map_or(0, |value| value.parse().unwrap())
}

async fn wait_for(server: &TestServer, name: &str, value: usize) {
    while gauge(server, name).await != value {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A slow client: its body ends when the gate lets one through.
async fn slow(server: skep_apiserver::ApiService, gate: Arc<Semaphore>) -> StatusCode {
    let end = async move {
        gate.acquire().await.unwrap().forget();
        Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"{}")))
    };
    let body = StreamBody::new(stream::once(Box::pin(end)));
    let request = Request::post(EVENTS).body(body).unwrap();
    server.oneshot(request).await.unwrap().status()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_slow_clients_starves_nobody_else_and_leaves_nothing() {
    let server = start().await;
    let gate = Arc::new(Semaphore::new(0));
    let mut flood = JoinSet::new();
    for _ in 0..320 {
        flood.spawn(slow(server.server.service().with_user(node("n1")), Arc::clone(&gate)));
    }
    // Four run, six queues of fifty are full, the others are turned away.
    for _ in 0..16 {
        assert_eq!(flood.join_next().await.unwrap().unwrap(), 429);
    }
    wait_for(&server, "current_inqueue_requests", 300).await;
    assert_eq!(gauge(&server, "current_executing_requests").await, 4);

    // Health needs no seat, whoever asks.
    for user in [UserInfo::anonymous(), node("n1")] {
        let request = Request::get("/livez").body(Full::<Bytes>::default()).unwrap();
        let response = server.server.service().with_user(user).oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
    }

    let passed = Arc::new(AtomicUsize::new(0));
    let service = server.server.service().with_user(node("n2"));
    let newcomer = tokio::spawn(async move {
        let request = Request::get("/api/v1/services").body(Full::<Bytes>::default()).unwrap();
        service.oneshot(request).await.unwrap().status()
    });
    wait_for(&server, "current_inqueue_requests", 301).await;
    while !newcomer.is_finished() {
        gate.add_permits(1);
        let code = flood.join_next().await.unwrap().unwrap();
        assert_ne!(code, 429);
        passed.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(newcomer.await.unwrap(), 200);
    let passed = passed.load(Ordering::SeqCst);
    assert!(passed <= 20, "{passed} of the flood's 304 went before");

    // Clients that go away give up seats and places alike.
    flood.shutdown().await;
    wait_for(&server, "current_inqueue_requests", 0).await;
    wait_for(&server, "current_executing_seats", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_turned_away_is_told_when_to_come_again() {
    let server = start().await;
    let gate = Arc::new(Semaphore::new(0));
    let mut flood = JoinSet::new();
    for _ in 0..304 {
        flood.spawn(slow(server.server.service().with_user(node("n1")), Arc::clone(&gate)));
    }
    wait_for(&server, "current_inqueue_requests", 300).await;
    let request = Request::get("/api/v1/services").body(Full::<Bytes>::default()).unwrap();
    let refused = server.server.service().with_user(node("n1")).oneshot(request).await.unwrap();
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (429, &"1".parse().unwrap()));
    assert!(!refused.headers()["x-kubernetes-pf-flowschema-uid"].is_empty());
    let text = http_body_util::BodyExt::collect(refused.into_body()).await.unwrap().to_bytes();
    assert_eq!(text, "Too many requests, please try again later.\n");
    let (_, metrics) = server.get("/metrics").await;
    let line = "apiserver_flowcontrol_rejected_requests_total{priority_level=\"system\",flow_schema=\"system-nodes\",reason=\"queue-full\"} 1";
    assert!(metrics.as_str().unwrap().contains(line));
    flood.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_what_levels_have_lend_and_want() {
    let server = start().await;
    let (_, metrics) = server.get("/metrics").await;
    let metrics = metrics.as_str().unwrap();
    for (name, value) in [
        ("nominal_limit_seats", Some(4.0)),
        ("lower_limit_seats", Some(4.0)),
        ("upper_limit_seats", Some(4.0)),
        ("current_limit_seats", Some(4.0)),
        ("target_seats", Some(4.0)),
        ("demand_seats_high_watermark", Some(0.0)),
        ("demand_seats_average", Some(0.0)),
        ("demand_seats_stdev", Some(0.0)),
        ("demand_seats_smoothed", Some(0.0)),
    ] {
        let prefix = format!("apiserver_flowcontrol_{name}{{priority_level=\"system\"}} ");
        let told = metrics.lines().find_map(|line| line.strip_prefix(&prefix)).map(|value| value.parse().unwrap());
        assert_eq!(told, value, "{name}");
    }
    let fraction = metrics.lines().find_map(|line| line.strip_prefix("apiserver_flowcontrol_seat_fair_frac "));
    assert!(fraction.unwrap().parse::<f64>().unwrap() > 1.0, "nothing is asked, so all have more than they need");
}
