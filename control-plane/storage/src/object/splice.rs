//! Where the resourceVersion goes in a stored value.

use bytes::Bytes;
use std::io::Write;
use std::ops::Deref;

const MEMBER: &[u8] = b"\"resourceVersion\":\"";

/// A place in a stored value for the resourceVersion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Splice {
    /// A new first member of `metadata` at this offset, followed by a comma if `comma`.
    Insert { at: usize, comma: bool },
    /// The value of the member that is there already.
    Replace { at: usize, len: usize },
}

impl Splice {
    /// The spliced bytes, and where in them the digits are.
    pub(super) fn apply(self, stored: &[u8], revision: i64) -> (Bytes, u32, u32) {
        let digits = Digits::of(revision);
        let mut out = Vec::with_capacity(stored.len() + MEMBER.len() + digits.len() + 2);
        let (head, tail, comma) = match self {
            Self::Insert { at, comma } => (at, at, comma),
            Self::Replace { at, len } => (at, at + len, false),
        };
        out.extend_from_slice(&stored[..head]);
        match self {
            Self::Insert { .. } => out.extend_from_slice(MEMBER),
            Self::Replace { .. } => out.push(b'"'),
        }
        let version_at = out.len() as u32;
        out.extend_from_slice(&digits);
        out.push(b'"');
        if comma {
            out.push(b',');
        }
        out.extend_from_slice(&stored[tail..]);
        (out.into(), version_at, digits.len() as u32)
    }
}

/// Decimal digits of a revision, without an allocation.
pub(super) struct Digits {
    buf: [u8; 20],
    len: usize,
}

impl Digits {
    pub(super) fn of(revision: i64) -> Self {
        let mut buf = [0; 20];
        let mut rest = &mut buf[..];
        // 20 bytes hold every i64, so the write cannot come up short.
        let _ = write!(rest, "{revision}");
        let len = 20 - rest.len();
        Self { buf, len }
    }
}

impl Deref for Digits {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.buf[..self.len]
    }
}
