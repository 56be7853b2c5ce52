//! The client's side of SPDY/3.1, as far as Kubernetes uses it: streams are opened by the client, carry data both ways,
//! and nobody counts windows (upstream's library does not).
//!
//! Headers of streams are "compressed" as stored blocks: every decoder reads them, and no dictionary is needed. Headers
//! of answers carry nothing and are skipped.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{BUFFER, Error};

const VERSION: u16 = 0x8000 | 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GO_AWAY: u16 = 7;

const FIN: u8 = 1;
/// A frame's length has 24 bits; ours stay well below.
const MAX_DATA: usize = 1 << 20;

/// The head of a zlib stream whose dictionary is that of SPDY/3, by its Adler-32.
const ZLIB_HEAD: [u8; 6] = [0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2];
/// An empty stored block: what a decoder needs to hand out all it has read (zlib's "sync flush").
const FLUSH: [u8; 5] = [0, 0, 0, 0xff, 0xff];

/// What is sent: makes the bytes of frames.
#[derive(Debug, Default)]
pub struct Encoder {
    zlib_started: bool,
}

impl Encoder {
    /// Opens the stream `id` (odd, and larger than those before). Names of headers are lower-case.
    ///
    /// # Errors
    /// When the headers are larger than a block.
    pub fn open(&mut self, id: u32, headers: &[(&str, &str)]) -> Result<Bytes, Error> {
        let mut block = BytesMut::new();
        block.put_u32(length(headers.len())?);
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.put_u32(length(text.len())?);
            block.put_slice(text.as_bytes());
        }
        let size = u16::try_from(block.len()).map_err(|_| Error::Spdy("the headers of a stream are too large"))?;
        let mut payload = BytesMut::new();
        payload.put_u32(id);
        payload.put_u32(0);
        payload.put_u16(0);
        if !std::mem::replace(&mut self.zlib_started, true) {
            payload.put_slice(&ZLIB_HEAD);
        }
        payload.put_u8(0);
        payload.put_u16_le(size);
        payload.put_u16_le(!size);
        payload.put_slice(&block);
        payload.put_slice(&FLUSH);
        control(SYN_STREAM, 0, &payload)
    }
}

fn length(length: usize) -> Result<u32, Error> {
    u32::try_from(length).map_err(|_| Error::Spdy("the headers of a stream are too large"))
}

fn control(kind: u16, flags: u8, payload: &[u8]) -> Result<Bytes, Error> {
    let mut frame = BytesMut::with_capacity(8 + payload.len());
    frame.put_u16(VERSION);
    frame.put_u16(kind);
    frame.put_u32(u32::from(flags) << 24 | length(payload.len())?);
    frame.put_slice(payload);
    Ok(frame.freeze())
}

/// The answer to a ping.
pub(crate) fn pong(id: u32) -> Bytes {
    let mut frame = BytesMut::with_capacity(12);
    frame.put_u16(VERSION);
    frame.put_u16(PING);
    frame.put_u32(4);
    frame.put_u32(id);
    frame.freeze()
}

/// The heads of the frames that carry `data`, each with the part it carries.
pub(crate) fn data_frames(stream: u32, data: Bytes) -> impl Iterator<Item = (Bytes, Bytes)> {
    let mut rest = data;
    std::iter::from_fn(move || {
        let part = rest.split_to(rest.len().min(MAX_DATA));
        // `MAX_DATA` fits.
        let size = u32::try_from(part.len()).unwrap_or_default();
        (!part.is_empty()).then(|| (data_head(stream, 0, size), part))
    })
}

/// The frame that ends our half of a stream.
pub(crate) fn fin(stream: u32) -> Bytes {
    data_head(stream, FIN, 0)
}

fn data_head(stream: u32, flags: u8, size: u32) -> Bytes {
    let mut frame = BytesMut::with_capacity(8);
    frame.put_u32(stream);
    frame.put_u32(u32::from(flags) << 24 | size);
    frame.freeze()
}

/// What a server says.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// Data of a stream; large frames come in parts.
    Data(u32, Bytes),
    /// The server will say no more on a stream.
    End(u32),
    /// The server has given up a stream.
    Reset(u32),
    /// To be answered with the same number.
    Ping(u32),
    /// The server opens no more streams.
    GoAway,
    /// Nothing that matters here.
    Other,
}

/// What is heard: cuts a connection into frames.
pub struct Decoder<R> {
    io: R,
    /// Stream, whether it ends, and bytes to come of a data frame.
    data: Option<(u32, bool, usize)>,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Decoder<R> {
    /// Reads from `io`.
    pub fn new(io: R) -> Self {
        Self { io, data: None, buffer: BytesMut::new() }
    }

    /// The next frame or part of one; `None` when the connection ends. Not to be dropped while it waits and then called
    /// again: what was read would be lost.
    ///
    /// # Errors
    /// When the connection breaks or is not SPDY/3.1.
    pub async fn next(&mut self) -> Result<Option<Frame>, Error> {
        if self.data.is_some() {
            return self.data().await.map(Some);
        }
        let mut head = [0; 8];
        if self.io.read(&mut head[..1]).await? == 0 {
            return Ok(None);
        }
        self.io.read_exact(&mut head[1..]).await?;
        let [a, b, c, d, flags, x, y, z] = head;
        let size = u32::from_be_bytes([0, x, y, z]);
        if a & 0x80 == 0 {
            let stream = u32::from_be_bytes([a, b, c, d]);
            self.data = Some((stream, flags & FIN != 0, usize::try_from(size).unwrap_or(usize::MAX)));
            return self.data().await.map(Some);
        }
        if u16::from_be_bytes([a, b]) != VERSION {
            return Err(Error::Spdy("the node speaks another version"));
        }
        self.control(u16::from_be_bytes([c, d]), flags, size).await.map(Some)
    }

    async fn data(&mut self) -> Result<Frame, Error> {
        let Some((stream, ends, left)) = self.data.take() else { return Ok(Frame::Other) };
        if left == 0 {
            return Ok(if ends { Frame::End(stream) } else { Frame::Other });
        }
        self.buffer.reserve(BUFFER.min(left));
        let read = (&mut self.io).take(u64::try_from(left).unwrap_or(u64::MAX)).read_buf(&mut self.buffer).await?;
        if read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let left = left.saturating_sub(read);
        if left > 0 || ends {
            self.data = Some((stream, ends, left));
        }
        Ok(Frame::Data(stream, self.buffer.split().freeze()))
    }

    async fn control(&mut self, kind: u16, flags: u8, size: u32) -> Result<Frame, Error> {
        let wanted = matches!(kind, SYN_REPLY | RST_STREAM | PING);
        let mut id = 0;
        let mut skip = u64::from(size);
        if wanted {
            if size < 4 {
                return Err(Error::Spdy("a frame is too short"));
            }
            id = self.io.read_u32().await?;
            skip -= 4;
        }
        let skipped = tokio::io::copy(&mut (&mut self.io).take(skip), &mut tokio::io::sink()).await?;
        if skipped < skip {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(match kind {
            SYN_REPLY if flags & FIN != 0 => Frame::End(id),
            RST_STREAM => Frame::Reset(id),
            PING => Frame::Ping(id),
            GO_AWAY => Frame::GoAway,
            _ => Frame::Other,
        })
    }
}

#[cfg(test)]
mod tests;
