//! Upgrades of HTTP/1.1 connections, passed on.

use bytes::Bytes;
use http::header::{CONNECTION, HeaderName, SEC_WEBSOCKET_PROTOCOL, UPGRADE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::Error;

/// Which of several protocols is spoken after an upgrade to SPDY.
pub const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// What SPDY calls itself in an `Upgrade` header.
pub const SPDY: &str = "SPDY/3.1";

/// How a token is written among the protocols of a WebSocket.
const BEARER_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// The headers of a client that are its upgrade's. Others, credentials above all, are for whom it spoke to alone.
const FORWARDED: [HeaderName; 8] = [
    CONNECTION,
    UPGRADE,
    USER_AGENT,
    STREAM_PROTOCOL,
    SEC_WEBSOCKET_PROTOCOL,
    http::header::SEC_WEBSOCKET_KEY,
    http::header::SEC_WEBSOCKET_VERSION,
    http::header::SEC_WEBSOCKET_EXTENSIONS,
];

/// What a server answers to a request for an upgrade.
pub enum Answer {
    /// It switches: the head to pass on, and the connection.
    Switched(response::Parts, TokioIo<Upgraded>),
    /// It does not.
    Refused(response::Parts, Incoming),
}

/// Whether a request wants its connection upgraded.
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE) && words(headers, &CONNECTION).any(|word| word.eq_ignore_ascii_case("upgrade"))
}

/// The comma-separated words of a header.
pub(crate) fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

/// Takes tokens out of the protocols a WebSocket client offers: browsers can send one nowhere else, and it is for whom
/// they spoke to alone.
pub fn remove_bearer_protocols(headers: &mut HeaderMap) {
    let kept: Vec<&str> =
        words(headers, &SEC_WEBSOCKET_PROTOCOL).filter(|word| !word.starts_with(BEARER_PROTOCOL)).collect();
    match HeaderValue::try_from(kept.join(", ")) {
        Ok(kept) if !kept.is_empty() => {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, kept);
        }
        _ => {
            headers.remove(SEC_WEBSOCKET_PROTOCOL);
        }
    }
}

/// The headers that carry a client's upgrade on to the next server.
pub fn forwarded(headers: &HeaderMap) -> HeaderMap {
    let mut own = HeaderMap::new();
    for name in FORWARDED {
        for value in headers.get_all(&name) {
            own.append(name.clone(), value.clone());
        }
    }
    remove_bearer_protocols(&mut own);
    own
}

/// The headers of an upgrade to SPDY that offers `protocol`.
pub fn spdy_headers(protocol: &'static str) -> HeaderMap {
    [
        (CONNECTION, HeaderValue::from_static("Upgrade")),
        (UPGRADE, HeaderValue::from_static(SPDY)),
        (STREAM_PROTOCOL, HeaderValue::from_static(protocol)),
    ]
    .into_iter()
    .collect()
}

/// A request without a body, as a proxy sends it.
///
/// # Errors
/// When `target` or `host` cannot be part of a request.
pub fn request(method: Method, target: &str, host: &str, headers: HeaderMap) -> http::Result<Request<Empty<Bytes>>> {
    let mut request = Request::builder().method(method).uri(target).body(Empty::new())?;
    *request.headers_mut() = headers;
    request.headers_mut().insert(http::header::HOST, HeaderValue::from_str(host)?);
    Ok(request)
}

/// Sends a request for an upgrade over `io`.
///
/// # Errors
/// When the connection breaks, or the server speaks no HTTP.
pub async fn send<T>(io: T, request: Request<Empty<Bytes>>) -> Result<Answer, Error>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
    // Ends by itself: when the request or the answer's body is dropped, or with the upgrade.
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection that was to be upgraded broke");
        }
    });
    let mut response = sender.send_request(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (head, body) = response.into_parts();
        return Ok(Answer::Refused(head, body));
    }
    let upgraded = hyper::upgrade::on(&mut response).await?;
    Ok(Answer::Switched(response.into_parts().0, TokioIo::new(upgraded)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_passed_on() {
        let mut headers = spdy_headers("v4.channel.k8s.io");
        headers.append(STREAM_PROTOCOL, HeaderValue::from_static("v3.channel.k8s.io"));
        headers.insert(http::header::AUTHORIZATION, HeaderValue::from_static("Bearer secret"));
        headers.insert("impersonate-user", HeaderValue::from_static("root"));
        let offered = "base64url.bearer.authorization.k8s.io.c2VjcmV0, v5.channel.k8s.io";
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(offered));
        assert!(is_upgrade(&headers));
        let passed = forwarded(&headers);
        assert_eq!(passed[SEC_WEBSOCKET_PROTOCOL], "v5.channel.k8s.io");
        assert_eq!(passed.get_all(STREAM_PROTOCOL).iter().count(), 2);
        assert!(passed.get("authorization").is_none() && passed.get("impersonate-user").is_none());
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        assert!(!is_upgrade(&headers));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        assert!(is_upgrade(&headers));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        assert!(!is_upgrade(&headers));
    }
}
