//! Compaction of etcd's history, as upstream's API server does it, and in concert with it: whoever moves
//! `compact_rev_key` first in an interval compacts, to the revision etcd had an interval ago.

use crate::error::Result;
use crate::etcd::{Kind, Pool};
use crate::storage::Core;
use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp, TxnOpResponse};
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};

const KEY: &str = "compact_rev_key";

/// What was learnt in the last interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Version of the key: how often it was moved.
    pub(crate) time: i64,
    /// Revision of etcd then.
    pub(crate) revision: i64,
}

/// Compacts for ever.
pub(crate) async fn run(core: Arc<Core>, every: Duration) {
    let mut mark = Mark::default();
    loop {
        tokio::time::sleep(every).await;
        match step(&core.pool, mark).await {
            Ok(next) => mark = next,
            Err(error) => {
                warn!(%error, "could not compact etcd");
                continue;
            }
        }
        // The key lies outside /registry/, so the watch does not show it. Bring the cache past it, or a later
        // compaction would overtake an idle cache and force it to relist.
        if let Err(error) = core.wait_for(mark.revision).await {
            warn!(%error, "the cache lags behind compaction");
        }
    }
}

/// Moves the key on if nobody else has since `mark`, and then compacts to `mark`'s revision.
pub(crate) async fn step(pool: &Pool, mark: Mark) -> Result<Mark> {
    let response = pool
        .call("compactMark", Kind::Write, |client: &Client| {
            let mut kv = client.kv_client();
            let txn = Txn::new()
                .when([Compare::version(KEY, CompareOp::Equal, mark.time)])
                .and_then([TxnOp::put(KEY, mark.revision.to_string(), None)])
                .or_else([TxnOp::get(KEY, None)]);
            async move { kv.txn(txn).await }
        })
        .await?;
    let revision = response.header().map_or(0, |header| header.revision());
    if !response.succeeded() {
        let time = response.op_responses().into_iter().find_map(|op| match op {
            TxnOpResponse::Get(get) => get.kvs().first().map(|kv| kv.version()),
            _ => None,
        });
        return Ok(Mark { time: time.unwrap_or(0), revision });
    }
    let next = Mark { time: mark.time + 1, revision };
    if mark.revision == 0 {
        // Nothing known of an interval ago.
        return Ok(next);
    }
    let compact = |client: &Client| {
        let mut kv = client.kv_client();
        async move { kv.compact(mark.revision, None).await }
    };
    match pool.call("compact", Kind::Read, compact).await {
        Ok(_) => {
            pool.metrics.compactions.inc();
            info!(revision = mark.revision, "compacted etcd");
        }
        Err(error) if crate::etcd::compacted(&error) => {}
        Err(error) => warn!(%error, revision = mark.revision, "could not compact etcd"),
    }
    Ok(next)
}
