//! Signs what was approved, for the built-in signers.

use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use skep_pki::{Authority, SigningRequest};

use super::{
    KUBE_APISERVER_CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY_UNKNOWN, add_condition, kubelet_client_fault,
    kubelet_serving_fault, usages,
};

/// Upstream's `--cluster-signing-duration`.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const SHORTEST: Duration = Duration::from_secs(600);

/// The request with its certificate, or with what is wrong with it; `None` if it is for another signer.
pub(super) fn sign(authority: &Authority, request: &CertificateSigningRequest) -> Option<CertificateSigningRequest> {
    let spec = &request.spec;
    if ![KUBE_APISERVER_CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY_UNKNOWN].contains(&spec.signer_name.as_str()) {
        return None;
    }
    let mut answer = request.clone();
    let made =
        SigningRequest::from_pem("request", &spec.request.0).map_err(|error| error.to_string()).and_then(|asked| {
            if let Some(fault) = fault(request, &asked) {
                return Err(fault.to_owned());
            }
            let wanted =
                spec.expiration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
            let validity = wanted.unwrap_or(LONGEST).clamp(SHORTEST, LONGEST);
            authority.sign(&asked, usages(request), validity).map_err(|error| error.to_string())
        });
    match made {
        Ok(certificate) => {
            answer.status.get_or_insert_default().certificate = Some(ByteString(certificate.into_bytes()));
        }
        Err(why) => add_condition(&mut answer, "Failed", "SignerValidationFailure", why),
    }
    Some(answer)
}

fn fault(request: &CertificateSigningRequest, asked: &SigningRequest) -> Option<&'static str> {
    match request.spec.signer_name.as_str() {
        KUBELET_CLIENT => kubelet_client_fault(request, asked),
        KUBELET_SERVING => match kubelet_serving_fault(request, asked) {
            None if request.spec.username.as_deref() != Some(asked.common_name.as_str()) => {
                Some("requested common name is not the requesting node's")
            }
            fault => fault,
        },
        KUBE_APISERVER_CLIENT => {
            let known = ["digital signature", "key encipherment", "client auth"];
            let usages = usages(request);
            let is_client = usages.iter().any(|usage| usage == "client auth");
            (!is_client || usages.iter().any(|usage| !known.contains(&usage.as_str())))
                .then_some("invalid usages for client certificate: must include \"client auth\" and may add only \"digital signature\" and \"key encipherment\"")
        }
        _ => None,
    }
}
