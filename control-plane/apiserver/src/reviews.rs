//! Questions about who may do what, and who somebody is: answered with the question itself, its status filled in.

use std::collections::BTreeMap;

use http::{Response, StatusCode};
use k8s_openapi::{
    api::{
        authentication::v1::{
            SelfSubjectReview, SelfSubjectReviewStatus, TokenReview, TokenReviewStatus, UserInfo as WireUser,
        },
        authorization::v1::{
            LocalSubjectAccessReview, NonResourceAttributes, NonResourceRule, ResourceAttributes, ResourceRule,
            SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview, SubjectAccessReviewSpec,
            SubjectAccessReviewStatus, SubjectRulesReviewStatus,
        },
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use serde::{Serialize, de::DeserializeOwned};
use skep_api::{
    field::{self, Errors, Path},
    options::CreateOptions,
    request::{RequestInfo, Verb},
    resource::ResourceInfo,
    status::StatusError,
};

use crate::{
    authn::Authenticator,
    authz::{Attributes, Authorizer},
    dispatch::Call,
    http::{
        body::Body,
        negotiate::accept_plain,
        request_body::{self, Document, document},
        response,
    },
    user::UserInfo,
};

/// The review a request is for, if it is for one.
pub(crate) fn find(request: &RequestInfo) -> Option<&'static ResourceInfo> {
    if !request.group.starts_with("auth") {
        return None;
    }
    let resource = request.resource.as_deref()?;
    let all = skep_api::resource::reviews().iter();
    all.into_iter()
        .find(|info| info.group == request.group && info.version == request.version && info.plural == resource)
}

/// Answers a review.
pub(crate) async fn answer(
    call: Call<'_>,
    info: &ResourceInfo,
    authorizer: &Authorizer,
    authenticator: &Authenticator,
) -> Result<Response<Body>, StatusError> {
    let request = call.request;
    if request.subresource.is_some() || request.api_prefix != "apis" {
        return Err(StatusError::generic_not_found());
    }
    if request.namespace.is_some() != info.namespaced {
        return Err(StatusError::generic_not_found());
    }
    if request.verb != Verb::Create || request.name.is_some() {
        return Err(call.wrong_method());
    }
    let accepted = accept_plain(call.headers)?;
    CreateOptions::parse(&request.query)?;
    let (headers, user, now) = (call.headers, call.user, Time(call.now));
    let namespace = request.namespace.as_deref().unwrap_or_default();
    let body = request_body::read(call.body).await?;
    let question = Question { info, document: document(headers, &body)? };
    let created = |meta: &mut ObjectMeta| meta.creation_timestamp = Some(now);
    macro_rules! reply {
        ($review:expr) => {
            Ok(response::object(StatusCode::CREATED, &accepted, &$review))
        };
    }
    match &*info.plural {
        "selfsubjectreviews" => {
            let mut review: SelfSubjectReview = question.read()?;
            created(&mut review.metadata);
            review.status = Some(SelfSubjectReviewStatus { user_info: Some(wire(user)) });
            reply!(review)
        }
        "tokenreviews" => {
            let mut review: TokenReview = question.read()?;
            let token = review.spec.token.clone().unwrap_or_default();
            if token.is_empty() {
                return Err(StatusError::bad_request("token is required for TokenReview in authentication"));
            }
            let audiences = review.spec.audiences.clone().unwrap_or_default();
            review.status = Some(match authenticator.token(&token, &audiences).await {
                Ok(identified) => TokenReviewStatus {
                    authenticated: Some(true),
                    user: Some(wire(&identified.user)),
                    audiences: Some(identified.audiences).filter(|audiences| !audiences.is_empty()),
                    error: None,
                },
                Err(error) => TokenReviewStatus {
                    authenticated: None,
                    user: Some(WireUser::default()),
                    error: Some(error),
                    audiences: None,
                },
            });
            reply!(review)
        }
        "selfsubjectrulesreviews" => {
            let mut review: SelfSubjectRulesReview = question.read()?;
            let namespace = review.spec.namespace.clone().unwrap_or_default();
            if namespace.is_empty() {
                return Err(StatusError::bad_request("no namespace on request"));
            }
            review.status = Some(rules(authorizer, user, &namespace));
            reply!(review)
        }
        "selfsubjectaccessreviews" => {
            let mut review: SelfSubjectAccessReview = question.read()?;
            let (resource, path) = (&review.spec.resource_attributes, &review.spec.non_resource_attributes);
            question.check(wanted_errors(resource, path))?;
            review.status = Some(decide(authorizer, user, resource, path));
            reply!(review)
        }
        "subjectaccessreviews" => {
            let mut review: SubjectAccessReview = question.read()?;
            question.check(spec_errors(&review.spec))?;
            review.status = Some(decide_spec(authorizer, &review.spec));
            reply!(review)
        }
        "localsubjectaccessreviews" => {
            let mut review: LocalSubjectAccessReview = question.read()?;
            question.check(local_errors(&review, namespace))?;
            review.status = Some(decide_spec(authorizer, &review.spec));
            reply!(review)
        }
        _ => Err(StatusError::generic_not_found()),
    }
}

/// A review as it was sent.
struct Question<'a> {
    info: &'a ResourceInfo,
    document: Document<'a>,
}

