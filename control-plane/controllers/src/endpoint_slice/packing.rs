//! Packing endpoints into slices with as few writes as possible: an endpoint stays in its slice, new ones fill the gaps of
//! slices that change anyway, then of slices that fit them, then new slices. Pure functions.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::api::ObjectMeta;

use super::TRIGGER_TIME;
use super::endpoint::{Group, sort_ports};
use crate::meta;

/// What all slices of one Service and manager have in common.
#[derive(Debug, Default)]
pub(crate) struct Template {
    /// Labels, owner, the name to generate, and annotations (None instead of an empty map).
    pub(crate) metadata: ObjectMeta,
    /// Whether a slice has exactly these annotations; if not, all but the trigger time are left to others.
    pub(crate) owns_annotations: bool,
    /// Whether endpoints have exactly these hints; if not, others may give them some.
    pub(crate) owns_hints: bool,
}

/// One write.
#[derive(Debug)]
pub(crate) enum Change {
    Create(EndpointSlice),
    Update(EndpointSlice),
    Delete(Arc<EndpointSlice>),
}

/// A slice while it is being planned.
struct Draft {
    known: Option<Arc<EndpointSlice>>,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

/// The writes that make `existing` hold exactly the endpoints of `groups`.
pub(crate) fn plan(template: &Template, groups: &[Group], existing: &[Arc<EndpointSlice>], max: usize) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut unused: Vec<Arc<EndpointSlice>> = existing.to_vec();
    let mut creations: Vec<(&Group, Vec<Endpoint>)> = Vec::new();
    for group in groups {
        let (mine, rest): (Vec<_>, Vec<_>) = unused.into_iter().partition(|slice| is_of_group(slice, group));
        unused = rest;
        for draft in pack(template, &group.endpoints, mine, max) {
            match draft.known {
                Some(known) if draft.endpoints.is_empty() && !group.endpoints.is_empty() => unused.push(known),
                Some(known) if draft.changed => {
                    changes.push(Change::Update(update(template, &known, group, draft.endpoints)))
                }
                Some(_) => {}
                None => creations.push((group, draft.endpoints)),
            }
        }
        // Of several empty slices one is enough to say that there is nothing.
        if group.endpoints.is_empty() {
            keep_one_placeholder(template, group, &mut changes, &mut unused, &mut creations, existing);
        }
    }
    for (group, endpoints) in creations {
        // A slice that would be deleted can be rewritten instead; its address type is immutable.
        match unused.iter().position(|slice| slice.address_type == group.address_type) {
            Some(index) => {
                let known = unused.swap_remove(index);
                changes.push(Change::Update(update(template, &known, group, endpoints)));
            }
            None => changes.push(Change::Create(create(template, group, endpoints))),
        }
    }
    changes.extend(unused.into_iter().map(Change::Delete));
    changes
}

fn keep_one_placeholder<'a>(
    template: &Template,
    group: &'a Group,
    changes: &mut Vec<Change>,
    unused: &mut Vec<Arc<EndpointSlice>>,
    creations: &mut Vec<(&'a Group, Vec<Endpoint>)>,
    existing: &[Arc<EndpointSlice>],
) {
    let placeholders: Vec<_> = existing.iter().filter(|slice| is_of_group(slice, group)).cloned().collect();
    match placeholders.split_first() {
        None => creations.push((group, Vec::new())),
        Some((first, others)) => {
            changes.retain(|change| !matches!(change, Change::Update(s) if placeholders.iter().any(|p| p.metadata.uid == s.metadata.uid)));
            if !first.endpoints.is_empty() || is_meta_stale(template, first) {
                changes.push(Change::Update(update(template, first, group, Vec::new())));
            }
            unused.extend(others.iter().cloned());
        }
    }
}

fn is_of_group(slice: &EndpointSlice, group: &Group) -> bool {
    let mut ports = slice.ports.clone().unwrap_or_default();
    for port in &mut ports {
        port.name.get_or_insert_default();
        port.protocol.get_or_insert_with(|| "TCP".to_owned());
    }
    sort_ports(&mut ports);
    slice.address_type == group.address_type && ports == group.ports
}

/// What makes an endpoint the same endpoint though its conditions change.
fn identity(endpoint: &Endpoint) -> String {
    let mut addresses = endpoint.addresses.clone();
    addresses.sort_unstable();
    let target = endpoint.target_ref.as_ref().and_then(|target| target.name.as_deref()).unwrap_or_default();
    format!("{}|{}|{target}", addresses.join(","), endpoint.hostname.as_deref().unwrap_or_default())
}

