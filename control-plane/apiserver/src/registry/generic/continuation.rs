//! Lists in pages: continue tokens.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use skep_api::status::StatusError;

const VERSION: &str = "meta.k8s.io/v1";

/// Where a list goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Token {
    #[serde(rename = "v")]
    version: String,
    /// The revision of the first page; -1 for whatever is newest.
    #[serde(rename = "rv")]
    pub(crate) revision: i64,
    /// The first key of the next page, relative to the list's scope.
    pub(crate) start: String,
    /// How many objects are left from there on, where that was known: then it need not be counted again.
    #[serde(rename = "rest", default, skip_serializing_if = "Option::is_none")]
    pub(crate) rest: Option<usize>,
}

impl Token {
    pub(crate) fn new(revision: i64, start: String) -> Self {
        Self { version: VERSION.to_owned(), revision, start, rest: None }
    }

    pub(crate) fn encode(&self) -> String {
        // A struct of strings and a number always serialises.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    pub(crate) fn decode(text: &str) -> Result<Self, StatusError> {
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

/// 410 for a token whose revision history has forgotten, with a token to go on inconsistently.
pub(crate) fn expired(token: &Token) -> StatusError {
    let mut status = StatusError::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
         results. Continuing with the provided token results in an inconsistent list - objects that were created, \
         modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    )
    .into_status();
    status.metadata.continue_ = Some(Token::new(-1, token.start.clone()).encode());
    status.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_as_they_were() {
        let token = Token::new(7, "default/a\0".to_owned());
        assert_eq!(Token::decode(&token.encode()).unwrap(), token);
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
            assert_eq!(Token::decode(&text).unwrap_err().code(), 400, "{text}");
        }
    }
}
