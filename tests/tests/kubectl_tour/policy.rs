//! Autoscalers, certificates, events.

use anyhow::{Result, ensure};
use skep_pki::{Authority, CertRequest};
use skep_tests::kubectl::Kubectl;

pub(crate) fn autoscale(k: &Kubectl) -> Result<()> {
    k.ok("create deployment web --image=i --replicas=1")?;
    k.is(
        "autoscale deployment web --min=2 --max=5 --cpu-percent=80",
        "horizontalpodautoscaler.autoscaling/web autoscaled",
    )?;
    k.has("hpa web", "{.spec.minReplicas} {.spec.maxReplicas} {.spec.scaleTargetRef.kind}", "2 5 Deployment")?;
    k.has("horizontalpodautoscalers.v1.autoscaling web", "{.spec.targetCPUUtilizationPercentage}", "80")?;
    k.has(
        "horizontalpodautoscalers.v2.autoscaling web",
        "{.spec.metrics[0].resource.target.averageUtilization}",
        "80",
    )?;
    k.says("get hpa", &["REFERENCE", "Deployment/web", "cpu: <unknown>/80%", "2         5"])?;
    k.says("describe hpa web", &["Min replicas:", "Max replicas:"])?;
    k.refuses(
        "autoscale deployment web --min=5 --max=2 --name=wrong",
        "--max=MAXPODS must be larger or equal to --min=MINPODS",
    )
}

/// A manifest that asks `signer` for a certificate of user `user` in group `people`, and the key it is for (PEM).
pub(crate) fn signing_request(name: &str, user: &str, signer: &str) -> Result<(String, String)> {
    let key = rcgen::KeyPair::generate()?;
    let mut parameters = rcgen::CertificateParams::new(Vec::new())?;
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, user);
    parameters.distinguished_name.push(rcgen::DnType::OrganizationName, "people");
    let request = parameters.serialize_request(&key)?.pem()?;
    let request = base64(request.as_bytes());
    let manifest = format!(
        "---\n{{apiVersion: certificates.k8s.io/v1, kind: CertificateSigningRequest, metadata: {{name: {name}}}, spec: {{request: {request}, signerName: {signer}, usages: [client auth]}}}}"
    );
    Ok((manifest, key.serialize_pem()))
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The bytes that `text` means.
pub(crate) fn unbase64(text: &str) -> Result<Vec<u8>> {
    use base64::Engine as _;
    Ok(base64::engine::general_purpose::STANDARD.decode(text.trim())?)
}

pub(crate) fn certificates(k: &Kubectl) -> Result<()> {
    for name in ["yes", "no"] {
        let name = format!("{}-{name}", k.namespace());
        k.reads("create -f -", &signing_request(&name, "jane", "example.com/tour")?.0, &["created"])?;
        k.says(&format!("get csr {name}"), &["SIGNERNAME", "example.com/tour", "kubernetes-admin", "Pending"])?;
    }
    k.says("certificate approve {ns}-yes", &["certificatesigningrequest.certificates.k8s.io/{ns}-yes approved"])?;
    k.says("certificate deny {ns}-no", &["denied"])?;
    k.says("get csr {ns}-yes", &["Approved"])?;
    k.says("get csr {ns}-no", &["Denied"])?;
    k.says("describe csr {ns}-yes", &["Requesting User:", "Common Name:    jane", "Approved"])?;
    k.refuses("certificate deny {ns}-yes", "certificate")?;
    // A signer outside the cluster hands in what it has signed.
    let authority = Authority::create("tour", std::time::Duration::from_secs(3600))?;
    let signed = authority.issue(&CertRequest::client("jane", ["people"]))?;
    let patch = format!("{{\"status\":{{\"certificate\":\"{}\"}}}}", base64(signed.certificate.as_bytes()));
    k.ok(&format!("patch csr {{ns}}-yes --subresource=status --type=merge -p '{patch}'"))?;
    k.says("get csr {ns}-yes", &["Approved,Issued"])?;
    k.says("delete csr {ns}-yes {ns}-no", &["deleted"]).map(drop)
}

pub(crate) fn events(k: &Kubectl) -> Result<()> {
    k.ok("create deployment web --image=i --replicas=1")?;
    k.waits("events", &["ScalingReplicaSet", "SuccessfulCreate", "Deployment/web", "Scaled up replica set web-"])?;
    k.says("events --for=deployment/web", &["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE", "ScalingReplicaSet"])?;
    let normal = k.ok("events --types=Normal")?;
    ensure!(!normal.contains("Warning"), "{normal}");
    k.waits("events --types=Warning", &["FailedScheduling"])?;
    k.says("get events", &["ScalingReplicaSet", "deployment/web"])?;
    k.says("get events --field-selector involvedObject.kind=Deployment", &["Scaled up"])?;
    k.says("get events --field-selector reason=SuccessfulCreate -o name", &["event/web-"])?;
    k.says("get events.v1.events.k8s.io -o jsonpath={.items[*].regarding.kind}", &["Deployment"])?;
    let watched = k.spawn("events --watch")?;
    watched.hears("ScalingReplicaSet")?;
    k.ok("scale deployment web --replicas=2")?;
    watched.hears("from 1 to 2").map(drop)
}