impl Question<'_> {
    fn read<T: DeserializeOwned + Serialize>(&self) -> Result<T, StatusError> {
        let read = match &self.document {
            Document::Json(json) => serde_json::from_slice(json),
            Document::Value(value) => T::deserialize(value),
        };
        let (kind, version) = (&self.info.kind, &self.info.version);
        read.map_err(|error| {
            let why = format!("{kind} in version {version:?} cannot be handled as a {kind}: {error}");
            StatusError::bad_request(why)
        })
    }

    fn check(&self, errors: Errors) -> Result<(), StatusError> {
        if errors.is_empty() {
            return Ok(());
        }
        Err(StatusError::invalid(&self.info.group, &self.info.kind, "", &errors))
    }
}

fn wire(user: &UserInfo) -> WireUser {
    let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    WireUser {
        username: some(&user.name),
        uid: some(&user.uid),
        groups: Some(user.groups.clone()).filter(|groups| !groups.is_empty()),
        extra: Some(user.extra.clone()).filter(|extra| !extra.is_empty()),
    }
}

type Resource = Option<ResourceAttributes>;
type NoResource = Option<NonResourceAttributes>;

fn wanted_errors(resource: &Resource, path: &NoResource) -> Errors {
    let spec = Path::new("spec");
    match (resource, path) {
        (Some(_), Some(path)) => {
            let why = "cannot be specified in combination with resourceAttributes";
            vec![field::Error::invalid(&spec.child("nonResourceAttributes"), path, why)]
        }
        (None, None) => {
            let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            vec![field::Error::required(&spec.child("resourceAttributes"), why)]
        }
        _ => Vec::new(),
    }
}

fn spec_errors(spec: &SubjectAccessReviewSpec) -> Errors {
    let mut errors = wanted_errors(&spec.resource_attributes, &spec.non_resource_attributes);
    let nobody = spec.user.as_deref().unwrap_or_default().is_empty();
    if nobody && spec.groups.as_ref().is_none_or(Vec::is_empty) {
        let why = "at least one of user or group must be specified";
        errors.push(field::Error::required(&Path::new("spec.user"), why));
    }
    errors
}

fn local_errors(review: &LocalSubjectAccessReview, namespace: &str) -> Errors {
    let mut errors = spec_errors(&review.spec);
    if let Some(given) = review.metadata.namespace.as_deref().filter(|given| !given.is_empty() && *given != namespace) {
        let why = "must match the namespace of the request";
        errors.push(field::Error::invalid(&Path::new("metadata.namespace"), given, why));
    }
    if let Some(wanted) = &review.spec.resource_attributes {
        let given = wanted.namespace.as_deref().unwrap_or_default();
        if given != namespace {
            let path = Path::new("spec.resourceAttributes.namespace");
            errors.push(field::Error::invalid(&path, given, "must match metadata.namespace"));
        }
    }
    if let Some(path) = &review.spec.non_resource_attributes {
        let at = Path::new("spec.nonResourceAttributes");
        errors.push(field::Error::invalid(&at, path, "disallowed on this kind of request"));
    }
    errors
}

