//! What kernel programs log, handed on to `tracing`.

use std::io;

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Level, Log, Metadata, Record};

use crate::{Result, sys};

/// Takes records from aya-log and makes `tracing` events of them.
pub(crate) struct ToTracing;

impl Log for ToTracing {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let text = record.args();
        match record.level() {
            Level::Error => tracing::error!(target: "skep_ebpf", "{text}"),
            Level::Warn => tracing::warn!(target: "skep_ebpf", "{text}"),
            Level::Info => tracing::info!(target: "skep_ebpf", "{text}"),
            Level::Debug => tracing::debug!(target: "skep_ebpf", "{text}"),
            Level::Trace => tracing::trace!(target: "skep_ebpf", "{text}"),
        }
    }

    fn flush(&self) {}
}

/// Reader of the log ring. The ring is pinned and shared with the programs that run, whoever loaded them.
pub(crate) struct KernelLog(EbpfLogger<ToTracing>);

impl KernelLog {
    /// Takes the ring out of the loaded object.
    pub(crate) fn open(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self(EbpfLogger::init_with_logger(ebpf, ToTracing)?))
    }

    /// Hands records on for ever, or until the ring cannot be waited for.
    pub(crate) async fn forward(self) -> io::Result<()> {
        let mut ring = sys::readable(self.0)?;
        ring.get_mut().flush();
        loop {
            let mut ready = ring.readable_mut().await?;
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }
}
