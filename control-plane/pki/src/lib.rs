//! The public key infrastructure of a skep cluster: certificate authorities, the certificates they issue, the directory
//! they live in (upstream's file names), kubeconfigs, and the rustls configurations made of them.
//!
//! All keys this crate makes are ECDSA P-256; RSA and P-384 keys made by others, kubeadm for one, are taken up as well. Nothing here needs a process-wide rustls provider: the configurations carry
//! their own (*ring*).
#![forbid(unsafe_code)]

mod authority;
mod certificate;
mod der;
mod dir;
mod error;
mod files;
pub mod jwt;
mod key;
mod kubeconfig;
mod request;
mod subject;
mod tls;

pub use authority::{Authority, CA_VALIDITY, CertRequest, Identity, LEAF_VALIDITY, Usage};
pub use certificate::{CertificateInfo, is_issued_by};
pub use dir::{Entry, Pki, apiserver_sans, list, renew};
pub use error::{Error, Result};
pub use files::{write_private, write_public};
pub use kubeconfig::{Credentials, Kubeconfig};
pub use request::SigningRequest;
pub use tls::{
    ReloadableIdentity, certificates_from_pem, client_config, private_key_from_pem, server_config,
    unverified_client_config,
};
