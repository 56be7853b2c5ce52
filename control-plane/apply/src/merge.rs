//! Merges an applied configuration into an object.

use serde_json::{Map, Value};

use crate::{
    element::Element,
    schema::{Form, Items, Type},
};

/// `live` with all that `applied` says. Where both say something, `applied` is right.
pub(crate) fn merge(of: Type<'_>, live: &Value, applied: &Value) -> Value {
    match (of.form(applied), live, applied) {
        (Form::Map, Value::Object(live), Value::Object(applied)) if !live.is_empty() => {
            let mut merged = Map::new();
            for (name, value) in live {
                let value = match applied.get(name) {
                    Some(applied) => merge(of.field(name), value, applied),
                    None => value.clone(),
                };
                merged.insert(name.clone(), value);
            }
            for (name, value) in applied {
                if !live.contains_key(name) {
                    merged.insert(name.clone(), value.clone());
                }
            }
            Value::Object(merged)
        }
        (Form::List(items), Value::Array(live), Value::Array(applied)) if !live.is_empty() => {
            Value::Array(lists(of, items, live, applied))
        }
        // Null says that a value goes; it says nothing of what an object or list has beside what was applied.
        (_, Value::Object(_), Value::Null) if matches!(of.form(live), Form::Map) => live.clone(),
        (_, Value::Array(_), Value::Null) if matches!(of.form(live), Form::List(_)) => live.clone(),
        (_, _, applied) => applied.clone(),
    }
}

/// Items of both lists. What both have is in the order of `applied`; what only `live` has keeps its place before the shared
/// item it stood before.
fn lists(of: Type<'_>, items: Items<'_>, live: &[Value], applied: &[Value]) -> Vec<Value> {
    let (left, right) = (Index::of(of, items, live), Index::of(of, items, applied));
    let merged = |at: usize| match left.find(right.names[at].as_ref()) {
        // Of items with one key none is the one to merge with.
        [twin] => merge(of.item(), &live[*twin], &applied[at]),
        _ => applied[at].clone(),
    };
    let is_shared = |at: &usize| !left.find(right.names[*at].as_ref()).is_empty();
    let mut shared = (0..applied.len()).filter(is_shared);
    let mut next = shared.next();
    let mut taken = vec![false; applied.len()];
    let mut out = Vec::with_capacity(live.len().max(applied.len()));
    let (mut l, mut r) = (0, 0);
    while l < live.len() || r < applied.len() {
        let twin = left.names.get(l).and_then(|name| right.find(name.as_ref()).first().copied());
        if l < live.len() {
            match twin {
                // Only the live list has it.
                None => out.push(live[l].clone()),
                // Was there before, or comes later: not now.
                Some(twin) if taken[twin] || next.is_some_and(|next| next != twin) && r < applied.len() => {}
                Some(twin) if twin == r => {
                    out.push(merged(r));
                    taken[r] = true;
                    r += 1;
                    next = shared.next();
                }
                Some(_) => {
                    out.push(merged(r));
                    taken[r] = true;
                    if next == Some(r) {
                        next = shared.next();
                    }
                    r += 1;
                    continue;
                }
            }
            l += 1;
        } else {
            out.push(merged(r));
            r += 1;
        }
    }
    out
}

/// Where items are, by what tells them apart.
struct Index {
    names: Vec<Option<Element>>,
    sorted: Vec<usize>,
}

impl Index {
    fn of(of: Type<'_>, items: Items<'_>, list: &[Value]) -> Self {
        let names: Vec<_> = list.iter().map(|item| of.element_of(items, item).ok()).collect();
        let mut sorted: Vec<usize> = (0..names.len()).filter(|at| names[*at].is_some()).collect();
        sorted.sort_by(|a, b| names[*a].cmp(&names[*b]));
        Self { names, sorted }
    }

    /// The places of the items with that name.
    fn find(&self, name: Option<&Element>) -> &[usize] {
        let Some(name) = name else { return &[] };
        let start = self.sorted.partition_point(|at| self.names[*at].as_ref() < Some(name));
        let end = start + self.sorted[start..].partition_point(|at| self.names[*at].as_ref() == Some(name));
        &self.sorted[start..end]
    }
}
