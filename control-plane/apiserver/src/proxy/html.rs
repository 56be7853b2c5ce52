//! Links in HTML, rewritten as it passes.

use std::{io::Write, sync::Arc};

use bytes::Bytes;
use flate2::{
    Compression,
    write::{DeflateDecoder, DeflateEncoder, GzEncoder, MultiGzDecoder},
};
use futures::{Stream, StreamExt, stream};
use http_body_util::BodyExt;
use lol_html::{Settings, element, html_content::Element, send::HtmlRewriter};
use parking_lot::Mutex;

use super::{Connection, rewrite::Located};
use crate::http::body::BodyError;

/// How a body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Identity,
    Gzip,
    Deflate,
}

/// Attributes that hold an address, by element.
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Takes what the rewriter writes.
type Sink = Box<dyn FnMut(&[u8]) + Send>;

/// What the rewriter has written and nobody has taken.
type Written = Arc<Mutex<Vec<u8>>>;

/// Rewrites the links of a document.
pub(super) struct Html {
    located: Located,
    coding: Coding,
}

impl Html {
    pub(super) fn new(located: Located, coding: Coding) -> Self {
        Self { located, coding }
    }

    /// The document with its links rewritten, as it comes.
    pub(super) fn rewrite<B>(
        self,
        body: B,
        connection: Connection,
    ) -> impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static
    where
        B: http_body::Body<Data = Bytes, Error = BodyError> + Send + Unpin + 'static,
    {
        let written = Written::default();
        let pipe = Pipe::new(self.located, self.coding, &written);
        let state = (body.into_data_stream(), Some(pipe), connection);
        stream::try_unfold(state, move |(mut body, pipe, connection)| async move {
            let Some(mut pipe) = pipe else { return Ok(None) };
            loop {
                let Some(chunk) = body.next().await else {
                    let last = pipe.finish()?;
                    return Ok(Some((last, (body, None, connection))));
                };
                let out = pipe.push(&chunk?)?;
                if !out.is_empty() {
                    return Ok(Some((out, (body, Some(pipe), connection))));
                }
            }
        })
        .filter(|chunk| std::future::ready(!matches!(chunk, Ok(chunk) if chunk.is_empty())))
    }
}

/// Unpacks, rewrites and packs again, a chunk at a time.
struct Pipe {
    unpack: Unpack,
    rewriter: HtmlRewriter<'static, Sink>,
    written: Written,
    pack: Pack,
}

enum Unpack {
    None,
    Gzip(MultiGzDecoder<Vec<u8>>),
    Deflate(DeflateDecoder<Vec<u8>>),
}

enum Pack {
    None,
    Gzip(GzEncoder<Vec<u8>>),
    Deflate(DeflateEncoder<Vec<u8>>),
}

impl Pipe {
    fn new(located: Located, coding: Coding, written: &Written) -> Self {
        let (unpack, pack) = match coding {
            Coding::Identity => (Unpack::None, Pack::None),
            Coding::Gzip => (
                Unpack::Gzip(MultiGzDecoder::new(Vec::new())),
                Pack::Gzip(GzEncoder::new(Vec::new(), Compression::default())),
            ),
            Coding::Deflate => (
                Unpack::Deflate(DeflateDecoder::new(Vec::new())),
                Pack::Deflate(DeflateEncoder::new(Vec::new(), Compression::best())),
            ),
        };
        let handle = element!("*", move |element: &mut Element<'_, '_, lol_html::send::SendHandlerTypes>| {
            let name = element.tag_name();
            let Some((_, attributes)) = LINKS.iter().find(|(known, _)| *known == name) else { return Ok(()) };
            for attribute in *attributes {
                let Some(old) = element.get_attribute(attribute) else { continue };
                let new = located.url(&old);
                if new != old {
                    element.set_attribute(attribute, &new)?;
                }
            }
            Ok(())
        });
        let settings = Settings::new_send().append_element_content_handler(handle).with_strict(false);
        let sink = Arc::clone(written);
        let sink: Sink = Box::new(move |out: &[u8]| sink.lock().extend_from_slice(out));
        Self { unpack, rewriter: HtmlRewriter::new(settings, sink), written: Arc::clone(written), pack }
    }

    fn push(&mut self, chunk: &[u8]) -> Result<Bytes, BodyError> {
        match &mut self.unpack {
            Unpack::None => self.rewriter.write(chunk)?,
            Unpack::Gzip(decoder) => {
                decoder.write_all(chunk)?;
                self.rewriter.write(&std::mem::take(decoder.get_mut()))?;
            }
            Unpack::Deflate(decoder) => {
                decoder.write_all(chunk)?;
                self.rewriter.write(&std::mem::take(decoder.get_mut()))?;
            }
        }
        self.packed()
    }

    fn packed(&mut self) -> Result<Bytes, BodyError> {
        let plain = std::mem::take(&mut *self.written.lock());
        Ok(match &mut self.pack {
            Pack::None => plain,
            Pack::Gzip(encoder) => {
                encoder.write_all(&plain)?;
                std::mem::take(encoder.get_mut())
            }
            Pack::Deflate(encoder) => {
                encoder.write_all(&plain)?;
                std::mem::take(encoder.get_mut())
            }
        }
        .into())
    }

    /// The end of the document.
    fn finish(mut self) -> Result<Bytes, BodyError> {
        let rest = match &mut self.unpack {
            Unpack::None => Vec::new(),
            Unpack::Gzip(decoder) => {
                decoder.try_finish()?;
                std::mem::take(decoder.get_mut())
            }
            Unpack::Deflate(decoder) => {
                decoder.try_finish()?;
                std::mem::take(decoder.get_mut())
            }
        };
        self.rewriter.write(&rest)?;
        self.rewriter.end()?;
        let plain = std::mem::take(&mut *self.written.lock());
        Ok(match self.pack {
            Pack::None => plain,
            Pack::Gzip(mut encoder) => {
                encoder.write_all(&plain)?;
                encoder.finish()?
            }
            Pack::Deflate(mut encoder) => {
                encoder.write_all(&plain)?;
                encoder.finish()?
            }
        }
        .into())
    }
}
