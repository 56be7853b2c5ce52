//! The per-packet programs on the node's and the pods' devices, kept there as devices come and go.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use skep_proxy::devices::{self, Devices, Tunnel};
use skep_proxy::direct::HostRouting;
use skep_proxy::{Attachment, Error, MapSizes};
use tokio::sync::watch;

use crate::direct;
use crate::drift;
use crate::masquerade::Cluster;
use crate::run::{FIRST_RETRY, LAST_RETRY, RECONCILE_NETWORK};
use crate::settings::Settings;

/// Changes that come close together are one. A pod's device comes up with several.
const SETTLE: Duration = Duration::from_millis(20);

/// What is known of the node.
pub(crate) struct Ground<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) node_ips: &'a [IpAddr],
    pub(crate) pod_cidrs: &'a [IpNet],
    /// Who keeps the short way to pods.
    pub(crate) direct: &'a HostRouting,
}

/// Loads the programs and keeps them on every device that should have them. A node whose kernel cannot do that still runs
/// pods and serves those inside the cluster, so it is said and no reason to end.
pub(crate) async fn follow(
    ground: Ground<'_>,
    mut drift: watch::Receiver<()>,
    mut nodes: watch::Receiver<Option<Cluster>>,
) -> anyhow::Result<()> {
    let Some(mut devices) = open(&ground).await else { return std::future::pending().await };
    let (mut thorough, mut known, mut refused) = (true, Vec::new(), Vec::new());
    loop {
        drift.mark_unchanged();
        // Until the Nodes are known it is as a former life left it.
        let cluster = nodes.borrow_and_update().clone().map(|mut cluster| {
            cluster.nodes.extend(ground.node_ips);
            cluster.pods.extend(ground.pod_cidrs);
            (cluster.inside(ground.settings), cluster.nodes)
        });
        let masquerade = ground.settings.masquerade;
        let (chosen, addresses) = (ground.settings.devices.clone(), ground.node_ips.to_vec());
        let direct = ground.direct.clone();
        let work = tokio::task::spawn_blocking(move || {
            let done = match chosen {
                Some(chosen) => Ok(chosen),
                None => skep_network::node_devices(&addresses).map_err(anyhow::Error::from),
            };
            let done = done.and_then(|node| {
                if let Some((ranges, nodes)) = &cluster {
                    devices.set_inside(ranges, nodes)?;
                }
                if cluster.is_some() || !masquerade {
                    devices.masquerade(masquerade)?;
                }
                // Also where a program cannot be attached: a pod's device that has gone is to be known.
                let told = direct::tell(&direct, &node);
                let attached = devices.reconcile(&node, thorough)?;
                told.map(|()| (attached, node))
            });
            (devices, done)
        });
        let (returned, done) = work.await?;
        devices = returned;
        match done {
            Ok((attached, node)) => {
                report(&attached);
                let now: Vec<String> = devices.refused().iter().map(ToString::to_string).collect();
                if now != refused {
                    devices.refused().iter().for_each(|error| tracing::error!("{}", causes(error)));
                    refused = now;
                }
                if node != known {
                    said(&node);
                    known = node;
                }
                thorough = tokio::select! {
                    () = drift::changed(&mut drift) => false,
                    () = drift::changed(&mut nodes) => false,
                    () = tokio::time::sleep(RECONCILE_NETWORK) => true,
                };
                if !thorough {
                    tokio::time::sleep(SETTLE).await;
                }
            }
            Err(error) => {
                tracing::warn!("could not put programs on devices: {error:#}; trying again");
                tokio::time::sleep(LAST_RETRY).await;
            }
        }
    }
}

/// Loads the programs; `None` on a kernel that will never take them.
async fn open(ground: &Ground<'_>) -> Option<Devices> {
    let settings = settings(ground);
    let (root, sizes) = (ground.settings.bpf_root.clone(), map_sizes(ground.settings));
    let mut pause = FIRST_RETRY;
    loop {
        let (root, settings) = (root.clone(), settings.clone());
        // The verifier takes its time.
        match tokio::task::spawn_blocking(move || Devices::open(&root, &sizes, settings)).await {
            Ok(Ok(devices)) => return Some(devices),
            Ok(Err(error @ Error::Kernel { .. })) => {
                tracing::error!(%error, "node ports, load balancer and external addresses are not served to the outside");
                return None;
            }
            Ok(Err(error)) => tracing::error!("no service traffic from outside yet: {:#}", anyhow::Error::from(error)),
            Err(error) => tracing::error!(%error, "no service traffic from outside yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_RETRY);
    }
}

/// Connected sockets that are counted for `--backend-choice least-connections`.
const CONNECTIONS: u32 = 262_144;

/// Capacities of the maps.
pub(crate) fn map_sizes(settings: &Settings) -> MapSizes {
    let connections = if settings.least_connections { CONNECTIONS } else { 0 };
    MapSizes { connections, ..settings.maps }
}

fn settings(ground: &Ground<'_>) -> devices::Settings {
    let ends: Vec<IpAddr> = ground.pod_cidrs.iter().map(IpNet::network).collect();
    devices::Settings {
        is_pod: skep_network::is_host_device_name,
        address4: first4(ground.node_ips),
        address6: first6(ground.node_ips),
        tunnel: Some(Tunnel {
            device: skep_network::VXLAN_DEVICE.to_owned(),
            address4: first4(&ends),
            address6: first6(&ends),
        }),
        mode: ground.settings.node_port_mode,
        ports: devices::source_ports(),
        acceleration: ground.settings.acceleration,
        ..devices::Settings::default()
    }
}

fn first4(addresses: &[IpAddr]) -> Option<Ipv4Addr> {
    addresses.iter().find_map(|address| if let IpAddr::V4(address) = address { Some(*address) } else { None })
}

fn first6(addresses: &[IpAddr]) -> Option<Ipv6Addr> {
    addresses.iter().find_map(|address| if let IpAddr::V6(address) = address { Some(*address) } else { None })
}

/// An error with its causes.
fn causes(error: &Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn said(node: &[String]) {
    if node.is_empty() {
        tracing::warn!(
            "no Ethernet device has the node's address or the default route: Services are not served to the outside; give --devices"
        );
    } else {
        tracing::info!(devices = ?node, "Services are served to the outside");
    }
}

fn report(attached: &[(String, &'static str, Attachment)]) {
    for (device, program, _) in attached.iter().filter(|(.., attachment)| *attachment == Attachment::Attached) {
        tracing::debug!(device, program, "attached");
    }
}
