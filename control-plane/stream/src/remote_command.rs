//! `v5.channel.k8s.io` to SPDY (upstream's `StreamTranslatorHandler`, KEP-4006): exec and attach for kubectl 1.31 and
//! later.
//!
//! The client's messages begin with the number of a channel; each channel becomes a SPDY stream. Version 5 differs from
//! 4 in that the client can end its standard input, which container runtimes up to containerd 1.x only understand over
//! SPDY.

use std::future::Future;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::activity::Activity;
use crate::spdy::{self, Decoder, Encoder, Frame};
use crate::{DRAIN_TIMEOUT, Error, websocket};

/// The WebSocket subprotocol that is translated.
pub const V5: &str = "v5.channel.k8s.io";
/// What it is translated to, over SPDY.
pub const V4: &str = "v4.channel.k8s.io";

/// The most a runtime may say about how a command ended.
const MAX_STATUS: usize = 64 * 1024;
/// Pings that may wait for their answer while the runtime takes no input.
const PONGS: usize = 4;

/// Which channels a client asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error; with a terminal there is none.
    pub stderr: bool,
    /// A terminal, whose size may change.
    pub tty: bool,
}

/// A channel: the number that begins its messages, the name and the number of its SPDY stream.
struct Channel {
    number: u8,
    name: &'static str,
    stream: u32,
}

const STDIN: Channel = Channel { number: 0, name: "stdin", stream: 3 };
const STDOUT: Channel = Channel { number: 1, name: "stdout", stream: 5 };
const STDERR: Channel = Channel { number: 2, name: "stderr", stream: 7 };
const ERROR: Channel = Channel { number: 3, name: "error", stream: 1 };
const RESIZE: Channel = Channel { number: 4, name: "resize", stream: 9 };
/// The message that ends the channel it names.
const CLOSE: u8 = 255;

impl Streams {
    fn has_stderr(self) -> bool {
        self.stderr && !self.tty
    }

    /// Where the client is told that it is connected: the first channel it listens to.
    fn first_readable(self) -> u8 {
        if self.stdout {
            STDOUT.number
        } else if self.has_stderr() {
            STDERR.number
        } else {
            ERROR.number
        }
    }
}

/// Serves a client's WebSocket, already accepted, over the SPDY connection that `dial` makes. When that fails, its error
/// is what the client is told. Ends when the command, the client or the connection does, or nothing was carried for
/// `idle`.
///
/// # Errors
/// When a side breaks or the connection is idle. The client has been told.
pub async fn translate<A, B>(
    client: A,
    dial: impl Future<Output = Result<B, Status>>,
    streams: Streams,
    idle: Duration,
) -> Result<(), Error>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite,
{
    let (mut to_client, mut from_client) = websocket::server(client).await.split();
    to_client.send(message(streams.first_readable(), b"")).await?;
    let backend = match dial.await {
        Ok(backend) => backend,
        Err(status) => return hang_up(&mut to_client, &mut from_client, &status_json(&status)).await,
    };
    let (from_backend, mut to_backend) = split(backend);
    let activity = Activity::new();
    let (pongs, pongs_due) = mpsc::channel(PONGS);
    open(&mut to_backend, streams).await?;
    let outcome = {
        let up = upward(&mut from_client, &mut to_backend, streams, pongs_due, &activity);
        let down = downward(Decoder::new(from_backend), &mut to_client, streams, &pongs, &activity);
        tokio::pin!(up, down);
        tokio::select! {
            outcome = &mut down => outcome.map(Some),
            outcome = &mut up => match outcome {
                // The client has left: nobody is to be told anything.
                Ok(()) => Ok(None),
                // The runtime takes no more input; it may still say how the command ended.
                Err(Error::Io(error)) => match timeout(DRAIN_TIMEOUT, &mut down).await {
                    Ok(outcome) => outcome.map(Some),
                    Err(_) => Err(error.into()),
                },
                Err(error) => Err(error),
            },
            error = activity.idle(idle) => Err(error),
        }
    };
    let _ = timeout(DRAIN_TIMEOUT, to_backend.shutdown()).await;
    match outcome {
        Ok(Some(status)) => hang_up(&mut to_client, &mut from_client, &status).await,
        Ok(None) => Ok(()),
        Err(error) => {
            let status = status_json(&internal_error(&error.to_string()));
            hang_up(&mut to_client, &mut from_client, &status).await?;
            Err(error)
        }
    }
}

async fn open<B: AsyncWrite>(to: &mut WriteHalf<B>, streams: Streams) -> Result<(), Error> {
    let mut encoder = Encoder::default();
    let wanted = [
        (ERROR, true),
        (STDIN, streams.stdin),
        (STDOUT, streams.stdout),
        (STDERR, streams.has_stderr()),
        (RESIZE, streams.tty),
    ];
    for (channel, _) in wanted.into_iter().filter(|(_, wanted)| *wanted) {
        to.write_all(&encoder.open(channel.stream, &[("streamtype", channel.name)])?).await?;
    }
    Ok(to.flush().await?)
}

