//! Lists that are encoded item by item: never is the whole of one in memory.

use serde_json::Value;

use crate::{
    Error, MAGIC,
    encode::{fields, value},
    schema::{self, Field, Shape},
    wire::{BYTES, put_bytes, put_tag, put_varint},
};

/// How one list is encoded: [`List::begin`], each [`List::item`], [`List::END`].
pub struct List {
    meta: Vec<u8>,
    /// What the list has beside its items.
    head: Vec<u8>,
    items: &'static Field,
}

impl List {
    /// What comes after the last item: upstream's empty contentEncoding and contentType.
    pub const END: &[u8] = b"\x1a\0\x22\0";

    /// `list` is the list without its items.
    ///
    /// # Errors
    /// When it is no list of a known kind.
    pub fn new(list: &Value) -> Result<Self, Error> {
        let Value::Object(object) = list else { return Err(Error::NoKind) };
        let member = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind) = (member("apiVersion"), member("kind"));
        let unknown = || Error::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() };
        let message = schema::find(api_version, kind).ok_or_else(unknown)?;
        let is_items = |field: &&Field| field.name() == "items" && matches!(field.shape, Shape::Many);
        let items = message.fields().iter().find(is_items).ok_or_else(unknown)?;
        let (mut meta, mut head) = (Vec::new(), Vec::new());
        put_bytes(&mut meta, 1, api_version.as_bytes());
        put_bytes(&mut meta, 2, kind.as_bytes());
        fields(message, object, &mut head, 1)?;
        Ok(Self { meta, head, items })
    }

    /// What comes before the first item, when all items together have `bytes` bytes.
    pub fn begin(&self, bytes: usize) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        put_bytes(&mut out, 1, &self.meta);
        put_tag(&mut out, 2, BYTES);
        put_varint(&mut out, (self.head.len() + bytes) as u64);
        out.extend_from_slice(&self.head);
        out
    }

    /// One item, from its JSON.
    ///
    /// # Errors
    /// When it is no JSON, or not of the type.
    pub fn item(&self, json: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        value(self.items, self.items.number(), &serde_json::from_slice(json)?, out, 1)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_is_the_same_as_in_one_piece() {
        let item = |name: String| json!({"kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}});
        for count in [0, 1, 40] {
            let items: Vec<Value> = (0..count).map(|number| item(format!("map-{number}"))).collect();
            let mut whole = json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": "7"}});
            let list = List::new(&whole).unwrap();
            let mut encoded = Vec::new();
            for item in &items {
                list.item(item.to_string().as_bytes(), &mut encoded).unwrap();
            }
            let mut out = list.begin(encoded.len());
            out.extend_from_slice(&encoded);
            out.extend_from_slice(List::END);
            whole["items"] = items.into();
            assert_eq!(out, crate::encode(&whole).unwrap(), "{count} items");
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for object in [json!({"apiVersion": "v1", "kind": "ConfigMap"}), json!({"kind": "MapList"}), json!([])] {
            assert!(List::new(&object).is_err(), "{object}");
        }
    }

    #[test]
    fn an_item_of_another_type_is_refused() {
        let list = List::new(&json!({"apiVersion": "v1", "kind": "ConfigMapList"})).unwrap();
        assert!(list.item(b"{\"data\":[]}", &mut Vec::new()).is_err());
        assert!(list.item(b"nothing", &mut Vec::new()).is_err());
    }
}
