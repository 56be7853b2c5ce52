//! What the real kubectl does with managed fields: apply from the client and from the server, the way from one to the
//! other, diff, force.

use std::{path::PathBuf, process::Output};

use serde_json::Value;
use skep_pki::CertRequest;
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    support::TestServer,
    tls::{Serving, serve},
};

/// kubectl with a home of its own, and the server it speaks to.
struct Kubectl {
    dir: TempDir,
    serving: Serving,
    _etcd: skep_storage::supervisor::Supervisor,
}

impl Drop for Kubectl {
    fn drop(&mut self) {
        self.serving.stop.cancel();
    }
}

impl Kubectl {
    async fn start() -> Self {
        let TestServer { server, pki, etcd, .. } = TestServer::start().await;
        let serving = serve(server, &pki).await;
        let admin = pki.ca().issue(&CertRequest::client("admin", ["system:masters"])).unwrap();
        let url = format!("https://{}", serving.address);
        let dir = tempfile::tempdir().unwrap();
        let config = skep_pki::Kubeconfig::new(&url, pki.ca().certificate(), "admin", &admin);
        config.write(&dir.path().join("config")).unwrap();
        Self { dir, serving, _etcd: etcd }
    }

    fn file(&self, text: &str) -> PathBuf {
        let path = self.dir.path().join("object.yaml");
        std::fs::write(&path, text).unwrap();
        path
    }

    async fn output(&self, line: &str, object: &str) -> Output {
        let file = self.file(object);
        Command::new("kubectl")
            .args(line.split(' '))
            .args(if object.is_empty() { Vec::new() } else { vec!["-f".into(), file.into_os_string()] })
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.dir.path())
            .env("KUBECONFIG", self.dir.path().join("config"))
            .output()
            .await
            .expect("kubectl is on the PATH")
    }

    /// What a command says that must go well.
    async fn run(&self, line: &str, object: &str) -> String {
        let output = self.output(line, object).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{line}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    async fn get(&self) -> Value {
        let text = self.run("get deployment web -o json --show-managed-fields", "").await;
        serde_json::from_str(&text).unwrap()
    }
}

fn deployment(replicas: u32, containers: &[&str]) -> String {
    let containers: String =
        containers.iter().map(|name| format!("      - name: {name}\n        image: example/{name}:1\n")).collect();
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\n  labels:\n    app: web\nspec:\n  \
         replicas: {replicas}\n  selector:\n    matchLabels:\n      app: web\n  template:\n    metadata:\n      labels:\n        \
         app: web\n    spec:\n      containers:\n{containers}"
    )
}

fn managers(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    entries.iter().map(|e| format!("{}/{}", e["manager"].as_str().unwrap(), e["operation"].as_str().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_goes_from_client_side_to_server_side_apply() {
    let kubectl = Kubectl::start().await;
    kubectl.run("apply", &deployment(2, &["a", "b"])).await;
    kubectl.run("apply", &deployment(3, &["a", "b"])).await;
    let object = kubectl.get().await;
    assert_eq!(managers(&object), ["kubectl-client-side-apply/Update"]);
    assert_eq!(object["spec"]["replicas"], 3);

    // Its own fields are no conflict, and what it no longer says goes.
    assert_eq!(
        kubectl.run("apply --server-side", &deployment(4, &["a", "b"])).await,
        "deployment.apps/web serverside-applied\n"
    );
    let object = kubectl.get().await;
    // The annotation is owned by a manager of kubectl's own, and follows what is applied.
    assert_eq!(managers(&object), ["kubectl-last-applied/Apply", "kubectl/Apply"], "{object}");
    let annotation = &object["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    let last: Value = serde_json::from_str(annotation.as_str().unwrap()).unwrap();
    assert_eq!(last["spec"]["replicas"], 4);
    assert_eq!(object["spec"]["replicas"], 4);
    kubectl.run("apply --server-side", &deployment(4, &["b"])).await;
    let object = kubectl.get().await;
    let containers = object["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers.iter().map(|c| c["name"].as_str().unwrap()).collect::<Vec<_>>(), ["b"]);

    let same = kubectl.output("diff --server-side", &deployment(4, &["b"])).await;
    assert_eq!(same.status.code(), Some(0), "{}", String::from_utf8_lossy(&same.stdout));
    let other = kubectl.output("diff --server-side", &deployment(5, &["b"])).await;
    assert_eq!(other.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&other.stdout).contains("+  replicas: 5"), "{other:?}");
    assert_eq!(kubectl.get().await["spec"]["replicas"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_shows_conflicts_and_forces_them() {
    let kubectl = Kubectl::start().await;
    kubectl.run("apply --server-side", &deployment(2, &["a"])).await;
    let refused = kubectl.output("apply --server-side --field-manager=other", &deployment(3, &["a"])).await;
    assert!(!refused.status.success());
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("Apply failed with 1 conflict: conflict with \"kubectl\": .spec.replicas"), "{text}");
    assert!(text.contains("Please review the fields above--they currently have other managers"), "{text}");
    kubectl.run("apply --server-side --field-manager=other --force-conflicts", &deployment(3, &["a"])).await;
    kubectl.run("scale deployment web --replicas=5", "").await;
    kubectl.run("label deployment web colour=blue", "").await;
    let object = kubectl.get().await;
    assert_eq!(object["spec"]["replicas"], 5);
    let names = managers(&object);
    for name in ["kubectl/Apply", "other/Apply", "kubectl/Update", "kubectl-label/Update"] {
        assert!(names.iter().any(|other| other == name), "{name}: {names:?}");
    }
    let twice = deployment(2, &["a", "a"]);
    let refused = kubectl.output("apply --server-side", &twice).await;
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("duplicate entries for key [name=\"a\"]"), "{text}");
}
