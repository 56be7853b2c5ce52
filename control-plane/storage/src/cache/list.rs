//! Loading from etcd: paged, at one revision.

use super::{Cache, ROOT, ROOT_END, resource_of};
use crate::error::{Error, Result};
use crate::etcd::{Kind, Pool, compacted};
use crate::object::Object;
use crate::resource::{Map, Reader, Shared};
use crate::schema::ResourceSchema;
use etcd_client::{Client, GetOptions, GetResponse};
use std::collections::HashMap;
use std::sync::Arc;
use tracing::{debug, warn};

/// How many values that cannot be read are warned of.
const LOGGED: u64 = 100;

/// Loads every resource and publishes the revision; returns it. What has not changed keeps its object.
pub(super) async fn load_all(pool: &Pool, cache: &Cache) -> Result<i64> {
    let mut attempts = 0;
    loop {
        match try_load_all(pool, cache).await {
            // A list slower than the compaction interval: once more, from a newer revision.
            Err(error) if compacted(&error) && attempts < 3 => attempts += 1,
            result => return result,
        }
    }
}

async fn try_load_all(pool: &Pool, cache: &Cache) -> Result<i64> {
    struct Loading {
        shared: Arc<Shared>,
        reader: Reader,
        old: Map,
        new: Map,
    }
    let table = cache.table();
    let mut loading: HashMap<&str, Loading> = HashMap::new();
    for (prefix, shared) in table.iter() {
        let entry = Loading { shared: shared.clone(), reader: shared.reader(), old: shared.map(), new: Map::new() };
        loading.insert(prefix, entry);
    }
    let revision = pages(pool, cache, ROOT, ROOT_END, 0, |key, value, revisions| {
        let Some(shared) = resource_of(&table, key) else { return };
        let Some(target) = loading.get_mut(shared.prefix()) else { return };
        let kept = target.old.get(key).filter(|old| old.mod_revision() == revisions.0).cloned();
        let object = kept.or_else(|| decode(cache, shared, key, value, revisions, &target.reader));
        if let Some(object) = object {
            target.new.insert(object.key().clone(), object);
        }
    })
    .await?;
    for target in loading.into_values() {
        target.shared.load(target.new, target.reader, revision);
    }
    cache.progress.reach(revision);
    cache.metrics.cache_revision.set(revision);
    cache.metrics.relists.inc();
    Ok(revision)
}

/// Loads one resource at the revision the cache stands at.
pub(super) async fn load_one(pool: &Pool, cache: &Cache, schema: &ResourceSchema, at: i64) -> Result<Arc<Shared>> {
    let shared = cache.get(&schema.prefix);
    // Entered only after it was read, so that nobody sees it half loaded.
    let target = match &shared {
        Some(shared) => shared.clone(),
        None => Arc::new(Shared::new(schema, &cache.tuning, cache.progress.clone(), &cache.metrics)),
    };
    let reader = Reader::new(schema);
    let mut map = Map::new();
    let mut end = schema.prefix.clone().into_bytes();
    // A prefix ends with a slash, and '0' is the byte after it.
    end.pop();
    end.push(b'0');
    pages(pool, cache, &schema.prefix, end, at, |key, value, revisions| {
        if let Some(object) = decode(cache, &target, key, value, revisions, &reader) {
            map.insert(object.key().clone(), object);
        }
    })
    .await?;
    target.load(map, reader, at);
    Arc::make_mut(&mut cache.table.write()).insert(target.prefix().into(), target.clone());
    Ok(target)
}

/// Goes through a range page by page, all of them at one revision (0: the present one), which is returned.
async fn pages(
    pool: &Pool,
    cache: &Cache,
    from: &str,
    end: impl Into<Vec<u8>>,
    mut revision: i64,
    mut each: impl FnMut(&str, &[u8], (i64, i64)),
) -> Result<i64> {
    let mut start = from.as_bytes().to_vec();
    let end = end.into();
    loop {
        let options =
            GetOptions::new().with_range(end.clone()).with_limit(cache.tuning.page_size.max(1)).with_revision(revision);
        let page = get(pool, start.clone(), options).await.map_err(|error| match error {
            Error::Compacted { .. } => Error::Compacted { requested: revision },
            other => other,
        })?;
        if revision == 0 {
            revision = page.header().map_or(0, |header| header.revision());
        }
        for kv in page.kvs() {
            match std::str::from_utf8(kv.key()) {
                Ok(key) => each(key, kv.value(), (kv.mod_revision(), kv.create_revision())),
                Err(_) => warn!(key = %String::from_utf8_lossy(kv.key()), "skipped an etcd key that is not UTF-8"),
            }
        }
        match page.kvs().last() {
            Some(last) if page.more() => {
                start = last.key().to_vec();
                start.push(0);
            }
            _ => return Ok(revision),
        }
    }
}

pub(crate) async fn get(pool: &Pool, key: Vec<u8>, options: GetOptions) -> Result<GetResponse> {
    pool.call("list", Kind::Read, |client: &Client| {
        let (key, options) = (key.clone(), options.clone());
        let mut kv = client.kv_client().max_decoding_message_size(usize::MAX);
        async move { kv.get(key, Some(options)).await }
    })
    .await
}

/// A stored value as an object. One that cannot be read is counted and left out.
pub(super) fn decode(
    cache: &Cache,
    shared: &Shared,
    key: &str,
    value: &[u8],
    revisions: (i64, i64),
    reader: &Reader,
) -> Option<Arc<Object>> {
    match reader.read(key, shared.prefix(), value, revisions) {
        Ok(object) => Some(Arc::new(object)),
        Err(error) => {
            let before = cache.metrics.undecodable.inc();
            // A registry full of them would drown the log; the metric goes on counting.
            if before < LOGGED {
                warn!(key, revision = revisions.0, %error, "skipped a stored value");
            } else {
                debug!(key, revision = revisions.0, %error, "skipped a stored value");
            }
            None
        }
    }
}
