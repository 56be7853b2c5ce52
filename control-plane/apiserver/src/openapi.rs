//! `/openapi/v2` and `/openapi/v3`: which types and operations there are.
//!
//! Documents are made on demand and not kept: clients keep them, by the hash in the address or by ETag.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use skep_api::{
    request::{Query, RequestInfo},
    resource::ResourceInfo,
    status::StatusError,
};
use skep_crd::publish::{self, Dialect};
use skep_schema::openapi::{Definition, Documents};
use tokio::sync::Semaphore;

use crate::{
    aggregation::Remotes,
    http::{body::Body, negotiate::alternatives, response},
    version,
};

/// How many documents are made at a time: each takes a few megabytes.
const AT_ONCE: usize = 2;
const JSON: &str = "application/json";
/// What clients ask `/openapi/v2` for. No parser of media types takes that name, so it is answered as the next.
const V2_PROTOBUF_ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// What is below `/openapi`.
pub(crate) struct OpenApi {
    documents: Arc<Documents>,
    making: Semaphore,
}

/// The definitions of a custom kind and of its list.
fn custom(info: &ResourceInfo, schema: &Value) -> (ResourceInfo, Definition, Definition) {
    let define = |kind: &str, make: &dyn Fn(Dialect) -> Value| {
        let gvk = json!([{"group": info.group, "version": info.version, "kind": kind}]);
        let make = |dialect| {
            let mut made = make(dialect);
            made["x-kubernetes-group-version-kind"] = gvk.clone();
            made
        };
        let name = publish::name(&info.group, &info.version, kind);
        Definition { name, v2: make(Dialect::V2), v3: make(Dialect::V3) }
    };
    let item = publish::name(&info.group, &info.version, &info.kind);
    let object = define(&info.kind, &|dialect| publish::schema(schema, dialect));
    let list_kind = info.list_kind();
    let list = define(&list_kind, &|dialect| publish::list(&list_kind, &item, dialect));
    (info.clone(), object, list)
}

/// Which document is asked for.
enum Wanted {
    Index,
    V3(String),
    V2Json,
    V2Protobuf,
}

impl OpenApi {
    /// Documents of these resources; custom ones bring their schema. Other servers' are merged into `/openapi/v2`.
    pub(crate) fn new(resources: &[(&ResourceInfo, Option<&Value>)], remotes: &Remotes) -> Self {
        let built_in = resources.iter().filter(|(_, schema)| schema.is_none()).map(|(info, _)| *info);
        let custom = resources.iter().filter_map(|(info, schema)| Some(custom(info, (*schema)?)));
        let others = remotes.iter().filter_map(|remote| remote.told.as_ref()?.openapi_v2.as_ref());
        let others = others.map(|told| (Arc::clone(&told.document), told.hash.clone()));
        let documents = Documents::new(built_in, version::KUBERNETES).with_custom(custom).with_foreign(others);
        Self { documents: Arc::new(documents), making: Semaphore::new(AT_ONCE) }
    }

    /// The document at `path`, or 404.
    pub(crate) async fn respond(
        &self,
        path: &str,
        query: &Query,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, StatusError> {
        let (wanted, content_type, hash) = self.find(path, headers)?;
        let tag = HeaderValue::try_from(format!("\"{hash}\"")).map_err(StatusError::internal_error)?;
        let asked = query.get("hash").filter(|_| matches!(wanted, Wanted::V3(_)));
        if asked.is_some_and(|asked| asked != hash) {
            let location = HeaderValue::try_from(format!("{path}?hash={hash}")).map_err(StatusError::internal_error)?;
            let mut moved = response::text(StatusCode::MOVED_PERMANENTLY, Body::empty());
            moved.headers_mut().insert(header::LOCATION, location);
            return Ok(moved);
        }
        let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let mut response = if known.flat_map(|value| value.split(',')).any(|known| tag == known.trim()) {
            response::with_type(StatusCode::NOT_MODIFIED, content_type, Body::empty())
        } else {
            response::with_type(StatusCode::OK, content_type, self.make(wanted).await?)
        };
        let headers = response.headers_mut();
        headers.insert(header::ETAG, tag);
        headers.insert(header::VARY, HeaderValue::from_static("Accept"));
        if asked.is_some() {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable, max-age=31536000"));
        }
        Ok(response)
    }

    fn find(&self, path: &str, headers: &HeaderMap) -> Result<(Wanted, &'static str, String), StatusError> {
        let json = |alternative: &str| matches!(alternative, JSON | "application/*" | "*/*");
        if path == "/openapi/v2" {
            for alternative in alternatives(headers) {
                if [V2_PROTOBUF_ASKED, V2_PROTOBUF].contains(&alternative.media_type) {
                    return Ok((Wanted::V2Protobuf, V2_PROTOBUF, self.documents.v2_hash()));
                }
                if json(alternative.media_type) {
                    return Ok((Wanted::V2Json, JSON, self.documents.v2_hash()));
                }
            }
            return Err(StatusError::not_acceptable(&[JSON, V2_PROTOBUF]));
        }
        let found = if path == "/openapi/v3" {
            Some((Wanted::Index, self.documents.index_hash()))
        } else {
            path.strip_prefix("/openapi/v3/")
                .and_then(|group| Some((Wanted::V3(group.to_owned()), self.documents.hash(group)?)))
        };
        let (wanted, hash) = found.ok_or_else(StatusError::generic_not_found)?;
        if !alternatives(headers).iter().any(|alternative| json(alternative.media_type)) {
            return Err(StatusError::not_acceptable(&[JSON]));
        }
        Ok((wanted, JSON, hash))
    }

    async fn make(&self, wanted: Wanted) -> Result<Body, StatusError> {
        let _permit = self.making.acquire().await.map_err(StatusError::internal_error)?;
        let documents = Arc::clone(&self.documents);
        let made = tokio::task::spawn_blocking(move || match wanted {
            Wanted::Index => Ok(Some(documents.index())),
            Wanted::V3(path) => documents.v3(&path),
            Wanted::V2Json => documents.v2_json().map(Some),
            Wanted::V2Protobuf => documents.v2_protobuf().map(Some),
        });
        let made = made.await.map_err(StatusError::internal_error)?.map_err(StatusError::internal_error)?;
        Ok(made.ok_or_else(StatusError::generic_not_found)?.into())
    }
}

/// The index of `/openapi/v3`, with the documents of other servers.
pub(crate) async fn openapi_index(
    own: &OpenApi,
    remotes: &Remotes,
    request: &RequestInfo,
    headers: &HeaderMap,
) -> Result<Response<Body>, StatusError> {
    let others: Vec<(String, String)> = remotes
        .iter()
        .filter_map(|remote| {
            let url = remote.told.as_ref()?.openapi.clone()?;
            Some((remote.path().trim_start_matches('/').to_owned(), url))
        })
        .collect();
    let path = request.path.trim_end_matches('/');
    if others.is_empty() {
        return own.respond(path, &request.query, headers).await;
    }
    // The tag of our own documents says nothing of the others'.
    let mut headers = headers.clone();
    headers.remove(header::IF_NONE_MATCH);
    let mut response = own.respond(path, &request.query, &headers).await?;
    response.headers_mut().remove(header::ETAG);
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.map_err(StatusError::internal_error)?.to_bytes();
    let mut index: Value = serde_json::from_slice(&bytes).map_err(StatusError::internal_error)?;
    for (path, url) in others {
        index["paths"][path] = json!({"serverRelativeURL": url});
    }
    Ok(Response::from_parts(parts, index.to_string().into()))
}
