//! Where a list in pages goes on: what a `continue` parameter holds. Opaque to clients; anybody may send anything.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::status::StatusError;

const VERSION: &str = "meta.k8s.io/v1";

/// A decoded `continue` parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContinueToken {
    #[serde(rename = "v")]
    version: String,
    /// The revision of the first page; -1 for whatever is newest.
    #[serde(rename = "rv")]
    pub revision: i64,
    /// The first key of the next page, relative to the list's scope.
    pub start: String,
    /// How many objects are left from there on, where that was known: then it need not be counted again.
    #[serde(rename = "rest", default, skip_serializing_if = "Option::is_none")]
    pub rest: Option<usize>,
}

impl ContinueToken {
    /// Goes on at `start`, in the state of `revision`.
    pub fn new(revision: i64, start: String) -> Self {
        Self { version: VERSION.to_owned(), revision, start, rest: None }
    }

    /// The text for the client: base64 of JSON.
    pub fn encode(&self) -> String {
        // A struct of strings and a number always serialises.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    /// Reads what a client sent.
    ///
    /// # Errors
    /// 400 for anything that [`ContinueToken::encode`] would not have made.
    pub fn decode(text: &str) -> Result<Self, StatusError> {
        let invalid =
            |why: &dyn std::fmt::Display| StatusError::bad_request(format!("continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|error| invalid(&error))?;
        let token: Self = serde_json::from_slice(&bytes).map_err(|error| invalid(&error))?;
        if token.version != VERSION {
            return Err(invalid(&format!("server does not recognize this encoded version {:?}", token.version)));
        }
        if token.start.is_empty() {
            return Err(invalid(&"encoded start key empty"));
        }
        if token.start.starts_with('/') || token.start.split('/').any(|part| part == "..") {
            return Err(invalid(&token.start));
        }
        if token.revision == 0 || token.revision < -1 {
            return Err(invalid(&"incorrect encoded start resourceVersion"));
        }
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_as_they_were() {
        let token = ContinueToken::new(7, "default/a\0".to_owned());
        assert_eq!(ContinueToken::decode(&token.encode()).unwrap(), token);
    }

    #[test]
    fn bad_tokens_are_bad_requests() {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        for text in [
            "%%%".to_owned(),
            encode("{}"),
            encode(r#"{"v":"x","rv":1,"start":"a"}"#),
            encode(r#"{"v":"meta.k8s.io/v1","rv":1,"start":""}"#),
            encode(r#"{"v":"meta.k8s.io/v1","rv":0,"start":"a"}"#),
            encode(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"../secrets"}"#),
        ] {
            assert_eq!(ContinueToken::decode(&text).unwrap_err().code(), 400, "{text}");
        }
    }
}
