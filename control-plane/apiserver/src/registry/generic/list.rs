//! GET of a collection: the concatenation of cached bytes, read off a snapshot while it is sent.

mod form;

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::json;
use skep_api::{
    continuation::ContinueToken,
    options::{ListOptions, ResourceVersionMatch},
    status::StatusError,
};
use skep_storage::{Error, Past, Snapshot};

use self::form::Form;
use super::{Registry, commit::storage_error, continuation, selection::Selection, view::Viewer};
use crate::http::{
    body::{Body, BodyError},
    negotiate::{Accepted, Format},
    response,
};

/// A chunk of a list is sent when it has grown to this size.
const CHUNK: usize = 64 * 1024;

/// An encoded list that must be measured before it is sent is kept for that if it is no longer than this.
const KEPT: usize = 2 * 1024 * 1024;
/// Others have their turn when so much has been encoded.
const TURN: usize = 256 * 1024;

/// A page of a list as a response.
pub(crate) async fn respond(
    page: Page,
    mut viewer: Viewer,
    accepted: &Accepted,
) -> Result<Response<Body>, StatusError> {
    viewer.prepare(page.objects().map(|object| object.json())).await?;
    let head = viewer.list_head(&page.meta.to_string());
    let body = match accepted.format {
        Format::Json => return Ok(response::json(StatusCode::OK, stream(page, viewer, Form::Json, head))),
        Format::Yaml => {
            let (form, begin) = Form::yaml(&head, page.objects().next().is_none())?;
            stream(page, viewer, form, begin)
        }
        Format::Protobuf => protobuf(page, viewer, &head).await?,
    };
    Ok(response::with_type(StatusCode::OK, accepted.content_type(), body))
}

fn stream(page: Page, viewer: Viewer, form: Form, begin: Vec<u8>) -> Body {
    Body::list(ListStream { page, viewer, form, stage: Stage::Head(begin), any: false })
}

/// A list begins with its length in protobuf: it is encoded to be measured, and again to be sent if it is long.
async fn protobuf(page: Page, viewer: Viewer, head: &[u8]) -> Result<Body, StatusError> {
    let list = form::protobuf(head)?;
    let (mut encoded, mut length, mut turn) = (Vec::new(), 0, 0);
    for object in page.objects() {
        let before = encoded.len();
        form::protobuf_item(&list, &viewer, object.json(), &mut encoded)?;
        length += encoded.len() - before;
        if length > KEPT {
            encoded.clear();
        }
        turn += object.json().len();
        if turn > TURN {
            turn = 0;
            tokio::task::yield_now().await;
        }
    }
    let mut out = list.begin(length);
    if length > KEPT {
        return Ok(stream(page, viewer, Form::Protobuf(list), out));
    }
    out.extend_from_slice(&encoded);
    out.extend_from_slice(skep_protobuf::List::END);
    Ok(out.into())
}

impl Registry {
    /// Answers a list request.
    pub(crate) async fn list(
        &self,
        selection: Selection,
        options: &ListOptions,
        viewer: Viewer,
        accepted: &Accepted,
    ) -> Result<Response<Body>, StatusError> {
        respond(self.page(selection, options).await?, viewer, accepted).await
    }

    /// The snapshot and the part of it that a list request asks for.
    pub(crate) async fn page(&self, selection: Selection, options: &ListOptions) -> Result<Page, StatusError> {
        let token = options.continue_token.as_deref().map(ContinueToken::decode).transpose()?;
        let known_rest = token.as_ref().and_then(|token| token.rest);
        let (snapshot, start) = self.snapshot_for(&selection, options, token).await?;
        let mut page = Page { start, end: None, meta: json!({}), snapshot, selection };
        let limit = usize::try_from(options.limit).unwrap_or(usize::MAX);
        if limit > 0 {
            page.cut(limit);
        }
        page.meta["resourceVersion"] = page.snapshot.revision().to_string().into();
        if let Some(end) = &page.end {
            let start = end.strip_prefix(&page.selection.scope).unwrap_or_default().to_owned();
            let mut next = ContinueToken::new(page.snapshot.revision(), start);
            if page.selection.is_everything() {
                let count = || page.snapshot.range(&page.selection.scope, end).count() + page.snapshot.beyond();
                let rest = known_rest.and_then(|rest| rest.checked_sub(limit)).unwrap_or_else(count);
                page.meta["remainingItemCount"] = rest.into();
                next.rest = Some(rest);
            }
            page.meta["continue"] = next.encode().into();
        }
        Ok(page)
    }

