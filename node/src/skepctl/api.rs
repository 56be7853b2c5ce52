//! What only the API server knows of backends: pods, nodes, zones, states. Everything works without it.

use std::{
    collections::HashMap,
    env,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use k8s_openapi::api::{
    core::v1::Pod,
    discovery::v1::{Endpoint as ApiEndpoint, EndpointConditions, EndpointSlice},
};
use kube::{
    Client,
    api::{Api as Resource, ListParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::Serialize;
use tokio::runtime::Runtime;

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// How long the API server may take: a person waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// A cluster's API.
pub(crate) struct Api {
    runtime: Runtime,
    client: Client,
}

/// What the API says of one backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Endpoint {
    /// `namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) zone: Option<String>,
    /// `ready`, `serving` (about to end, but answering), `terminating` or `not-ready`.
    pub(crate) state: &'static str,
}

/// Endpoints of a Service by address.
pub(crate) type Endpoints = HashMap<IpAddr, Endpoint>;

impl Api {
    /// By the kubeconfig that is named, or the one that kubectl would take. `None` if there is none.
    pub(crate) fn at_hand(named: Option<&Path>) -> Result<Option<Self>> {
        let Some(path) = named.map(Path::to_owned).or_else(usual) else { return Ok(None) };
        let shown = path.display();
        // An error means that one is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let kubeconfig = Kubeconfig::read_from(&path).with_context(|| format!("reading {shown}"))?;
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options);
        let mut config = runtime.block_on(config).with_context(|| format!("in {shown}"))?;
        config.connect_timeout = Some(PATIENCE);
        config.read_timeout = Some(PATIENCE);
        let client = {
            let _guard = runtime.enter();
            Client::try_from(config).with_context(|| format!("in {shown}"))?
        };
        Ok(Some(Self { runtime, client }))
    }

    /// What EndpointSlices say of a Service.
    pub(crate) fn endpoints(&self, namespace: &str, service: &str) -> Result<Endpoints> {
        let slices: Resource<EndpointSlice> = Resource::namespaced(self.client.clone(), namespace);
        let of_service = ListParams::default().labels(&format!("{SERVICE_NAME}={service}"));
        let slices = self
            .runtime
            .block_on(slices.list(&of_service))
            .with_context(|| format!("listing the EndpointSlices of {namespace}/{service}"))?;
        Ok(by_address(slices.items.into_iter().flat_map(|slice| slice.endpoints)))
    }

    /// The pod with that address, `namespace/name`. Of several (finished ones keep theirs), one that is not finished.
    pub(crate) fn pod_at(&self, address: IpAddr) -> Result<Option<String>> {
        let pods: Resource<Pod> = Resource::all(self.client.clone());
        let there = ListParams::default().fields(&format!("status.podIP={address}"));
        let pods = self.runtime.block_on(pods.list(&there)).context("listing Pods")?.items;
        let finished = |pod: &Pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            matches!(phase, Some("Succeeded" | "Failed"))
        };
        let pod = pods.into_iter().min_by_key(finished);
        Ok(pod.and_then(|pod| Some(format!("{}/{}", pod.metadata.namespace?, pod.metadata.name?))))
    }

    /// The addresses of a pod; none if it has none yet.
    pub(crate) fn pod_addresses(&self, namespace: &str, name: &str) -> Result<Vec<IpAddr>> {
        let pods: Resource<Pod> = Resource::namespaced(self.client.clone(), namespace);
        let pod =
            self.runtime.block_on(pods.get(name)).with_context(|| format!("looking for the pod {namespace}/{name}"))?;
        let addresses = pod.status.and_then(|status| status.pod_ips).unwrap_or_default();
        Ok(addresses.iter().filter_map(|address| address.ip.parse().ok()).collect())
    }
}

/// Where kubectl looks first.
fn usual() -> Option<PathBuf> {
    let listed = env::var_os("KUBECONFIG").filter(|list| !list.is_empty());
    let candidates: Vec<PathBuf> = match &listed {
        Some(list) => env::split_paths(list).collect(),
        None => env::var_os("HOME").map(|home| Path::new(&home).join(".kube/config")).into_iter().collect(),
    };
    candidates.into_iter().find(|path| path.exists())
}

fn by_address(endpoints: impl Iterator<Item = ApiEndpoint>) -> Endpoints {
    let mut all = Endpoints::new();
    for endpoint in endpoints {
        let pod = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
        let known = Endpoint {
            pod: pod.and_then(|pod| Some(format!("{}/{}", pod.namespace.as_ref()?, pod.name.as_ref()?))),
            node: endpoint.node_name,
            zone: endpoint.zone,
            state: state(endpoint.conditions.as_ref()),
        };
        all.extend(endpoint.addresses.iter().filter_map(|address| Some((address.parse().ok()?, known.clone()))));
    }
    all
}

/// Absent conditions are to be read as ready and serving, as the API's documentation has it.
fn state(conditions: Option<&EndpointConditions>) -> &'static str {
    let is = |condition: fn(&EndpointConditions) -> Option<bool>| conditions.and_then(condition);
    let ready = is(|conditions| conditions.ready).unwrap_or(true);
    let serving = is(|conditions| conditions.serving).unwrap_or(ready);
    match (ready, serving, is(|conditions| conditions.terminating).unwrap_or(false)) {
        (true, ..) => "ready",
        (false, true, true) => "serving",
        (false, false, true) => "terminating",
        (false, _, false) => "not-ready",
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ObjectReference;

    use super::*;

    #[test]
    fn conditions_become_one_word() {
        let word = |ready: Option<bool>, serving: Option<bool>, terminating: Option<bool>| {
            state(Some(&EndpointConditions { ready, serving, terminating }))
        };
        assert_eq!(state(None), "ready");
        assert_eq!(word(Some(true), Some(true), Some(false)), "ready");
        assert_eq!(word(Some(false), Some(true), Some(true)), "serving");
        assert_eq!(word(Some(false), Some(false), Some(true)), "terminating");
        assert_eq!(word(Some(false), Some(false), None), "not-ready");
    }

    #[test]
    fn every_address_of_an_endpoint_leads_to_its_pod_and_others_to_none() {
        let target = ObjectReference {
            kind: Some("Pod".into()),
            namespace: Some("default".into()),
            name: Some("web-0".into()),
            ..Default::default()
        };
        let endpoint = ApiEndpoint {
            addresses: vec!["10.0.0.1".into(), "fd00::1".into(), "example.org".into()],
            target_ref: Some(target),
            node_name: Some("n1".into()),
            zone: Some("a".into()),
            ..Default::default()
        };
        let bare = ApiEndpoint { addresses: vec!["10.0.0.2".into()], ..Default::default() };
        let all = by_address([endpoint, bare].into_iter());
        let wanted = Endpoint {
            pod: Some("default/web-0".into()),
            node: Some("n1".into()),
            zone: Some("a".into()),
            state: "ready",
        };
        assert_eq!(all.len(), 3);
        for address in ["10.0.0.1", "fd00::1"] {
            assert_eq!(all[&address.parse().unwrap()], wanted);
        }
        assert_eq!(all[&"10.0.0.2".parse().unwrap()].pod, None);
    }
}
