//! Cluster DNS on this node: its addresses on the loopback device, and the server behind it.

use std::net::{IpAddr, SocketAddr};

use skep_dns::{Config, Dns, Metrics};
use tokio_util::sync::CancellationToken;

use crate::run::{FIRST_RETRY, LAST_RETRY};
use crate::settings::Settings;

const PORT: u16 = 53;

/// Answers DNS on the Service addresses of `kube-dns` until `shutdown`. A node without DNS still runs pods, so trouble is logged and
/// tried again.
pub(crate) async fn run(
    client: kube::Client,
    settings: &Settings,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let addresses = &settings.dns_addresses;
    if addresses.is_empty() {
        shutdown.cancelled().await;
        return Ok(());
    }
    let mut pause = FIRST_RETRY;
    loop {
        match start(addresses, settings, &metrics).await {
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
        reverse: settings.service_cidrs.clone(),
        resolv_conf: Some(settings.resolv_conf.clone()),
        metrics: metrics.clone(),
    })
    .await
}

/// Takes the addresses off the loopback device.
pub(crate) async fn cleanup(settings: &Settings) -> anyhow::Result<()> {
    for address in &settings.dns_addresses {
        skep_dns::remove(*address).await?;
    }
    Ok(())
}
