//! Follows the ServiceCIDRs (KEP-1880): an address of a range that was added later must not leave the node, either.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt as _;
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::Api;
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use skep_network::Network;

/// Closes the ranges of all ServiceCIDRs whenever they change. Until they are known, what is there stays.
pub(crate) async fn follow(client: kube::Client, network: Arc<Network>) -> anyhow::Result<()> {
    let (store, writer) = reflector::store();
    let ranges = watcher(Api::<ServiceCIDR>::all(client), watcher::Config::default());
    let mut ranges = pin!(ranges.default_backoff().reflect(writer));
    let (mut listed, mut closed) = (false, None);
    while let Some(event) = ranges.next().await {
        match event {
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => continue,
            Ok(_) => listed = true,
            // An API server from before there were any.
            Err(error) if is_unknown(&error) => listed = true,
            Err(error) => tracing::debug!(%error, "watching the ServiceCIDRs"),
        }
        let wanted: BTreeSet<IpNet> = store.state().iter().flat_map(|range| cidrs(range)).collect();
        if !listed || closed.as_ref() == Some(&wanted) {
            continue;
        }
        let (worker, list) = (network.clone(), wanted.iter().copied().collect::<Vec<_>>());
        match tokio::task::spawn_blocking(move || worker.close_ranges(&list)).await? {
            Ok(()) => closed = Some(wanted),
            // The next look at the pod network does it.
            Err(error) => tracing::warn!(%error, "could not close the Service ranges"),
        }
    }
    anyhow::bail!("the watch of ServiceCIDRs ended")
}

fn cidrs(range: &ServiceCIDR) -> Vec<IpNet> {
    let texts = range.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    texts.filter_map(|text| text.parse().ok()).collect()
}

fn is_unknown(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_service_cidr_may_have_two_ranges_and_what_is_none_is_left_out() {
        let range = |spec| serde_json::from_value(json!({ "metadata": { "name": "more" }, "spec": spec })).unwrap();
        let both = cidrs(&range(json!({ "cidrs": ["10.97.0.0/24", "fd00:97::/112", "nonsense"] })));
        assert_eq!(both, ["10.97.0.0/24".parse::<IpNet>().unwrap(), "fd00:97::/112".parse().unwrap()]);
        assert!(cidrs(&range(json!({}))).is_empty());
    }
}
