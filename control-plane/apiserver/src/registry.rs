//! Registries: where requests become objects in etcd.

pub(crate) mod checks;
pub(crate) mod config_map;
pub(crate) mod deployment;
pub(crate) mod endpoint_slice;
pub(crate) mod endpoints;
pub(crate) mod erased;
pub(crate) mod event;
pub(crate) mod generic;
pub(crate) mod ip_address;
pub(crate) mod lease;
pub(crate) mod namespace;
pub(crate) mod node;
pub(crate) mod object;
pub(crate) mod pod;
pub(crate) mod pod_template;
pub(crate) mod replica_set;
pub(crate) mod secret;
pub(crate) mod service;
pub(crate) mod service_account;
pub mod strategy;
pub(crate) mod table;
pub(crate) mod table_info;
pub(crate) mod workload;