fn pack(template: &Template, desired: &[Endpoint], slices: Vec<Arc<EndpointSlice>>, max: usize) -> Vec<Draft> {
    let mut wanted: HashMap<String, &Endpoint> = HashMap::with_capacity(desired.len());
    for endpoint in desired {
        wanted.insert(identity(endpoint), endpoint);
    }
    let mut drafts: Vec<Draft> = Vec::with_capacity(slices.len());
    for slice in slices {
        let mut changed = is_meta_stale(template, &slice);
        let mut endpoints = Vec::with_capacity(slice.endpoints.len());
        for endpoint in &slice.endpoints {
            match wanted.remove(&identity(endpoint)) {
                Some(now) => {
                    changed |= !same_endpoint(endpoint, now) || (template.owns_hints && endpoint.hints != now.hints);
                    endpoints.push(now.clone());
                }
                None => changed = true,
            }
        }
        drafts.push(Draft { known: Some(slice), endpoints, changed });
    }
    // In the order of `desired`, so that plans are stable.
    let mut new: Vec<Endpoint> =
        desired.iter().filter(|endpoint| wanted.remove(&identity(endpoint)).is_some()).cloned().collect();

    // Slices that are written anyway take what they can, the fullest first.
    let mut order: Vec<usize> =
        (0..drafts.len()).filter(|i| drafts[*i].changed && drafts[*i].endpoints.len() < max).collect();
    order.sort_by_key(|i| std::cmp::Reverse(drafts[*i].endpoints.len()));
    for index in order {
        let draft = &mut drafts[index];
        let take = (max - draft.endpoints.len()).min(new.len());
        draft.endpoints.extend(new.drain(..take));
    }
    while !new.is_empty() {
        let remaining = new.len();
        // The fullest untouched slice that takes all the rest: one write instead of a new slice.
        let fit = drafts
            .iter_mut()
            .filter(|draft| draft.known.is_some() && !draft.changed && draft.endpoints.len() + remaining <= max)
            .max_by_key(|draft| draft.endpoints.len());
        match fit {
            Some(draft) => {
                draft.changed = true;
                draft.endpoints.append(&mut new);
            }
            None => {
                let take = remaining.min(max);
                drafts.push(Draft { known: None, endpoints: new.drain(..take).collect(), changed: true });
            }
        }
    }
    drafts
}

/// Equality apart from hints, and from what the API server may fill in.
fn same_endpoint(known: &Endpoint, wanted: &Endpoint) -> bool {
    known.addresses == wanted.addresses
        && known.conditions == wanted.conditions
        && known.hostname == wanted.hostname
        && known.node_name == wanted.node_name
        && known.zone == wanted.zone
        && known.target_ref.as_ref().map(|t| (&t.name, &t.uid)) == wanted.target_ref.as_ref().map(|t| (&t.name, &t.uid))
}

fn is_meta_stale(template: &Template, slice: &EndpointSlice) -> bool {
    let (wanted, known) = (&template.metadata, &slice.metadata);
    known.labels != wanted.labels
        || (template.owns_annotations
            && known.annotations.as_ref().filter(|known| !known.is_empty()) != wanted.annotations.as_ref())
        || !wanted
            .owner_references
            .iter()
            .flatten()
            .all(|owner| known.owner_references.iter().flatten().any(|known| known.uid == owner.uid))
}

fn create(template: &Template, group: &Group, endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        metadata: template.metadata.clone(),
        address_type: group.address_type.to_owned(),
        ports: (!group.ports.is_empty()).then(|| group.ports.clone()),
        endpoints,
    }
}

fn update(template: &Template, known: &EndpointSlice, group: &Group, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let mut slice = create(template, group, endpoints);
    let mut metadata: ObjectMeta = known.metadata.clone();
    let wanted = &template.metadata;
    metadata.labels.clone_from(&wanted.labels);
    metadata.owner_references.clone_from(&wanted.owner_references);
    if template.owns_annotations {
        metadata.annotations.clone_from(&wanted.annotations);
    } else {
        let annotations = metadata.annotations.get_or_insert_default();
        match meta::annotation(wanted, TRIGGER_TIME) {
            Some(time) => annotations.insert(TRIGGER_TIME.to_owned(), time.to_owned()),
            None => annotations.remove(TRIGGER_TIME),
        };
    }
    slice.metadata = metadata;
    slice
}

#[cfg(test)]
#[path = "packing_tests.rs"]
mod tests;
