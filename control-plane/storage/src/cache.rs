//! The watch cache: the table of resources, and whether it follows etcd.

mod feed;
mod list;

use crate::config::Tuning;
use crate::metrics::Metrics;
use crate::progress::Progress;
use crate::resource::Shared;
use crate::schema::ResourceSchema;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;

pub(crate) use feed::{Command, Feed, etcd_revision};
pub(crate) use list::get;

/// All keys of Kubernetes objects begin with this.
pub(crate) const ROOT: &str = "/registry/";
/// The first key after them.
pub(crate) const ROOT_END: &str = "/registry0";

type Table = HashMap<Box<str>, Arc<Shared>>;

/// What the feed writes and everybody reads.
pub(crate) struct Cache {
    table: RwLock<Arc<Table>>,
    pub(crate) progress: Arc<Progress>,
    link: RwLock<Link>,
    pub(crate) tuning: Tuning,
    pub(crate) metrics: Metrics,
}

/// The watch on etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Up,
    /// With the reason.
    Down(String),
    Closed,
}

impl Cache {
    pub(crate) fn new(tuning: Tuning, metrics: Metrics) -> Self {
        Self {
            table: RwLock::default(),
            progress: Arc::new(Progress::new()),
            link: RwLock::new(Link::Down("the cache is being loaded".into())),
            tuning,
            metrics,
        }
    }

    pub(crate) fn link(&self) -> Link {
        self.link.read().clone()
    }

    fn set_link(&self, link: Link) {
        self.metrics.ready.set(i64::from(link == Link::Up));
        *self.link.write() = link;
    }

    /// The resource of a prefix.
    pub(crate) fn get(&self, prefix: &str) -> Option<Arc<Shared>> {
        self.table.read().get(prefix).cloned()
    }

    /// The table as it is.
    fn table(&self) -> Arc<Table> {
        self.table.read().clone()
    }

    /// Enters a resource that is yet to be loaded.
    pub(crate) fn enter(&self, schema: &ResourceSchema) -> Arc<Shared> {
        let shared = Arc::new(Shared::new(schema, &self.tuning, self.progress.clone(), &self.metrics));
        Arc::make_mut(&mut self.table.write()).insert(shared.prefix().into(), shared.clone());
        shared
    }

    /// Forgets a resource.
    pub(crate) fn remove(&self, prefix: &str) {
        let removed = Arc::make_mut(&mut self.table.write()).remove(prefix);
        if let Some(shared) = removed {
            shared.end(false);
        }
    }

    /// Drops history that is no longer fresh, of every resource.
    pub(crate) fn trim(&self) {
        let now = std::time::Instant::now();
        for shared in self.table().values() {
            shared.trim(now);
        }
    }

    /// Ends all watchers.
    fn close(&self) {
        self.set_link(Link::Closed);
        for shared in self.table().values() {
            shared.end(true);
        }
    }
}

/// The resource a key belongs to: the one with the longest prefix.
fn resource_of<'t>(table: &'t Table, key: &str) -> Option<&'t Arc<Shared>> {
    let mut slashes = key.rmatch_indices('/').map(|(at, _)| &key[..=at]);
    slashes.find_map(|prefix| table.get(prefix))
}

/// Is this a prefix the watch covers, and one that cannot be mistaken for a key?
pub(crate) fn valid_prefix(prefix: &str) -> bool {
    prefix.len() > ROOT.len() && prefix.starts_with(ROOT) && prefix.ends_with('/') && !prefix.contains("//")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_belongs_to_the_resource_with_the_longest_prefix() {
        let cache = Cache::new(Tuning::default(), Metrics::default());
        for prefix in
            ["/registry/services/specs/", "/registry/pods/", "/registry/acme.dev/pods/", "/registry/acme.dev/"]
        {
            cache.enter(&ResourceSchema::new(prefix));
        }
        let table = cache.table();
        let of = |key| resource_of(&table, key).map(|shared| shared.prefix().to_owned());
        assert_eq!(of("/registry/services/specs/ns/a").as_deref(), Some("/registry/services/specs/"));
        assert_eq!(of("/registry/pods/ns/a").as_deref(), Some("/registry/pods/"));
        assert_eq!(of("/registry/acme.dev/pods/ns/a").as_deref(), Some("/registry/acme.dev/pods/"));
        assert_eq!(of("/registry/acme.dev/x").as_deref(), Some("/registry/acme.dev/"));
        assert_eq!(of("/registry/services/endpoints/ns/a"), None);
        assert_eq!(of("/registry/marker"), None);
    }
}