fn decide_spec(authorizer: &Authorizer, spec: &SubjectAccessReviewSpec) -> SubjectAccessReviewStatus {
    let extra: BTreeMap<String, Vec<String>> = spec.extra.clone().unwrap_or_default();
    let user = UserInfo {
        name: spec.user.clone().unwrap_or_default(),
        uid: spec.uid.clone().unwrap_or_default(),
        groups: spec.groups.clone().unwrap_or_default(),
        // Keys are compared in lower case, as they come in headers.
        extra: extra.into_iter().map(|(key, values)| (key.to_lowercase(), values)).collect(),
    };
    decide(authorizer, &user, &spec.resource_attributes, &spec.non_resource_attributes)
}

fn decide(
    authorizer: &Authorizer,
    user: &UserInfo,
    resource: &Resource,
    path: &NoResource,
) -> SubjectAccessReviewStatus {
    fn text(field: &Option<String>) -> &str {
        field.as_deref().unwrap_or_default()
    }
    let wanted = match (resource, path) {
        (Some(wanted), _) => Attributes {
            subresource: text(&wanted.subresource),
            ..Attributes::resource(user, text(&wanted.verb), text(&wanted.group), text(&wanted.resource))
                .named(text(&wanted.name))
                .within(text(&wanted.namespace))
        },
        (None, Some(wanted)) => Attributes {
            is_resource: false,
            path: text(&wanted.path),
            ..Attributes::resource(user, text(&wanted.verb), "", "")
        },
        // Validation has seen to it that there is one.
        (None, None) => return SubjectAccessReviewStatus::default(),
    };
    let (allowed, reason) = match authorizer.authorize(&wanted) {
        Ok(()) => (true, authorizer.allowed_by(&wanted)),
        Err(reason) => (false, reason),
    };
    let reason = Some(reason).filter(|reason| !reason.is_empty());
    SubjectAccessReviewStatus { allowed, reason, ..SubjectAccessReviewStatus::default() }
}

fn rules(authorizer: &Authorizer, user: &UserInfo, namespace: &str) -> SubjectRulesReviewStatus {
    let (rules, is_node) = authorizer.rules(user, namespace);
    let mut status = SubjectRulesReviewStatus {
        incomplete: is_node,
        evaluation_error: is_node.then(|| "node authorizer does not support user rule resolution".to_owned()),
        ..SubjectRulesReviewStatus::default()
    };
    let some = |list: Option<Vec<String>>| list.filter(|list| !list.is_empty());
    for rule in rules {
        if let Some(urls) = some(rule.non_resource_urls) {
            status.non_resource_rules.push(NonResourceRule { non_resource_urls: Some(urls), verbs: rule.verbs });
        } else {
            status.resource_rules.push(ResourceRule {
                api_groups: some(rule.api_groups),
                resource_names: some(rule.resource_names),
                resources: some(rule.resources),
                verbs: rule.verbs,
            });
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn reviews_are_found_by_their_whole_path() {
        let find = |path: &str| {
            let request = RequestInfo::parse(&Method::POST, &path.parse().unwrap()).unwrap();
            super::find(&request).map(|info| info.kind.to_string())
        };
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        assert_eq!(find(path).as_deref(), Some("SelfSubjectAccessReview"));
        assert_eq!(find("/apis/authentication.k8s.io/v1/tokenreviews").as_deref(), Some("TokenReview"));
        for other in ["/apis/authentication.k8s.io/v1beta1/tokenreviews", "/api/v1/tokenreviews", "/apis/apps/v1/x"] {
            assert_eq!(find(other), None, "{other}");
        }
    }
}
