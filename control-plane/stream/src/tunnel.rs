//! Two connections joined byte for byte.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::time::timeout;

use crate::activity::Activity;
use crate::{BUFFER, DRAIN_TIMEOUT, Error};

/// Carries bytes both ways until one side ends, what it had said has reached the other, or nothing was carried for
/// `idle`. Both connections are closed then: nothing that is tunnelled here knows half-closed connections.
///
/// # Errors
/// When a side breaks or the connection is idle.
pub async fn tunnel<A, B>(client: A, backend: B, idle: Duration) -> Result<(), Error>
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let (mut from_client, mut to_client) = split(client);
    let (mut from_backend, mut to_backend) = split(backend);
    let activity = Activity::new();
    let outcome = {
        let up = copy(&mut from_client, &mut to_backend, &activity);
        let down = copy(&mut from_backend, &mut to_client, &activity);
        tokio::pin!(up, down);
        tokio::select! {
            outcome = &mut down => outcome.map_err(Error::from),
            // The backend may have ended while the client was still talking to it: its last words count.
            outcome = &mut up => match timeout(DRAIN_TIMEOUT, &mut down).await {
                Ok(last) => outcome.and(last).map_err(Error::from),
                Err(_) => outcome.map_err(Error::from),
            },
            error = activity.idle(idle) => Err(error),
        }
    };
    let _ = timeout(DRAIN_TIMEOUT, async { tokio::join!(to_client.shutdown(), to_backend.shutdown()) }).await;
    outcome
}

async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    activity: &Activity,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        activity.touch();
        to.write_all(&buffer[..read]).await?;
        to.flush().await?;
        activity.touch();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;

    #[tokio::test]
    async fn bytes_pass_both_ways_and_the_last_ones_before_an_end_too() {
        let (mut client, near) = duplex(64);
        let (far, mut backend) = duplex(64);
        let running = tokio::spawn(tunnel(near, far, Duration::from_secs(60)));
        client.write_all(b"ask").await.unwrap();
        let mut heard = [0; 3];
        backend.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"ask");
        let answer = vec![7; 10_000];
        backend.write_all(&answer[..64]).await.unwrap();
        let rest = answer[64..].to_vec();
        tokio::spawn(async move {
            backend.write_all(&rest).await.unwrap();
        });
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, answer);
        running.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_silent_tunnel_ends() {
        let (_client, near) = duplex(64);
        let (far, _backend) = duplex(64);
        let outcome = tunnel(near, far, Duration::from_millis(20)).await;
        assert!(matches!(outcome, Err(Error::Idle(_))));
    }

    #[tokio::test]
    async fn a_client_that_leaves_ends_a_tunnel_whose_backend_says_nothing() {
        let (client, near) = duplex(64);
        let (far, _backend) = duplex(64);
        drop(client);
        tunnel(near, far, Duration::from_secs(3600)).await.unwrap();
    }
}
