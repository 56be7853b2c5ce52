//! Keeping the counts of open connections true (`--backend-choice least-connections`).
//!
//! The kernel's programs count what begins and what ends (`ebpf/src/load.rs`). What ends without their hearing of it (a flow
//! that falls silent or is pushed out of its map, what was counted while a map was made larger) is found here: every minute
//! the counts are compared with the sockets and flows that are there.
//!
//! A socket of a network namespace that no process is in cannot be seen; it counts no more after two looks. Nor can those
//! of MPTCP.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};

use skep_ebpf_common::{
    BackendValue,
    conntrack::{self, Flow, Reply, Tuple},
    load::{LoadKey, open},
};

use crate::{
    Metrics, Result,
    maps::{CONNECTED, FLOWS, LOADS, REPLIES, Table, reader::trace::since_boot},
    sockets,
};

/// Open connections by backend.
type Counts = HashMap<LoadKey, u64>;

/// The counts and what they are of.
#[derive(Debug)]
pub(crate) struct Loads {
    maps: PathBuf,
    /// Sockets that were not to be seen at the last look. One that is just connecting is not to be seen, either.
    suspects: HashSet<u64>,
}

impl Loads {
    /// In that folder of pinned maps.
    pub(crate) fn new(maps: PathBuf) -> Self {
        Self { maps, suspects: HashSet::new() }
    }

    /// Puts the counts right. Returns how many were wrong or of nobody; none where connections are not counted.
    ///
    /// # Errors
    /// When a map or the kernel's lists of sockets cannot be read.
    pub(crate) fn check(&mut self) -> Result<usize> {
        if !self.maps.join(LOADS).exists() {
            return Ok(0);
        }
        let gone = self.forget_gone()?;
        let mut loads: Table<LoadKey, u64> = Table::open(&self.maps, LOADS)?;
        let before: Counts = loads.entries()?.into_iter().collect();
        let wanted = self.count()?;
        let backends: Table<u32, BackendValue> = Table::open(&self.maps, "BACKENDS")?;
        let at = |(_, value): (u32, BackendValue)| LoadKey::new(value.address, value.port);
        let backends: HashSet<LoadKey> = backends.entries()?.into_iter().map(at).collect();
        let mut mended = gone;
        for (key, change) in changes(&before, &loads.entries()?.into_iter().collect(), &wanted, &backends) {
            match change {
                Some(count) => {
                    loads.insert(&key, &count)?;
                    mended += 1;
                }
                None => loads.remove(&key)?,
            }
        }
        Ok(mended)
    }

    /// Forgets sockets that were not there twice in a row. Returns how many.
    fn forget_gone(&mut self) -> Result<usize> {
        let mut connected: Table<u64, LoadKey> = Table::open(&self.maps, CONNECTED)?;
        let noted: Vec<u64> = connected.entries()?.into_iter().map(|(socket, _)| socket).collect();
        if noted.is_empty() {
            self.suspects.clear();
            return Ok(0);
        }
        let there = sockets::cookies()?;
        let (gone, suspects): (Vec<u64>, Vec<u64>) = noted
            .into_iter()
            .filter(|socket| !there.contains(socket))
            .partition(|socket| self.suspects.contains(socket));
        self.suspects = suspects.into_iter().collect();
        gone.iter().try_for_each(|socket| connected.remove(socket))?;
        Ok(gone.len())
    }

