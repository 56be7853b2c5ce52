//! Registries: where requests become objects in etcd.

pub mod strategy;
