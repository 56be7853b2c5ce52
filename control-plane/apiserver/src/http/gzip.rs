//! Compressed answers, as upstream gives them: large ones, to who asks, at the lowest level.

use std::io::Write as _;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::body::{Body, BodyError};

/// Shorter answers are not worth it.
pub(crate) const THRESHOLD: usize = 128 * 1024;
/// How much is compressed at a time: others must get their turn.
const PIECE: usize = 64 * 1024;
/// Compressed bytes are handed out when there are so many.
const CHUNK: usize = 16 * 1024;

/// Whether a client takes gzip.
pub(crate) fn accepts(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|word| {
        let mut parts = word.split(';').map(str::trim);
        parts.next() == Some("gzip") && !parts.any(|parameter| matches!(parameter, "q=0" | "q=0.0"))
    })
}

/// Compresses an answer if it is large, and was asked for and made here.
pub(crate) fn compress(response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    if parts.status != StatusCode::OK || parts.headers.contains_key(header::CONTENT_ENCODING) {
        return Response::from_parts(parts, body);
    }
    let (body, compressed) = body.compressed(THRESHOLD);
    if compressed {
        parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        parts.headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    Response::from_parts(parts, body)
}

/// Compresses what `next` gives, a piece at a time.
pub(crate) struct Gzip {
    next: Box<dyn FnMut() -> Option<Result<Bytes, BodyError>> + Send>,
    /// What `next` gave and was not compressed yet.
    rest: Bytes,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl Gzip {
    pub(crate) fn new(next: impl FnMut() -> Option<Result<Bytes, BodyError>> + Send + 'static) -> Self {
        let encoder = GzEncoder::new(Vec::with_capacity(CHUNK + CHUNK / 4), Compression::fast());
        Self { next: Box::new(next), rest: Bytes::new(), encoder: Some(encoder) }
    }

    /// The next compressed bytes; none at the end.
    pub(crate) fn next_chunk(&mut self) -> Option<Result<Bytes, BodyError>> {
        loop {
            let encoder = self.encoder.as_mut()?;
            if self.rest.is_empty() {
                match (self.next)() {
                    Some(Ok(bytes)) => self.rest = bytes,
                    Some(Err(error)) => {
                        self.encoder = None;
                        return Some(Err(error));
                    }
                    None => {
                        let last = self.encoder.take()?.finish();
                        return Some(last.map(Bytes::from).map_err(Into::into));
                    }
                }
            }
            let piece = self.rest.split_to(self.rest.len().min(PIECE));
            if let Err(error) = encoder.write_all(&piece) {
                self.encoder = None;
                return Some(Err(error.into()));
            }
            if encoder.get_ref().len() >= CHUNK {
                let out = std::mem::replace(encoder.get_mut(), Vec::with_capacity(CHUNK + CHUNK / 4));
                return Some(Ok(out.into()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;
    use http_body_util::BodyExt as _;

    use super::*;

    fn asks(value: &'static str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(value));
        accepts(&headers)
    }

    #[test]
    fn gzip_is_for_who_asks() {
        assert!(asks("gzip") && asks("deflate, gzip;q=0.5"));
        assert!(!asks("br") && !asks("gzip;q=0") && !accepts(&HeaderMap::new()));
    }

    #[tokio::test]
    async fn large_answers_shrink_and_small_ones_stay() {
        let small = compress(Response::new(Body::from(vec![b'a'; THRESHOLD - 1])));
        assert!(small.headers().is_empty());
        let plain: Vec<u8> = (0..THRESHOLD * 3).map(|at| (at / 7 % 251) as u8).collect();
        let large = compress(Response::new(Body::from(plain.clone())));
        assert_eq!(large.headers()["content-encoding"], "gzip");
        assert_eq!(large.headers()["vary"], "Accept-Encoding");
        let packed = large.into_body().collect().await.unwrap().to_bytes();
        assert!(packed.len() < plain.len() / 2);
        let mut back = Vec::new();
        GzDecoder::new(&packed[..]).read_to_end(&mut back).unwrap();
        assert_eq!(back, plain);
    }
}
