//! Backends on this node, as other nodes name them in packets whose answers shall go past those nodes: by service port, address
//! and port. What programs find here they look up in `BACKENDS`, so an entry too many does no harm; one that lacks makes
//! clients of other nodes wait, and costs nobody else.

use std::collections::HashMap;

use skep_ebpf_common::{dsr::LocalKey, port};

use super::{Live, Placed};
use crate::{Result, maps::Table, service::to_map};

fn key(service: u32, placed: &Placed) -> LocalKey {
    let at = placed.backend.address;
    LocalKey { address: to_map(at.ip()), service, port: port(at.port()), pad: 0 }
}

/// Entries of those backends that are on this node.
pub(super) fn entries(service: u32, backends: &[Placed]) -> impl Iterator<Item = (LocalKey, u32)> {
    backends.iter().filter(|placed| placed.backend.local).map(move |placed| (key(service, placed), placed.id))
}

/// Notes backends. Returns how many.
pub(super) fn note(table: &mut Table<LocalKey, u32>, service: u32, backends: &[Placed]) -> u64 {
    put(table, entries(service, backends))
}

/// Writes entries. A full map is logged and no reason to serve nobody.
fn put(table: &mut Table<LocalKey, u32>, entries: impl Iterator<Item = (LocalKey, u32)>) -> u64 {
    let mut written = 0;
    for (key, id) in entries {
        if let Err(error) = table.insert(&key, &id) {
            tracing::warn!(%error, "clients of other nodes cannot be answered directly by a backend of this one");
            break;
        }
        written += 1;
    }
    written
}

/// Forgets backends, unless another one took the place. What was not there is no error.
pub(super) fn forget(table: &mut Table<LocalKey, u32>, service: u32, backends: &[Placed]) -> Result<u64> {
    let mut removed = 0;
    for (key, id) in entries(service, backends) {
        if table.get(&key)? == Some(id) {
            table.remove(&key)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Makes the map hold the backends of those services. Returns the numbers of entries written and removed.
pub(super) fn recover<'a>(
    table: &mut Table<LocalKey, u32>,
    services: impl Iterator<Item = &'a Live>,
) -> Result<(u64, u64)> {
    let found: HashMap<LocalKey, u32> = table.entries()?.into_iter().collect();
    let mut wanted = HashMap::new();
    for live in services {
        wanted.extend(entries(live.id, &live.backends));
    }
    let lost: Vec<&LocalKey> = found.keys().filter(|key| !wanted.contains_key(key)).collect();
    for key in &lost {
        table.remove(key)?;
    }
    let new = wanted.into_iter().filter(|(key, id)| found.get(key) != Some(id));
    Ok((put(table, new), lost.len() as u64))
}
