//! What a pod is made of, wherever it is written down: defaults and validation shared by pods and the templates of
//! workloads.

mod container;
mod defaults;
mod env;
mod ephemeral;
mod probe;
mod resources;
mod scheduling;
mod spec;
mod strategy;
#[cfg(test)]
mod tests;
mod volume;
mod volume_mount;

pub(crate) use defaults::set_defaults;
pub(crate) use ephemeral::validate_ephemeral;
pub(crate) use scheduling::validate_tolerations;
pub(crate) use spec::{validate_spec, validate_template};
pub(crate) use strategy::PodTemplates;
