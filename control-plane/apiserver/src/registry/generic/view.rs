//! How an object is shown: whole, as a table row, or by its metadata alone.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::Value;
use skep_api::{request::Query, status::StatusError};

use super::Registry;
use crate::{
    http::{
        body::Body,
        negotiate::{Accepted, Format, View},
        response,
    },
    scan,
};

/// What a table row carries beside its cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IncludeObject {
    /// Nothing.
    None,
    /// The metadata (the default).
    Metadata,
    /// The whole object.
    Object,
}

impl IncludeObject {
    pub(crate) fn parse(query: &Query) -> Result<Self, StatusError> {
        match query.get("includeObject").unwrap_or_default() {
            "None" => Ok(Self::None),
            "" | "Metadata" => Ok(Self::Metadata),
            "Object" => Ok(Self::Object),
            other => Err(StatusError::bad_request(format!("unrecognized includeObject value: {other:?}"))),
        }
    }
}

/// Shows objects of one resource in one way.
#[derive(Clone)]
pub(crate) struct Viewer {
    registry: Arc<Registry>,
    view: View,
    include: IncludeObject,
    now: Timestamp,
    /// What others were asked to convert, by resource version.
    converted: Arc<HashMap<Bytes, Bytes>>,
}

impl Viewer {
    pub(crate) fn new(registry: Arc<Registry>, view: View, include: IncludeObject, now: Timestamp) -> Self {
        Self { registry, view, include, now, converted: Arc::default() }
    }

