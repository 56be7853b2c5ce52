//! Which headers go on and which stay.

use std::net::SocketAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{self, CONNECTION, UPGRADE},
};
use skep_stream::upgrade::remove_bearer_protocols;

/// Where the client sees what it asks for.
pub(super) const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Headers that speak of one connection.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    UPGRADE,
];

/// The client's headers as another server may see them.
pub(super) fn for_backend(client: &HeaderMap, peer: Option<SocketAddr>) -> HeaderMap {
    let mut headers = client.clone();
    // Told before the header that says so is gone.
    let wants_trailers = client.get_all(header::TE).iter().any(|value| value.as_bytes() == b"trailers");
    remove_hop_by_hop(&mut headers);
    // Answered by this server itself.
    headers.remove(header::EXPECT);
    if wants_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    finish(headers, peer)
}

/// The same for an upgrade: the headers that ask for it go on.
pub(super) fn for_upgrade(client: &HeaderMap, peer: Option<SocketAddr>) -> HeaderMap {
    finish(client.clone(), peer)
}

/// Makes an answer of another server one of ours.
pub(super) fn clean_answer(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
}

/// Which origins may read an answer is for this server to say.
pub(super) fn remove_cors(headers: &mut HeaderMap) {
    for name in [
        header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        header::ACCESS_CONTROL_ALLOW_METHODS,
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
    ] {
        headers.remove(name);
    }
}

fn finish(mut headers: HeaderMap, peer: Option<SocketAddr>) -> HeaderMap {
    remove_credentials(&mut headers);
    if let Some(peer) = peer {
        let prior = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
        let mut chain: Vec<String> = prior.map(str::to_owned).collect();
        chain.push(peer.ip().to_canonical().to_string());
        if let Ok(value) = HeaderValue::try_from(chain.join(", ")) {
            headers.insert(FORWARDED_FOR, value);
        }
    }
    headers
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.into_iter().chain(HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// What identified the client here is for nobody else, and nobody may say who it is but this server.
fn remove_credentials(headers: &mut HeaderMap) {
    headers.remove(header::AUTHORIZATION);
    remove_bearer_protocols(headers);
    let own = |name: &HeaderName| {
        let name = name.as_str();
        name.starts_with("impersonate-")
            || matches!(name, "x-remote-user" | "x-remote-uid" | "x-remote-group")
            || name.starts_with("x-remote-extra-")
    };
    let names: Vec<HeaderName> = headers.keys().filter(|name| own(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn what_is_of_the_hop_or_secret_stays_here() {
        let client = headers(&[
            ("authorization", "Bearer secret"),
            ("impersonate-user", "root"),
            ("x-remote-user", "root"),
            ("x-remote-extra-scopes", "all"),
            ("connection", "keep-alive, x-mine"),
            ("x-mine", "1"),
            ("x-forwarded-for", "192.0.2.7"),
            ("accept", "text/html"),
            ("cookie", "a=b"),
        ]);
        let passed = for_backend(&client, Some("[::ffff:127.0.0.1]:1".parse().unwrap()));
        let mut names: Vec<&str> = passed.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "cookie", "x-forwarded-for"]);
        assert_eq!(passed["x-forwarded-for"], "192.0.2.7, 127.0.0.1");
    }

    #[test]
    fn an_upgrade_keeps_what_asks_for_it() {
        let client = headers(&[
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("authorization", "Basic x"),
            ("sec-websocket-protocol", "base64url.bearer.authorization.k8s.io.c2VjcmV0, chat, binary"),
        ]);
        let passed = for_upgrade(&client, None);
        assert!(passed.contains_key("upgrade") && passed.contains_key("connection"));
        assert!(!passed.contains_key("authorization"));
        assert_eq!(passed["sec-websocket-protocol"], "chat, binary");
    }
}
