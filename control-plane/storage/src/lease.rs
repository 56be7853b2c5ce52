//! Leases for keys that expire: one lease is shared by all keys of a TTL that are written within a short while.

use crate::error::Result;
use crate::etcd::{Kind, Pool};
use etcd_client::Client;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// Most keys attached to one lease (upstream: 1000), because etcd removes them in one go.
const KEYS_PER_LEASE: u32 = 1000;
/// Longest time a lease is given to further keys (upstream: 60 s).
const REUSE_MAX: u64 = 60;

#[derive(Default)]
pub(crate) struct Leases {
    /// By TTL in seconds. Held while a lease is granted: who waits wants the same one.
    buckets: Mutex<HashMap<u64, Lease>>,
}

struct Lease {
    id: i64,
    /// Until when it outlives any key attached to it by its full TTL.
    reuse_until: Instant,
    keys: u32,
}

impl Leases {
    /// A lease that lasts `ttl` seconds, and at most a tenth longer (a second, for short ones).
    pub(crate) async fn get(&self, pool: &Pool, ttl: u64) -> Result<i64> {
        let mut buckets = self.buckets.lock().await;
        let now = Instant::now();
        buckets.retain(|_, lease| lease.reuse_until > now && lease.keys < KEYS_PER_LEASE);
        if let Some(lease) = buckets.get_mut(&ttl) {
            lease.keys += 1;
            return Ok(lease.id);
        }
        let reuse = (ttl / 10).clamp(1, REUSE_MAX);
        let seconds = i64::try_from(ttl.saturating_add(reuse)).unwrap_or(i64::MAX);
        let grant = |client: &Client| {
            let mut leases = client.lease_client();
            async move { leases.grant(seconds, None).await }
        };
        // A grant that is lost only leaves a lease without keys behind, so it may be sent again.
        let id = pool.call("leaseGrant", Kind::Read, grant).await?.id();
        buckets.insert(ttl, Lease { id, reuse_until: now + Duration::from_secs(reuse), keys: 1 });
        Ok(id)
    }

    /// Forgets leases that etcd does not know any more.
    pub(crate) async fn forget(&self) {
        self.buckets.lock().await.clear();
    }
}
