//! etcd gone: clear answers, and no help needed once it is back.

use std::time::Duration;

use http::{Method, StatusCode};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::support::{TestServer, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Whether an answer says that etcd is away, in upstream's codes and reasons.
fn says_etcd_is_away(code: StatusCode, body: &Value) -> bool {
    let unavailable = code == 503 && body["reason"] == "ServiceUnavailable";
    let timeout = code == 504 && body["reason"] == "Timeout";
    body["kind"] == "Status" && (unavailable || timeout) && body["code"] == code.as_u16()
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_etcd_writes_and_consistent_reads_fail_clearly_and_recover() {
    let server = TestServer::start().await;
    let (code, made) = server.call(Method::POST, MAPS, config_map("a", "1")).await;
    assert_eq!(code, 201);
    let pid = server.etcd.pid().unwrap();
    signal(pid, Signal::SIGSTOP);
    let write = server.call(Method::POST, MAPS, config_map("b", "1"));
    let read = server.get(MAPS);
    let ((write_code, write), (read_code, read)) = tokio::join!(write, read);
    let cached = server.get(&format!("{MAPS}/a?resourceVersion=0")).await;
    signal(pid, Signal::SIGCONT);
    for (code, body) in [(write_code, &write), (read_code, &read)] {
        assert!(says_etcd_is_away(code, body), "{code}: {body}");
    }
    assert_eq!((cached.0.as_u16(), &cached.1), (200, &made), "the cache answers what need not be new");
    // The first write may have been applied after all; the next one says.
    let (mut code, mut body) = server.call(Method::POST, MAPS, config_map("c", "1")).await;
    while code.is_server_error() {
        assert!(says_etcd_is_away(code, &body), "{code}: {body}");
        (code, body) = server.call(Method::POST, MAPS, config_map("c", "1")).await;
    }
    assert!(code == 201 || code == 409, "{code}");
    assert_eq!(server.get(&format!("{MAPS}/c")).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_etcd_loses_nothing() {
    let server = TestServer::start().await;
    let (_, made) = server.call(Method::POST, MAPS, config_map("a", "1")).await;
    signal(server.etcd.pid().unwrap(), Signal::SIGKILL);
    let (mut code, mut body): (_, Value) = server.get(&format!("{MAPS}/a")).await;
    while code.is_server_error() {
        assert!(says_etcd_is_away(code, &body), "{code}: {body}");
        tokio::time::sleep(Duration::from_millis(5)).await;
        (code, body) = server.get(&format!("{MAPS}/a")).await;
    }
    assert_eq!((code.as_u16(), body), (200, made));
    // Writes come back by themselves, too.
    let (code, body) = server.call(Method::POST, MAPS, config_map("b", "1")).await;
    assert_eq!(code, 201, "{body}");
}