    /// Makes ready to show these stored objects, where that needs others to be asked. What was ready before is forgotten.
    pub(crate) async fn prepare<'a>(&mut self, objects: impl Iterator<Item = &'a Bytes>) -> Result<(), StatusError> {
        let remote = match &self.registry.conversion {
            Some(conversion) if conversion.is_remote() && !matches!(self.view, View::Metadata(_)) => conversion,
            _ => return Ok(()),
        };
        let stored: Vec<Bytes> = objects.cloned().collect();
        if stored.is_empty() {
            return Ok(());
        }
        let shown = remote.show(&stored).await?;
        self.converted = Arc::new(stored.iter().map(revision_of).zip(shown).collect());
        Ok(())
    }

    /// A stored object in the version served.
    fn shown(&self, json: &Bytes) -> Result<Bytes, StatusError> {
        if self.converted.is_empty() {
            return self.registry.present(json);
        }
        match self.converted.get(&revision_of(json)) {
            Some(shown) => Ok(shown.clone()),
            None => self.registry.present(json),
        }
    }

    /// Whether objects are shown as they are cached.
    pub(crate) fn is_whole(&self) -> bool {
        self.view == View::Whole && self.registry.shows_stored()
    }

    /// What frames of watches depend on beside the event: watchers of the same shape share them. None for tables, whose
    /// cells depend on the time.
    pub(crate) fn shape(&self, format: Format) -> Option<String> {
        let version = &self.registry.info().version;
        let format = match format {
            Format::Json => "json",
            Format::Protobuf => "protobuf",
            Format::Yaml => "yaml",
        };
        match self.view {
            View::Whole => Some(format!("{format} {version}")),
            View::Metadata(meta) => Some(format!("{format} metadata {meta}")),
            View::Table(_) => None,
        }
    }

    /// What a list starts with, up to its items. `meta` is the JSON of the list's metadata.
    pub(crate) fn list_head(&self, meta: &str) -> Vec<u8> {
        let info = self.registry.info();
        match self.view {
            View::Whole => {
                format!(r#"{{"kind":"{}","apiVersion":"{}","metadata":{meta},"items":["#, info.list_kind(), info.api_version())
            }
            View::Metadata(version) => format!(
                r#"{{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/{version}","metadata":{meta},"items":["#
            ),
            View::Table(version) => format!(
                r#"{{"kind":"Table","apiVersion":"meta.k8s.io/{version}","metadata":{meta},"columnDefinitions":{},"rows":["#,
                self.column_definitions()
            ),
        }
        .into_bytes()
    }

    /// One item of a list.
    pub(crate) fn write_item(&self, json: &Bytes, out: &mut Vec<u8>) -> Result<(), StatusError> {
        match self.view {
            View::Whole => out.extend_from_slice(&self.shown(json)?),
            View::Metadata(version) => write_metadata(json, version, out),
            View::Table(version) => self.write_row(json, version, out)?,
        }
        Ok(())
    }

    /// One object by itself. `first` is false for a table that follows another on the same watch.
    pub(crate) fn single(&self, json: &Bytes, first: bool) -> Result<Bytes, StatusError> {
        match self.view {
            View::Whole => self.shown(json),
            View::Metadata(version) => {
                let mut out = Vec::new();
                write_metadata(json, version, &mut out);
                Ok(out.into())
            }
            View::Table(version) => {
                let columns = if first { self.column_definitions().to_string() } else { "null".to_owned() };
                let revision = scan::member(json, "metadata")
                    .and_then(|meta| scan::member(meta, "resourceVersion"))
                    .map_or_else(|| "\"\"".into(), String::from_utf8_lossy);
                let mut out = format!(
                    r#"{{"kind":"Table","apiVersion":"meta.k8s.io/{version}","metadata":{{"resourceVersion":{revision}}},"columnDefinitions":{columns},"rows":["#
                )
                .into_bytes();
                self.write_row(json, version, &mut out)?;
                out.extend_from_slice(b"]}");
                Ok(out.into())
            }
        }
    }

    /// A bookmark in this view, if it is not simply the object.
    pub(crate) fn bookmark(&self, json: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        match self.view {
            View::Whole => return None,
            View::Metadata(version) => write_metadata(json, version, &mut out),
            View::Table(version) => {
                let head = r#"{"kind":"Table","apiVersion":"meta.k8s.io/"#;
                out.extend_from_slice(head.as_bytes());
                out.extend_from_slice(version.as_bytes());
                out.extend_from_slice(b"\",\"metadata\":");
                out.extend_from_slice(scan::member(json, "metadata").unwrap_or(b"{}"));
                out.extend_from_slice(b",\"columnDefinitions\":null,\"rows\":[{\"cells\":[],\"object\":");
                write_metadata(json, version, &mut out);
                out.extend_from_slice(b"}]}");
            }
        }
        Some(out)
    }

    /// One object as a response.
    pub(crate) fn respond(&self, accepted: &Accepted, code: StatusCode, json: &Bytes) -> Response<Body> {
        match self.single(json, true) {
            Ok(bytes) => response::json_as(code, accepted, bytes),
            Err(error) => response::status_error(&error),
        }
    }

    fn column_definitions(&self) -> Value {
        self.registry.strategy.column_definitions()
    }

    fn write_row(&self, json: &Bytes, version: &str, out: &mut Vec<u8>) -> Result<(), StatusError> {
        // The strategy of a custom resource knows the version served, that of a built-in one the version stored.
        let known = if self.registry.conversion.is_some() { self.shown(json)? } else { json.clone() };
        let object = self.registry.strategy.decode_stored(&known).map_err(StatusError::internal_error)?;
        let cells = self.registry.strategy.row(&*object, self.now);
        out.extend_from_slice(b"{\"cells\":");
        serde_json::to_writer(&mut *out, &cells).map_err(StatusError::internal_error)?;
        match self.include {
            IncludeObject::None => {}
            IncludeObject::Metadata => {
                out.extend_from_slice(b",\"object\":");
                write_metadata(json, version, out);
            }
            IncludeObject::Object => {
                out.extend_from_slice(b",\"object\":");
                out.extend_from_slice(&self.shown(json)?);
            }
        }
        out.push(b'}');
        Ok(())
    }
}

/// The raw resource version of an object: no two states of objects have the same.
fn revision_of(json: &Bytes) -> Bytes {
    let found = scan::member(json, "metadata").and_then(|meta| scan::member(meta, "resourceVersion"));
    found.map(|revision| json.slice_ref(revision)).unwrap_or_default()
}

fn write_metadata(json: &[u8], version: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/"#);
    out.extend_from_slice(version.as_bytes());
    out.extend_from_slice(b"\",\"metadata\":");
    out.extend_from_slice(scan::member(json, "metadata").unwrap_or(b"{}"));
    out.push(b'}');
}
