//! Errors of the API, as `metav1.Status`, with upstream's reasons, codes and texts.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause, StatusDetails};

use crate::field;
use crate::resource::ResourceInfo;

/// A failed request: a `metav1.Status` of status `Failure`.
#[derive(Clone, PartialEq)]
pub struct StatusError(Box<Status>);

/// Result of something a client asked for.
pub type Result<T> = std::result::Result<T, StatusError>;

/// What an error is about: a resource and its group (`pods` of ``, `deployments` of `apps`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupResource<'a> {
    /// API group, empty for core.
    pub group: &'a str,
    /// Plural name.
    pub resource: &'a str,
}

impl<'a> From<&'a ResourceInfo> for GroupResource<'a> {
    fn from(info: &'a ResourceInfo) -> Self {
        GroupResource { group: &info.group, resource: &info.plural }
    }
}

impl fmt::Display for GroupResource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        Ok(())
    }
}

impl StatusError {
    /// A failure with everything given.
    pub fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        StatusError(Box::new(Status {
            code: Some(i32::from(code)),
            reason: (!reason.is_empty()).then(|| reason.to_owned()),
            message: Some(message.into()),
            status: Some("Failure".to_owned()),
            ..Status::default()
        }))
    }

    fn about(mut self, what: GroupResource<'_>, name: &str) -> Self {
        let details = self.details();
        details.group = non_empty(what.group);
        details.kind = non_empty(what.resource);
        details.name = non_empty(name);
        self
    }

    fn retry_after(mut self, seconds: u32) -> Self {
        self.details().retry_after_seconds = (seconds > 0).then(|| i32::try_from(seconds).unwrap_or(i32::MAX));
        self
    }

    /// Adds a cause to the details.
    #[must_use]
    pub fn with_cause(mut self, cause: StatusCause) -> Self {
        self.details().causes.get_or_insert_default().push(cause);
        self
    }

    /// Sets the uid of the details.
    #[must_use]
    pub fn with_uid(mut self, uid: &str) -> Self {
        self.details().uid = Some(uid.to_owned());
        self
    }

    fn details(&mut self) -> &mut StatusDetails {
        self.0.details.get_or_insert_default()
    }

    /// 404, the object does not exist.
    pub fn not_found<'a>(what: impl Into<GroupResource<'a>>, name: &str) -> Self {
        let what = what.into();
        Self::new(404, "NotFound", format!("{what} {} not found", field::quote(name))).about(what, name)
    }

    /// 404, nothing is served under the path.
    pub fn generic_not_found() -> Self {
        let mut error = Self::new(404, "NotFound", "the server could not find the requested resource");
        error.details();
        error
    }

    /// 409, an object of that name exists.
    pub fn already_exists<'a>(what: impl Into<GroupResource<'a>>, name: &str) -> Self {
        let what = what.into();
        Self::new(409, "AlreadyExists", format!("{what} {} already exists", field::quote(name))).about(what, name)
    }

    /// 409, a generated name was taken; clients may try again.
    pub fn generate_name_conflict<'a>(what: impl Into<GroupResource<'a>>, name: &str, retry: u32) -> Self {
        let what = what.into();
        let message = format!(
            "{what} {} already exists, the server was not able to generate a unique name for the object",
            field::quote(name)
        );
        Self::new(409, "AlreadyExists", message).about(what, name).retry_after(retry)
    }

    /// 409, the request does not fit the object's present state.
    pub fn conflict<'a>(what: impl Into<GroupResource<'a>>, name: &str, why: impl fmt::Display) -> Self {
        let what = what.into();
        let message = format!("Operation cannot be fulfilled on {what} {}: {why}", field::quote(name));
        Self::new(409, "Conflict", message).about(what, name)
    }

    /// 409, the object changed since the client read it.
    pub fn modified<'a>(what: impl Into<GroupResource<'a>>, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(what, name, why)
    }

    /// 422, validation failed. `name` may be empty while an object has none.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[field::Error]) -> Self {
        let what = GroupResource { group, resource: kind };
        let mut message = format!("{what} {} is invalid", field::quote(name));
        if !errors.is_empty() {
            message.push_str(": ");
            message.push_str(&field::aggregate(errors));
        }
        let mut error = Self::new(422, "Invalid", message).about(what, name);
        if !errors.is_empty() {
            error.details().causes = Some(errors.iter().map(field::Error::cause).collect());
        }
        error
    }

    /// 400, the request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401, the client could not be identified.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(401, "Unauthorized", message)
    }

    /// 403, the client may not do that. An empty name speaks of the whole resource; an empty resource of the path.
    pub fn forbidden<'a>(what: impl Into<GroupResource<'a>>, name: &str, why: impl fmt::Display) -> Self {
        let what = what.into();
        let message = match (what.resource, name) {
            ("", _) => format!("forbidden: {why}"),
            (_, "") => format!("{what} is forbidden: {why}"),
            _ => format!("{what} {} is forbidden: {why}", field::quote(name)),
        };
        Self::new(403, "Forbidden", message).about(what, name)
    }

    /// 405, the resource does not take the verb.
    pub fn method_not_supported<'a>(what: impl Into<GroupResource<'a>>, verb: &str) -> Self {
        let what = what.into();
        let message = format!("{verb} is not supported on resources of kind {}", field::quote(&what.to_string()));
        Self::new(405, "MethodNotAllowed", message).about(what, "")
    }

    /// 406, none of the media types the client takes can be made.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::new(406, "NotAcceptable", message)
    }

    /// 415, the body is of an unknown media type.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let list = accepted.join(", ");
        let message =
            format!("the body of the request was in an unknown format - accepted media types include: {list}");
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 413, the body is too large.
    pub fn request_entity_too_large(why: impl fmt::Display) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity is too large: {why}"))
    }

    /// 410 `Expired`, the resource version is no longer known.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 410 `Expired` for a list or watch from a revision that history no longer holds.
    pub fn too_old_resource_version(asked: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {asked} ({oldest})"))
    }

    /// 504, the resource version is ahead of what the server has seen; the client should retry.
    pub fn too_large_resource_version(asked: u64, current: u64, retry: u32) -> Self {
        Self::timeout(format!("Too large resource version: {asked}, current: {current}"), retry).with_cause(
            StatusCause {
                reason: Some("ResourceVersionTooLarge".to_owned()),
                message: Some("Too large resource version".to_owned()),
                field: None,
            },
        )
    }

    /// 410 `Gone`.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, "Gone", message)
    }

    /// 504, the operation took too long.
    pub fn timeout(message: impl fmt::Display, retry: u32) -> Self {
        let mut error = Self::new(504, "Timeout", format!("Timeout: {message}"));
        error.details();
        error.retry_after(retry)
    }

    /// 500, the operation could not be completed now and may be tried again.
    pub fn server_timeout<'a>(what: impl Into<GroupResource<'a>>, operation: &str, retry: u32) -> Self {
        let what = what.into();
        let message =
            format!("The {operation} operation against {what} could not be completed at this time, please try again.");
        Self::new(500, "ServerTimeout", message).about(what, "").retry_after(retry)
    }

    /// 429, the client should come back after `retry` seconds.
    pub fn too_many_requests(message: impl Into<String>, retry: u32) -> Self {
        Self::new(429, "TooManyRequests", message).retry_after(retry)
    }

    /// 500, something unexpected.
    pub fn internal_error(why: impl fmt::Display) -> Self {
        let why = why.to_string();
        Self::new(500, "InternalError", format!("Internal error occurred: {why}"))
            .with_cause(StatusCause { message: Some(why), ..StatusCause::default() })
    }

    /// 503, a part the server needs is not there now.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// The HTTP status code.
    pub fn code(&self) -> http::StatusCode {
        self.0
            .code
            .and_then(|code| u16::try_from(code).ok())
            .and_then(|code| http::StatusCode::from_u16(code).ok())
            .unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The machine-readable reason, such as `NotFound`; empty when there is none.
    pub fn reason(&self) -> &str {
        self.0.reason.as_deref().unwrap_or_default()
    }

    /// The text for people.
    pub fn message(&self) -> &str {
        self.0.message.as_deref().unwrap_or_default()
    }

    /// Seconds for a `Retry-After` header.
    pub fn retry_after_seconds(&self) -> Option<i32> {
        self.0.details.as_ref().and_then(|d| d.retry_after_seconds)
    }

    /// The object to answer with.
    pub fn status(&self) -> &Status {
        &self.0
    }

    /// The object to answer with.
    pub fn into_status(self) -> Status {
        *self.0
    }
}

