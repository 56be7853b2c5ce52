//! Cluster DNS on this node: its address on the loopback device, and the server behind it.

use std::net::{IpAddr, SocketAddr};

use skep_dns::{Config, Dns, Metrics};
use tokio_util::sync::CancellationToken;

use crate::run::{FIRST_RETRY, LAST_RETRY};
use crate::settings::Settings;

const PORT: u16 = 53;

/// Answers DNS on the pods' DNS addresses until `shutdown`. A node without DNS still runs pods, so trouble is logged and
/// tried again.
pub(crate) async fn run(
    client: kube::Client,
    settings: &Settings,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let addresses = addresses(settings);
    if addresses.is_empty() {
        shutdown.cancelled().await;
        return Ok(());
    }
    let mut pause = FIRST_RETRY;
    loop {
        match start(&addresses, settings, &metrics).await {
            Ok(dns) => {
                tracing::info!(?addresses, "answering DNS");
                pause = FIRST_RETRY;
                match dns.run(client.clone(), shutdown.clone()).await {
                    Ok(()) => return Ok(()),
                    Err(error) => tracing::error!(%error, "DNS broke off, starting it again"),
                }
            }
            Err(error) => tracing::error!(%error, "no DNS on this node yet, trying again"),
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return Ok(());
        }
        pause = (pause * 2).min(LAST_RETRY);
    }
}

async fn start(addresses: &[IpAddr], settings: &Settings, metrics: &Metrics) -> skep_dns::Result<Dns> {
    for address in addresses {
        skep_dns::assign(*address).await?;
    }
    Dns::bind(Config {
        listen: addresses.iter().map(|address| SocketAddr::new(*address, PORT)).collect(),
        domain: settings.cluster_domain.clone(),
        reverse: vec![settings.service_cidr],
        resolv_conf: Some(settings.resolv_conf.clone()),
        metrics: metrics.clone(),
    })
    .await
}

/// Takes the addresses off the loopback device.
pub(crate) async fn cleanup(settings: &Settings) -> anyhow::Result<()> {
    for address in addresses(settings) {
        skep_dns::remove(address).await?;
    }
    Ok(())
}

/// The pods' DNS addresses that this node answers on: ClusterIPs. Any other is somebody else's server.
fn addresses(settings: &Settings) -> Vec<IpAddr> {
    let ours = |address: &&IpAddr| settings.serve_dns && settings.service_cidr.contains(*address);
    settings.cluster_dns.iter().filter(ours).copied().collect()
}
