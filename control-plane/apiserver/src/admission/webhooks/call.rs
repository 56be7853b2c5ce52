//! One call: an AdmissionReview there, an AdmissionReview back.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use serde::Deserialize;
use serde_json::{Value, json};
use skep_api::status::StatusError;

use super::hook::Hook;
use crate::{admission::matching::Match, webhook::WebhookClient};

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// What will be asked.
pub(super) struct Call<'h> {
    hook: &'h Hook,
    pub(super) matched: Match,
    /// The object as it is sent; null if there is none.
    pub(super) object: Value,
    old: Value,
    request: Value,
}

/// A yes.
#[derive(Debug)]
pub(super) struct Allowed {
    pub(super) patch: Option<Value>,
    pub(super) warnings: Vec<String>,
}

/// Anything but a yes.
#[derive(Debug)]
pub(super) enum Failure {
    /// A no.
    Rejected { error: Box<StatusError>, warnings: Vec<String> },
    /// No answer, or none that can be understood.
    Calling(String),
}

impl Failure {
    pub(super) fn warnings(&self) -> &[String] {
        match self {
            Self::Rejected { warnings, .. } => warnings,
            Self::Calling(_) => &[],
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    response: Option<Response>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    allowed: bool,
    status: Option<Status>,
    patch: Option<String>,
    patch_type: Option<String>,
    #[serde(default)]
    warnings: Option<Vec<String>>,
}

impl<'h> Call<'h> {
    pub(super) fn new(hook: &'h Hook, matched: Match, object: Value, old: Value, request: Value) -> Self {
        Self { hook, matched, object, old, request }
    }

    /// Asks.
    pub(super) async fn send(&self, client: &WebhookClient) -> Result<Allowed, Failure> {
        if !self.hook.speaks_v1 {
            let why = "webhook does not accept known AdmissionReview versions (v1)";
            return Err(Failure::Calling(why.to_owned()));
        }
        let uid = uuid::Uuid::new_v4().to_string();
        let body = self.body(&uid).map_err(|error| Failure::Calling(error.to_string()))?;
        let answer = client.post(&self.hook.target, body, self.hook.timeout).await.map_err(Failure::Calling)?;
        read(&self.hook.name, &uid, &answer)
    }

    fn body(&self, uid: &str) -> serde_json::Result<Bytes> {
        let mut request = self.request.clone();
        if let Value::Object(request) = &mut request {
            request.insert("uid".to_owned(), uid.into());
            request.insert("object".to_owned(), self.object.clone());
            request.insert("oldObject".to_owned(), self.old.clone());
        }
        let review = json!({"kind": KIND, "apiVersion": API_VERSION, "request": request});
        serde_json::to_vec(&review).map(Bytes::from)
    }
}

/// Understands an answer.
fn read(name: &str, uid: &str, answer: &[u8]) -> Result<Allowed, Failure> {
    let invalid = |why: String| Failure::Calling(format!("received invalid webhook response: {why}"));
    let review: Review = serde_json::from_slice(answer).map_err(|error| invalid(error.to_string()))?;
    if review.api_version != API_VERSION || review.kind != KIND {
        let Review { api_version, kind, .. } = &review;
        return Err(invalid(format!(
            "expected webhook response of {API_VERSION}, Kind={KIND}, got {api_version}, Kind={kind}"
        )));
    }
    let Some(response) = review.response else { return Err(invalid("webhook response was absent".to_owned())) };
    if response.uid != uid {
        return Err(invalid(format!("expected response.uid={uid:?}, got {:?}", response.uid)));
    }
    let patch = response.patch.filter(|patch| !patch.is_empty());
    let patch = match (patch, response.patch_type.as_deref()) {
        (Some(_), None) => {
            return Err(invalid("webhook returned response.patch but not response.patchType".to_owned()));
        }
        (None, Some(_)) => {
            return Err(invalid("webhook returned response.patchType but not response.patch".to_owned()));
        }
        (Some(_), Some(other)) if other != "JSONPatch" => {
            return Err(invalid(format!("webhook returned invalid response.patchType of {other:?}")));
        }
        (patch, _) => patch,
    };
    let warnings = response.warnings.unwrap_or_default();
    if !response.allowed {
        let error = Box::new(denied(name, response.status));
        return Err(Failure::Rejected { error, warnings });
    }
    let patch = patch
        .map(|patch| {
            let bytes = STANDARD.decode(patch).map_err(|error| invalid(error.to_string()))?;
            // What does not parse as JSON is no patch; it fails where patches are applied.
            Ok(serde_json::from_slice(&bytes).unwrap_or(Value::Null))
        })
        .transpose()?;
    Ok(Allowed { patch, warnings })
}

/// The refusal, in upstream's words: at least 400, never a success.
fn denied(name: &str, status: Option<Status>) -> StatusError {
    let mut status = status.unwrap_or_default();
    let by = format!("admission webhook {name:?} denied the request");
    let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    status.message = Some(match (said(&status.message), said(&status.reason)) {
        (Some(why), _) | (None, Some(why)) => format!("{by}: {why}"),
        (None, None) => format!("{by} without explanation"),
    });
    status.code = Some(status.code.unwrap_or(0).clamp(400, 599));
    status.status = Some("Failure".to_owned());
    StatusError::from(status)
}

/// Why a patch could not be applied.
pub(super) fn patch_error(error: &StatusError) -> String {
    let cause = error.status().details.as_ref().and_then(|details| details.causes.as_ref()?.first()?.message.clone());
    cause.unwrap_or_else(|| error.message().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(response: Value) -> Result<Allowed, Failure> {
        let review = json!({"kind": KIND, "apiVersion": API_VERSION, "response": response});
        read("a.b.c", "1", review.to_string().as_bytes())
    }

    fn why(outcome: Result<Allowed, Failure>) -> String {
        match outcome {
            Ok(_) => "allowed".to_owned(),
            Err(Failure::Calling(why)) => why,
            Err(Failure::Rejected { error, .. }) => format!("{} {}", error.code().as_u16(), error.message()),
        }
    }

    #[test]
    fn answers_are_read_strictly() {
        for (response, expected) in [
            (json!({"uid": "1", "allowed": true}), "allowed"),
            (
                json!({"uid": "2", "allowed": true}),
                "received invalid webhook response: expected response.uid=\"1\", got \"2\"",
            ),
            (Value::Null, "received invalid webhook response: webhook response was absent"),
            (
                json!({"uid": "1", "allowed": true, "patch": "W10="}),
                "received invalid webhook response: webhook returned response.patch but not response.patchType",
            ),
            (
                json!({"uid": "1", "allowed": true, "patch": "W10=", "patchType": "x"}),
                "received invalid webhook response: webhook returned invalid response.patchType of \"x\"",
            ),
            (
                json!({"uid": "1", "allowed": false}),
                "400 admission webhook \"a.b.c\" denied the request without explanation",
            ),
            (
                json!({"uid": "1", "allowed": false, "status": {"message": "no", "code": 403}}),
                "403 admission webhook \"a.b.c\" denied the request: no",
            ),
            (
                json!({"uid": "1", "allowed": false, "status": {"reason": "because", "code": 200}}),
                "400 admission webhook \"a.b.c\" denied the request: because",
            ),
        ] {
            assert_eq!(why(answer(response.clone())), expected, "{response}");
        }
        let other = json!({"kind": KIND, "apiVersion": "admission.k8s.io/v1beta1"}).to_string();
        assert!(
            why(read("a.b.c", "1", other.as_bytes()))
                .contains("expected webhook response of admission.k8s.io/v1, Kind=")
        );
        assert!(why(read("a.b.c", "1", b"garbage")).starts_with("received invalid webhook response: "));
    }
}
