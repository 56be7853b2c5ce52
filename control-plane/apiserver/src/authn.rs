//! Who a client is: its certificate says, or a token it carries, or a proxy that is trusted to say it.

mod bootstrap_token;
mod certificate;
pub(crate) mod impersonation;
mod request_header;
pub(crate) mod service_account;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};
use skep_api::status::StatusError;
use skep_storage::Resource;

use crate::{
    config::Config,
    error::Result,
    http::{body::Body, response},
    user::UserInfo,
};
pub(crate) use certificate::Presented;
use request_header::FrontProxy;
use service_account::ServiceAccounts;

/// What clients are told whose credentials are worth nothing, and no more than that.
pub(crate) fn unauthorized() -> StatusError {
    StatusError::unauthorized("Unauthorized")
}

/// Whom a token belongs to.
#[derive(Clone, Debug)]
pub(crate) struct Identified {
    pub(crate) user: UserInfo,
    /// Whom the token is meant for; empty for tokens that say nothing of it.
    pub(crate) audiences: Vec<String>,
}

/// The ways to be somebody besides a client certificate.
pub(crate) struct Authenticator {
    pub(crate) accounts: Option<Arc<ServiceAccounts>>,
    secrets: Option<Resource>,
    front_proxy: Option<FrontProxy>,
    /// Where clients reach this server (`host:port`).
    address: String,
}

impl Authenticator {
    pub(crate) fn new(config: &Config, address: &str) -> Result<Self> {
        let storage = &config.storage;
        let accounts = config.service_accounts.as_ref();
        Ok(Self {
            accounts: accounts.map(|keys| ServiceAccounts::new(keys, storage).map(Arc::new)).transpose()?,
            secrets: storage.resource("/registry/secrets/"),
            front_proxy: config.front_proxy.as_ref().map(FrontProxy::new),
            address: address.to_owned(),
        })
    }

    /// What a connection's certificate says of its client.
    pub(crate) fn presented(&self, connection: &rustls::ServerConnection) -> Result<Presented, String> {
        certificate::presented(connection, self.front_proxy.as_ref().map(FrontProxy::ca))
    }

    /// What others need to verify tokens themselves; `path` is one of the two that upstream serves.
    pub(crate) fn discovery(&self, path: &str) -> Option<Response<Body>> {
        let accounts = self.accounts.as_ref()?;
        let (media_type, document) = match path {
            "/openid/v1/jwks" => ("application/jwk-set+json", accounts.jwks()),
            _ => ("application/json", accounts.openid_configuration(&self.address)),
        };
        let mut response = response::with_type(StatusCode::OK, media_type, Bytes::from(document.to_string()));
        response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("public, max-age=3600"));
        Some(response)
    }

    /// Whom a proxy speaks for, if the connection's certificate is a trusted proxy's; `None` if it speaks for nobody.
    pub(crate) fn proxied(&self, presented: &Presented, headers: &mut HeaderMap) -> Option<UserInfo> {
        let speaks = self.front_proxy.as_ref().filter(|_| presented.is_front_proxy);
        speaks.and_then(|front_proxy| front_proxy.user(presented, headers))
    }

    /// Whom the `Authorization` header identifies; `None` without a bearer token. The header is taken away: it must go no
    /// further than here.
    pub(crate) async fn bearer(&self, headers: &mut HeaderMap) -> Result<Option<UserInfo>, StatusError> {
        let Some(header) = headers.remove(header::AUTHORIZATION) else { return Ok(None) };
        let Some(token) = header.to_str().ok().and_then(bearer_token) else { return Ok(None) };
        match self.token(token, &[]).await {
            Ok(identified) => Ok(Some(identified.user)),
            Err(error) => {
                tracing::debug!(%error, "a token was refused");
                Err(unauthorized())
            }
        }
    }

    /// Whom a token belongs to. It must be meant for one of `audiences`; without any, for this server.
    pub(crate) async fn token(&self, token: &str, audiences: &[String]) -> Result<Identified, String> {
        if let Some(accounts) = &self.accounts
            && let Some(answer) = accounts.authenticate(token, audiences).await
        {
            return answer;
        }
        if audiences.is_empty()
            && let Some(secrets) = &self.secrets
            && let Some(answer) = bootstrap_token::authenticate(secrets, token, jiff::Timestamp::now())
        {
            return answer.map(|user| Identified { user, audiences: Vec::new() });
        }
        Err("invalid bearer token".to_owned())
    }
}

/// The token of an `Authorization` header.
fn bearer_token(header: &str) -> Option<&str> {
    let (scheme, rest) = header.trim().split_once(' ')?;
    let token = rest.split(' ').next().unwrap_or_default();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_tokens_are_told_from_other_schemes() {
        assert_eq!(bearer_token("Bearer abc"), Some("abc"));
        assert_eq!(bearer_token(" bearer abc def"), Some("abc"));
        for other in ["", "Bearer", "Bearer ", "Basic abc", "abc", "Bearer  abc"] {
            assert_eq!(bearer_token(other), None, "{other:?}");
        }
    }
}
