//! Approves what nodes ask for themselves, if whoever asks may.

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::Client;
use kube::api::{Api, PostParams};
use skep_pki::SigningRequest;

use super::{KUBELET_CLIENT, kubelet_client_fault};
use crate::error::{Context as _, Error};

/// The condition's message if the request is to be approved.
pub(super) async fn may_approve(
    client: &Client,
    request: &CertificateSigningRequest,
) -> Result<Option<&'static str>, Error> {
    if request.spec.signer_name != KUBELET_CLIENT {
        return Ok(None);
    }
    // What cannot be read is for people to look at.
    let Ok(asked) = SigningRequest::from_pem("request", &request.spec.request.0) else { return Ok(None) };
    if kubelet_client_fault(request, &asked).is_some() {
        return Ok(None);
    }
    let is_own = request.spec.username.as_deref() == Some(asked.common_name.as_str());
    let ways = [
        ("selfnodeclient", is_own, "Auto approving self kubelet client certificate after SubjectAccessReview."),
        ("nodeclient", true, "Auto approving kubelet client certificate after SubjectAccessReview."),
    ];
    for (right, applies, message) in ways {
        if applies && has_right(client, request, right).await? {
            return Ok(Some(message));
        }
    }
    Ok(None)
}

async fn has_right(client: &Client, request: &CertificateSigningRequest, right: &str) -> Result<bool, Error> {
    let spec = &request.spec;
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: spec.username.clone(),
            uid: spec.uid.clone(),
            groups: spec.groups.clone(),
            extra: spec.extra.clone(),
            resource_attributes: Some(ResourceAttributes {
                verb: Some("create".to_owned()),
                group: Some("certificates.k8s.io".to_owned()),
                version: Some("*".to_owned()),
                resource: Some("certificatesigningrequests".to_owned()),
                subresource: Some(right.to_owned()),
                ..ResourceAttributes::default()
            }),
            non_resource_attributes: None,
        },
        ..SubjectAccessReview::default()
    };
    let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
    let answer = reviews.create(&PostParams::default(), &review).await;
    let answer = answer.context(|| format!("asking whether {right} is granted"))?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}
