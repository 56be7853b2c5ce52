//! Storage against the real etcd.

mod cache;
mod faults;
mod harness;
mod supervisor;
mod write;
