//! `flowcontrol.apiserver.k8s.io`: who shares the server's capacity how. Nothing is enforced by these objects yet.

pub(crate) mod bootstrap;
mod flow_schema;
mod priority_level_configuration;

pub(crate) use flow_schema::FlowSchemas;
pub(crate) use priority_level_configuration::PriorityLevelConfigurations;

/// The group's name.
pub(crate) const GROUP: &str = "flowcontrol.apiserver.k8s.io";
