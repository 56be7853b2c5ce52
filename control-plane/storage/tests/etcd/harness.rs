//! A real etcd on free loopback ports, which the tests may kill.

use skep_storage::{EtcdConfig, Resource, ResourceSchema, SelectableField, Storage, Tuning};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

pub(crate) const PODS: &str = "/registry/pods/";
pub(crate) const NODES: &str = "/registry/minions/";

pub(crate) struct Etcd {
    child: Option<Child>,
    dir: TempDir,
    client: u16,
    peer: u16,
}

impl Etcd {
    /// Starts an etcd; fails the test if there is none.
    pub(crate) async fn start() -> Self {
        let (client, peer) = (free_port(), free_port());
        let mut etcd = Self { child: None, dir: tempfile::tempdir().unwrap(), client, peer };
        etcd.run().await;
        etcd
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client)
    }

    /// One that speaks TLS only, and only to holders of a certificate of its authority. The files' names: `ca.crt`,
    /// `client.crt`, `client.key` in [`Etcd::dir`].
    pub(crate) async fn start_with_tls() -> Self {
        let (client, peer) = (free_port(), free_port());
        let mut etcd = Self { child: None, dir: tempfile::tempdir().unwrap(), client, peer };
        write_certificates(etcd.dir());
        let file = |name: &str| etcd.dir().join(name).display().to_string();
        let mut command = etcd.command("https");
        command.args([format!("--cert-file={}", file("server.crt")), format!("--key-file={}", file("server.key"))]);
        command.args([format!("--trusted-ca-file={}", file("ca.crt")), "--client-cert-auth".into()]);
        let child = command.spawn().expect("these tests need etcd on PATH");
        etcd.child = Some(child);
        etcd
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn port(&self) -> u16 {
        self.client
    }

    /// Starts it on the same data and ports.
    pub(crate) async fn run(&mut self) {
        let child = self.command("http").spawn().expect("these tests need etcd on PATH");
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

    fn command(&self, scheme: &str) -> Command {
        let client = format!("{scheme}://127.0.0.1:{}", self.client);
        let peer = format!("http://127.0.0.1:{}", self.peer);
        let mut command = Command::new("etcd");
        command
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
            .stderr(Stdio::null());
        command
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// A plain client, past the code under test.
    pub(crate) async fn raw(&self) -> etcd_client::Client {
        etcd_client::Client::connect([self.url()], None).await.unwrap()
    }

    pub(crate) fn config(&self) -> EtcdConfig {
        self.config_with(Tuning::default())
    }

    pub(crate) fn config_with(&self, tuning: Tuning) -> EtcdConfig {
        EtcdConfig { endpoints: vec![self.url()], tuning, ..EtcdConfig::default() }
    }

    pub(crate) async fn storage(&self) -> Storage {
        Storage::connect(self.config(), schemas()).await.unwrap()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn schemas() -> Vec<ResourceSchema> {
    vec![
        ResourceSchema::new(PODS)
            .with_fields([SelectableField::new("spec.nodeName"), SelectableField::new("status.phase")]),
        ResourceSchema::new(NODES),
    ]
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) fn pods(storage: &Storage) -> Resource {
    storage.resource(PODS).unwrap()
}

/// The value of a metric without labels.
pub(crate) fn metric(storage: &Storage, name: &str) -> usize {
    let mut registry = prometheus_client::registry::Registry::default();
    storage.register_metrics(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

pub(crate) fn pod_key(name: &str) -> String {
    format!("{PODS}default/{name}")
}

pub(crate) fn pod(name: &str, n: i64) -> String {
    format!(
        r#"{{"kind":"Pod","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"default","labels":{{"n":"{n}"}}}},"spec":{{"nodeName":"n{n}"}}}}"#
    )
}

pub(crate) fn write_certificates(dir: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    std::fs::write(dir.join("ca.crt"), ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    for name in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(dir.join(format!("{name}.crt")), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
        std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

/// Fails the test instead of hanging it.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("this should have happened by now")
}

/// Waits until something is so.
pub(crate) async fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    for _ in 0..1500 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not in time: {what}");
}
