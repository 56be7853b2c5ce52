//! One endpoint changes, in a cluster of 10 Services and in one of 10,000: from the API write to the first connection on the
//! new backend, through the real API server, watch, node daemon and kernel.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use http::Method;
use serde_json::Value;
use xtask::command::output;

use super::client::Client;
use super::crowd::{self, SERVICES_PATH, SLICES_PATH, body};
use super::manifest::{bare_service, slice};
use super::profile;
use super::row::{Goal, Row};
use crate::cluster::TestCluster;

/// Services of the small cluster, two of which every cluster has, and one is the one that changes.
const FEW: usize = 10;
/// Changes measured at each size.
const CHANGES: usize = 200;
/// Between two attempts, so that those who carry the change get the processor.
const PAUSE: Duration = Duration::from_micros(100);
/// How long the new backend may take before the measurement counts as failed.
const LIMIT: Duration = Duration::from_secs(20);

/// Measures this group.
pub fn measure() -> Result<Vec<Row>> {
    let cluster = TestCluster::create(profile::chosen())?;
    cluster.start_all()?;
    let (parts, spec) = (cluster.parts(), cluster.parts().spec());
    // The client must be where sockets are translated: on the cluster's machine.
    let mut client = parts.on_machine(std::env::current_exe()?);
    client.arg("change-client").arg(parts.kubeconfig()).arg(spec.address.to_string());
    output(&mut client)?.lines().map(row).collect()
}

/// A row of a line `<Services> <median> <p99>` of the client.
fn row(line: &str) -> Result<Row> {
    let figures: Vec<f64> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let [services, median, p99] = figures.as_slice() else { anyhow::bail!("the client printed {line:?}") };
    Ok(Row {
        name: format!("one endpoint change among {services} Services: API write to connection, p99"),
        measured: format!("median {median:.2} ms, p99 {p99:.2} ms"),
        limit: String::new(),
        score: *p99,
        goal: Goal::Under(10.0, " ms"),
    })
}

/// What runs on the cluster's machine: makes the Services, then prints the median and the 99th percentile in ms.
pub fn client(kubeconfig: &Path, address: IpAddr) -> Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let api = Arc::new(crowd::connect(kubeconfig, address).await?);
        let probe = Probe::create(&api, address).await?;
        let mut made = 0;
        for services in [FEW, profile::many_services()] {
            crowd::make(&api, made..services - 3).await?;
            made = services - 3;
            let times = probe.change(&api).await?;
            println!("{services} {} {}", times[times.len() / 2], times[times.len() * 99 / 100]);
        }
        Ok(())
    })
}

/// The Service that changes.
struct Probe {
    vip: SocketAddr,
    backends: [TcpListener; 2],
}

impl Probe {
    async fn create(api: &Client, address: IpAddr) -> Result<Self> {
        let made =
            api.expect(Method::POST, SERVICES_PATH, body(&bare_service("probe", "ClusterIP", 80, "TCP"))).await?;
        let made: Value = serde_json::from_slice(&made)?;
        let ip = made["spec"]["clusterIP"].as_str().context("the probe service got no address")?;
        let backends = [TcpListener::bind((address, 0))?, TcpListener::bind((address, 0))?];
        for backend in &backends {
            backend.set_nonblocking(true)?;
        }
        let probe = Self { vip: SocketAddr::new(ip.parse()?, 80), backends };
        api.expect(Method::POST, SLICES_PATH, body(&probe.slice(0)?)).await?;
        Ok(probe)
    }

    /// The times of the changes in ms, in order of size.
    async fn change(&self, api: &Client) -> Result<Vec<f64>> {
        let mut times = Vec::new();
        for turn in 0..=CHANGES {
            let start = Instant::now();
            api.expect(Method::PUT, &format!("{SLICES_PATH}/probe"), body(&self.slice(turn)?)).await?;
            self.reach(turn)?;
            // The first also waits for the daemon to take in all the others.
            if turn > 0 {
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
        times.sort_by(f64::total_cmp);
        Ok(times)
    }

    fn slice(&self, turn: usize) -> Result<Value> {
        let backend = self.backends[turn % 2].local_addr()?;
        Ok(slice("probe", &[backend.ip().to_string()], backend.port(), "TCP"))
    }

    /// Connects until the backend of this turn is the one that got the connection.
    fn reach(&self, turn: usize) -> Result<()> {
        let (new, old) = (&self.backends[turn % 2], &self.backends[(turn + 1) % 2]);
        let start = Instant::now();
        loop {
            // Refused while there is no backend yet.
            let connected = TcpStream::connect_timeout(&self.vip, LIMIT);
            if connected.is_ok() && new.accept().is_ok() {
                return Ok(());
            }
            // What is left in its queue would be taken for this turn's by the next one.
            while old.accept().is_ok() {}
            ensure!(start.elapsed() < LIMIT, "the new backend was not reached within {} s", LIMIT.as_secs());
            std::thread::sleep(PAUSE);
        }
    }
}
