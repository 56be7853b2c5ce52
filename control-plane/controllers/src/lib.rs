//! The controllers that turn what objects ask for into what is: Deployments into ReplicaSets into Pods, Services into
//! EndpointSlices, dead nodes into taints and evictions, deleted owners into deleted dependents.
//!
//! All controllers share one watch per type ([`informers::Informers`]) and run on the same driver ([`controller`]): event
//! handlers map changes to keys of a [`work_queue::WorkQueue`], workers bring the object behind a key to its desired state.
#![forbid(unsafe_code)]

mod certificates;
mod cluster_role_aggregation;
mod config;
mod context;
pub mod controller;
mod deployment;
mod discovery;
mod disruption;
mod endpoint_slice;
mod endpoint_slice_mirroring;
mod endpoints;
mod error;
mod finalizer;
mod garbage_collector;
mod hash;
pub mod informer;
pub mod informers;
mod manager;
mod meta;
mod metrics;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod pod;
mod pod_control;
mod pod_gc;
mod protection;
mod ref_manager;
mod replica_set;
mod resource_quota;
mod root_ca;
mod service_account;
mod service_cidr;
mod service_membership;
mod taint_eviction;
mod token_secrets;
pub mod work_queue;

pub use config::Config;
pub use error::Error;
pub use manager::run;
pub use meta::ObjectKey;
pub use metrics::{Metrics, QueueMetrics};
