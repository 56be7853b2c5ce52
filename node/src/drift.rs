//! News of the kernel: links, addresses and routes of this node have changed.

use anyhow::Context as _;
use skep_network::Watch;
use tokio::sync::watch;

/// Tells of every change from now on. The thread that listens ends at the first change that nobody waits for any more, or
/// when the kernel says no more: then nothing is told either, and whoever waits must look by itself from time to time.
pub(crate) fn watch() -> anyhow::Result<watch::Receiver<()>> {
    let news = Watch::open()?;
    let (tell, told) = watch::channel(());
    let listen = move || {
        while tell.send(()).is_ok() {
            if let Err(error) = news.wait() {
                tracing::warn!(%error, "links and routes are looked at once a minute only");
                break;
            }
        }
    };
    std::thread::Builder::new().name("links".into()).spawn(listen).context("starting a thread")?;
    Ok(told)
}

/// Waits for the next change; for ever once nobody tells.
pub(crate) async fn changed<T>(told: &mut watch::Receiver<T>) {
    if told.changed().await.is_err() {
        std::future::pending().await
    }
}
