//! `serviceaccounts/token`: a token of the account, for as long and for whom the request says.

use std::sync::Arc;

use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestStatus},
        core::v1::{Pod, ServiceAccount},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde::Deserialize as _;
use skep_api::{
    field,
    options::CreateOptions,
    request::Verb,
    status::{GroupResource, StatusError},
};
use uuid::Uuid;

use crate::{
    authn::service_account::{Bound, Claims, Reference, ServiceAccounts},
    dispatch::Call,
    http::{
        body::Body,
        negotiate::accept_plain,
        request_body::{self, Document, document},
        response,
    },
    registry::generic::Registry,
};

const GROUP: &str = "authentication.k8s.io";
const KIND: &str = "TokenRequest";
const DEFAULT_SECONDS: i64 = 3600;
const SHORTEST: i64 = 600;
const LONGEST: i64 = 1 << 32;
/// What admission asks for on behalf of pods. Such a token lives a year, for clients that never read it again; it says when
/// it should have been renewed.
pub(crate) const POD_SECONDS: i64 = 3607;
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

pub(crate) async fn answer(call: Call<'_>, registry: &Arc<Registry>) -> Result<Response<Body>, StatusError> {
    let (Verb::Create, Some(name)) = (call.request.verb, call.request.name.as_deref()) else {
        return Err(call.wrong_method());
    };
    let accounts = call.accounts.ok_or_else(StatusError::generic_not_found)?;
    let accepted = accept_plain(call.headers)?;
    let options = CreateOptions::parse(&call.request.query)?;
    let namespace = call.namespace(registry).unwrap_or_default();
    let scope = call.scope(registry, options.dry_run);
    let headers = call.headers;
    let body = request_body::read(call.body).await?;
    let unreadable = |error: &dyn std::fmt::Display| {
        StatusError::bad_request(format!("TokenRequest in version \"v1\" cannot be handled as a TokenRequest: {error}"))
    };
    let mut value: serde_json::Value = match document(headers, &body)? {
        Document::Json(json) => serde_json::from_slice(&json).map_err(|error| unreadable(&error))?,
        Document::Value(value) => value,
    };
    // The answer goes there; what clients written in Go send is an empty one, which no type here can hold.
    if let Some(request) = value.as_object_mut() {
        request.remove("status");
    }
    let request = TokenRequest::deserialize(value).map_err(|error| unreadable(&error))?;
    let mut request = registry.admit_part(&scope, name, "token", request).await?;
    check_names(&request, name, namespace)?;
    let object = registry.get_object(Some(namespace), name).await?;
    let account = object.as_any().downcast_ref::<ServiceAccount>().ok_or_else(StatusError::generic_not_found)?;
    let account = Reference { name: name.to_owned(), uid: account.metadata.uid.clone().unwrap_or_default() };
    let seconds = *request.spec.expiration_seconds.get_or_insert(DEFAULT_SECONDS);
    check_expiration(seconds)?;
    if request.spec.audiences.is_empty() {
        request.spec.audiences = accounts.own_audiences();
    }
    let mut bound = Bound { namespace: namespace.to_owned(), serviceaccount: account, ..Bound::default() };
    if let Some(reference) = &request.spec.bound_object_ref {
        bind(call.registries, reference, &mut bound).await?;
    }
    let now = call.now;
    let (claims, seconds) = claims(accounts, bound, &request.spec.audiences, seconds, now);
    let token = accounts.sign(&claims).map_err(StatusError::internal_error)?;
    let expires = now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
    let whole = Timestamp::from_second(expires.as_second()).unwrap_or(expires);
    request.metadata.name = Some(name.to_owned());
    request.metadata.namespace = Some(namespace.to_owned());
    request.metadata.creation_timestamp = Some(Time(now));
    request.status = Some(TokenRequestStatus {
        expiration_timestamp: Time(whole),
        token: if options.dry_run { String::new() } else { token },
    });
    Ok(response::object(StatusCode::CREATED, &accepted, &request))
}

fn invalid(name: &str, error: field::Error) -> StatusError {
    StatusError::invalid(GROUP, KIND, name, &[error])
}

