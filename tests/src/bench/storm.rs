//! What the API server holds of memory: idle, with pods, and after a storm of writes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use http::Method;
use serde_json::json;

use super::client::{Protocol, load};
use super::row::{Goal, Row};
use super::server::{CONCURRENCY, Server, make_pods, pod_path};
use super::usage::rss_mb;

const PODS: usize = 15_000;
/// History is kept for 75 s, and its memory is given back soon after.
const CALM: Duration = Duration::from_secs(100);

/// Measures this group.
pub fn measure() -> Result<Vec<Row>> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let server = Server::start().await?;
        let client = Arc::new(server.client(Protocol::Http2, 4).await?);
        tokio::time::sleep(Duration::from_secs(3)).await;
        let idle = rss_mb(server.pid()?)?;
        make_pods(&client, "p", PODS).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let each = (rss_mb(server.pid()?)? - idle) * 1e6 / PODS as f64 / 1024.0;
        for delete in [false, true] {
            let client = Arc::clone(&client);
            load(CONCURRENCY, PODS, move |number| {
                let client = Arc::clone(&client);
                async move {
                    if delete {
                        let at_once = Bytes::from_static(br#"{"gracePeriodSeconds":0}"#);
                        client.expect(Method::DELETE, &pod_path(&format!("p{number}")), at_once).await.map(drop)
                    } else {
                        let patch = Bytes::from(json!({ "status": { "message": "x" } }).to_string());
                        let path = pod_path(&format!("p{number}/status"));
                        client.patch(&path, "application/merge-patch+json", patch).await.map(drop)
                    }
                }
            })
            .await?;
        }
        let storm = rss_mb(server.pid()?)?;
        let (ended, mut calm) = (Instant::now(), storm);
        while ended.elapsed() < CALM && calm > idle * 1.25 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            calm = rss_mb(server.pid()?)?;
        }
        Ok(vec![
            Row {
                name: "memory of the API server alone, idle".to_owned(),
                measured: format!("{idle:.1} MB"),
                limit: String::new(),
                score: idle,
                goal: Goal::Under(40.0, " MB"),
            },
            Row {
                name: "memory for each stored 4 KiB pod".to_owned(),
                measured: format!("{each:.1} KiB"),
                limit: String::new(),
                score: each,
                goal: Goal::Under(6.0, " KiB"),
            },
            Row {
                name: format!("memory {} s after a storm of {} writes", ended.elapsed().as_secs(), 3 * PODS),
                measured: format!("{calm:.1} MB, {storm:.1} MB at its end"),
                limit: format!("{idle:.1} MB idle before"),
                score: calm / idle,
                goal: Goal::Under(1.5, " of idle"),
            },
        ])
    })
}