    /// What there is to count.
    fn count(&self) -> Result<Counts> {
        let connected: Table<u64, LoadKey> = Table::open(&self.maps, CONNECTED)?;
        let mut counts = Counts::new();
        connected.entries()?.into_iter().for_each(|(_, backend)| *counts.entry(backend).or_default() += 1);
        if !self.maps.join(FLOWS).exists() {
            return Ok(counts);
        }
        let flows: Table<Tuple, Flow> = Table::open(&self.maps, FLOWS)?;
        let replies: Table<Tuple, Reply> = Table::open(&self.maps, REPLIES)?;
        let replies: HashMap<Tuple, Reply> = replies.entries()?.into_iter().collect();
        let now = u64::try_from(since_boot()?.as_nanos()).unwrap_or(u64::MAX);
        for (key, flow) in flows.entries()? {
            let reply = replies.get(&flow.reply_key(&key));
            let used = flow.used.max(reply.map_or(0, |reply| reply.used));
            let lives = now.saturating_sub(used) <= conntrack::timeout(key.protocol, flow.state);
            if lives && flow.is_open() {
                *counts.entry(LoadKey::new(flow.to, flow.to_port)).or_default() += 1;
            }
        }
        Ok(counts)
    }
}

/// What is to be written (`None`: removed) where the counts did not change while everything was read: those that did are in
/// use, and are compared the next time.
fn changes(before: &Counts, now: &Counts, wanted: &Counts, backends: &HashSet<LoadKey>) -> Vec<(LoadKey, Option<u64>)> {
    let mut changes = Vec::new();
    let keys: HashSet<&LoadKey> = now.keys().chain(wanted.keys()).collect();
    for key in keys.into_iter().filter(|key| before.get(key) == now.get(key)) {
        let (has, wanted) = (now.get(key), wanted.get(key).copied().unwrap_or(0));
        if wanted == 0 && !backends.contains(key) {
            changes.extend(has.map(|_| (*key, None)));
        } else if has.copied().unwrap_or(0) != wanted {
            changes.push((*key, Some(wanted)));
        }
    }
    changes
}

/// How many connections a backend has, if they are counted.
///
/// # Errors
/// When the map cannot be read.
pub(crate) fn of(maps: &Path, backend: &BackendValue) -> Result<Option<u64>> {
    if !maps.join(LOADS).exists() {
        return Ok(None);
    }
    let loads: Table<LoadKey, u64> = Table::open(maps, LOADS)?;
    Ok(Some(open(loads.get(&LoadKey::new(backend.address, backend.port))?.unwrap_or(0))))
}

/// A thread that checks when it is told to: it visits network namespaces. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Auditor(mpsc::SyncSender<()>);

impl Auditor {
    /// Starts it; `maps` is the folder of the pinned maps.
    pub(crate) fn start(maps: PathBuf, metrics: Metrics) -> io::Result<Self> {
        let (sender, orders) = mpsc::sync_channel::<()>(1);
        let mut loads = Loads::new(maps);
        let work = move || {
            while orders.recv().is_ok() {
                match loads.check() {
                    Ok(mended) => drop(metrics.loads_mended.inc_by(mended as u64)),
                    Err(error) => tracing::error!(%error, "the counts of open connections cannot be checked"),
                }
            }
        };
        thread::Builder::new().name("auditor".into()).spawn(work)?;
        Ok(Self(sender))
    }

    /// Has the counts checked, soon. One that is waiting already is enough.
    pub(crate) fn check(&self) {
        let _ = self.0.try_send(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_counts_at_rest_are_changed_and_zeros_stay_with_backends_alone() {
        let key = |n: u32| LoadKey::new([0, 0, 0, n], 80);
        let counts = |all: &[(u32, u64)]| -> Counts { all.iter().map(|(n, count)| (key(*n), *count)).collect() };
        let before = counts(&[(1, 5), (2, 5), (3, 5), (4, 0), (5, 0), (6, u64::MAX), (8, 2)]);
        let now = counts(&[(1, 5), (2, 6), (3, 5), (4, 0), (5, 0), (6, u64::MAX), (8, 2)]);
        let wanted = counts(&[(1, 4), (2, 4), (3, 5), (7, 1), (8, 1)]);
        let backends = [1, 2, 3, 4, 6, 7].map(key).into();
        let mut found = changes(&before, &now, &wanted, &backends);
        found.sort();
        let expected = [(1, Some(4)), (5, None), (6, Some(0)), (7, Some(1)), (8, Some(1))];
        assert_eq!(found, expected.map(|(n, count)| (key(n), count)));
    }
}
