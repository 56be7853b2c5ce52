//! A real etcd on free loopback ports, which the tests may kill.

use skep_storage::{EtcdConfig, FieldExtractor, Resource, ResourceSchema, SelectableField, Storage, Tuning};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

pub const PODS: &str = "/registry/pods/";
pub const NODES: &str = "/registry/minions/";

pub struct Etcd {
    child: Option<Child>,
    dir: TempDir,
    client: u16,
    peer: u16,
}

impl Etcd {
    /// Starts an etcd; fails the test if there is none.
    pub async fn start() -> Self {
        let (client, peer) = (free_port(), free_port());
        let mut etcd = Self { child: None, dir: tempfile::tempdir().unwrap(), client, peer };
        etcd.run().await;
        etcd
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client)
    }

    /// Starts it on the same data and ports.
    pub async fn run(&mut self) {
        let (client, peer) = (self.url(), format!("http://127.0.0.1:{}", self.peer));
        let child = Command::new("etcd")
            .arg(format!("--data-dir={}", self.dir.path().join("data").display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=default={peer}"))
            // The tests are about order, not about disks.
            .arg("--unsafe-no-fsync")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("these tests need etcd on PATH");
        self.child = Some(child);
        let mut raw = self.raw().await;
        for _ in 0..500 {
            if matches!(tokio::time::timeout(Duration::from_secs(1), raw.get("x", None)).await, Ok(Ok(_))) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("etcd does not answer");
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// A plain client, past the code under test.
    pub async fn raw(&self) -> etcd_client::Client {
        etcd_client::Client::connect([self.url()], None).await.unwrap()
    }

    pub fn config(&self) -> EtcdConfig {
        self.config_with(Tuning::default())
    }

    pub fn config_with(&self, tuning: Tuning) -> EtcdConfig {
        EtcdConfig { endpoints: vec![self.url()], tuning, ..EtcdConfig::default() }
    }

    pub async fn storage(&self) -> Storage {
        Storage::connect(self.config(), schemas()).await.unwrap()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn schemas() -> Vec<ResourceSchema> {
    vec![
        ResourceSchema {
            prefix: PODS.into(),
            fields: FieldExtractor::new([SelectableField::new("spec.nodeName"), SelectableField::new("status.phase")]),
        },
        ResourceSchema::new(NODES),
    ]
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub fn pods(storage: &Storage) -> Resource {
    storage.resource(PODS).unwrap()
}

pub fn pod_key(name: &str) -> String {
    format!("{PODS}default/{name}")
}

pub fn pod(name: &str, n: i64) -> String {
    format!(
        r#"{{"kind":"Pod","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"default","labels":{{"n":"{n}"}}}},"spec":{{"nodeName":"n{n}"}}}}"#
    )
}

/// Fails the test instead of hanging it.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("this should have happened by now")
}

/// Waits until something is so.
pub async fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    for _ in 0..1500 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not in time: {what}");
}