    /// The snapshot a list is read from, and the key to start with.
    async fn snapshot_for(
        &self,
        selection: &Selection,
        options: &ListOptions,
        token: Option<ContinueToken>,
    ) -> Result<(Snapshot, String), StatusError> {
        if let Some(token) = token {
            let start = format!("{}{}", selection.scope, token.start);
            if token.revision > 0 {
                let past = self.past(selection, options, token.revision, &start).await;
                let snapshot = past.map_err(|error| match error {
                    Error::Expired { .. } | Error::Compacted { .. } => continuation::expired(&token),
                    error => storage_error(error),
                })?;
                return Ok((snapshot, start));
            }
            self.refresh().await?;
            return Ok((self.cache.snapshot(), start));
        }
        self.await_version(options.resource_version).await?;
        let exact = match (options.resource_version, options.resource_version_match) {
            (None | Some(0), _) | (_, Some(ResourceVersionMatch::NotOlderThan)) => None,
            (version, Some(ResourceVersionMatch::Exact)) => version,
            // What a page of a version meant before there was a choice.
            (version, None) => version.filter(|_| options.limit > 0),
        };
        let Some(version) = exact else { return Ok((self.cache.snapshot(), String::new())) };
        let revision = i64::try_from(version).unwrap_or(i64::MAX);
        let snapshot = self.past(selection, options, revision, "").await.map_err(|error| match error {
            Error::Expired { .. } | Error::Compacted { .. } => {
                StatusError::expired("The resourceVersion for the provided list is too old.")
            }
            error => storage_error(error),
        })?;
        Ok((snapshot, String::new()))
    }

    /// What a page needs of the state at `revision`: from the cache if it remembers, else from etcd.
    async fn past(
        &self,
        selection: &Selection,
        options: &ListOptions,
        revision: i64,
        start: &str,
    ) -> skep_storage::Result<Snapshot> {
        match self.cache.snapshot_at(revision) {
            Err(Error::Expired { .. }) => {}
            decided => return decided,
        }
        // One more than the page tells whether there is a next one.
        let needed = match options.limit {
            0 => usize::MAX,
            limit => usize::try_from(limit).unwrap_or(usize::MAX).saturating_add(1),
        };
        let past = Past { revision, scope: &selection.scope, start, needed };
        self.storage.past_page(&self.cache, past, |object| selection.matches(object)).await
    }
}

/// Part of a snapshot.
pub(crate) struct Page {
    pub(crate) snapshot: Snapshot,
    pub(crate) selection: Selection,
    /// The first key; empty for the beginning of the scope.
    start: String,
    /// The first key that is not in the page any more.
    end: Option<String>,
    /// The list's metadata.
    meta: serde_json::Value,
}

impl Page {
    /// Ends the page after `limit` objects, if there are more.
    fn cut(&mut self, limit: usize) {
        let mut last: Option<&str> = None;
        let mut count = 0;
        for object in self.snapshot.range(&self.selection.scope, &self.start) {
            if !self.selection.matches(object) {
                continue;
            }
            if count == limit {
                self.end = last.map(after);
                return;
            }
            count += 1;
            last = Some(object.key());
        }
    }

    /// The objects of the page.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &Arc<skep_storage::Object>> {
        self.snapshot
            .range(&self.selection.scope, &self.start)
            .take_while(|object| self.end.as_deref().is_none_or(|end| &**object.key() < end))
            .filter(|object| self.selection.matches(object))
    }
}

/// The smallest key after `key`.
fn after(key: &str) -> String {
    format!("{key}\0")
}

/// A list that is put together while it is sent. It holds the snapshot, not the response.
pub(crate) struct ListStream {
    page: Page,
    viewer: Viewer,
    form: Form,
    stage: Stage,
    any: bool,
}

enum Stage {
    /// What comes before the items.
    Head(Vec<u8>),
    Items,
    Done,
}

impl ListStream {
    /// The next bytes of the response; none at its end.
    pub(crate) fn next_chunk(&mut self) -> Option<Result<Bytes, BodyError>> {
        let mut out = match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Done => return None,
            Stage::Head(begin) => begin,
            Stage::Items => Vec::with_capacity(CHUNK + CHUNK / 4),
        };
        let mut next = None;
        for object in self.page.objects() {
            let first = !std::mem::replace(&mut self.any, true);
            if let Err(error) = self.form.item(&self.viewer, object.json(), first, &mut out) {
                tracing::error!(key = %object.key(), %error, "an object cannot be shown");
                return Some(Err(error.into()));
            }
            if out.len() >= CHUNK {
                next = Some(after(object.key()));
                self.stage = Stage::Items;
                break;
            }
        }
        match next {
            Some(next) => self.page.start = next,
            None => out.extend_from_slice(self.form.end()),
        }
        Some(Ok(out.into()))
    }
}
