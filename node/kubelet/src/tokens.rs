//! Service account tokens for projected volumes: asked for once, kept, renewed well before they expire.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;

use crate::Error;
use crate::podext::PodExt;

/// Upstream's default lifetime.
const DEFAULT_SECONDS: i64 = 3600;
/// However long a token lives, it is renewed after a day.
const LONGEST_USE: i64 = 24 * 3600;
/// Spreads renewals of tokens that were made together.
const JITTER: i64 = 10;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    uid: String,
    account: String,
    audience: String,
    seconds: i64,
}

#[derive(Clone, Debug)]
struct Token {
    text: Arc<str>,
    /// Seconds since the epoch.
    renew_at: i64,
    expires_at: i64,
}

/// The tokens in use on this node.
#[derive(Default)]
pub(crate) struct Tokens {
    kept: Mutex<HashMap<Key, Token>>,
}

impl Tokens {
    /// The token for a pod's volume. While a renewal fails, the old one is given as long as it is valid.
    pub(crate) async fn get(
        &self,
        client: &Client,
        pod: &Pod,
        wanted: &ServiceAccountTokenProjection,
    ) -> Result<Arc<str>, Error> {
        let account = pod.pod_spec().service_account_name.as_deref().filter(|name| !name.is_empty());
        let key = Key {
            uid: pod.uid().to_owned(),
            account: account.unwrap_or("default").to_owned(),
            audience: wanted.audience.clone().unwrap_or_default(),
            seconds: wanted.expiration_seconds.unwrap_or(DEFAULT_SECONDS),
        };
        let old = self.kept.lock().get(&key).cloned();
        let now = Timestamp::now().as_second();
        if let Some(token) = old.as_ref().filter(|token| now < token.renew_at) {
            return Ok(token.text.clone());
        }
        match request(client, pod, &key).await {
            Ok(token) => {
                let text = token.text.clone();
                self.kept.lock().insert(key, token);
                Ok(text)
            }
            Err(error) => match old.filter(|token| now < token.expires_at) {
                Some(token) => {
                    tracing::warn!(pod = %pod.key(), %error, "could not renew a service account token, the old one stays");
                    Ok(token.text)
                }
                None => Err(error),
            },
        }
    }

    /// Forgets the tokens of a pod that has ended.
    pub(crate) fn forget(&self, uid: &str) {
        self.kept.lock().retain(|key, _| key.uid != uid);
    }
}

async fn request(client: &Client, pod: &Pod, key: &Key) -> Result<Token, Error> {
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: Some(key.audience.clone()).filter(|audience| !audience.is_empty()).into_iter().collect(),
            expiration_seconds: Some(key.seconds),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
        },
        ..Default::default()
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), pod.ns());
    let asked = Timestamp::now().as_second();
    let answer = accounts.create_token_request(&key.account, &PostParams::default(), &request).await?;
    let status = answer.status.filter(|status| !status.token.is_empty());
    let status = status.ok_or_else(|| {
        Error::pod(format!("the API server gave no token for service account {}/{}", pod.ns(), key.account))
    })?;
    let expires_at = status.expiration_timestamp.0.as_second();
    let jitter = rand::random_range(0..=JITTER);
    Ok(Token { text: status.token.into(), renew_at: renew_at(asked, expires_at) - jitter, expires_at })
}

/// At 80 % of the lifetime, and after a day at the latest.
fn renew_at(issued: i64, expires: i64) -> i64 {
    issued + (expires.saturating_sub(issued) / 5 * 4).clamp(0, LONGEST_USE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_at_four_fifths_of_their_life_and_once_a_day() {
        assert_eq!(renew_at(1000, 4600), 1000 + 2880);
        assert_eq!(renew_at(0, 365 * 24 * 3600), 24 * 3600);
        assert_eq!(renew_at(1000, 900), 1000, "one that has expired is renewed at once");
    }
}