/// From the client to the runtime, until the client leaves.
async fn upward<A, B>(
    from: &mut SplitStream<WebSocketStream<A>>,
    to: &mut WriteHalf<B>,
    streams: Streams,
    mut pongs: mpsc::Receiver<u32>,
    activity: &Activity,
) -> Result<(), Error>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncWrite,
{
    let mut input = streams.stdin;
    loop {
        let message = tokio::select! {
            message = from.next() => message,
            Some(id) = pongs.recv() => {
                to.write_all(&spdy::pong(id)).await?;
                to.flush().await?;
                continue;
            }
        };
        let mut data = match message {
            Some(Ok(Message::Binary(data))) => data,
            Some(Ok(Message::Text(text))) => Bytes::from(text),
            Some(Ok(_)) => continue,
            None | Some(Err(_)) => return Ok(()),
        };
        activity.touch();
        if data.is_empty() {
            continue;
        }
        let channel = data.split_to(1)[0];
        let stream = match channel {
            CLOSE if input && data.first() == Some(&STDIN.number) => {
                input = false;
                to.write_all(&spdy::fin(STDIN.stream)).await?;
                to.flush().await?;
                continue;
            }
            channel if channel == STDIN.number && input => STDIN.stream,
            channel if channel == RESIZE.number && streams.tty => RESIZE.stream,
            _ => continue,
        };
        for (head, part) in spdy::data_frames(stream, data) {
            to.write_all(&head).await?;
            to.write_all(&part).await?;
        }
        to.flush().await?;
        activity.touch();
    }
}

/// From the runtime to the client, until the runtime has said all. Answers how the command ended.
async fn downward<A, B>(
    mut from: Decoder<ReadHalf<B>>,
    to: &mut SplitSink<WebSocketStream<A>, Message>,
    streams: Streams,
    pongs: &mpsc::Sender<u32>,
    activity: &Activity,
) -> Result<Vec<u8>, Error>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead,
{
    let mut open = vec![ERROR.stream];
    open.extend(streams.stdout.then_some(STDOUT.stream));
    open.extend(streams.has_stderr().then_some(STDERR.stream));
    let mut status = Vec::new();
    while !open.is_empty() {
        match from.next().await? {
            None => break,
            Some(Frame::Data(stream, data)) => {
                activity.touch();
                match stream {
                    stream if stream == ERROR.stream => {
                        let room = MAX_STATUS.saturating_sub(status.len());
                        status.extend_from_slice(&data[..data.len().min(room)]);
                    }
                    stream if stream == STDOUT.stream => to.send(message(STDOUT.number, &data)).await?,
                    stream if stream == STDERR.stream => to.send(message(STDERR.number, &data)).await?,
                    _ => {}
                }
            }
            Some(Frame::End(stream) | Frame::Reset(stream)) => open.retain(|known| *known != stream),
            // Our own pings would be odd. An answer that finds no room would come too late to matter.
            Some(Frame::Ping(id)) if id % 2 == 0 => drop(pongs.try_send(id)),
            Some(Frame::Ping(_) | Frame::GoAway | Frame::Other) => {}
        }
    }
    if !status.is_empty() {
        return Ok(status);
    }
    if open.contains(&ERROR.stream) {
        return Ok(status_json(&internal_error("the connection to the container ended before the command did")));
    }
    Ok(status_json(&Status { status: Some("Success".to_owned()), ..Status::default() }))
}

/// Says how the command ended, and ends the WebSocket.
async fn hang_up<A: AsyncRead + AsyncWrite + Unpin>(
    to: &mut SplitSink<WebSocketStream<A>, Message>,
    from: &mut SplitStream<WebSocketStream<A>>,
    status: &[u8],
) -> Result<(), Error> {
    let last_words = async {
        to.send(message(ERROR.number, status)).await?;
        to.send(websocket::end()).await?;
        // The client answers the end with its own; input that was under way is not wanted any more.
        while let Some(Ok(_)) = from.next().await {}
        Ok(())
    };
    timeout(DRAIN_TIMEOUT, last_words).await.unwrap_or(Ok(()))
}

fn message(channel: u8, data: &[u8]) -> Message {
    let mut message = BytesMut::with_capacity(1 + data.len());
    message.put_u8(channel);
    message.put_slice(data);
    Message::Binary(message.freeze())
}

fn internal_error(why: &str) -> Status {
    Status {
        status: Some("Failure".to_owned()),
        message: Some(format!("Internal error occurred: {why}")),
        reason: Some("InternalError".to_owned()),
        code: Some(500),
        ..Status::default()
    }
}

fn status_json(status: &Status) -> Vec<u8> {
    // A Status is strings and numbers: it always serialises.
    serde_json::to_vec(status).unwrap_or_default()
}

#[cfg(test)]
mod tests;
