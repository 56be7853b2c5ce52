//! The server's side of a WebSocket.

use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::upgrade::{is_upgrade, words};

/// The largest message a client may send; upstream's.
const MAX_MESSAGE: usize = 32 << 20;

/// Whether a request asks for a WebSocket.
pub fn is_websocket(headers: &HeaderMap) -> bool {
    is_upgrade(headers) && words(headers, &UPGRADE).any(|word| word.eq_ignore_ascii_case("websocket"))
}

/// Whether a request asks for a WebSocket and offers the subprotocol `wanted`.
pub fn offers(headers: &HeaderMap, wanted: &str) -> bool {
    is_websocket(headers) && words(headers, &SEC_WEBSOCKET_PROTOCOL).any(|offered| offered == wanted)
}

/// The headers of the answer that accepts a WebSocket with the subprotocol `protocol`. The error is a reason to answer
/// 400.
///
/// # Errors
/// When the request lacks what a WebSocket needs.
pub fn accept(headers: &HeaderMap, protocol: &'static str) -> Result<HeaderMap, &'static str> {
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err("websocket: unsupported version: 13 not found in 'Sec-Websocket-Version' header");
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|key| !key.is_empty());
    let key = key.ok_or("websocket: not a websocket handshake: 'Sec-WebSocket-Key' header must be sent")?;
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).map_err(|_| "websocket: invalid key")?;
    Ok([
        (CONNECTION, HeaderValue::from_static("Upgrade")),
        (UPGRADE, HeaderValue::from_static("websocket")),
        (SEC_WEBSOCKET_ACCEPT, accept),
        (SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol)),
    ]
    .into_iter()
    .collect())
}

/// The message that ends a WebSocket as planned. Clients take an end without a code for an error.
pub(crate) fn end() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() }))
}

/// A WebSocket over a connection that was upgraded to it.
pub(crate) async fn server<T: AsyncRead + AsyncWrite + Unpin>(io: T) -> WebSocketStream<T> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .read_buffer_size(crate::BUFFER)
        // Every message is written out as it comes, so no more than one lies before a slow client.
        .write_buffer_size(0);
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_is_that_of_rfc_6455() {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("WebSocket"));
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("v5.channel.k8s.io, v4.channel.k8s.io"));
        assert!(offers(&headers, "v5.channel.k8s.io") && !offers(&headers, "channel.k8s.io"));
        assert!(accept(&headers, "v5.channel.k8s.io").is_err());
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        let answer = accept(&headers, "v5.channel.k8s.io").unwrap();
        assert_eq!(answer[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(answer[SEC_WEBSOCKET_PROTOCOL], "v5.channel.k8s.io");
    }
}
