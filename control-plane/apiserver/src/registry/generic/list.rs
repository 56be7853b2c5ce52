//! GET of a collection: the concatenation of cached bytes, read off a snapshot while it is sent.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::json;
use skep_api::{
    continuation::ContinueToken,
    options::{ListOptions, ResourceVersionMatch},
    status::StatusError,
};
use skep_storage::{Error, Past, Snapshot};

use super::{Registry, commit::storage_error, continuation, selection::Selection, view::Viewer};
use crate::http::{
    body::{Body, BodyError},
    negotiate::{Accepted, Format},
    response,
};

/// A chunk of a list is sent when it has grown to this size.
const CHUNK: usize = 64 * 1024;

/// A page of a list as a response.
pub(crate) async fn respond(
    page: Page,
    mut viewer: Viewer,
    accepted: &Accepted,
) -> Result<Response<Body>, StatusError> {
    viewer.prepare(page.objects().map(|object| object.json())).await?;
    let stream = ListStream::new(page, viewer);
    if accepted.format == Format::Json {
        return Ok(response::json(StatusCode::OK, Body::list(stream)));
    }
    let body = Body::list(stream).collect().await.map_err(StatusError::internal_error)?.to_bytes();
    Ok(response::json_as(StatusCode::OK, accepted, body))
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
    stage: Stage,
    any: bool,
}

#[derive(PartialEq, Eq)]
enum Stage {
    Head,
    Items,
    Done,
}

impl ListStream {
    pub(crate) fn new(page: Page, viewer: Viewer) -> Self {
        Self { page, viewer, stage: Stage::Head, any: false }
    }

    /// The next bytes of the response; none at its end.
    pub(crate) fn next_chunk(&mut self) -> Option<Result<Bytes, BodyError>> {
        let mut out = match self.stage {
            Stage::Done => return None,
            Stage::Head => self.viewer.list_head(&self.page.meta.to_string()),
            Stage::Items => Vec::with_capacity(CHUNK + CHUNK / 4),
        };
        self.stage = Stage::Done;
        let mut next = None;
        for object in self.page.objects() {
            if self.any {
                out.push(b',');
            }
            self.any = true;
            if let Err(error) = self.viewer.write_item(object.json(), &mut out) {
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
            None => out.extend_from_slice(b"]}"),
        }
        Some(Ok(out.into()))
    }
}
