//! Registries: where requests become objects in etcd.

pub(crate) mod basic;
pub(crate) mod erased;
pub(crate) mod generic;
pub(crate) mod object;
pub mod strategy;
pub(crate) mod table;
