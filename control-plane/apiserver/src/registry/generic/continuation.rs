//! Lists in pages: continue tokens, and the snapshots they go on in.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use skep_api::status::StatusError;
use skep_storage::Snapshot;

const VERSION: &str = "meta.k8s.io/v1";
/// As long as upstream's etcd keeps history before it compacts it.
const KEPT_FOR: Duration = Duration::from_secs(300);
/// A bound on what pages nobody asks for can hold in memory.
const KEPT_AT_MOST: usize = 64;

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
}

impl Token {
    pub(crate) fn new(revision: i64, start: String) -> Self {
        Self { version: VERSION.to_owned(), revision, start }
    }

    pub(crate) fn encode(&self) -> String {
        // A struct of strings and a number always serialises.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    pub(crate) fn decode(text: &str) -> Result<Self, StatusError> {
        let invalid = |why: &dyn std::fmt::Display| StatusError::bad_request(format!("continue key is not valid: {why}"));
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

/// 410 for a token whose snapshot is gone, with a token to go on inconsistently.
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

/// The snapshots of lists that are being read in pages.
#[derive(Default)]
pub(crate) struct Snapshots(Mutex<VecDeque<(Instant, Snapshot)>>);

impl Snapshots {
    /// Keeps `snapshot` for the next page.
    pub(crate) fn keep(&self, snapshot: &Snapshot) {
        let mut kept = self.0.lock();
        let now = Instant::now();
        kept.retain(|(since, old)| now - *since < KEPT_FOR && old.revision() != snapshot.revision());
        if kept.len() == KEPT_AT_MOST {
            kept.pop_front();
        }
        kept.push_back((now, snapshot.clone()));
    }

    /// The snapshot of exactly that revision, if it is kept.
    pub(crate) fn at(&self, revision: i64) -> Option<Snapshot> {
        let mut kept = self.0.lock();
        let now = Instant::now();
        kept.retain(|(since, _)| now - *since < KEPT_FOR);
        kept.iter().find(|(_, snapshot)| snapshot.revision() == revision).map(|(_, snapshot)| snapshot.clone())
    }
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
