//! The API server: HTTP pipeline, registries, authentication, authorisation, admission and discovery.
//!
//! One request goes one way: TLS, request info, authentication, limits, authorisation, admission, registry, etcd
//! transaction, response. [`ApiServer`] wires it; [`ApiServer::service`] is the same pipeline as a `tower::Service` for
//! clients inside the process.
#![forbid(unsafe_code)]

mod admission;
mod aggregation;
mod authn;
mod authz;
mod bootstrap;
mod config;
mod discovery;
mod dispatch;
mod error;
pub mod flowcontrol;
mod health;
pub mod http;
mod kubelet_proxy;
mod metrics;
mod openapi;
mod proxy;
mod published;
pub mod registry;
mod reviews;
mod scan;
mod server;
mod service;
mod subresource;
mod upgrade;
pub mod user;
pub mod version;
mod webhook;

pub use config::{Config, FrontProxy, ServiceAccountKeys, nth_address};
pub use error::{Error, Result};
pub use server::{ApiServer, resource_schemas};
pub use service::ApiService;
pub use subresource::proxy::is_proxyable;
pub use user::UserInfo;
