//! Managed fields seen through the `scale` subresource: who owns the number of replicas of the object owns that of the
//! scale, and the other way round.

use crate::{
    element::Element,
    managers::Managed,
    set::{Path, Set},
};

/// The version scales are spoken of in.
const SCALE_VERSION: &str = "autoscaling/v1";

fn spec_replicas() -> Vec<Element> {
    vec![Element::field("spec"), Element::field("replicas")]
}

/// What is owned of the scale, of what is owned of the object. `replicas` is where the object keeps the number.
pub fn of_parent(parent: &Managed, replicas: &Path) -> Managed {
    let mut scale = parent.clone();
    scale.entries.retain_mut(|entry| {
        let owns = entry.set().has(&replicas.0);
        entry.manager.api_version = SCALE_VERSION.to_owned();
        let mut set = Set::default();
        set.insert(&spec_replicas());
        *entry.set() = set;
        owns
    });
    scale
}

/// What is owned of the object once the scale was written: `scale` is what is owned of it then. `api_version` is the
/// object's.
pub fn to_parent(mut parent: Managed, mut scale: Managed, replicas: &Path, api_version: &str) -> Managed {
    let mut owned = Set::default();
    owned.insert(&replicas.0);
    parent.entries.retain_mut(|entry| {
        if !entry.set().has(&replicas.0) {
            return true;
        }
        let same = |other: &crate::managers::Entry| {
            let (a, b) = (&other.manager, &entry.manager);
            (&a.name, a.operation, &a.subresource) == (&b.name, b.operation, &b.subresource)
        };
        match scale.entries.iter().position(same) {
            Some(at) => {
                // It still owns it; whether its time is another is for the caller to see.
                let kept = scale.entries.remove(at);
                if kept.time.is_some() {
                    entry.time = kept.time;
                }
            }
            None => {
                let set = entry.set();
                *set = std::mem::take(set).difference(&owned);
            }
        }
        !entry.set_is_empty()
    });
    for mut entry in scale.entries {
        if entry.set().has(&spec_replicas()) {
            entry.manager.api_version = api_version.to_owned();
            *entry.set() = owned.clone();
            parent.entries.push(entry);
        }
    }
    parent
}
