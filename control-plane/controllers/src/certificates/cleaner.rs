//! How long requests stay.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use skep_pki::CertificateInfo;

use super::{certificate, conditions};
use crate::meta;

/// How often it is looked whether a request's time is up.
pub(super) const INTERVAL: Duration = Duration::from_secs(60 * 60);
/// After they were decided on.
const DECIDED: SignedDuration = SignedDuration::from_hours(1);
/// If nobody decides.
const PENDING: SignedDuration = SignedDuration::from_hours(24);

/// Why a request is no longer needed, if so.
pub(super) fn is_over(request: &CertificateSigningRequest, now: Timestamp) -> Option<&'static str> {
    let older = |since: Timestamp, limit: SignedDuration| now.duration_since(since) > limit;
    let since = |kind: &str| {
        let condition = conditions(request).iter().find(|condition| condition.type_ == kind)?;
        condition.last_update_time.as_ref().map(|time| time.0)
    };
    let expired = certificate(request)
        .and_then(|pem| std::str::from_utf8(pem).ok())
        .and_then(|pem| CertificateInfo::from_pem("certificate", pem).ok())
        .is_some_and(|info| info.is_expired(now));
    match () {
        () if expired => Some("its certificate has expired"),
        () if since("Approved").is_some_and(|at| older(at, DECIDED)) => Some("it was approved long ago"),
        () if since("Denied").is_some_and(|at| older(at, DECIDED)) => Some("it was denied long ago"),
        () if since("Failed").is_some_and(|at| older(at, DECIDED)) => Some("it failed long ago"),
        () if conditions(request).is_empty() && older(meta::created(&request.metadata), PENDING) => {
            Some("nobody decided on it")
        }
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_stay_as_long_as_somebody_may_need_them() {
        let now: Timestamp = "2026-01-02T12:00:00Z".parse().unwrap();
        let request = |created: &str, conditions: serde_json::Value| -> CertificateSigningRequest {
            serde_json::from_value(json!({
                "metadata": {"name": "r", "creationTimestamp": created},
                "spec": {"request": "", "signerName": "x/y"},
                "status": {"conditions": conditions},
            }))
            .unwrap()
        };
        let decided = |kind: &str, at: &str| json!([{"type": kind, "status": "True", "lastUpdateTime": at}]);
        assert!(is_over(&request("2026-01-01T13:00:00Z", json!([])), now).is_none());
        assert!(is_over(&request("2026-01-01T11:00:00Z", json!([])), now).is_some());
        for kind in ["Approved", "Denied", "Failed"] {
            let late = request("2026-01-01T11:00:00Z", decided(kind, "2026-01-02T11:30:00Z"));
            assert!(is_over(&late, now).is_none(), "{kind}");
            let old = request("2026-01-02T10:00:00Z", decided(kind, "2026-01-02T10:30:00Z"));
            assert!(is_over(&old, now).is_some(), "{kind}");
        }
    }
}
