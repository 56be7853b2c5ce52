//! Takes away what an applier no longer applies.

use std::{borrow::Cow, collections::BTreeMap};

use serde_json::Value;

use crate::{apply::Apply, error::Error, field_set::field_set, remove::remove, set::Set};

/// Takes away what the applier owned before (`last`, in the version it applied then) and nobody owns now. `owned` is what
/// anyone owns now, by version.
pub(crate) fn prune(
    request: &Apply<'_>,
    merged: Value,
    (version, last): (&str, &Set),
    mut owned: BTreeMap<String, Set>,
) -> Result<Value, Error> {
    let Some(start) = request.convert(&merged, version)? else { return Ok(merged) };
    let of = request.type_in(version);
    let last = last.with_named_fields(of);
    // Back comes what anyone owns, and what stands below it: first in the version of what is gone, since conversions to
    // others may need it.
    let first = owned.remove_entry(version);
    let (mut whole, mut pruned) = (Cow::Borrowed(&*start), remove(of, &start, &last));
    for (version, set) in first.into_iter().chain(owned) {
        let (Some(all), Some(left)) = (request.convert(&whole, &version)?, request.convert(&pruned, &version)?) else {
            continue;
        };
        let of = request.type_in(&version);
        let named = |set: &Set| set.with_named_fields(of);
        let kept = named(&field_set(of, &left)).union(&named(&set));
        let next = remove(of, &all, &named(&field_set(of, &all)).difference(&kept));
        whole = Cow::Owned(all.into_owned());
        pruned = next;
    }
    // Back comes what the applier never owned.
    let Some(left) = request.convert(&pruned, version)? else { return Ok(merged) };
    let named = |value: &Value| field_set(of, value).with_named_fields(of);
    let result = remove(of, &start, &named(&start).difference(&named(&left)).intersection(&last));
    Ok(request.convert(&result, request.api_version)?.map(Cow::into_owned).unwrap_or(merged))
}
