//! Endpoints without a selector behind them, seen as EndpointSlices.

use k8s_openapi::api::core::v1::{Endpoints, Event, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};
use skep_controllers::Config;

use crate::harness::{Cluster, create, eventually, merge};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";

async fn slices_of(api: &Api<EndpointSlice>, service: &str) -> Vec<EndpointSlice> {
    api.list(&ListParams::default().labels(&format!("kubernetes.io/service-name={service}"))).await.unwrap().items
}

/// The one slice of a Service once it has these addresses.
async fn one_slice(api: &Api<EndpointSlice>, service: &str, addresses: &[(&str, bool)]) -> EndpointSlice {
    eventually("the mirrored slice", || async {
        let mut slices = slices_of(api, service).await;
        let slice = slices.pop().filter(|_| slices.is_empty())?;
        let ready = |e: &k8s_openapi::api::discovery::v1::Endpoint| e.conditions.as_ref().and_then(|c| c.ready);
        let held: Vec<_> = slice.endpoints.iter().map(|e| (e.addresses.join(","), ready(e))).collect();
        let wanted: Vec<_> = addresses.iter().map(|(ip, ready)| ((*ip).to_owned(), Some(*ready))).collect();
        (held == wanted).then_some(slice)
    })
    .await
}

async fn no_slice(api: &Api<EndpointSlice>, service: &str) {
    eventually("the mirrored slices to go", || async { slices_of(api, service).await.is_empty().then_some(()) }).await;
}

fn service(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"ports": [{"name": "example", "port": 80, "protocol": "TCP"}]}})
}

/// The steps of the conformance test "EndpointSliceMirroring should mirror a custom Endpoints resource through create
/// update and delete".
#[tokio::test(flavor = "multi_thread")]
async fn custom_endpoints_are_mirrored_through_create_update_and_delete() {
    let cluster = Cluster::start(Config::default()).await;
    cluster.namespace("mirror").await;
    let slices = cluster.api::<EndpointSlice>("mirror");
    let endpoints = cluster.api::<Endpoints>("mirror");
    let name = "example-custom-endpoints";
    create(&cluster.api::<Service>("mirror"), service(name)).await;
    let custom = |ip: &str| json!({"metadata": {"name": name}, "subsets": [{"ports": [{"port": 80}], "addresses": [{"ip": ip}]}]});
    let created = create(&endpoints, custom("10.1.2.3")).await;
    let slice = one_slice(&slices, name, &[("10.1.2.3", true)]).await;
    let ports = slice.ports.unwrap();
    assert_eq!((ports.len(), ports[0].port), (1, Some(80)));
    assert_eq!(slice.address_type, "IPv4");
    assert_eq!(slice.metadata.labels.unwrap()["endpointslice.kubernetes.io/managed-by"], MANAGER);
    let owner = &slice.metadata.owner_references.unwrap()[0];
    assert_eq!((owner.kind.as_str(), Some(&owner.uid)), ("Endpoints", created.metadata.uid.as_ref()));
    let first = slice.metadata.uid;

    let changed = serde_json::from_value(custom("10.2.3.4")).unwrap();
    endpoints.replace(name, &PostParams::default(), &changed).await.unwrap();
    let slice = one_slice(&slices, name, &[("10.2.3.4", true)]).await;
    let ports = slice.ports.unwrap();
    assert_eq!((ports.len(), ports[0].port), (1, Some(80)));
    assert_eq!(slice.metadata.uid, first, "a slice is rewritten, not replaced");

    endpoints.delete(name, &DeleteParams::default()).await.unwrap();
    no_slice(&slices, name).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_shows_what_is_there_and_nothing_that_is_not_meant() {
    let cluster = Cluster::start(Config { mirroring_max_endpoints_per_subset: 2, ..Config::default() }).await;
    cluster.namespace("mirror").await;
    let slices = cluster.api::<EndpointSlice>("mirror");
    let endpoints = cluster.api::<Endpoints>("mirror");
    let services = cluster.api::<Service>("mirror");
    create(&services, service("db")).await;
    let subset = json!({
        "ports": [{"port": 80}],
        "addresses": [{"ip": "10.1.0.1"}],
        "notReadyAddresses": [{"ip": "10.1.0.2"}, {"ip": "10.1.0.3"}],
    });
    create(&endpoints, json!({"metadata": {"name": "db"}, "subsets": [subset]})).await;
    let both = [("10.1.0.1", true), ("10.1.0.2", false)];
    one_slice(&slices, "db", &both).await;
    eventually("word of what is left out", || async {
        let events = cluster.api::<Event>("mirror").list(&ListParams::default()).await.unwrap().items;
        let said = events.into_iter().find(|e| e.reason.as_deref() == Some("TooManyAddressesToMirror"))?.message?;
        assert_eq!(
            said,
            "A max of 2 addresses can be mirrored to EndpointSlices per Endpoints subset. 1 addresses were skipped"
        );
        Some(())
    })
    .await;

    // Labels and annotations follow, and what others do to the slice is undone.
    let marks = json!({"metadata": {"labels": {"tier": "back"}, "annotations": {"note": "a"}}});
    merge(&endpoints, "db", marks).await;
    let marked = || async {
        let slice = one_slice(&slices, "db", &both).await;
        let (labels, annotations) = (slice.metadata.labels?, slice.metadata.annotations.unwrap_or_default());
        let name = slice.metadata.name?;
        (labels.get("tier")? == "back" && annotations.get("note")? == "a" && annotations.len() == 1).then_some(name)
    };
    let name = eventually("labels and annotations", marked).await;
    merge(&slices, &name, json!({"endpoints": [], "metadata": {"annotations": {"note": "b", "more": "c"}}})).await;
    eventually("the slice to be put right", marked).await;

    // Who opts out, elects leaders or has a selector is not mirrored.
    let ways = [
        (
            json!({"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}),
            json!({"labels": {"endpointslice.kubernetes.io/skip-mirror": null}}),
        ),
        (
            json!({"annotations": {"control-plane.alpha.kubernetes.io/leader": "{}"}}),
            json!({"annotations": {"control-plane.alpha.kubernetes.io/leader": null}}),
        ),
    ];
    for (off, on) in ways {
        merge(&endpoints, "db", json!({"metadata": off})).await;
        no_slice(&slices, "db").await;
        merge(&endpoints, "db", json!({"metadata": on})).await;
        one_slice(&slices, "db", &both).await;
    }
    services.delete("db", &DeleteParams::default()).await.unwrap();
    no_slice(&slices, "db").await;
    create(&services, service("db")).await;
    one_slice(&slices, "db", &both).await;
    merge(&services, "db", json!({"spec": {"selector": {"app": "db"}}})).await;
    eventually("slices of the Service's own to take over", || async {
        let slices = slices_of(&slices, "db").await;
        let managers: Vec<_> = slices
            .iter()
            .map(|s| &s.metadata.labels.as_ref().unwrap()["endpointslice.kubernetes.io/managed-by"])
            .collect();
        (managers == ["endpointslice-controller.k8s.io"]).then_some(())
    })
    .await;
    let skipped = slices_of(&cluster.api::<EndpointSlice>("default"), "kubernetes").await;
    assert!(skipped.iter().all(|s| {
        s.metadata.labels.as_ref().unwrap().get("endpointslice.kubernetes.io/managed-by").is_none_or(|m| m != MANAGER)
    }));
    cluster.stop().await;
}
