//! The controllers that turn what objects ask for into what is: Deployments into ReplicaSets into Pods, Services into
//! EndpointSlices, dead nodes into taints and evictions, deleted owners into deleted dependents.
//!
//! All controllers share one watch per type ([`informers::Informers`]) and run on the same driver ([`controller`]): event
//! handlers map changes to keys of a [`work_queue::WorkQueue`], workers bring the object behind a key to its desired state.
#![forbid(unsafe_code)]

mod config;
mod context;
pub mod controller;
mod deployment;
mod error;
mod hash;
pub mod informer;
pub mod informers;
mod meta;
mod metrics;
mod pod;
mod pod_control;
mod ref_manager;
mod replica_set;
pub mod work_queue;
mod endpoint_slice { pub(crate) const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name"; }

pub use config::Config;
pub use error::Error;
pub use meta::ObjectKey;
pub use metrics::{Metrics, QueueMetrics};
