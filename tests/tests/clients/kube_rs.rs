//! kube-rs: client, watcher, reflector, controller with finalizers, and streams over WebSockets.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::{AsyncBufReadExt as _, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{
    ApiResource, AttachParams, DeleteParams, DynamicObject, EvictParams, ListParams, LogParams, Patch, PatchParams,
    PostParams,
};
use kube::runtime::controller::Action;
use kube::runtime::finalizer::{self, Event, finalizer};
use kube::runtime::reflector::store;
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{Controller, WatchStreamExt as _, reflector, watcher};
use kube::{Api, Client, Resource as _, ResourceExt as _, discovery};
use serde_json::json;
use skep_tests::clients::client;
use skep_tests::cluster::{LIMIT, TestCluster};
use skep_tests::masters::Masters;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const NAMESPACE: &str = "kube-rs";

fn map(name: &str, labels: &[(&str, &str)], data: &[(&str, &str)]) -> ConfigMap {
    let pairs = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let mut map = ConfigMap { data: Some(pairs(data)), ..ConfigMap::default() };
    (map.metadata.name, map.metadata.labels) = (Some(name.to_owned()), Some(pairs(labels)));
    map
}

/// Waits until `probe` tells something.
async fn until<T, F: Future<Output = Result<Option<T>>>>(what: &str, mut probe: impl FnMut() -> F) -> Result<T> {
    let search = async {
        loop {
            if let Some(found) = probe().await? {
                return anyhow::Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LIMIT, search).await.with_context(|| format!("waited in vain for {what}"))?
}

async fn new_namespace(client: &Client) -> Result<()> {
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(NAMESPACE.to_owned());
    Api::all(client.clone()).create(&PostParams::default(), &namespace).await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    until("the default service account", || async { Ok(accounts.get_opt("default").await?) }).await.map(drop)
}

/// What a controller shares with its runs.
struct Copier {
    client: Client,
    cleaned: AtomicUsize,
}

/// Keeps a Secret with the data of each ConfigMap; a finalizer notes that it has gone.
async fn reconcile(map: Arc<ConfigMap>, copier: Arc<Copier>) -> Result<Action, finalizer::Error<Failure>> {
    let maps: Api<ConfigMap> = Api::namespaced(copier.client.clone(), NAMESPACE);
    finalizer(&maps, "example.com/copier", map, |event| async {
        match event {
            Event::Apply(map) => {
                let secrets: Api<Secret> = Api::namespaced(copier.client.clone(), NAMESPACE);
                let owner = map.controller_owner_ref(&()).into_iter().collect::<Vec<_>>();
                let secret: Secret = serde_json::from_value(json!({
                    "metadata": {"name": map.name_any(), "ownerReferences": owner},
                    "stringData": map.data,
                }))?;
                match secrets.create(&PostParams::default(), &secret).await {
                    Err(kube::Error::Api(status)) if status.is_already_exists() => {
                        let patch = Patch::Merge(json!({"stringData": map.data}));
                        secrets.patch(&map.name_any(), &PatchParams::default(), &patch).await?;
                    }
                    created => drop(created?),
                }
            }
            Event::Cleanup(_) => {
                copier.cleaned.fetch_add(1, Ordering::SeqCst);
            }
        }
        Ok(Action::await_change())
    })
    .await
}

/// What may fail in a run.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Kube(#[from] kube::Error),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

#[test]
fn a_controller_with_finalizers_and_a_reflector_keep_up() -> Result<()> {
    let masters = Masters::start(1)?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let client = client(&masters.kubeconfig(0)).await?;
        new_namespace(&client).await?;
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
        let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
        let copied = watcher::Config::default().labels("copy=yes");

        let copier = Arc::new(Copier { client: client.clone(), cleaned: AtomicUsize::new(0) });
        let controller = Controller::new(maps.clone(), copied.clone())
            .owns(secrets.clone(), watcher::Config::default())
            .run(reconcile, |_, _, _| Action::requeue(Duration::from_millis(200)), Arc::clone(&copier))
            .for_each(|_| async {});
        let controller = tokio::spawn(controller);

        // Beside it a reflector that begins with a streaming list.
        let (reader, writer) = store();
        let reflected = reflector(writer, watcher(maps.clone(), copied.streaming_lists()));
        let reflected = tokio::spawn(reflected.default_backoff().applied_objects().try_for_each(|_| async { Ok(()) }));
        reader.wait_until_ready().await?;

        for number in 0..10 {
            let map = map(&format!("map-{number}"), &[("copy", "yes")], &[("n", &number.to_string())]);
            maps.create(&PostParams::default(), &map).await?;
        }
        maps.create(&PostParams::default(), &map("other", &[], &[])).await?;
        until("ten secrets", || async {
            let found = secrets.list(&ListParams::default()).await?.items;
            Ok((found.len() == 10).then_some(()))
        })
        .await?;
        let held = maps.get("map-3").await?;
        ensure!(held.finalizers() == ["example.com/copier"], "{:?}", held.finalizers());
        // A change is carried over; a deleted copy is made again.
        maps.patch("map-3", &PatchParams::default(), &Patch::Merge(json!({"data": {"n": "new"}}))).await?;
        secrets.delete("map-4", &DeleteParams::default()).await?;
        let data = |name: &'static str| {
            let secrets = secrets.clone();
            async move {
                let secret = secrets.get_opt(name).await?;
                Ok::<_, anyhow::Error>(secret.and_then(|secret| secret.data?.remove("n")).map(|bytes| bytes.0))
            }
        };
        until("the change", || async { Ok(data("map-3").await?.filter(|value| value == b"new")) }).await?;
        until("the copy", || async { data("map-4").await }).await?;
        until("the reflector", || async {
            let seen = reader.state();
            let new =
                |map: &Arc<ConfigMap>| map.data.as_ref().is_some_and(|data| data.get("n") == Some(&"new".to_owned()));
            Ok((seen.len() == 10 && seen.iter().any(new)).then_some(()))
        })
        .await?;

        // Deletions pass the finalizer, and owned copies go with their owners.
        maps.delete_collection(&DeleteParams::default(), &ListParams::default().labels("copy=yes")).await?;
        until("the end of all", || async {
            let left = maps.list(&ListParams::default().labels("copy=yes")).await?.items.len();
            let copies = secrets.list(&ListParams::default()).await?.items.len();
            Ok((left == 0 && copies == 0 && reader.state().is_empty()).then_some(()))
        })
        .await?;
        ensure!(copier.cleaned.load(Ordering::SeqCst) >= 10, "not every finalizer ran");
        controller.abort();
        reflected.abort();
        Ok(())
    })
}

