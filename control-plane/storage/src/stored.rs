//! Values as they lie in etcd: JSON, as this server writes them, or protobuf, as upstream's API server does.

use crate::error::{Error, Result};
use crate::schema::Conversion;
use std::borrow::Cow;

/// What upstream puts before values it has encrypted; only its keys open them.
const ENCRYPTED: &[u8] = b"k8s:enc:";

/// The value as JSON of the version this server stores. JSON is returned as it is.
pub(crate) fn json<'a>(value: &'a [u8], conversions: &[Conversion]) -> Result<Cow<'a, [u8]>> {
    let undecodable = |error: &dyn std::fmt::Display| Error::Undecodable(error.to_string());
    if value.starts_with(ENCRYPTED) {
        return Err(undecodable(&"it is encrypted by another API server"));
    }
    if !value.starts_with(&skep_protobuf::MAGIC) {
        return Ok(Cow::Borrowed(value));
    }
    let (meta, object) = skep_protobuf::decode(value).map_err(|error| undecodable(&error))?;
    let json = serde_json::to_vec(&object).map_err(|error| undecodable(&error))?;
    match conversions.iter().find(|conversion| conversion.api_version == meta.api_version) {
        Some(conversion) => (conversion.convert)(&json).map(Cow::Owned).map_err(|error| undecodable(&error)),
        None => Ok(Cow::Owned(json)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn protobuf_becomes_json_and_json_stays() {
        let plain = br#"{"kind":"X"}"#;
        assert!(matches!(json(plain, &[]).unwrap(), Cow::Borrowed(same) if same == plain));
        let object = serde_json::json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a", "uid": "u" }, "data": { "k": "v" },
        });
        let stored = skep_protobuf::encode(&object).unwrap();
        let read: serde_json::Value = serde_json::from_slice(&json(&stored, &[]).unwrap()).unwrap();
        assert_eq!((&read["data"], &read["metadata"]["name"]), (&object["data"], &object["metadata"]["name"]));
        let convert: crate::Convert = Arc::new(|_| Ok(b"converted".to_vec()));
        let conversion = Conversion { api_version: "v1".into(), convert };
        assert_eq!(&*json(&stored, &[conversion]).unwrap(), b"converted");
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        for value in [&b"k8s:enc:aescbc:v1:key1:xyz"[..], b"k8s\0\xff", b"k8s\0"] {
            assert!(matches!(json(value, &[]), Err(Error::Undecodable(_))));
        }
    }
}
