//! What differs between two states of an object.

use serde_json::{Map, Value};

use crate::{
    element::{Element, same},
    reset::Ignored,
    schema::{EMPTY, Form, Implied, Items, Type},
    set::{Node, Set},
};

/// What differs between two states of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Fields only the new state has.
    pub added: Set,
    /// Fields with another value.
    pub modified: Set,
    /// Fields only the old state has.
    pub removed: Set,
}

impl Comparison {
    /// Whether the states are the same.
    pub fn is_same(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// Without what a kind of write cannot change.
    #[must_use]
    pub fn without(self, ignored: Ignored) -> Self {
        Self {
            added: ignored.strip(self.added),
            modified: ignored.strip(self.modified),
            removed: ignored.strip(self.removed),
        }
    }

    /// Adds what differs in one field of the object.
    pub fn add_field(&mut self, name: &str, of: Type<'_>, old: Option<&Value>, new: Option<&Value>) {
        let implied = of.implied().iter().find(|(field, _)| *field == name).map(|(_, implied)| implied.value());
        let (Some(old), Some(new)) = (old.or(implied), new.or(implied)) else {
            let one = difference(of.field(name), old, new);
            self.push(name, one);
            return;
        };
        self.push(name, difference(of.field(name), Some(old), Some(new)));
    }

    /// Adds what differs below a field that both states have.
    pub fn add_below(&mut self, name: &str, inner: Comparison) {
        let node = |below| Node { member: false, below };
        let Comparison { added, modified, removed } = inner;
        self.push(name, Difference { added: node(added), modified: node(modified), removed: node(removed) });
    }

    fn push(&mut self, name: &str, one: Difference) {
        let set = |set: &mut Set, node: Node| {
            if !node.is_empty() {
                set.unite(Set { nodes: vec![(Element::field(name), node)] });
            }
        };
        set(&mut self.added, one.added);
        set(&mut self.modified, one.modified);
        set(&mut self.removed, one.removed);
    }
}

/// Compares two states of an object of a type.
pub fn compare(of: Type<'_>, old: &Value, new: &Value) -> Comparison {
    let one = difference(of, Some(old), Some(new));
    Comparison { added: one.added.below, modified: one.modified.below, removed: one.removed.below }
}

#[derive(Default)]
struct Difference {
    added: Node,
    modified: Node,
    removed: Node,
}

/// One of the states has the value, or both.
fn difference(of: Type<'_>, old: Option<&Value>, new: Option<&Value>) -> Difference {
    let form = match (old, new) {
        (_, Some(new)) if !is_hollow(new) => of.form(new),
        (Some(old), _) if !is_hollow(old) => of.form(old),
        // Empty and null are values, so that one can be told from the other.
        _ => Form::Leaf,
    };
    let mut found = match form {
        Form::Leaf => return leaf(old, new),
        // A list or object that takes the place of something else is new as a whole.
        Form::List(items) => match (array(old), array(new)) {
            (Some(old), Some(new)) => lists(of, items, old, new),
            _ => return leaf(old, new),
        },
        Form::Map => match (object(old), object(new)) {
            (Some(old), Some(new)) => maps(of, old, new),
            _ => return leaf(old, new),
        },
    };
    found.added.member |= old.is_none();
    found.removed.member |= new.is_none();
    found
}

fn leaf(old: Option<&Value>, new: Option<&Value>) -> Difference {
    let mut found = Difference::default();
    match (old, new) {
        (None, Some(_)) => found.added.member = true,
        (Some(_), None) => found.removed.member = true,
        (Some(old), Some(new)) => found.modified.member = !same(old, new),
        (None, None) => {}
    }
    found
}

/// Null, or without content.
fn is_hollow(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// The items of a list, none of them where there is no list; none where there is something else.
fn array(value: Option<&Value>) -> Option<&[Value]> {
    match value {
        None | Some(Value::Null) => Some(&[]),
        Some(Value::Array(items)) => Some(items),
        Some(_) => None,
    }
}

/// The fields of an object; the inner is none where there is no object.
fn object(value: Option<&Value>) -> Option<Option<&Map<String, Value>>> {
    match value {
        None | Some(Value::Null) => Some(None),
        Some(Value::Object(fields)) => Some(Some(fields)),
        Some(_) => None,
    }
}

fn maps(of: Type<'_>, old: Option<&Map<String, Value>>, new: Option<&Map<String, Value>>) -> Difference {
    let mut all = Nodes::default();
    let implied = of.implied();
    let stand_in = |there: bool, name: &str| {
        let implied = implied.iter().filter(|_| there).find(|(field, _)| *field == name);
        implied.map(|(_, implied)| implied.value())
    };
    let get = |fields: Option<&Map<String, Value>>, name: &str| fields.is_some_and(|fields| fields.contains_key(name));
    for (name, value) in new.into_iter().flatten() {
        let before = old.and_then(|old| old.get(name)).or_else(|| stand_in(old.is_some(), name));
        all.push(Element::field(name), difference(of.field(name), before, Some(value)));
    }
    for (name, value) in old.into_iter().flatten() {
        if !get(new, name) {
            let after = stand_in(new.is_some(), name);
            all.push(Element::field(name), difference(of.field(name), Some(value), after));
        }
    }
    // Both have what is implied, unless one is not there at all.
    if old.is_none() != new.is_none() {
        for (name, implied) in implied.iter().filter(|(_, implied)| *implied == Implied::Object) {
            if !get(old, name) && !get(new, name) {
                let side = |fields: Option<_>| fields.is_some().then(|| implied.value());
                all.push(Element::field(name), difference(of.field(name), side(old), side(new)));
            }
        }
    }
    all.finish()
}

fn lists(of: Type<'_>, items: Items<'_>, old: &[Value], new: &[Value]) -> Difference {
    let mut all = Nodes::default();
    let (old, new) = (index(of, items, old), index(of, items, new));
    let of = of.item();
    for (element, values) in &new {
        let before = old.binary_search_by(|(other, _)| other.cmp(element)).ok().map(|at| &old[at].1);
        all.push(element.clone(), groups(of, before.map_or(&[], Vec::as_slice), values));
    }
    for (element, values) in &old {
        if new.binary_search_by(|(other, _)| other.cmp(element)).is_err() {
            all.push(element.clone(), groups(of, values, &[]));
        }
    }
    all.finish()
}

/// Compares what has the same key. That is one item; several are compared as a whole.
fn groups(of: Type<'_>, old: &[&Value], new: &[&Value]) -> Difference {
    if old.len() <= 1 && new.len() <= 1 {
        return difference(of, old.first().copied(), new.first().copied());
    }
    let equal = old.len() == new.len() && old.iter().zip(new).all(|(old, new)| same(old, new));
    let mut found = Difference::default();
    match (old.is_empty(), new.is_empty()) {
        (true, _) => found.added.member = true,
        (_, true) => found.removed.member = true,
        _ => found.modified.member = !equal,
    }
    found
}

/// The items by what tells them apart, sorted by it. Those that nothing tells apart are left out.
fn index<'v>(of: Type<'_>, items: Items<'_>, list: &'v [Value]) -> Vec<(Element, Vec<&'v Value>)> {
    let mut found: Vec<(Element, Vec<&Value>)> =
        list.iter().filter_map(|item| of.element_of(items, item).ok().map(|element| (element, vec![item]))).collect();
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found.dedup_by(|(later, values), (kept, all)| {
        let twin = later == kept;
        if twin {
            all.append(values);
        }
        twin
    });
    found
}

/// Differences of what is below one place.
#[derive(Default)]
struct Nodes {
    added: Vec<(Element, Node)>,
    modified: Vec<(Element, Node)>,
    removed: Vec<(Element, Node)>,
}

impl Nodes {
    fn push(&mut self, element: Element, found: Difference) {
        let Difference { added, modified, removed } = found;
        let mut rest = [(&mut self.added, added), (&mut self.modified, modified), (&mut self.removed, removed)]
            .into_iter()
            .filter(|(_, node)| !node.is_empty())
            .peekable();
        // The element is cloned only for the rare one that is in several.
        while let Some((list, node)) = rest.next() {
            if rest.peek().is_none() {
                list.push((element, node));
                return;
            }
            list.push((element.clone(), node));
        }
    }

    fn finish(self) -> Difference {
        let node = |nodes| Node { member: false, below: Set::of_nodes(nodes) };
        Difference { added: node(self.added), modified: node(self.modified), removed: node(self.removed) }
    }
}

/// What the creator of an object owns.
pub fn created(of: Type<'_>, object: &Value) -> Comparison {
    compare(of, &EMPTY, object)
}
