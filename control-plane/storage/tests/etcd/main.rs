//! Storage against the real etcd.

mod cache;
mod faults;
mod harness;
mod members;
mod servers;
mod supervisor;
mod takeover;
mod write;
