//! `skep-node cleanup`: removes what this node made, so that nothing is left of it but its Node object.

use anyhow::Context as _;
use skep_cri::Cri;
use skep_network::Network;
use skep_policy::Enforcer;
use skep_proxy::Proxy;

use crate::dns;
use crate::run::{network_config, pod_cidr_file};
use crate::settings::Settings;

/// Pods first, then their network, then the service data plane and the DNS address. Goes on after a failure and tells the first.
pub(crate) async fn cleanup(settings: Settings) -> anyhow::Result<()> {
    let pods = remove_pods(&settings).await.context("removing pods");
    let network = remove_network(&settings).context("removing the pod network");
    let policy = Enforcer::cleanup(&settings.bpf_root).context("removing what enforces NetworkPolicy");
    let proxy = Proxy::cleanup(&settings.bpf_root).context("removing the service data plane");
    let devices = skep_proxy::devices::cleanup().context("removing the programs on devices");
    let dns = dns::cleanup(&settings).await.context("removing the DNS address");
    pods.and(network).and(policy).and(proxy).and(devices).and(dns)
}

async fn remove_pods(settings: &Settings) -> anyhow::Result<()> {
    let cri = Cri::connect(&settings.containerd).await?;
    let config = skep_kubelet::Config {
        cgroup_root: settings.cgroup_root.clone(),
        ..skep_kubelet::Config::new(&settings.node_name, [127, 0, 0, 1].into(), &settings.data_dir)
    };
    Ok(skep_kubelet::cleanup(&config, &cri).await?)
}

fn remove_network(settings: &Settings) -> anyhow::Result<()> {
    // Without a pod CIDR there never was a pod network.
    let Ok(noted) = std::fs::read_to_string(pod_cidr_file(settings)) else { return Ok(()) };
    let parse = |cidr: &str| cidr.parse().with_context(|| format!("the pod CIDR noted at start: {cidr:?}"));
    let pod_cidrs = noted.split_whitespace().map(parse).collect::<anyhow::Result<Vec<_>>>()?;
    Network::setup(network_config(settings, pod_cidrs, &[], 0))?.teardown()?;
    std::fs::remove_file(pod_cidr_file(settings))?;
    Ok(())
}
