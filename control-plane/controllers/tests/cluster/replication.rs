//! ReplicationControllers: what upstream's conformance tests of them ask for.

use k8s_openapi::api::core::v1::{Event, Pod, ReplicationController, ResourceQuota};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use skep_controllers::Config;

use crate::harness::{Cluster, create, eventually, merge};

fn controller(name: &str, replicas: i32) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"name": name},
            "template": {
                "metadata": {"labels": {"name": name}},
                "spec": {"containers": [{"name": "main", "image": "site:1"}]},
            },
        },
    })
}

async fn reaches(api: &Api<ReplicationController>, name: &str, replicas: i32) -> ReplicationController {
    eventually("the replicas", || async {
        let controller = api.get(name).await.unwrap();
        let status = controller.status.clone()?;
        let numbers =
            (status.replicas, status.ready_replicas, status.available_replicas, status.fully_labeled_replicas);
        let seen = status.observed_generation == controller.metadata.generation;
        let wanted = Some(replicas).filter(|replicas| *replicas > 0);
        (seen && numbers == (replicas, wanted, wanted, wanted)).then_some(controller)
    })
    .await
}

fn is_owned(pod: &Pod, by: &ReplicationController) -> bool {
    let owners = pod.metadata.owner_references.iter().flatten();
    let mut ours = owners.filter(|owner| Some(&owner.uid) == by.metadata.uid.as_ref());
    ours.any(|owner| {
        owner.kind == "ReplicationController" && owner.api_version == "v1" && owner.controller == Some(true)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replication_controller_adopts_releases_and_scales_its_pods() {
    let cluster = Cluster::start(Config::default()).await;
    cluster.namespace("rc").await;
    let pods = cluster.api::<Pod>("rc");
    let api = cluster.api::<ReplicationController>("rc");
    let spec = json!({"containers": [{"name": "main", "image": "site:1"}]});
    create(&pods, json!({"metadata": {"name": "orphan", "labels": {"name": "site"}}, "spec": spec})).await;
    create(&api, controller("site", 2)).await;
    let site = reaches(&api, "site", 2).await;
    let now = cluster.pods("rc").await;
    assert!(now.len() == 2 && now.iter().all(|pod| is_owned(pod, &site)));
    assert!(now.iter().any(|pod| pod.metadata.name.as_deref() == Some("orphan")), "the orphan was adopted");

    merge(&pods, "orphan", json!({"metadata": {"labels": {"name": "other"}}})).await;
    eventually("the release and a replacement", || async {
        let now = cluster.pods("rc").await;
        let (owned, free): (Vec<_>, Vec<_>) = now.iter().partition(|pod| is_owned(pod, &site));
        (owned.len() == 2 && free.len() == 1 && free[0].metadata.name.as_deref() == Some("orphan")).then_some(())
    })
    .await;
    pods.delete("orphan", &DeleteParams::default()).await.unwrap();

    let scale = json!({"spec": {"replicas": 4}});
    api.patch_scale("site", &PatchParams::default(), &Patch::Merge(scale)).await.unwrap();
    reaches(&api, "site", 4).await;
    // Somebody else's word about the status does not stay.
    let status = json!({"status": {"readyReplicas": 0, "availableReplicas": 0}});
    api.patch_status("site", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    reaches(&api, "site", 4).await;
    merge(&api, "site", json!({"spec": {"replicas": 0}})).await;
    reaches(&api, "site", 0).await;
    assert_eq!(cluster.pods("rc").await, []);
    eventually("the events", || async {
        let events = cluster.api::<Event>("rc").list(&ListParams::default()).await.unwrap().items;
        let said = |reason: &str, text: &str| {
            events.iter().any(|event| {
                event.reason.as_deref() == Some(reason)
                    && event.message.as_deref().is_some_and(|message| message.starts_with(text))
                    && event.involved_object.kind.as_deref() == Some("ReplicationController")
                    && event.source.as_ref().and_then(|source| source.component.as_deref())
                        == Some("replication-controller")
            })
        };
        (said("SuccessfulCreate", "Created pod: site-") && said("SuccessfulDelete", "Deleted pod: site-")).then_some(())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replication_controller_tells_that_a_quota_stops_it() {
    let cluster = Cluster::start(Config::default()).await;
    cluster.namespace("rc").await;
    let quotas = cluster.api::<ResourceQuota>("rc");
    create(&quotas, json!({"metadata": {"name": "condition-test"}, "spec": {"hard": {"pods": "2"}}})).await;
    eventually("the quota", || async { quotas.get("condition-test").await.unwrap().status?.hard }).await;
    let api = cluster.api::<ReplicationController>("rc");
    create(&api, controller("condition-test", 3)).await;
    let failure = || async {
        let conditions = api.get("condition-test").await.unwrap().status?.conditions?;
        conditions.into_iter().find(|condition| condition.type_ == "ReplicaFailure")
    };
    let condition = eventually("the failure", failure).await;
    assert_eq!((condition.status.as_str(), condition.reason.as_deref()), ("True", Some("FailedCreate")));
    assert!(condition.message.unwrap().contains("exceeded quota: condition-test"));
    merge(&api, "condition-test", json!({"spec": {"replicas": 2}})).await;
    reaches(&api, "condition-test", 2).await;
    eventually("the failure to be over", || async { failure().await.is_none().then_some(()) }).await;
    cluster.stop().await;
}
