//! The health servers of kube-proxy: `/healthz` and `/livez`, and what balancers ask about a Service with
//! `externalTrafficPolicy: Local` at its `healthCheckNodePort`.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderName, HeaderValue, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::{counter::Counter, family::Family};
use prometheus_client::registry::Registry;
use skep_proxy::Health;
use skep_proxy::health::{ServiceName, Status};
use tokio::task::JoinSet;

use crate::web::{self, Answer, Answers};

/// How many endpoints stand behind this node, for balancers that weigh (as kube-proxy says it).
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

const JSON: &str = "application/json";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: u16,
}

/// How often which answer was given.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    healthz: Family<CodeLabel, Counter>,
    livez: Family<CodeLabel, Counter>,
}

impl Metrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("kubeproxy_proxy_healthz", "Answers of /healthz, by code", self.healthz.clone());
        registry.register("kubeproxy_proxy_livez", "Answers of /livez, by code", self.livez.clone());
    }
}

/// Answers at kube-proxy's health address. `/healthz` also says whether the node is about to go (KEP-3836).
pub(crate) struct HealthServer {
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
}

impl Answers for HealthServer {
    async fn answer(&self, path: &str) -> Answer {
        let status = self.health.status();
        let (answer, counter) = match path {
            "/healthz" => (told(&status, Some(status.eligible)), &self.metrics.healthz),
            "/livez" => (told(&status, None), &self.metrics.livez),
            _ => return web::not_found(),
        };
        counter.get_or_create(&CodeLabel { code: answer.status().as_u16() }).inc();
        answer
    }
}

/// `eligible` where that matters. A healthy proxy says it is up to date as of now, as upstream does.
fn told(status: &Status, eligible: Option<bool>) -> Answer {
    let now = SystemTime::now();
    let well = status.healthy && eligible != Some(false);
    let updated = if well { Some(now) } else { status.updated };
    let mut body = format!(r#"{{"lastUpdated": "{}","currentTime": "{}""#, go_time(updated), go_time(Some(now)));
    if let Some(eligible) = eligible {
        body += &format!(r#", "nodeEligible": {eligible}"#);
    }
    body.push('}');
    web::with_type(if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, JSON, body)
}

/// A time as Go prints it; its zero is the year one.
fn go_time(time: Option<SystemTime>) -> String {
    let time = time.and_then(|time| jiff::Timestamp::try_from(time).ok());
    time.map_or_else(
        || "0001-01-01 00:00:00 +0000 UTC".to_owned(),
        |time| time.strftime("%Y-%m-%d %H:%M:%S.%9f +0000 UTC").to_string(),
    )
}

/// Answers for one Service.
struct ServiceServer {
    name: ServiceName,
    health: Health,
}

impl Answers for ServiceServer {
    async fn answer(&self, _: &str) -> Answer {
        let local = self.health.services().borrow().get(&self.name).map_or(0, |service| service.local);
        service_answer(&self.name, local, self.health.status().healthy)
    }
}

fn service_answer(ServiceName { namespace, name }: &ServiceName, local: usize, healthy: bool) -> Answer {
    // Names of the API need no escaping.
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\t\
         \"localEndpoints\": {local},\n\t\"serviceProxyHealthy\": {healthy}\n}}"
    );
    let well = local > 0 && healthy;
    let mut answer = web::with_type(if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, JSON, body);
    answer.headers_mut().insert(WEIGHT, HeaderValue::from(local));
    answer
}

/// Keeps a server at the port of each Service that balancers ask about, at the given address. Ends with the data plane.
pub(crate) async fn serve_services(at: IpAddr, health: Health) {
    let mut told = health.services();
    let mut servers = JoinSet::new();
    let mut running = HashMap::new();
    loop {
        let wanted: HashMap<ServiceName, u16> =
            told.borrow_and_update().iter().map(|(name, service)| (name.clone(), service.port)).collect();
        running.retain(|name, (port, server): &mut (u16, tokio::task::AbortHandle)| {
            let stays = wanted.get(name) == Some(port);
            if !stays {
                server.abort();
            }
            stays
        });
        while servers.try_join_next().is_some() {}
        for (name, port) in wanted {
            running.entry(name.clone()).or_insert_with(|| {
                let what = format!("the health of Service {name}");
                let server = Arc::new(ServiceServer { name, health: health.clone() });
                let address = SocketAddr::new(at, port);
                (port, servers.spawn(async move { web::serve(address, &what, server).await }))
            });
        }
        if told.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    async fn body(answer: Answer) -> serde_json::Value {
        serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap()
    }

    #[tokio::test]
    async fn a_service_is_well_where_it_has_endpoints_and_a_healthy_proxy() {
        let name = ServiceName { namespace: "ns".into(), name: "web".into() };
        for (local, healthy, code) in [(2, true, 200), (0, true, 503), (2, false, 503)] {
            let answer = service_answer(&name, local, healthy);
            assert_eq!(answer.status(), code);
            assert_eq!(answer.headers()[WEIGHT], local.to_string());
            let expected = serde_json::json!({ "service": { "namespace": "ns", "name": "web" },
                "localEndpoints": local, "serviceProxyHealthy": healthy });
            assert_eq!(body(answer).await, expected);
        }
    }

    #[tokio::test]
    async fn only_healthz_knows_that_the_node_is_to_go() {
        let going = Status { healthy: true, updated: None, eligible: false };
        let answer = told(&going, Some(false));
        assert_eq!(answer.status(), 503);
        let said = body(answer).await;
        assert_eq!(
            (&said["nodeEligible"], &said["lastUpdated"]),
            (&false.into(), &"0001-01-01 00:00:00 +0000 UTC".into())
        );
        let answer = told(&going, None);
        assert_eq!(answer.status(), 200);
        let said = body(answer).await;
        assert!(said["nodeEligible"].is_null() && said["lastUpdated"] == said["currentTime"], "{said}");
        assert_eq!(told(&Status { healthy: false, ..going }, None).status(), 503);
    }

    #[test]
    fn times_are_written_as_go_does() {
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::new(1, 2);
        assert_eq!(go_time(Some(time)), "1970-01-01 00:00:01.000000002 +0000 UTC");
    }
}
