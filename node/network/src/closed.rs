//! Ranges that lead nowhere rather than to the default gateway: addresses of Services, and pod addresses that no pod has. A
//! more specific route, such as that to a pod, comes first.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use ipnet::IpNet;

use crate::Result;
use crate::netlink::{Netlink, OWN_PROTOCOL, Route, Via};

/// Keeps the `unreachable` routes of a node.
#[derive(Debug)]
pub(crate) struct ClosedRanges {
    /// Those of the settings.
    fixed: Vec<IpNet>,
    /// What no range may cover that is added later.
    open: Vec<IpNet>,
    /// Those added later; `None`: not known yet.
    further: Mutex<Option<Vec<IpNet>>>,
}

impl ClosedRanges {
    /// `awaits_more`: further ranges will be told by [`ClosedRanges::set`], and until then what is there stays.
    pub(crate) fn new(services: &[IpNet], pods: &[IpNet], node_ips: &[IpAddr], awaits_more: bool) -> Self {
        Self {
            fixed: services.iter().chain(pods).map(IpNet::trunc).collect(),
            open: pods.iter().copied().chain(node_ips.iter().map(|address| IpNet::from(*address))).collect(),
            further: Mutex::new((!awaits_more).then(Vec::new)),
        }
    }

    /// Has these ranges closed, too, and no others any more. One that covers addresses of this node or its pods is left out.
    pub(crate) fn set(&self, netlink: &mut Netlink, ranges: &[IpNet]) -> Result<()> {
        let wrong = |range: &&IpNet| self.open.iter().any(|open| range.contains(open) || open.contains(*range));
        for range in ranges.iter().filter(wrong) {
            tracing::warn!(%range, "a Service range covers addresses of this node or its pods: it is not closed here");
        }
        let fitting = ranges.iter().filter(|range| !wrong(range)).map(IpNet::trunc).collect();
        *self.further.lock().unwrap_or_else(PoisonError::into_inner) = Some(fitting);
        self.keep(netlink).map(drop)
    }

    /// Adds the routes that are missing and removes those of no range; returns how many these were.
    pub(crate) fn keep(&self, netlink: &mut Netlink) -> Result<usize> {
        // Held to the end: two that remove the same route would be in each other's way.
        let further = self.further.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted: Vec<Route> =
            self.fixed.iter().chain(further.iter().flatten()).map(|range| closed(*range)).collect();
        let present = netlink.routes()?;
        let own = present.iter().filter(|route| route.protocol == OWN_PROTOCOL && route.via == Via::Unreachable);
        let mut removed = 0;
        for stale in own.filter(|route| further.is_some() && !wanted.contains(route)) {
            netlink.delete_route(stale)?;
            removed += 1;
        }
        for missing in wanted.iter().filter(|route| !present.contains(route)) {
            netlink.replace_route(missing)?;
        }
        Ok(removed)
    }
}

fn closed(range: IpNet) -> Route {
    Route { destination: range, via: Via::Unreachable, protocol: OWN_PROTOCOL, source: None }
}
