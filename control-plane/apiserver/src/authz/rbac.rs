//! RBAC: roles, and who they are bound to.
//!
//! The index is made of what the watch cache holds and brought up to date by the first request that finds it behind, so a
//! request sees RBAC objects as fresh as every other object. What has not changed is not parsed again.

mod index;

use std::sync::atomic::{AtomicI64, Ordering};

use k8s_openapi::api::rbac::v1::PolicyRule;
use parking_lot::{Mutex, RwLock};
use skep_storage::{Resource, Storage};

use super::{Attributes, rule};
use crate::user::UserInfo;
use index::{Grant, Index, Kind, Who};

pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";

/// One resource of RBAC and the revision up to which the index has followed it.
struct Source {
    kind: Kind,
    cache: Resource,
    followed: AtomicI64,
}

/// The RBAC authorizer.
pub(crate) struct Rbac {
    sources: Vec<Source>,
    index: RwLock<Index>,
    /// Held by the request that brings the index up to date.
    updating: Mutex<()>,
}

impl Rbac {
    pub(crate) fn new(storage: &Storage) -> Self {
        let source = |(kind, prefix): (Kind, &str)| {
            let cache = storage.resource(prefix)?;
            Some(Source { kind, cache, followed: AtomicI64::new(-1) })
        };
        Self {
            sources: index::PREFIXES.into_iter().filter_map(source).collect(),
            index: RwLock::default(),
            updating: Mutex::default(),
        }
    }

    /// Whether a role allows it; else what is wrong with the user's bindings.
    pub(crate) fn authorize(&self, wanted: &Attributes<'_>) -> Result<(), String> {
        self.follow();
        let index = self.index.read();
        if find(&index, wanted).is_some() {
            return Ok(());
        }
        let mut lost = Vec::new();
        index.each_grant(wanted.user, wanted.namespace, &mut |grant, _| {
            if index.rules(grant).is_none() {
                lost.push(grant.not_found());
            }
            false
        });
        lost.sort();
        lost.dedup();
        Err(match lost.as_slice() {
            [] => String::new(),
            [one] => format!("RBAC: {one}"),
            many => format!("RBAC: [{}]", many.join(", ")),
        })
    }

    /// The binding that allows it, in upstream's words.
    pub(crate) fn allowed_by(&self, wanted: &Attributes<'_>) -> Option<String> {
        self.follow();
        let index = self.index.read();
        find(&index, wanted).map(|(grant, subject)| grant.describe(subject))
    }

    /// Every rule bound to `user` in the whole cluster and in `namespace`, if that is not empty.
    pub(crate) fn rules(&self, user: &UserInfo, namespace: &str) -> Vec<PolicyRule> {
        self.follow();
        let index = self.index.read();
        let mut rules = Vec::new();
        index.each_grant(user, namespace, &mut |grant, _| {
            rules.extend(index.rules(grant).into_iter().flatten().cloned());
            false
        });
        rules
    }

    /// The rules of a role, none if there is no such role. `namespace` is empty for a cluster role.
    pub(crate) fn role(&self, namespace: &str, name: &str) -> Option<Vec<PolicyRule>> {
        self.follow();
        self.index.read().role(namespace, name).map(<[_]>::to_vec)
    }

    /// Brings the index to what the caches hold.
    fn follow(&self) {
        let behind = |source: &Source| source.followed.load(Ordering::Acquire) != source.cache.changed();
        if !self.sources.iter().any(behind) {
            return;
        }
        let _one_at_a_time = self.updating.lock();
        for source in &self.sources {
            let changed = source.cache.changed();
            if source.followed.load(Ordering::Acquire) == changed {
                continue;
            }
            // The snapshot may be newer; then the next request looks once more.
            let snapshot = source.cache.snapshot();
            let update = self.index.read().compare(source.kind, &snapshot);
            self.index.write().apply(source.kind, update);
            source.followed.store(changed, Ordering::Release);
        }
    }
}

/// The first grant that allows it.
fn find<'a>(index: &'a Index, wanted: &Attributes<'a>) -> Option<(&'a Grant, Who<'a>)> {
    let mut found = None;
    index.each_grant(wanted.user, wanted.namespace, &mut |grant, subject| {
        let allows = index.rules(grant).is_some_and(|rules| rules.iter().any(|own| rule::allows(own, wanted)));
        if allows {
            found = Some((grant, subject));
        }
        allows
    });
    found
}
