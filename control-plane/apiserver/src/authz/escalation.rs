//! Nobody gives rights away that they do not have: what RBAC demands of those who write roles and bindings.

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef};
use skep_api::status::{GroupResource, StatusError};

use super::{Attributes, Authorizer, rbac::GROUP, rule};
use crate::{
    admission,
    registry::object::Object,
    user::{MASTERS, UserInfo},
};

/// Checks a write of `object`, if it is of RBAC.
pub(crate) fn check(
    authorizer: &Authorizer,
    attributes: &admission::Attributes<'_>,
    object: &dyn Object,
) -> Result<(), StatusError> {
    let user = attributes.scope.user;
    if attributes.info.group != GROUP || user.in_group(MASTERS) {
        return Ok(());
    }
    let new = object.as_any();
    let old = attributes.old.map(Object::as_any);
    let namespace = object.meta().namespace.as_deref().unwrap_or_default();
    let writer = Writer { authorizer, user, namespace, creates: old.is_none() };
    if let Some(role) = new.downcast_ref::<Role>() {
        let old: Option<&Role> = old.and_then(|old| old.downcast_ref());
        if old.is_some_and(|old| old.rules == role.rules) {
            return Ok(());
        }
        let rules = role.rules.as_deref().unwrap_or_default();
        return if writer.may("escalate", "roles", writer.known(object.name())) {
            Ok(())
        } else {
            writer.role("roles", object.name(), rules)
        };
    }
    if let Some(role) = new.downcast_ref::<ClusterRole>() {
        return writer.cluster_role(role, old.and_then(|old| old.downcast_ref()));
    }
    if let Some(binding) = new.downcast_ref::<RoleBinding>() {
        let old: Option<&RoleBinding> = old.and_then(|old| old.downcast_ref());
        if old.is_some_and(|old| old.role_ref == binding.role_ref && old.subjects == binding.subjects) {
            return Ok(());
        }
        return writer.binding("rolebindings", object.name(), &binding.role_ref);
    }
    if let Some(binding) = new.downcast_ref::<ClusterRoleBinding>() {
        let old: Option<&ClusterRoleBinding> = old.and_then(|old| old.downcast_ref());
        if old.is_some_and(|old| old.role_ref == binding.role_ref && old.subjects == binding.subjects) {
            return Ok(());
        }
        return writer.binding("clusterrolebindings", object.name(), &binding.role_ref);
    }
    Ok(())
}

struct Writer<'a> {
    authorizer: &'a Authorizer,
    user: &'a UserInfo,
    /// Empty for cluster-scoped objects.
    namespace: &'a str,
    /// Whether there is no object yet: upstream then asks for rights to no particular one.
    creates: bool,
}

impl Writer<'_> {
    fn cluster_role(&self, role: &ClusterRole, old: Option<&ClusterRole>) -> Result<(), StatusError> {
        if old.is_some_and(|old| old.rules == role.rules && old.aggregation_rule == role.aggregation_rule) {
            return Ok(());
        }
        let name = role.metadata.name.as_deref().unwrap_or_default();
        if self.may("escalate", "clusterroles", self.known(name)) {
            return Ok(());
        }
        self.role("clusterroles", name, role.rules.as_deref().unwrap_or_default())?;
        let aggregates = |role: &ClusterRole| role.aggregation_rule.is_some();
        if (aggregates(role) || old.is_some_and(aggregates)) && self.confirm(&everything()).is_err() {
            let why = "must have cluster-admin privileges to use the aggregationRule";
            return Err(StatusError::forbidden(resource("clusterroles"), name, why));
        }
        Ok(())
    }

    fn known<'n>(&self, name: &'n str) -> &'n str {
        if self.creates { "" } else { name }
    }

    fn role(&self, plural: &str, name: &str, rules: &[PolicyRule]) -> Result<(), StatusError> {
        self.confirm(rules).map_err(|why| StatusError::forbidden(resource(plural), name, why))
    }

    fn binding(&self, plural: &str, name: &str, role: &RoleRef) -> Result<(), StatusError> {
        let (of_role, namespace) = match role.kind.as_str() {
            "Role" => ("roles", self.namespace),
            _ => ("clusterroles", ""),
        };
        if self.may("bind", of_role, &role.name) {
            return Ok(());
        }
        let rules = self.authorizer.rbac.role(namespace, &role.name);
        let rules = rules.ok_or_else(|| StatusError::not_found(resource(of_role), &role.name))?;
        self.confirm(&rules).map_err(|why| StatusError::forbidden(resource(plural), name, why))
    }

    fn may(&self, verb: &str, plural: &str, name: &str) -> bool {
        let wanted = Attributes::resource(self.user, verb, GROUP, plural).named(name).within(self.namespace);
        self.authorizer.allows(&wanted)
    }

    /// Whether the user holds all of the rules; else upstream's complaint.
    fn confirm(&self, rules: &[PolicyRule]) -> Result<(), String> {
        let owned = self.authorizer.rbac.rules(self.user, self.namespace);
        let missing = rule::missing(&owned, rules);
        if missing.is_empty() {
            return Ok(());
        }
        let mut described: Vec<_> = rule::compact(missing).iter().map(rule::describe).collect();
        described.sort();
        described.dedup();
        Err(format!(
            "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            self.user.name,
            rule::quoted(&self.user.groups),
            described.join("\n")
        ))
    }
}

fn resource(plural: &str) -> GroupResource<'_> {
    GroupResource { group: GROUP, resource: plural }
}

/// The rules of cluster-admin.
fn everything() -> [PolicyRule; 2] {
    let all = || vec!["*".to_owned()];
    [
        PolicyRule { verbs: all(), api_groups: Some(all()), resources: Some(all()), ..PolicyRule::default() },
        PolicyRule { verbs: all(), non_resource_urls: Some(all()), ..PolicyRule::default() },
    ]
}
