//! One endpoint changes in a cluster of 10,000 Services: from the API write to the first connection on the new backend,
//! through the real API server, watch, node daemon and kernel.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use skep_pki::{Kubeconfig, client_config};
use xtask::command::output;
use xtask::workspace::Profile;

use super::client::{Client, load};
use super::row::{Goal, Row};
use crate::cluster::TestCluster;

const SERVICES: usize = 10_000;
const ENDPOINTS: usize = 10;
/// Changes measured.
const CHANGES: usize = 200;
/// How long the new backend may take before the measurement counts as failed.
const LIMIT: Duration = Duration::from_secs(60);
const SERVICES_PATH: &str = "/api/v1/namespaces/default/services";
const SLICES_PATH: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// Measures this group.
pub fn measure() -> Result<Vec<Row>> {
    let cluster = TestCluster::create(Profile::Release)?;
    cluster.start_all()?;
    let (parts, spec) = (cluster.parts(), cluster.parts().spec());
    // The client must be where sockets are translated: on the cluster's machine.
    let mut client = parts.on_machine(std::env::current_exe()?);
    client.arg("change-client").arg(parts.kubeconfig()).arg(spec.address.to_string());
    let printed = output(&mut client)?;
    let times: Vec<f64> = printed.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [median, p99] = times.as_slice() else { anyhow::bail!("the client printed {printed:?}") };
    Ok(vec![Row {
        name: "one endpoint change among 10,000 Services: API write to connection".to_owned(),
        measured: format!("median {median:.2} ms, p99 {p99:.2} ms"),
        limit: String::new(),
        score: *median,
        goal: Goal::Under(5.0, " ms"),
    }])
}

/// What runs on the cluster's machine: makes the Services, then prints the median and the 99th percentile in ms.
pub fn client(kubeconfig: &Path, address: IpAddr) -> Result<()> {
    let credentials = Kubeconfig::load(kubeconfig)?.credentials()?;
    let tls =
        client_config(&credentials.ca.context("the kubeconfig names no authority")?, credentials.identity.as_ref())?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let api = Arc::new(Client::connect(SocketAddr::new(address, 6443), tls).await?);
        let maker = Arc::clone(&api);
        load(32, SERVICES, move |number| {
            let api = Arc::clone(&maker);
            async move { make_service(&api, number).await }
        })
        .await?;
        let mut times = Vec::new();
        let backends = [TcpListener::bind((address, 0))?, TcpListener::bind((address, 0))?];
        for backend in &backends {
            backend.set_nonblocking(true)?;
        }
        let vip = probe_service(&api).await?;
        for turn in 0..=CHANGES {
            let backend = &backends[turn % 2];
            let slice = slice("probe", &[address.to_string()], backend.local_addr()?.port());
            let start = Instant::now();
            let (method, path) = if turn == 0 {
                (Method::POST, SLICES_PATH.to_owned())
            } else {
                (Method::PUT, format!("{SLICES_PATH}/probe"))
            };
            api.expect(method, &path, body(&slice)).await?;
            reach(vip, backend)?;
            // The first also waits for the daemon to take in all the others.
            if turn > 0 {
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
        times.sort_by(f64::total_cmp);
        println!("{} {}", times[times.len() / 2], times[times.len() * 99 / 100]);
        Ok(())
    })
}

async fn make_service(api: &Client, number: usize) -> Result<()> {
    let name = format!("s{number}");
    let service = service(&name);
    api.expect(Method::POST, SERVICES_PATH, body(&service)).await?;
    let endpoints: Vec<_> =
        (0..ENDPOINTS).map(|i| format!("10.113.{}.{}", number / 40 % 256, number % 25 * 10 + i)).collect();
    api.expect(Method::POST, SLICES_PATH, body(&slice(&name, &endpoints, 8080))).await.map(drop)
}

async fn probe_service(api: &Client) -> Result<SocketAddr> {
    let made = api.expect(Method::POST, SERVICES_PATH, body(&service("probe"))).await?;
    let made: Value = serde_json::from_slice(&made)?;
    let ip = made["spec"]["clusterIP"].as_str().context("the probe service got no address")?;
    Ok(SocketAddr::new(ip.parse()?, 80))
}

fn service(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name }, "spec": { "ports": [{ "port": 80 }] } })
}

fn slice(name: &str, endpoints: &[String], port: u16) -> Value {
    let endpoints: Vec<_> =
        endpoints.iter().map(|ip| json!({ "addresses": [ip], "conditions": { "ready": true } })).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": name, "labels": { "kubernetes.io/service-name": name } },
        "endpoints": endpoints, "ports": [{ "name": "", "port": port, "protocol": "TCP" }],
    })
}

fn body(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}

/// Connects to `vip` until `backend` is the one that got the connection.
fn reach(vip: SocketAddr, backend: &TcpListener) -> Result<()> {
    let start = Instant::now();
    loop {
        // Refused while there is no backend yet.
        let connected = TcpStream::connect(vip);
        if connected.is_ok() && backend.accept().is_ok() {
            return Ok(());
        }
        ensure!(start.elapsed() < LIMIT, "the new backend was not reached within {} s", LIMIT.as_secs());
    }
}
