//! What a node tells of its Services: metrics, health, and what balancers ask.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use skep_tests::cluster::{LIMIT, Shape, TestCluster};
use xtask::cluster::Cluster;
use xtask::wait;

use crate::{Met, fetch, meet, node_ports, service, wait_heard, web};

const METRICS: &str = "127.0.0.1:10249";
const HEALTH: &str = "127.0.0.1:10256";

#[test]
fn a_node_tells_its_metrics_and_health_and_balancers_where_endpoints_are() -> Result<()> {
    let cluster = TestCluster::start_shape(&Shape::nodes(2))?;
    let manifest = [
        web(&cluster, "web", "web", 2),
        service("anywhere", "web", "type: NodePort"),
        service("local", "web", "type: LoadBalancer\n  externalTrafficPolicy: Local"),
    ];
    cluster.apply(&manifest.concat())?;
    cluster.wait_ready_pods("app=web", 1)?;
    let (tcp, udp) = node_ports(&cluster, "anywhere")?;
    wait_heard(&cluster, &format!("10.111.0.1:{tcp}"), &format!("10.111.0.1:{udp}"), "web")?;
    metrics_are_served(&cluster)?;
    balancers_hear_of_local_endpoints(&cluster)?;
    health_follows_the_node(&cluster)
}

/// The value of a metric's sample, `name{labels}`.
fn sample(text: &str, name: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = line.with_context(|| format!("{name} is missing in\n{text}"))?;
    value.split(' ').next().unwrap_or_default().parse().with_context(|| format!("{name} is {value:?}"))
}

fn metrics_are_served(cluster: &TestCluster) -> Result<()> {
    let node = cluster.nodes()[0];
    let scrape = || -> Result<String> {
        let fetched = fetch(node, METRICS, "/metrics")?;
        ensure!(fetched.code == 200 && fetched.body.ends_with("# EOF\n"), "{}\n{}", fetched.code, fetched.body);
        Ok(fetched.body)
    };
    let before = scrape()?;
    for name in [
        r#"kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"}"#,
        r#"kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"}"#,
        "kubeproxy_sync_proxy_rules_endpoint_changes_total",
        "kubeproxy_sync_proxy_rules_service_changes_total",
        r#"kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"}"#,
        r#"skep_proxy_map_entries{map="SERVICES"}"#,
        r#"skep_proxy_map_entries{map="FLOWS"}"#,
        r#"skep_proxy_map_entries{map="REPLIES"}"#,
        r#"skep_network_peers{way="direct"}"#,
    ] {
        ensure!(sample(&before, name)? > 0.0, "{name} counts nothing");
    }
    ensure!(sample(&before, r#"skep_proxy_map_capacity{map="FLOWS"}"#)? == 65_536.0);
    for name in ["skep_proxy_map_entries_mended_total", "skep_network_pods", "skep_proxy_failures_total"] {
        sample(&before, name)?;
    }

    // Asking for a name and being dropped are seen.
    let dropped = r#"skep_proxy_packet_drops_total{reason="no-local-endpoints"}"#;
    ensure!(sample(&before, dropped)? == 0.0, "packets were dropped before");
    let (tcp, _) = node_ports(cluster, "local")?;
    let met = meet(cluster, &format!("10.111.0.1:{tcp}"))?;
    ensure!(met == Met::Silence, "the client meets {met:?}");
    cluster.kubectl(&["exec", "web", "--", "toolbox", "get", "anywhere.default.svc.cluster.local:80"])?;
    ensure!(sample(&scrape()?, dropped)? >= 1.0, "the drop is not counted");
    let second = fetch(cluster.nodes()[1], METRICS, "/metrics")?.body;
    ensure!(second.contains(r#"coredns_dns_requests_total{server="dns://:53",zone="cluster.local.""#), "{second}");
    ensure!(fetch(node, METRICS, "/healthz")?.body == "ok");
    ensure!(fetch(node, METRICS, "/nothing")?.code == 404);
    Ok(())
}

fn balancers_hear_of_local_endpoints(cluster: &TestCluster) -> Result<()> {
    let port = cluster.get(&["service", "local"], "{.spec.healthCheckNodePort}")?;
    let says = |node: &Cluster, code: u16, local: usize| {
        wait::until(&format!("{local} local endpoints on {}", node.spec().name), LIMIT, || {
            let fetched = fetch(node, &format!("127.0.0.1:{port}"), "/")?;
            ensure!(fetched.code == code, "{}: {}", fetched.code, fetched.body);
            let weight = format!("x-load-balancing-endpoint-weight: {local}");
            ensure!(fetched.head.contains(&weight), "{}", fetched.head);
            let body: Value = serde_json::from_str(&fetched.body)?;
            let expected = json!({ "service": { "namespace": "default", "name": "local" },
                "localEndpoints": local, "serviceProxyHealthy": true });
            ensure!(body == expected, "{body}");
            Ok(())
        })
    };
    let [first, second] = cluster.nodes()[..] else { anyhow::bail!("there are not two nodes") };
    says(first, 503, 0)?;
    says(second, 200, 1)?;
    cluster.apply(&web(cluster, "more", "web", 1))?;
    says(first, 200, 1)?;
    // Nobody asks about a Service that is open everywhere.
    let policy = r#"{"spec":{"externalTrafficPolicy":"Cluster"}}"#;
    cluster.kubectl(&["patch", "service", "local", "--type=merge", "-p", policy])?;
    wait::until("the port is closed", LIMIT, || {
        ensure!(fetch(first, &format!("127.0.0.1:{port}"), "/").is_err(), "somebody answers");
        Ok(())
    })
}

fn health_follows_the_node(cluster: &TestCluster) -> Result<()> {
    let node = cluster.nodes()[0];
    let healthz = fetch(node, HEALTH, "/healthz")?;
    let body: Value = serde_json::from_str(&healthz.body)?;
    ensure!(healthz.code == 200 && body["nodeEligible"] == json!(true), "{}: {body}", healthz.code);
    cluster.kubectl(&["taint", "node", &node.spec().name, "ToBeDeletedByClusterAutoscaler=1:NoSchedule"])?;
    wait::until("/healthz says that the node will go", LIMIT, || {
        let healthz = fetch(node, HEALTH, "/healthz")?;
        ensure!(healthz.code == 503 && healthz.body.contains(r#""nodeEligible": false"#), "{}", healthz.body);
        Ok(())
    })?;
    ensure!(fetch(node, HEALTH, "/livez")?.code == 200, "the proxy itself is well");
    let text = fetch(node, METRICS, "/metrics")?.body;
    ensure!(sample(&text, r#"kubeproxy_proxy_healthz_total{code="503"}"#)? >= 1.0);
    ensure!(sample(&text, r#"kubeproxy_proxy_livez_total{code="200"}"#)? == 1.0);
    Ok(())
}
