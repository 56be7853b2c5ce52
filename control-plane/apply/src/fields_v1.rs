//! Sets as they are stored: `FieldsV1`, a tree of objects whose member `.` says that the place itself is in the set.

use serde_json::{Map, Value};

use crate::{
    element::Element,
    set::{Node, Set},
};

/// The name of the member that says that the place itself is in the set.
const SELF: &str = ".";

impl Set {
    /// Reads a set.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn from_fields_v1(value: &Value) -> Result<Self, String> {
        match value {
            Value::Object(members) => read(members).map(|(_, set)| set),
            Value::Null => Ok(Self::default()),
            _ => Err("fieldsV1 must be an object".to_owned()),
        }
    }

    /// Writes it.
    pub fn to_fields_v1(&self) -> Value {
        let mut text = String::new();
        Value::Object(self.write(&mut text, false))
    }

    fn write(&self, text: &mut String, member: bool) -> Map<String, Value> {
        let mut members = Map::new();
        if member && !self.is_empty() {
            members.insert(SELF.to_owned(), Value::Object(Map::new()));
        }
        for (element, node) in &self.nodes {
            text.clear();
            element.write(text);
            members.insert(text.clone(), Value::Object(node.below.write(text, node.member)));
        }
        members
    }

    /// Whether a stored set and this one have a field in common, without reading the whole of it.
    pub(crate) fn overlaps_stored(&self, stored: &Value) -> bool {
        self.any_stored(stored, &mut String::new())
    }

    fn any_stored(&self, stored: &Value, text: &mut String) -> bool {
        self.nodes.iter().any(|(element, node)| {
            let Some(twin) = member(stored, element, text) else { return false };
            (node.member && is_member(twin)) || node.below.any_stored(twin, text)
        })
    }

    /// Whether a stored set has all of this one.
    pub(crate) fn is_within_stored(&self, stored: &Value) -> bool {
        self.all_stored(stored, &mut String::new())
    }

    fn all_stored(&self, stored: &Value, text: &mut String) -> bool {
        self.nodes.iter().all(|(element, node)| {
            let Some(twin) = member(stored, element, text) else { return false };
            (!node.member || is_member(twin)) && node.below.all_stored(twin, text)
        })
    }
}

fn member<'a>(stored: &'a Value, element: &Element, text: &mut String) -> Option<&'a Value> {
    text.clear();
    element.write(text);
    stored.get(text.as_str())
}

/// Nothing below: the place itself is meant.
fn is_member(stored: &Value) -> bool {
    stored.as_object().is_some_and(|members| members.is_empty() || members.contains_key(SELF))
}

fn read(members: &Map<String, Value>) -> Result<(bool, Set), String> {
    let mut nodes = Vec::with_capacity(members.len());
    let mut itself = members.is_empty();
    for (name, value) in members {
        if name == SELF {
            itself = true;
            continue;
        }
        let element = Element::parse(name).ok_or_else(|| format!("unknown path element {name:?}"))?;
        let Value::Object(below) = value else { return Err(format!("{name:?} must hold an object")) };
        let (member, below) = read(below)?;
        nodes.push((element, Node { member, below }));
    }
    Ok((itself, Set::of_nodes(nodes)))
}
