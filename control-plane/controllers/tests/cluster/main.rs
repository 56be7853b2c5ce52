//! The controller manager against a real API server and a real etcd.

mod dual_stack;
mod harness;
mod mirroring;
mod protection;
mod replication;
mod service_cidr;

use std::collections::BTreeSet;
use std::time::Duration;

use harness::{Cluster, create, eventually, merge};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Event, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use skep_controllers::Config;

fn deployment(name: &str, replicas: i32, image: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "progressDeadlineSeconds": 600,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "main", "image": image, "ports": [{"name": "http", "containerPort": 8080}]}]},
            },
        },
    })
}

fn is_rolled_out(deployment: &Deployment, replicas: i32) -> bool {
    let Some(status) = &deployment.status else { return false };
    status.observed_generation == deployment.metadata.generation
        && status.updated_replicas == Some(replicas)
        && status.replicas == Some(replicas)
        && status.available_replicas == Some(replicas)
        && status.conditions.iter().flatten().any(|c| c.reason.as_deref() == Some("NewReplicaSetAvailable"))
}

async fn rolled_out(cluster: &Cluster, namespace: &str, name: &str, replicas: i32) -> Deployment {
    let api = cluster.api::<Deployment>(namespace);
    eventually("the rollout", || async {
        Some(api.get(name).await.unwrap()).filter(|deployment| is_rolled_out(deployment, replicas))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_is_rolled_out_scaled_and_updated() {
    let cluster = Cluster::start(Config::default()).await;
    cluster.namespace("web").await;
    let deployments = cluster.api::<Deployment>("web");
    create(&deployments, deployment("site", 3, "site:1")).await;
    rolled_out(&cluster, "web", "site", 3).await;
    assert_eq!(cluster.pods("web").await.len(), 3);

    merge(&deployments, "site", json!({"spec": {"replicas": 5}})).await;
    rolled_out(&cluster, "web", "site", 5).await;
    assert_eq!(cluster.pods("web").await.len(), 5, "exactly as many as asked for, even on a stale cache");

    let spec = deployment("site", 5, "site:2")["spec"].clone();
    merge(&deployments, "site", json!({"spec": spec})).await;
    let done = eventually("the update", || async {
        let found = deployments.get("site").await.unwrap();
        let revision = found.metadata.annotations.iter().flatten().any(|(k, v)| k.ends_with("/revision") && v == "2");
        Some(found).filter(|found| revision && is_rolled_out(found, 5))
    })
    .await;
    assert_eq!(done.status.unwrap().collision_count, None);
    let images: BTreeSet<_> = eventually("the last old pod to go", || async {
        let pods = cluster.pods("web").await;
        (pods.len() == 5)
            .then(|| pods.into_iter().map(|pod| pod.spec.unwrap().containers[0].image.clone().unwrap()).collect())
    })
    .await;
    assert_eq!(images, BTreeSet::from(["site:2".to_owned()]));
    let sets = cluster.api::<ReplicaSet>("web").list(&ListParams::default()).await.unwrap().items;
    let mut sizes: Vec<_> = sets.iter().map(|set| set.spec.as_ref().unwrap().replicas).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [Some(0), Some(5)]);

    eventually("the scaling events", || async {
        let events = cluster.api::<Event>("web").list(&ListParams::default()).await.unwrap().items;
        let said: BTreeSet<_> = events.iter().filter_map(|event| event.reason.as_deref()).collect();
        let first = events.iter().any(|e| {
            e.message
                .as_deref()
                .is_some_and(|m| m.starts_with("Scaled up replica set site-") && m.ends_with(" from 0 to 3"))
        });
        (first && said.contains("SuccessfulCreate") && said.contains("SuccessfulDelete")).then_some(())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_pod_too_many_is_ever_created() {
    let cluster = Cluster::start(Config::default()).await;
    cluster.namespace("many").await;
    let pods = cluster.api::<Pod>("many");
    let mut created = BTreeSet::new();
    let events = kube::runtime::watcher(pods, kube::runtime::watcher::Config::default());
    let mut events = std::pin::pin!(events);
    let sets = cluster.api::<ReplicaSet>("many");
    let mut set = deployment("many", 150, "site:1");
    set["spec"].as_object_mut().unwrap().remove("progressDeadlineSeconds");
    create(&sets, set).await;
    let all_ready = async {
        eventually("all replicas", || async {
            let status = sets.get("many").await.unwrap().status?;
            (status.ready_replicas == Some(150) && status.replicas == 150).then_some(())
        })
        .await;
        // Whoever is about to create one more does it now.
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    let mut all_ready = std::pin::pin!(all_ready);
    loop {
        tokio::select! {
            () = &mut all_ready => break,
            event = futures::StreamExt::next(&mut events) => match event {
                Some(Ok(kube::runtime::watcher::Event::Apply(pod) | kube::runtime::watcher::Event::InitApply(pod))) => {
                    created.insert(pod.metadata.uid);
                }
                Some(_) => {}
                None => panic!("the watch ended"),
            },
        }
    }
    assert_eq!(created.len(), 150);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_namespace_has_the_cluster_ca_whatever_people_do_to_it() {
    let cluster = Cluster::start(Config { root_ca: Some("a certificate".to_owned()), ..Config::default() }).await;
    cluster.namespace("trust").await;
    let maps = cluster.api::<ConfigMap>("trust");
    let published = || async {
        let data = maps.get_opt("kube-root-ca.crt").await.unwrap()?.data?;
        (data.get("ca.crt").map(String::as_str) == Some("a certificate") && data.len() == 1).then_some(())
    };
    eventually("the CA", published).await;
    merge(&maps, "kube-root-ca.crt", json!({"data": {"ca.crt": "forged"}})).await;
    eventually("the CA to be put right", published).await;
    maps.delete("kube-root-ca.crt", &DeleteParams::default()).await.unwrap();
    eventually("the CA to be back", published).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_set_adopts_matching_orphans_and_releases_pods_that_stop_matching() {
    let cluster = Cluster::start(Config::default()).await;
    cluster.namespace("adopt").await;
    let pods = cluster.api::<Pod>("adopt");
    let orphan = json!({"metadata": {"name": "orphan", "labels": {"app": "site"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    create(&pods, orphan).await;
    let mut set = deployment("site", 2, "site:1");
    set["spec"].as_object_mut().unwrap().remove("progressDeadlineSeconds");
    create(&cluster.api::<ReplicaSet>("adopt"), set).await;
    eventually("the orphan's adoption and one more pod", || async {
        let pods = cluster.pods("adopt").await;
        let owned = pods
            .iter()
            .filter(|pod| pod.metadata.owner_references.iter().flatten().any(|o| o.controller == Some(true)));
        (owned.count() == 2 && pods.iter().any(|pod| pod.metadata.name.as_deref() == Some("orphan"))).then_some(())
    })
    .await;
    merge(&pods, "orphan", json!({"metadata": {"labels": {"app": "other"}}})).await;
    eventually("the release and a replacement", || async {
        let pods = cluster.pods("adopt").await;
        let free: Vec<_> =
            pods.iter().filter(|pod| pod.metadata.owner_references.iter().flatten().next().is_none()).collect();
        (pods.len() == 3 && free.len() == 1 && free[0].metadata.name.as_deref() == Some("orphan")).then_some(())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recreate_never_runs_old_and_new_pods_together() {
    let cluster = Cluster::start(Config::default()).await;
    cluster.namespace("again").await;
    let deployments = cluster.api::<Deployment>("again");
    let mut first = deployment("site", 3, "site:1");
    first["spec"]["strategy"] = json!({"type": "Recreate"});
    create(&deployments, first.clone()).await;
    rolled_out(&cluster, "again", "site", 3).await;
    first["spec"]["template"]["spec"]["containers"][0]["image"] = json!("site:2");
    merge(&deployments, "site", json!({"spec": first["spec"]})).await;
    eventually("the second version", || async {
        let pods = cluster.api::<Pod>("again").list(&ListParams::default()).await.unwrap().items;
        let images: BTreeSet<_> =
            pods.iter().filter_map(|pod| pod.spec.as_ref()?.containers[0].image.clone()).collect();
        assert!(images.len() <= 1, "{images:?}");
        (pods.len() == 3 && images.contains("site:2")).then_some(())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_an_owner_takes_its_dependents_unless_they_are_orphaned() {
    let cluster = Cluster::start(Config::default()).await;
    cluster.namespace("gc").await;
    let deployments = cluster.api::<Deployment>("gc");
    for (name, policy) in [("back", DeleteParams::background()), ("fore", DeleteParams::foreground())] {
        create(&deployments, deployment(name, 2, "site:1")).await;
        rolled_out(&cluster, "gc", name, 2).await;
        deployments.delete(name, &policy).await.unwrap();
        eventually("the dependents to go", || async {
            let sets = cluster.api::<ReplicaSet>("gc").list(&ListParams::default()).await.unwrap().items;
            let left = deployments.get_opt(name).await.unwrap().is_some();
            (!left && sets.is_empty() && cluster.pods("gc").await.is_empty()).then_some(())
        })
        .await;
    }
    create(&deployments, deployment("keep", 2, "site:1")).await;
    rolled_out(&cluster, "gc", "keep", 2).await;
    deployments.delete("keep", &DeleteParams::orphan()).await.unwrap();
    eventually("the deployment to go", || async { deployments.get_opt("keep").await.unwrap().is_none().then_some(()) })
        .await;
    let sets = cluster.api::<ReplicaSet>("gc").list(&ListParams::default()).await.unwrap().items;
    assert!(sets.len() == 1 && sets[0].metadata.owner_references.iter().flatten().next().is_none());
    assert_eq!(cluster.pods("gc").await.len(), 2);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_follow_the_pods_of_a_service() {
    let cluster = Cluster::start(Config::default()).await;
    cluster.namespace("net").await;
    create(
        &cluster.api::<Service>("net"),
        json!({"metadata": {"name": "site"}, "spec": {"selector": {"app": "site"}, "ports": [{"port": 80, "targetPort": "http"}]}}),
    )
    .await;
    let slices = cluster.api::<EndpointSlice>("net");
    let selector = ListParams::default().labels("kubernetes.io/service-name=site");
    create(&cluster.api::<Deployment>("net"), deployment("site", 3, "site:1")).await;
    let ready = |slices: Vec<EndpointSlice>| -> usize {
        let endpoints = slices.into_iter().flat_map(|slice| slice.endpoints);
        endpoints.filter(|endpoint| endpoint.conditions.as_ref().and_then(|c| c.ready) == Some(true)).count()
    };
    eventually("three endpoints", || async { (ready(slices.list(&selector).await.unwrap().items) == 3).then_some(()) })
        .await;
    let slice = slices.list(&selector).await.unwrap().items.remove(0);
    assert_eq!(slice.ports.unwrap()[0].port, Some(8080));
    let victim = cluster.pods("net").await.remove(0);
    let name = victim.metadata.name.unwrap();
    let status = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    cluster.api::<Pod>("net").patch_status(&name, &PatchParams::default(), &Patch::Strategic(status)).await.unwrap();
    eventually("the unready pod to leave", || async {
        (ready(slices.list(&selector).await.unwrap().items) == 2).then_some(())
    })
    .await;
    eventually("the Endpoints to agree", || async {
        let endpoints = cluster.api::<Endpoints>("net").get_opt("site").await.unwrap()?;
        let subset = endpoints.subsets?.into_iter().next()?;
        (subset.addresses?.len() == 2 && subset.not_ready_addresses?.len() == 1).then_some(())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_namespace_is_emptied_and_goes() {
    let cluster = Cluster::start(Config::default()).await;
    let namespaces = cluster.namespace("doomed").await;
    create(
        &cluster.api::<ConfigMap>("doomed"),
        json!({"metadata": {"name": "held", "finalizers": ["example.com/hold"]}}),
    )
    .await;
    create(
        &cluster.api::<Pod>("doomed"),
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}),
    )
    .await;
    namespaces.delete("doomed", &DeleteParams::default()).await.unwrap();
    eventually("the held object to be named", || async {
        let namespace = namespaces.get("doomed").await.unwrap();
        let conditions = namespace.status?.conditions?;
        let message = conditions.into_iter().find(|c| c.type_ == "NamespaceFinalizersRemaining")?.message?;
        message.contains("example.com/hold in 1 resource instances").then_some(())
    })
    .await;
    assert!(cluster.pods("doomed").await.is_empty());
    merge(&cluster.api::<ConfigMap>("doomed"), "held", json!({"metadata": {"finalizers": null}})).await;
    eventually("the namespace to go", || async { namespaces.get_opt("doomed").await.unwrap().is_none().then_some(()) })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_get_distinct_pod_cidrs_and_silent_ones_lose_their_pods() {
    let config = Config {
        cluster_cidr: Some("10.244.0.0/16".parse().unwrap()),
        allocate_node_cidrs: true,
        node_monitor_period: Duration::from_millis(100),
        node_monitor_grace_period: Duration::from_secs(2),
        node_startup_grace_period: Duration::from_secs(2),
        ..Config::default()
    };
    let cluster = Cluster::start(config).await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    for name in ["alive", "silent"] {
        create(&nodes, json!({"metadata": {"name": name}})).await;
    }
    // The living node's heartbeat: its clock stands in the past, which must not matter.
    let (stop, beats) = (tokio_util::sync::CancellationToken::new(), nodes.clone());
    let stopped = stop.clone();
    let heart = tokio::spawn(async move {
        let mut second = 1_000_000;
        while !stopped.is_cancelled() {
            second += 1;
            let beat = k8s_openapi::jiff::Timestamp::from_second(second).unwrap().to_string();
            let status =
                json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": beat}]}});
            let _ = beats.patch_status("alive", &PatchParams::default(), &Patch::Strategic(status)).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let cidrs = eventually("pod CIDRs", || async {
        let nodes = nodes.list(&ListParams::default()).await.unwrap().items;
        let cidrs: BTreeSet<_> = nodes.into_iter().filter_map(|node| node.spec?.pod_cidr).collect();
        (cidrs.len() == 2).then_some(cidrs)
    })
    .await;
    assert_eq!(cidrs, BTreeSet::from(["10.244.0.0/24".to_owned(), "10.244.1.0/24".to_owned()]));

    let spec = json!({"nodeName": "silent", "terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "i"}], "tolerations": [
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1},
    ]});
    create(&cluster.api::<Pod>("default"), json!({"metadata": {"name": "p"}, "spec": spec})).await;
    eventually("the pod on the silent node to be evicted", || async {
        let pod = cluster.api::<Pod>("default").get_opt("p").await.unwrap();
        pod.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some()).then_some(())
    })
    .await;
    let taints = |node: Node| -> Vec<String> {
        node.spec
            .and_then(|spec| spec.taints)
            .unwrap_or_default()
            .into_iter()
            .map(|t| format!("{}:{}", t.key, t.effect))
            .collect()
    };
    let silent = taints(nodes.get("silent").await.unwrap());
    assert!(silent.contains(&"node.kubernetes.io/unreachable:NoExecute".to_owned()), "{silent:?}");
    assert_eq!(taints(nodes.get("alive").await.unwrap()), Vec::<String>::new());
    stop.cancel();
    heart.await.unwrap();
    cluster.stop().await;
}
