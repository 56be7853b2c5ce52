//! The encodings of a list. In each it is written item by item: however long it is, only a piece of it is in memory.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Map, Value};
use skep_api::status::StatusError;
use skep_protobuf::List;

use super::super::view::Viewer;
use crate::http::response::{protobuf_error, to_yaml};

/// How a list is written.
pub(super) enum Form {
    Json,
    Yaml {
        /// What comes after the items.
        tail: String,
    },
    Protobuf(List),
}

impl Form {
    /// YAML, and what comes before the items: members are in the order of their names. `head` is the JSON up to the items.
    pub(super) fn yaml(head: &[u8], is_empty: bool) -> Result<(Self, Vec<u8>), StatusError> {
        let mut members = members(head)?;
        let items = if members.contains_key("rows") { "rows" } else { "items" };
        members.remove(items);
        let part = |chosen: fn(&str, &str) -> bool| {
            let part: BTreeMap<_, _> = members.iter().filter(|(name, _)| chosen(name, items)).collect();
            let text = if part.is_empty() { Ok(String::new()) } else { serde_yaml_ng::to_string(&part) };
            text.map_err(StatusError::internal_error)
        };
        let (before, tail) = (part(|name, items| name < items)?, part(|name, items| name > items)?);
        let begin = format!("{before}{items}:{}\n", if is_empty { " []" } else { "" });
        Ok((Self::Yaml { tail }, begin.into_bytes()))
    }

    /// Writes an object as an item.
    pub(super) fn item(
        &self,
        viewer: &Viewer,
        object: &Bytes,
        first: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), StatusError> {
        match self {
            Self::Json => {
                if !first {
                    out.push(b',');
                }
                viewer.write_item(object, out)
            }
            Self::Yaml { .. } => {
                // A list of one is written as it is written within a longer one.
                let mut json = vec![b'['];
                viewer.write_item(object, &mut json)?;
                json.push(b']');
                out.extend_from_slice(to_yaml(&json).map_err(StatusError::internal_error)?.as_bytes());
                Ok(())
            }
            Self::Protobuf(list) => protobuf_item(list, viewer, object, out),
        }
    }

    /// What comes after the last item.
    pub(super) fn end(&self) -> &[u8] {
        match self {
            Self::Json => b"]}",
            Self::Yaml { tail } => tail.as_bytes(),
            Self::Protobuf(_) => List::END,
        }
    }
}

/// A list in protobuf, whose beginning is known once the length of all items is. `head` is the JSON up to the items.
pub(super) fn protobuf(head: &[u8]) -> Result<List, StatusError> {
    List::new(&Value::Object(members(head)?)).map_err(protobuf_error)
}

/// Writes an object as an item of such a list.
pub(super) fn protobuf_item(
    list: &List,
    viewer: &Viewer,
    object: &Bytes,
    out: &mut Vec<u8>,
) -> Result<(), StatusError> {
    let mut json = Vec::new();
    viewer.write_item(object, &mut json)?;
    list.item(&json, out).map_err(protobuf_error)
}

/// The members of a list without items.
fn members(head: &[u8]) -> Result<Map<String, Value>, StatusError> {
    serde_json::from_slice(&[head, b"]}"].concat()).map_err(StatusError::internal_error)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The YAML of a list of these items.
    fn yaml(head: &str, items: &[Value]) -> String {
        let (form, mut out) = Form::yaml(head.as_bytes(), items.is_empty()).unwrap();
        for item in items {
            out.extend_from_slice(to_yaml(format!("[{item}]").as_bytes()).unwrap().as_bytes());
        }
        out.extend_from_slice(form.end());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn yaml_is_the_same_as_in_one_piece() {
        let map = json!({"kind": "ConfigMap", "metadata": {"name": "a", "labels": {}}, "data": {
            "long": "words ".repeat(100), "lines": "a: b\n\n  - c\n", "odd": "\t'\"\u{1}#", "list": "- x",
        }});
        let row = json!({"cells": ["a", 1, null, ["x", []]], "object": map.clone()});
        let list = r#"{"kind":"ConfigMapList","apiVersion":"v1","metadata":{"resourceVersion":"7"},"items":["#;
        let table = r#"{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{},"columnDefinitions":[{"name":"N"}],"rows":["#;
        for (head, items) in [
            (list, vec![]),
            (list, vec![map.clone()]),
            (list, vec![map.clone(), json!({}), map]),
            (table, vec![]),
            (table, vec![row.clone(), row]),
        ] {
            let texts: Vec<String> = items.iter().map(Value::to_string).collect();
            let whole = format!("{head}{}]}}", texts.join(","));
            assert_eq!(yaml(head, &items), to_yaml(whole.as_bytes()).unwrap());
        }
    }
}
