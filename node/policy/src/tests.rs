//! The kernel programs on packets that are made here: each branch, and whole clusters against the reference. They need
//! root: each test has network and mount namespaces of its own.

mod agree;
mod attach;
mod bypass;
#[path = "../tests/common/cluster.rs"]
mod cluster;
mod craft;
mod flows;
mod full;
mod headers;
mod reader;
mod restart;
mod rig;
mod verdicts;
