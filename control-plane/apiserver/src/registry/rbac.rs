//! `rbac.authorization.k8s.io`: roles and bindings. Whether a user may grant what they say is not checked here.

mod binding;
mod cluster_role;
mod cluster_role_binding;
mod role;
mod role_binding;
mod rule;

pub(crate) use cluster_role::ClusterRoles;
pub(crate) use cluster_role_binding::ClusterRoleBindings;
pub(crate) use role::Roles;
pub(crate) use role_binding::RoleBindings;

/// The group's name.
const GROUP: &str = "rbac.authorization.k8s.io";
