//! Lists at revisions the cache has forgotten: read from etcd, which remembers until it is compacted.

use crate::cache::get;
use crate::error::{Error, Result};
use crate::etcd::Pool;
use crate::object::Object;
use crate::resource::{Map, Resource, Snapshot};
use etcd_client::GetOptions;
use std::sync::Arc;

/// Keys read at once: a page of the usual size, and one more.
const CHUNK: i64 = 501;

/// What to read of a resource's past.
#[derive(Clone, Copy, Debug)]
pub struct Past<'a> {
    /// The revision.
    pub revision: i64,
    /// What the keys start with.
    pub scope: &'a str,
    /// The first key; one before the scope means its beginning.
    pub start: &'a str,
    /// How many objects that match are needed; all if there are not that many.
    pub needed: usize,
}

/// Reads until enough objects match. What does not match is left out.
pub(crate) async fn page(
    pool: &Pool,
    resource: &Resource,
    past: Past<'_>,
    matches: impl Fn(&Object) -> bool,
) -> Result<Snapshot> {
    let (prefix, reader) = (resource.0.prefix(), resource.0.reader());
    let mut start = past.start.max(past.scope).as_bytes().to_vec();
    let end = end_of(past.scope);
    let mut map = Map::new();
    loop {
        let options = GetOptions::new().with_range(end.clone()).with_limit(CHUNK).with_revision(past.revision);
        let page = get(pool, start, options).await.map_err(|error| match error {
            Error::Compacted { .. } => Error::Compacted { requested: past.revision },
            other => other,
        })?;
        let mut read = 0;
        for kv in page.kvs() {
            read += 1;
            // What cannot be read was warned of when the cache left it out.
            let Ok(key) = std::str::from_utf8(kv.key()) else { continue };
            let revisions = (kv.mod_revision(), kv.create_revision());
            let Ok(object) = reader.read(key, prefix, kv.value(), revisions) else { continue };
            if matches(&object) {
                map.insert(object.key().clone(), Arc::new(object));
            }
            if map.len() >= past.needed {
                break;
            }
        }
        let beyond = usize::try_from(page.count()).unwrap_or(0).saturating_sub(read);
        match page.kvs().last() {
            Some(last) if page.more() && map.len() < past.needed => {
                start = last.key().to_vec();
                start.push(0);
            }
            _ => return Ok(Snapshot::part(past.revision, map, beyond)),
        }
    }
}

/// The first key behind all that start with `scope`.
fn end_of(scope: &str) -> Vec<u8> {
    let mut end = scope.as_bytes().to_vec();
    // A prefix ends with a slash, and no byte of UTF-8 is 0xff.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}
