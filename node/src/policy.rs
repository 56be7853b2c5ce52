//! NetworkPolicy of this node's pods: the enforcer, and what it must know of their devices.

use std::sync::Arc;
use std::time::Duration;

use skep_policy::{Config, Enforcer, PodDevice};
use skep_proxy::direct::{HostRouting, Open};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::direct::UnderPolicy;
use crate::drift;
use crate::run::RECONCILE_NETWORK;
use crate::settings::Settings;

/// Changes that come close together are one; a pod's device comes up with several. Short: a new pod is not to run before
/// its policies are in force.
const SETTLE: Duration = Duration::from_millis(5);

/// The enforcer with this node's settings.
pub(crate) fn enforcer(settings: &Settings, direct: &HostRouting) -> Enforcer {
    Enforcer::new(Config {
        bpf_root: settings.bpf_root.clone(),
        node_name: settings.node_name.clone(),
        tunnel: Some(settings.vxlan_port),
        bypass: Some(Arc::new(UnderPolicy(direct.clone()))),
        sizes: settings.network_policy.unwrap_or_default(),
    })
}

/// Enforces policies for ever; if it is not to, takes down what an earlier run enforced.
pub(crate) async fn follow(
    client: kube::Client,
    settings: &Settings,
    enforcer: &Enforcer,
    direct: &HostRouting,
    mut drift: watch::Receiver<()>,
) -> anyhow::Result<()> {
    if settings.network_policy.is_none() {
        let (root, direct) = (settings.bpf_root.clone(), direct.clone());
        let take_down = move || anyhow::Ok((Enforcer::cleanup(&root)?, direct.open(Open::All)?));
        tokio::task::spawn_blocking(take_down).await??;
        return std::future::pending().await;
    }
    drift.mark_unchanged();
    let (tell, told) = watch::channel(devices(Vec::new()).await);
    let look = async {
        loop {
            tokio::select! {
                () = drift::changed(&mut drift) => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(RECONCILE_NETWORK) => {}
            }
            drift.mark_unchanged();
            let before = tell.borrow().clone();
            let now = devices(before).await;
            tell.send_if_modified(|known| std::mem::replace(known, now.clone()) != now);
        }
    };
    tokio::select! {
        ended = enforcer.run(client, told, CancellationToken::new()) => Ok(ended?),
        () = look => Ok(()),
    }
}

/// The pods' devices that are there now; `before` if the kernel does not tell.
async fn devices(before: Vec<PodDevice>) -> Vec<PodDevice> {
    let found = tokio::task::spawn_blocking(skep_network::pod_devices).await.map_err(anyhow::Error::from);
    match found.and_then(|found| Ok(found?)) {
        Ok(found) => found
            .into_iter()
            .map(|device| PodDevice { name: device.name, index: device.index, addresses: device.addresses })
            .collect(),
        Err(error) => {
            tracing::warn!("NetworkPolicy does not see changes of pods' devices: {error:#}");
            before
        }
    }
}