#[test]
fn requests_of_every_form_are_answered_as_kube_expects() -> Result<()> {
    let masters = Masters::start(1)?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let client = client(&masters.kubeconfig(0)).await?;
        new_namespace(&client).await?;
        ensure!(client.apiserver_version().await?.minor == "35", "another version");
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);

        // Pages.
        for number in 0..5 {
            maps.create(&PostParams::default(), &map(&format!("page-{number}"), &[("page", "yes")], &[])).await?;
        }
        let mut params = ListParams::default().labels("page=yes").limit(2);
        let mut sizes = Vec::new();
        loop {
            let page = maps.list(&params).await?;
            sizes.push((page.items.len(), page.metadata.remaining_item_count));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => break,
            }
        }
        // With a selector nobody knows how many remain.
        ensure!(sizes == [(2, None), (2, None), (1, None)], "{sizes:?}");
        let partial = maps.list_metadata(&ListParams::default().labels("page=yes")).await?;
        ensure!(
            partial.items.len() == 5
                && partial.items[0].types.as_ref().is_some_and(|t| t.kind == "PartialObjectMetadata")
        );

        // Optimistic concurrency, entries, and errors by their reason.
        let mut first = maps.get("page-0").await?;
        let second = first.clone();
        first.data = Some(BTreeMap::from([("a".to_owned(), "b".to_owned())]));
        maps.replace("page-0", &PostParams::default(), &first).await?;
        match maps.replace("page-0", &PostParams::default(), &second).await {
            Err(kube::Error::Api(status)) => ensure!(status.is_conflict() && status.code == 409, "{status:?}"),
            other => anyhow::bail!("a stale replacement: {other:?}"),
        }
        let entry = maps.entry("page-0").await?.and_modify(|map| map.labels_mut().clear());
        entry.or_insert(ConfigMap::default).commit(&PostParams::default()).await?;
        ensure!(maps.get("page-0").await?.labels().is_empty(), "labels are left");
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        maps.create(&dry, &map("dry", &[], &[])).await?;
        ensure!(maps.get_opt("dry").await?.is_none(), "a dry run was stored");
        match maps.create(&PostParams::default(), &map("Not_Valid", &[], &[])).await {
            Err(kube::Error::Api(status)) => {
                let causes = status.details.context("no details")?.causes;
                ensure!(status.code == 422 && causes[0].field == "metadata.name", "{causes:?}");
            }
            other => anyhow::bail!("a name that is none: {other:?}"),
        }

        // Watching from a version, with the events of one object.
        let version = maps.list(&ListParams::default()).await?.metadata.resource_version.context("no version")?;
        maps.patch("page-1", &PatchParams::default(), &Patch::Merge(json!({"data": {"x": "1"}}))).await?;
        let params = kube::api::WatchParams::default().fields("metadata.name=page-1").timeout(20);
        let mut events = pin!(maps.watch(&params, &version).await?);
        match events.try_next().await? {
            Some(kube::api::WatchEvent::Modified(map)) => ensure!(map.name_any() == "page-1"),
            other => anyhow::bail!("{other:?}"),
        }
        let (uid, params) = (maps.get("page-2").await?.uid().context("no uid")?, DeleteParams::default());
        let gone = await_condition(maps.clone(), "page-2", conditions::is_deleted(&uid));
        let (gone, deleted) = tokio::join!(tokio::time::timeout(LIMIT, gone), maps.delete("page-2", &params));
        deleted?;
        gone??;

        // A lease, held, refused to another with the same version, and taken over.
        let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
        let hold = |holder: &str| LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        };
        let mut lease = Lease { spec: Some(hold("one")), ..Lease::default() };
        lease.metadata.name = Some("lock".to_owned());
        let mut held = leases.create(&PostParams::default(), &lease).await?;
        held.spec = Some(hold("two"));
        let taken = leases.replace("lock", &PostParams::default(), &held).await?;
        ensure!(taken.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) == Some("two"));
        ensure!(leases.replace("lock", &PostParams::default(), &held).await.is_err(), "an old version won");

        // What is only known at run time.
        let found =
            discovery::pinned_kind(&client, &kube::core::GroupVersionKind::gvk("apps", "v1", "Deployment")).await?;
        let resource: ApiResource = found.0;
        let anything: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &resource);
        ensure!(anything.list(&ListParams::default()).await?.items.is_empty());
        let all = discovery::Discovery::new(client.clone()).run_aggregated().await?;
        ensure!(all.get("batch").is_some_and(|group| group.recommended_kind("CronJob").is_some()), "no batch");

        // Scale.
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"name": "web"},
            "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": {
                "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
        }))?;
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
        deployments.create(&PostParams::default(), &deployment).await?;
        let patch = Patch::Merge(json!({"spec": {"replicas": 3}}));
        let scale = deployments.patch_scale("web", &PatchParams::default(), &patch).await?;
        ensure!(scale.spec.and_then(|spec| spec.replicas) == Some(3));
        ensure!(deployments.restart("web").await?.spec.is_some());
        Ok(())
    })
}

