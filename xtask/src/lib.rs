//! What the chores of this workspace and its cluster tests share: running commands, building images, and starting a
//! whole cluster (containerd, `skep-server`, `skep-node`) from the checkout.
//!
//! It depends on nothing that needs a C library or a code generator, so that it builds on a machine where nothing has
//! been installed yet.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "a chore has one thread and no runtime: it may sleep")]

pub mod cgroup;
pub mod cluster;
pub mod command;
pub mod containerd;
pub mod image;
pub mod mounts;
pub mod netns;
pub mod process;
pub mod wait;
pub mod workspace;