fn check_names(request: &TokenRequest, name: &str, namespace: &str) -> Result<(), StatusError> {
    let meta = field::Path::new("metadata");
    let check = |given: &Option<String>, own: &str, what: &str| match given.as_deref() {
        Some(given) if !given.is_empty() && given != own => {
            let why = format!("must match the service account {what} if specified");
            Err(invalid(name, field::Error::invalid(&meta.child(what), given, why)))
        }
        _ => Ok(()),
    };
    check(&request.metadata.name, name, "name")?;
    check(&request.metadata.namespace, namespace, "namespace")
}

fn check_expiration(seconds: i64) -> Result<(), StatusError> {
    let why = match seconds {
        ..SHORTEST => "may not specify a duration less than 10 minutes",
        _ if seconds > LONGEST => "may not specify a duration larger than 2^32 seconds",
        _ => return Ok(()),
    };
    let path = field::Path::new("spec.expirationSeconds");
    Err(invalid("", field::Error::invalid(&path, seconds, why)))
}

/// What the token says and how many seconds it is said to last.
fn claims(
    accounts: &ServiceAccounts,
    mut bound: Bound,
    audiences: &[String],
    seconds: i64,
    now: Timestamp,
) -> (Claims, i64) {
    let now = now.as_second();
    let mut lasts = seconds;
    if seconds == POD_SECONDS && bound.pod.is_some() && audiences == accounts.own_audiences() {
        bound.warnafter = Some(now + seconds);
        lasts = EXTENDED_SECONDS;
    }
    let sub = format!("system:serviceaccount:{}:{}", bound.namespace, bound.serviceaccount.name);
    let claims = Claims {
        aud: audiences.to_vec(),
        exp: now + lasts,
        iat: now,
        iss: accounts.issuer.clone(),
        jti: Uuid::new_v4().to_string(),
        bound,
        nbf: now,
        sub,
    };
    (claims, seconds)
}

/// Binds a token to the object that is referred to, which must be there.
async fn bind(
    registries: &crate::dispatch::Registries,
    reference: &BoundObjectReference,
    bound: &mut Bound,
) -> Result<(), StatusError> {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (version, kind, name) = (text(&reference.api_version), text(&reference.kind), text(&reference.name));
    let plural = match (version.as_str(), kind.as_str()) {
        ("v1", "Pod") => "pods",
        ("v1", "Secret") => "secrets",
        ("v1", "Node") => "nodes",
        _ => {
            let (group, version) = version.split_once('/').unwrap_or(("", &version));
            let gvk = format!("{group}/{version}, Kind={kind}");
            return Err(StatusError::bad_request(format!("cannot bind token to object of type {gvk}")));
        }
    };
    let registry = registries.get("", "v1", plural).ok_or_else(StatusError::generic_not_found)?;
    let namespace = Some(bound.namespace.as_str()).filter(|_| registry.info().namespaced);
    let object = registry.get_object(namespace, &name).await?;
    let uid = object.uid().to_owned();
    let own = Reference { name: name.clone(), uid: uid.clone() };
    match plural {
        "pods" => {
            let spec = object.as_any().downcast_ref::<Pod>().and_then(|pod| pod.spec.as_ref());
            let runs_as = spec.and_then(|spec| spec.service_account_name.as_deref()).unwrap_or_default();
            let account = &bound.serviceaccount.name;
            if runs_as != account {
                return Err(StatusError::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
                )));
            }
            let node = spec.and_then(|spec| spec.node_name.clone()).filter(|node| !node.is_empty());
            if let Some(name) = node {
                let nodes = registries.get("", "v1", "nodes").ok_or_else(StatusError::generic_not_found)?;
                // A node that is gone is named all the same.
                let uid = nodes.get_object(None, &name).await.map(|node| node.uid().to_owned()).unwrap_or_default();
                bound.node = Some(Reference { name, uid });
            }
            bound.pod = Some(own);
        }
        "secrets" => bound.secret = Some(own),
        _ => bound.node = Some(own),
    }
    match reference.uid.as_deref() {
        Some(given) if !given.is_empty() && given != uid => {
            let why = format!(
                "the UID in the bound object reference ({given}) does not match the UID in record. The object might have \
                 been deleted and then recreated"
            );
            Err(StatusError::conflict(GroupResource { group: "", resource: &kind }, &name, why))
        }
        _ => Ok(()),
    }
}