#[test]
fn streams_of_running_pods_reach_kube() -> Result<()> {
    let cluster = TestCluster::start()?;
    let runtime = cluster.runtime()?;
    let kubeconfig = cluster.parts().kubeconfig();
    runtime.block_on(async {
        let client = client(&kubeconfig).await?;
        new_namespace(&client).await?;
        let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web"},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "web", "image": "localhost/skep/toolbox:1", "command": ["toolbox", "serve"]}],
            },
        }))?;
        pods.create(&PostParams::default(), &pod).await?;
        let running = await_condition(pods.clone(), "web", conditions::is_pod_running());
        tokio::time::timeout(LIMIT, running).await??;

        let lines = pods.log_stream("web", &LogParams { follow: true, ..LogParams::default() }).await?.lines();
        let first = tokio::time::timeout(LIMIT, pin!(lines).try_next()).await??.context("no log")?;
        ensure!(first.contains("serving as web"), "{first}");

        // exec: output, input, both ends, and how it ended.
        let params = AttachParams::default().stdin(true).stdout(true).stderr(true);
        let mut process = pods.exec("web", ["sh", "-c", "echo err >&2; cat; exit 4"], &params).await?;
        let (mut stdin, mut stdout) = (process.stdin().context("no stdin")?, process.stdout().context("no stdout")?);
        let mut stderr = process.stderr().context("no stderr")?;
        let status = process.take_status().context("no status")?;
        let sent: Vec<u8> = (0..300_000_u32).map(|n| (n % 253) as u8).collect();
        let input = sent.clone();
        let writing = tokio::spawn(async move {
            stdin.write_all(&input).await?;
            stdin.shutdown().await
        });
        let (mut out, mut err) = (vec![0; sent.len()], String::new());
        tokio::time::timeout(LIMIT, stdout.read_exact(&mut out)).await??;
        ensure!(out == sent, "what came back differs");
        writing.await??;
        // kube ends the input by closing that channel (v5); the command then ends by itself.
        let status = tokio::time::timeout(LIMIT, status).await?.context("no status came")?;
        stderr.read_to_string(&mut err).await?;
        ensure!(err == "err\n", "{err}");
        let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
        ensure!(causes.iter().any(|cause| cause.message.as_deref() == Some("4")), "{causes:?}");

        // A forwarded port, spoken HTTP over.
        let mut forward = pods.portforward("web", &[8080]).await?;
        let mut port = forward.take_stream(8080).context("no port")?;
        port.write_all(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        tokio::time::timeout(LIMIT, port.read_to_string(&mut answer)).await??;
        ensure!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("web\n"), "{answer}");

        let nodes: Api<Node> = Api::all(client.clone());
        let node = nodes.list(&ListParams::default()).await?.items.remove(0).name_any();
        nodes.cordon(&node).await?;
        ensure!(nodes.get(&node).await?.spec.and_then(|spec| spec.unschedulable) == Some(true));
        nodes.uncordon(&node).await?;
        pods.evict("web", &EvictParams::default()).await?;
        until("the evicted pod's end", || async { Ok(pods.get_opt("web").await?.is_none().then_some(())) }).await
    })
}
