//! SPDY inside a WebSocket: what kubectl 1.31 and later use for port-forward (upstream's `TunnelingHandler`, KEP-4006).
//! The messages, one after the other, are the bytes of the SPDY connection.

use std::time::Duration;

use bytes::BytesMut;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::activity::Activity;
use crate::{BUFFER, DRAIN_TIMEOUT, Error, websocket};

/// The WebSocket subprotocol of tunnelled port-forwards.
pub const PORT_FORWARD: &str = "SPDY/3.1+portforward.k8s.io";
/// What is spoken inside, by the name it has without a WebSocket around it.
pub const PORT_FORWARD_INNER: &str = "portforward.k8s.io";

/// Joins a client's WebSocket, already accepted, to a SPDY connection, until one of them ends or nothing was carried
/// for `idle`.
///
/// # Errors
/// When a side breaks or the connection is idle.
pub async fn tunnel<A, B>(client: A, backend: B, idle: Duration) -> Result<(), Error>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite,
{
    let (mut to_client, mut from_client) = websocket::server(client).await.split();
    let (mut from_backend, mut to_backend) = split(backend);
    let activity = Activity::new();
    let up = async {
        while let Some(message) = from_client.next().await {
            if let Message::Binary(data) = message? {
                activity.touch();
                to_backend.write_all(&data).await?;
                to_backend.flush().await?;
            }
        }
        to_backend.shutdown().await?;
        Ok::<_, Error>(())
    };
    let down = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(BUFFER);
            if from_backend.read_buf(&mut buffer).await? == 0 {
                break;
            }
            activity.touch();
            to_client.send(Message::Binary(buffer.split().freeze())).await?;
        }
        to_client.send(websocket::end()).await?;
        Ok::<_, Error>(())
    };
    tokio::pin!(up, down);
    tokio::select! {
        outcome = &mut up => match timeout(DRAIN_TIMEOUT, &mut down).await {
            Ok(last) => outcome.and(last),
            Err(_) => outcome,
        },
        // The client answers the end of the WebSocket with its own.
        outcome = &mut down => match timeout(DRAIN_TIMEOUT, &mut up).await {
            Ok(_) | Err(_) => outcome,
        },
        error = activity.idle(idle) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;
    use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};

    #[tokio::test]
    async fn messages_carry_the_bytes_of_the_connection() {
        let (near, far) = duplex(1 << 16);
        let (inner, mut backend) = duplex(1 << 16);
        let running = tokio::spawn(tunnel(far, inner, Duration::from_secs(60)));
        let mut client = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
        for part in [&b"he"[..], b"llo"] {
            client.send(Message::binary(part.to_vec())).await.unwrap();
        }
        let mut heard = [0; 5];
        backend.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
        backend.write_all(b"bye").await.unwrap();
        drop(backend);
        assert_eq!(client.next().await.unwrap().unwrap(), Message::binary(b"bye".to_vec()));
        assert!(client.next().await.unwrap().unwrap().is_close());
        while client.next().await.is_some() {}
        running.await.unwrap().unwrap();
    }
}
