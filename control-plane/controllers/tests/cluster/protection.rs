//! What keeps things within bounds: quotas, disruption budgets, protection of storage in use.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, ResourceQuota};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Api;
use kube::api::{DeleteParams, EvictParams, PostParams};
use serde_json::{Value, json};
use skep_controllers::Config;

use crate::harness::{Cluster, create, eventually, merge};

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "main", "image": "site:1"}]}})
}

async fn used(quotas: &Api<ResourceQuota>, wanted: &[(&str, &str)]) {
    let wanted: BTreeMap<_, _> =
        wanted.iter().map(|(name, amount)| ((*name).to_owned(), (*amount).to_owned())).collect();
    eventually("the quota's usage", || async {
        let used = quotas.get("q").await.unwrap().status?.used.unwrap_or_default();
        let used: BTreeMap<_, _> = used.into_iter().map(|(name, amount)| (name, amount.0)).collect();
        (used == wanted).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_can_be_used_anew() {
    let cluster = Cluster::start(Config::default()).await;
    cluster.namespace("team").await;
    let maps = cluster.api::<ConfigMap>("team");
    create(&maps, json!({"metadata": {"name": "a"}})).await;
    create(&maps, json!({"metadata": {"name": "b"}})).await;
    let quotas = cluster.api::<ResourceQuota>("team");
    let hard = json!({"pods": "2", "configmaps": "9", "count/deployments.apps": "1", "count/nothing.example.com": "1"});
    create(&quotas, json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).await;
    let of = |pods, maps, deployments| [("pods", pods), ("configmaps", maps), ("count/deployments.apps", deployments)];
    used(&quotas, &of("0", "2", "0")).await;
    let pods = cluster.api::<Pod>("team");
    create(&pods, pod("a")).await;
    create(&pods, pod("b")).await;
    let third = serde_json::from_value(pod("c")).unwrap();
    let refused = pods.create(&PostParams::default(), &third).await.unwrap_err().to_string();
    assert!(refused.contains("exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"), "{refused}");
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    pods.delete("a", &DeleteParams::default()).await.unwrap();
    used(&quotas, &of("1", "1", "0")).await;
    create(&pods, pod("c")).await;
    used(&quotas, &of("2", "1", "0")).await;
    merge(&quotas, "q", json!({"spec": {"hard": {"configmaps": null, "count/deployments.apps": null}}})).await;
    used(&quotas, &[("pods", "2")]).await;
}

fn counted(budget: &PodDisruptionBudget) -> Option<(i32, i32, i32, i32)> {
    let status = budget.status.as_ref()?;
    (status.observed_generation == budget.metadata.generation).then_some((
        status.expected_pods,
        status.desired_healthy,
        status.current_healthy,
        status.disruptions_allowed,
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_follows_the_pods_it_guards() {
    let cluster = Cluster::start(Config::default()).await;
    cluster.namespace("web").await;
    let deployments = cluster.api::<Deployment>("web");
    let template = json!({
        "metadata": {"labels": {"app": "site"}},
        "spec": {"containers": [{"name": "main", "image": "site:1"}]},
    });
    let spec = json!({"replicas": 3, "selector": {"matchLabels": {"app": "site"}}, "template": template});
    create(&deployments, json!({"metadata": {"name": "site"}, "spec": spec})).await;
    let budgets = cluster.api::<PodDisruptionBudget>("web");
    let spec = json!({"maxUnavailable": "34%", "selector": {"matchLabels": {"app": "site"}}});
    create(&budgets, json!({"metadata": {"name": "pdb"}, "spec": spec})).await;
    let reaches = |wanted| {
        let budgets = &budgets;
        async move {
            eventually("the budget", || async {
                Some(budgets.get("pdb").await.unwrap()).filter(|budget| counted(budget) == Some(wanted))
            })
            .await
        }
    };
    let budget = reaches((3, 1, 3, 2)).await;
    let condition = &budget.status.unwrap().conditions.unwrap()[0];
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("True", "SufficientPods"));
    merge(&budgets, "pdb", json!({"spec": {"maxUnavailable": 1}})).await;
    reaches((3, 2, 3, 1)).await;
    let pods = cluster.api::<Pod>("web");
    let names: Vec<_> = cluster.pods("web").await.into_iter().filter_map(|pod| pod.metadata.name).collect();
    pods.evict(&names[0], &EvictParams::default()).await.unwrap();
    // The pod that went is replaced, and then the next may go.
    eventually("another pod", || async {
        let now = cluster.pods("web").await;
        (now.len() == 3 && now.iter().all(|pod| pod.metadata.name.as_ref() != Some(&names[0]))).then_some(())
    })
    .await;
    let budget = reaches((3, 2, 3, 1)).await;
    assert_eq!(budget.status.unwrap().disrupted_pods, None);
    // Pods that nobody controls cannot be counted by share.
    let mut stray = pod("stray");
    stray["metadata"]["labels"] = json!({"app": "site"});
    stray["metadata"]["annotations"] = json!({"test/ready": "false"});
    merge(&deployments, "site", json!({"spec": {"replicas": 0}})).await;
    reaches((0, 0, 0, 0)).await;
    merge(&budgets, "pdb", json!({"spec": {"maxUnavailable": null, "minAvailable": 2}})).await;
    create(&pods, stray).await;
    eventually("the stray pod", || async {
        counted(&budgets.get("pdb").await.unwrap()).filter(|count| (count.1, count.3) == (2, 0))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_in_use_stays() {
    let cluster = Cluster::start(Config::default()).await;
    cluster.namespace("data").await;
    let claims = cluster.api::<PersistentVolumeClaim>("data");
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    create(&claims, json!({"metadata": {"name": "used"}, "spec": spec})).await;
    create(&claims, json!({"metadata": {"name": "free"}, "spec": spec})).await;
    let pods = cluster.api::<Pod>("data");
    let mut user = pod("user");
    user["spec"]["nodeName"] = json!("somewhere");
    user["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "used"}}]);
    create(&pods, user).await;
    for name in ["used", "free"] {
        claims.delete(name, &DeleteParams::default()).await.unwrap();
    }
    let gone = |name: &'static str| {
        let claims = &claims;
        eventually("a claim to go", move || async move { claims.get_opt(name).await.unwrap().is_none().then_some(()) })
    };
    gone("free").await;
    let held = claims.get("used").await.unwrap();
    assert!(held.metadata.deletion_timestamp.is_some());
    pods.delete("user", &DeleteParams::default().grace_period(0)).await.unwrap();
    gone("used").await;

    let volumes: Api<PersistentVolume> = Api::all(cluster.client.clone());
    let spec = json!({
        "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/x"},
    });
    create(&volumes, json!({"metadata": {"name": "v"}, "spec": spec})).await;
    volumes.delete("v", &DeleteParams::default()).await.unwrap();
    eventually("the volume to go", || async { volumes.get_opt("v").await.unwrap().is_none().then_some(()) }).await;
}
