//! The API server: HTTP pipeline, registries, authentication, authorisation, admission and discovery.
//!
//! One request goes one way: TLS, request info, authentication, limits, authorisation, admission, registry, etcd
//! transaction, response. [`ApiServer`] wires it; [`ApiServer::service`] is the same pipeline as a `tower::Service` for
//! clients inside the process.
#![forbid(unsafe_code)]

pub mod registry;
pub mod user;

pub use user::UserInfo;
