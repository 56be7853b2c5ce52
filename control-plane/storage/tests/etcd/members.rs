//! An etcd of three members behind TLS, of which one may die.

use crate::harness::*;
use skep_storage::{Error, EtcdConfig, Storage, Tuning, Txn};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

struct Members {
    dir: TempDir,
    children: Vec<Option<Child>>,
    urls: Vec<String>,
}

impl Members {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        write_certificates(dir.path());
        let ports: Vec<_> = (0..3).map(|_| (free_port(), free_port())).collect();
        let peers: Vec<_> =
            ports.iter().enumerate().map(|(n, (_, peer))| format!("m{n}=http://127.0.0.1:{peer}")).collect();
        let urls: Vec<_> = ports.iter().map(|(client, _)| format!("https://127.0.0.1:{client}")).collect();
        let mut members = Self { dir, children: Vec::new(), urls };
        for (n, (_, peer)) in ports.iter().enumerate() {
            let url = &members.urls[n];
            let peer = format!("http://127.0.0.1:{peer}");
            let file = |name: &str| members.dir.path().join(name).display().to_string();
            let child = Command::new("etcd")
                .args([format!("--name=m{n}"), format!("--data-dir={}", file(&format!("m{n}")))])
                .args([format!("--listen-client-urls={url}"), format!("--advertise-client-urls={url}")])
                .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
                .arg(format!("--initial-cluster={}", peers.join(",")))
                .args([format!("--cert-file={}", file("server.crt")), format!("--key-file={}", file("server.key"))])
                .args([format!("--trusted-ca-file={}", file("ca.crt")), "--client-cert-auth".to_owned()])
                .arg("--unsafe-no-fsync")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("these tests need etcd on PATH");
            members.children.push(Some(child));
        }
        members
    }

    fn config(&self) -> EtcdConfig {
        let file = |name: &str| Some(Path::join(self.dir.path(), name));
        EtcdConfig {
            endpoints: self.urls.clone(),
            ca_file: file("ca.crt"),
            cert_file: file("client.crt"),
            key_file: file("client.key"),
            tuning: Tuning { request_timeout: Duration::from_secs(5), ..Tuning::default() },
            member: None,
        }
    }

    /// kill -9.
    fn kill(&mut self, n: usize) {
        if let Some(mut child) = self.children[n].take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        (0..self.children.len()).for_each(|n| self.kill(n));
    }
}

#[tokio::test]
async fn the_death_of_any_one_member_loses_nothing() {
    for victim in 0..3 {
        let mut members = Members::start();
        let storage = soon(async {
            loop {
                match Storage::connect(members.config(), schemas()).await {
                    Ok(storage) => break storage,
                    Err(Error::Unavailable(_) | Error::Timeout { .. }) => {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        })
        .await;
        let mut watcher = pods(&storage).watch(PODS, storage.revision()).unwrap();
        let mut written = Vec::new();
        for n in 0..30 {
            if n == 10 {
                members.kill(victim);
            }
            let name = format!("p{n}");
            let revision = soon(async {
                loop {
                    match storage.commit(Txn::new().create(pod_key(&name), pod(&name, n))).await {
                        Ok(committed) => break committed.revision,
                        // An earlier attempt whose outcome was unknown did get through.
                        Err(Error::Conflict(c)) => break c.failed[0].current.as_ref().unwrap().mod_revision,
                        Err(Error::Unavailable(_) | Error::OutcomeUnknown(_) | Error::Timeout { .. }) => {
                            tokio::time::sleep(Duration::from_millis(50)).await;
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
            })
            .await;
            written.push((name, revision));
        }
        let mut seen = Vec::new();
        while seen.len() < written.len() {
            let event = soon(watcher.next()).await.unwrap();
            seen.push((event.object.name().to_owned(), event.revision));
        }
        assert_eq!(seen, written);
        let read = soon(async {
            loop {
                match storage.read_revision().await {
                    Ok(revision) => break revision,
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        })
        .await;
        soon(storage.wait_for(read)).await.unwrap();
        assert_eq!(pods(&storage).snapshot().len(), 30);
    }
}
