//! The cluster's Services as environment variables, docker-links style, as every container gets them.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use parking_lot::RwLock;
use tokio::sync::watch;

/// The namespace and name of the API server's own Service, which every pod sees.
const MASTER: (&str, &str) = ("default", "kubernetes");

/// What is kept of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    ip: String,
    /// Name, protocol, port.
    ports: Vec<(Option<String>, String, i32)>,
}

type Key = (String, String);

/// A view of all Services with a cluster IP.
#[derive(Clone)]
pub(crate) struct Services {
    entries: Arc<RwLock<BTreeMap<Key, Entry>>>,
    synced: watch::Receiver<bool>,
}

impl Services {
    /// A view and the task that keeps it.
    pub(crate) fn watch(client: Client) -> (Self, impl Future<Output = ()> + Send) {
        let (synced_sender, synced) = watch::channel(false);
        let services = Self { entries: Arc::default(), synced };
        let entries = services.entries.clone();
        let task = async move {
            let mut events =
                std::pin::pin!(watcher(Api::<Service>::all(client), watcher::Config::default()).default_backoff());
            let mut fresh = BTreeMap::new();
            while let Some(event) = events.next().await {
                match event {
                    Ok(watcher::Event::Init) => fresh.clear(),
                    Ok(watcher::Event::InitApply(service)) => fresh.extend(entry(service)),
                    Ok(watcher::Event::InitDone) => {
                        *entries.write() = std::mem::take(&mut fresh);
                        synced_sender.send_replace(true);
                    }
                    Ok(watcher::Event::Apply(service)) => {
                        let key = key(&service);
                        match entry(service) {
                            Some((key, entry)) => entries.write().insert(key, entry),
                            None => entries.write().remove(&key),
                        };
                    }
                    Ok(watcher::Event::Delete(service)) => {
                        entries.write().remove(&key(&service));
                    }
                    Err(error) => tracing::warn!(%error, "watching services"),
                }
            }
        };
        (services, task)
    }

    /// Waits until the Services have been read once, as upstream does before it starts containers.
    pub(crate) async fn synced(&self) {
        // An error means the task is gone, at shutdown.
        let _ = self.synced.clone().wait_for(|synced| *synced).await;
    }

    /// The variables for a pod of `namespace`; `links` off leaves only the API server's.
    pub(crate) fn environment(&self, namespace: &str, links: bool) -> BTreeMap<String, String> {
        let entries = self.entries.read();
        let mut variables = BTreeMap::new();
        let master = (MASTER.0.to_owned(), MASTER.1.to_owned());
        if let Some(entry) = entries.get(&master) {
            variables.extend(variables_of(MASTER.1, entry));
        }
        if links {
            let from = (namespace.to_owned(), String::new());
            for ((_, name), entry) in entries.range(from..).take_while(|((ns, _), _)| ns == namespace) {
                variables.extend(variables_of(name, entry));
            }
        }
        variables
    }
}

fn key(service: &Service) -> Key {
    (service.metadata.namespace.clone().unwrap_or_default(), service.metadata.name.clone().unwrap_or_default())
}

fn entry(service: Service) -> Option<(Key, Entry)> {
    let key = key(&service);
    let spec = service.spec?;
    let ip = spec.cluster_ip.filter(|ip| !ip.is_empty() && ip != "None")?;
    let ports = spec.ports.unwrap_or_default().into_iter();
    let ports = ports.map(|port| (port.name, port.protocol.unwrap_or_else(|| "TCP".to_owned()), port.port)).collect();
    Some((key, Entry { ip, ports }))
}

fn variables_of(name: &str, entry: &Entry) -> Vec<(String, String)> {
    let prefix = upper(name);
    let ip = &entry.ip;
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.clone() };
    let mut all = vec![(format!("{prefix}_SERVICE_HOST"), ip.clone())];
    for (index, (port_name, protocol, port)) in entry.ports.iter().enumerate() {
        let scheme = protocol.to_lowercase();
        let url = format!("{scheme}://{host}:{port}");
        if index == 0 {
            all.push((format!("{prefix}_SERVICE_PORT"), port.to_string()));
            all.push((format!("{prefix}_PORT"), url.clone()));
        }
        if let Some(port_name) = port_name.as_deref().filter(|name| !name.is_empty()) {
            all.push((format!("{prefix}_SERVICE_PORT_{}", upper(port_name)), port.to_string()));
        }
        let link = format!("{prefix}_PORT_{port}_{protocol}");
        all.push((link.clone(), url));
        all.push((format!("{link}_PROTO"), scheme));
        all.push((format!("{link}_PORT"), port.to_string()));
        all.push((format!("{link}_ADDR"), ip.clone()));
    }
    all
}

fn upper(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_becomes_upstreams_variables() {
        let entry = Entry { ip: "10.0.0.1".into(), ports: vec![(Some("web-ui".into()), "TCP".into(), 80)] };
        let variables: BTreeMap<_, _> = variables_of("my-svc", &entry).into_iter().collect();
        let get = |name: &str| variables.get(name).map(String::as_str);
        assert_eq!(get("MY_SVC_SERVICE_HOST"), Some("10.0.0.1"));
        assert_eq!(get("MY_SVC_SERVICE_PORT_WEB_UI"), Some("80"));
        assert_eq!(get("MY_SVC_PORT"), Some("tcp://10.0.0.1:80"));
        assert_eq!(get("MY_SVC_PORT_80_TCP_ADDR"), Some("10.0.0.1"));
    }
}
