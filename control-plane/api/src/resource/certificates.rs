//! `certificates.k8s.io`.

use super::row::{GET_PATCH_UPDATE, ROW, Row, resource, status, strs, sub};
use super::{ResourceInfo, SubresourceInfo};

const CSR_SUBS: &[SubresourceInfo] =
    &[sub("approval", "CertificateSigningRequest", GET_PATCH_UPDATE), status("CertificateSigningRequest")];

pub(super) static ROWS: &[ResourceInfo] = &[resource(Row {
    group: "certificates.k8s.io",
    kind: "CertificateSigningRequest",
    plural: "certificatesigningrequests",
    singular: "certificatesigningrequest",
    short_names: strs!["csr"],
    namespaced: false,
    subresources: CSR_SUBS,
    ..ROW
})];