fn non_empty(s: &str) -> Option<String> {
    (!s.is_empty()).then(|| s.to_owned())
}

impl From<Status> for StatusError {
    fn from(status: Status) -> Self {
        StatusError(Box::new(status))
    }
}

impl fmt::Debug for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StatusError").field(&self.code().as_u16()).field(&self.reason()).field(&self.message()).finish()
    }
}

impl fmt::Display for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for StatusError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::find;

    fn json(error: StatusError) -> serde_json::Value {
        serde_json::to_value(error.into_status()).unwrap()
    }

    #[test]
    fn not_found_carries_details() {
        let error = StatusError::not_found(find("apps", "v1", "deployments").unwrap(), "web");
        assert_eq!(
            json(error),
            serde_json::json!({
                "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
                "message": "deployments.apps \"web\" not found", "reason": "NotFound", "code": 404,
                "details": {"name": "web", "group": "apps", "kind": "deployments"},
            })
        );
    }

    #[test]
    fn invalid_names_the_kind_and_lists_causes() {
        let path = field::Path::new("spec.replicas");
        let errors = [field::Error::invalid(&path, -1, "must be greater than or equal to 0")];
        let error = StatusError::invalid("apps", "Deployment", "web", &errors);
        assert_eq!(
            error.message(),
            "Deployment.apps \"web\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0"
        );
        assert_eq!(error.code(), 422);
        let causes = error.status().details.as_ref().unwrap().causes.as_ref().unwrap();
        assert_eq!(causes[0].reason.as_deref(), Some("FieldValueInvalid"));
        assert_eq!(causes[0].field.as_deref(), Some("spec.replicas"));
        assert_eq!(causes[0].message.as_deref(), Some("Invalid value: -1: must be greater than or equal to 0"));
    }

    #[test]
    fn forbidden_reads_differently_with_and_without_a_name() {
        let pods = find("", "v1", "pods").unwrap();
        assert_eq!(StatusError::forbidden(pods, "", "no").message(), "pods is forbidden: no");
        assert_eq!(StatusError::forbidden(pods, "a", "no").message(), "pods \"a\" is forbidden: no");
        assert_eq!(StatusError::forbidden(GroupResource::default(), "", "no").message(), "forbidden: no");
    }

    #[test]
    fn texts_match_upstream() {
        let pods = find("", "v1", "pods").unwrap();
        assert_eq!(
            StatusError::modified(pods, "a").message(),
            "Operation cannot be fulfilled on pods \"a\": the object has been modified; please apply your changes to \
             the latest version and try again"
        );
        assert_eq!(
            StatusError::method_not_supported(pods, "patch").message(),
            "patch is not supported on resources of kind \"pods\""
        );
        assert_eq!(StatusError::internal_error("x").message(), "Internal error occurred: x");
        assert_eq!(StatusError::timeout("slow", 3).retry_after_seconds(), Some(3));
        assert_eq!(StatusError::expired("old").code(), 410);
    }
}
