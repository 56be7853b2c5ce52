//! Who has which roles, found by user and group.

use std::collections::{HashMap, HashSet};

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use skep_storage::{Object, Snapshot};

use crate::user::UserInfo;

/// The four resources, and where they are stored.
pub(super) const PREFIXES: [(Kind, &str); 4] = [
    (Kind::ClusterRole, "/registry/clusterroles/"),
    (Kind::Role, "/registry/roles/"),
    (Kind::ClusterRoleBinding, "/registry/clusterrolebindings/"),
    (Kind::RoleBinding, "/registry/rolebindings/"),
];

/// Which of the four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    ClusterRole,
    Role,
    ClusterRoleBinding,
    RoleBinding,
}

/// What a binding gives each of its subjects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    /// Name of the binding, with its namespace if it has one.
    binding: Box<str>,
    is_cluster_binding: bool,
    /// Namespace of the role; empty for a cluster role.
    role_namespace: Box<str>,
    role: Box<str>,
}

impl Grant {
    fn role_kind(&self) -> &'static str {
        if self.role_namespace.is_empty() { "ClusterRole" } else { "Role" }
    }

    /// Upstream's words for why something is allowed.
    pub(super) fn describe(&self, subject: Who<'_>) -> String {
        let binding = if self.is_cluster_binding { "ClusterRoleBinding" } else { "RoleBinding" };
        let (kind, name) = match subject {
            Who::User(name) => match service_account(name) {
                Some(account) => ("ServiceAccount", account),
                None => ("User", name.to_owned()),
            },
            Who::Group(name) => ("Group", name.to_owned()),
        };
        let (role, by) = (self.role_kind(), &self.binding);
        format!("RBAC: allowed by {binding} {by:?} of {role} {:?} to {kind} {name:?}", self.role)
    }

    /// Upstream's words for a role that is not there.
    pub(super) fn not_found(&self) -> String {
        format!("{}.{} {:?} not found", self.role_kind().to_lowercase(), super::GROUP, self.role)
    }
}

/// `name/namespace` of a service account's user name.
fn service_account(user: &str) -> Option<String> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    Some(format!("{name}/{namespace}"))
}

/// Whom a grant was made to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Who<'a> {
    User(&'a str),
    Group(&'a str),
}

/// Grants by user and by group.
#[derive(Debug, Default)]
struct Grants {
    users: HashMap<Box<str>, Vec<Grant>>,
    groups: HashMap<Box<str>, Vec<Grant>>,
}

/// What was made of a stored object, and the revision it had.
#[derive(Debug)]
struct Known<T> {
    revision: i64,
    value: T,
}

/// What a role allows.
type Rules = Known<Vec<PolicyRule>>;

/// A binding taken apart: to whom, and what.
#[derive(Debug)]
struct Binding {
    namespace: Box<str>,
    users: Vec<Box<str>>,
    groups: Vec<Box<str>>,
    grant: Grant,
}

/// Roles and grants.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// By namespace (empty for cluster roles) and name.
    roles: HashMap<Box<str>, HashMap<Box<str>, Rules>>,
    /// By key.
    bindings: HashMap<Box<str>, (Kind, Known<Binding>)>,
    /// Of cluster role bindings.
    everywhere: Grants,
    /// Of role bindings, by namespace.
    within: HashMap<Box<str>, Grants>,
}

/// What has changed of one resource.
#[derive(Debug, Default)]
pub(super) struct Update {
    roles: Vec<(Box<str>, Box<str>, Rules)>,
    lost_roles: Vec<(Box<str>, Box<str>)>,
    bindings: Vec<(Box<str>, Known<Binding>)>,
    lost_bindings: Vec<Box<str>>,
}

impl Index {
    /// The rules a grant leads to, none if the role does not exist.
    pub(super) fn rules(&self, grant: &Grant) -> Option<&[PolicyRule]> {
        self.role(&grant.role_namespace, &grant.role)
    }

    /// The rules of a role; `namespace` is empty for a cluster role.
    pub(super) fn role(&self, namespace: &str, name: &str) -> Option<&[PolicyRule]> {
        self.roles.get(namespace)?.get(name).map(|known| known.value.as_slice())
    }

    /// Every grant that holds for `user` in the cluster, and in `namespace` if it is not empty. Ends when `visit` says so.
    pub(super) fn each_grant<'a>(
        &'a self,
        user: &'a UserInfo,
        namespace: &str,
        visit: &mut dyn FnMut(&'a Grant, Who<'a>) -> bool,
    ) {
        let within = if namespace.is_empty() { None } else { self.within.get(namespace) };
        for grants in std::iter::once(&self.everywhere).chain(within) {
            if let Some(own) = grants.users.get(user.name.as_str())
                && own.iter().any(|grant| visit(grant, Who::User(&user.name)))
            {
                return;
            }
            for group in &user.groups {
                if let Some(own) = grants.groups.get(group.as_str())
                    && own.iter().any(|grant| visit(grant, Who::Group(group)))
                {
                    return;
                }
            }
        }
    }

    /// What differs between the index and a snapshot of one resource. Only that is parsed.
    pub(super) fn compare(&self, kind: Kind, snapshot: &Snapshot) -> Update {
        match kind {
            Kind::ClusterRole | Kind::Role => self.compare_roles(kind, snapshot),
            Kind::ClusterRoleBinding | Kind::RoleBinding => self.compare_bindings(kind, snapshot),
        }
    }

    fn compare_roles(&self, kind: Kind, snapshot: &Snapshot) -> Update {
        let mut update = Update::default();
        let mut seen = HashSet::new();
        for object in snapshot.iter() {
            let (namespace, name) = (object.namespace().unwrap_or_default(), object.name());
            let revision = object.mod_revision();
            seen.insert((namespace, name));
            let known = self.roles.get(namespace).and_then(|roles| roles.get(name));
            if known.is_none_or(|known| known.revision != revision) {
                let value = rules_of(kind, object);
                update.roles.push((namespace.into(), name.into(), Known { revision, value }));
            }
        }
        let own = self.roles.iter().filter(|(namespace, _)| namespace.is_empty() == (kind == Kind::ClusterRole));
        for (namespace, roles) in own {
            let lost = roles.keys().filter(|name| !seen.contains(&(&**namespace, &***name)));
            update.lost_roles.extend(lost.map(|name| (namespace.clone(), name.clone())));
        }
        update
    }

    fn compare_bindings(&self, kind: Kind, snapshot: &Snapshot) -> Update {
        let mut update = Update::default();
        let mut seen: HashSet<&str> = HashSet::new();
        for object in snapshot.iter() {
            let revision = object.mod_revision();
            seen.insert(object.key());
            let known = self.bindings.get(&**object.key());
            if known.is_none_or(|(_, known)| known.revision != revision) {
                let value = binding_of(kind, object);
                update.bindings.push(((&**object.key()).into(), Known { revision, value }));
            }
        }
        let own = self.bindings.iter().filter(|(_, (of, _))| *of == kind).map(|(key, _)| key);
        update.lost_bindings.extend(own.filter(|key| !seen.contains(&***key)).cloned());
        update
    }

    /// Takes up what [`Self::compare`] found.
    pub(super) fn apply(&mut self, kind: Kind, update: Update) {
        for (namespace, name) in update.lost_roles {
            if let Some(roles) = self.roles.get_mut(&namespace) {
                roles.remove(&name);
                if roles.is_empty() {
                    self.roles.remove(&namespace);
                }
            }
        }
        for (namespace, name, rules) in update.roles {
            self.roles.entry(namespace).or_default().insert(name, rules);
        }
        for key in update.lost_bindings {
            self.remove(&key);
        }
        for (key, binding) in update.bindings {
            self.remove(&key);
            let Binding { namespace, users, groups, grant } = &binding.value;
            let grants = match kind {
                Kind::RoleBinding => self.within.entry(namespace.clone()).or_default(),
                _ => &mut self.everywhere,
            };
            for user in users {
                grants.users.entry(user.clone()).or_default().push(grant.clone());
            }
            for group in groups {
                grants.groups.entry(group.clone()).or_default().push(grant.clone());
            }
            self.bindings.insert(key, (kind, binding));
        }
    }

    fn remove(&mut self, key: &str) {
        let Some((kind, Known { value: binding, .. })) = self.bindings.remove(key) else { return };
        let grants = match kind {
            Kind::RoleBinding => self.within.get_mut(&binding.namespace),
            _ => Some(&mut self.everywhere),
        };
        let Some(grants) = grants else { return };
        take(&mut grants.users, &binding.users, &binding.grant);
        take(&mut grants.groups, &binding.groups, &binding.grant);
        if kind == Kind::RoleBinding && grants.users.is_empty() && grants.groups.is_empty() {
            self.within.remove(&binding.namespace);
        }
    }
}

/// Takes one binding's grants away.
fn take(grants: &mut HashMap<Box<str>, Vec<Grant>>, names: &[Box<str>], grant: &Grant) {
    for name in names {
        if let Some(own) = grants.get_mut(name) {
            own.retain(|other| other.binding != grant.binding);
            if own.is_empty() {
                grants.remove(name);
            }
        }
    }
}

/// The rules of a stored role; one that cannot be read gives nothing.
fn rules_of(kind: Kind, object: &Object) -> Vec<PolicyRule> {
    let rules = match kind {
        Kind::ClusterRole => serde_json::from_slice::<ClusterRole>(object.json()).map(|role| role.rules),
        _ => serde_json::from_slice::<Role>(object.json()).map(|role| role.rules),
    };
    rules.map_err(|error| unreadable(object, &error)).ok().flatten().unwrap_or_default()
}

/// A stored binding; one that cannot be read binds nobody.
fn binding_of(kind: Kind, object: &Object) -> Binding {
    let parsed = match kind {
        Kind::ClusterRoleBinding => serde_json::from_slice::<ClusterRoleBinding>(object.json())
            .map(|binding| (binding.role_ref, binding.subjects)),
        _ => serde_json::from_slice::<RoleBinding>(object.json()).map(|binding| (binding.role_ref, binding.subjects)),
    };
    let (role, subjects) = parsed.map_err(|error| unreadable(object, &error)).unwrap_or_default();
    take_apart(kind, object.namespace().unwrap_or_default(), object.name(), &role, subjects.unwrap_or_default())
}

fn take_apart(kind: Kind, namespace: &str, name: &str, role: &RoleRef, subjects: Vec<Subject>) -> Binding {
    let role_namespace = if role.kind == "Role" { namespace } else { "" };
    let (mut users, mut groups) = (Vec::new(), Vec::new());
    for subject in subjects {
        match subject.kind.as_str() {
            "User" => users.push(subject.name.into()),
            "Group" => groups.push(subject.name.into()),
            "ServiceAccount" => {
                // One without a namespace is of the binding's own.
                let of = subject.namespace.as_deref().filter(|of| !of.is_empty()).unwrap_or(namespace);
                if !of.is_empty() {
                    users.push(format!("system:serviceaccount:{of}:{}", subject.name).into());
                }
            }
            _ => {}
        }
    }
    let binding = if namespace.is_empty() { name.to_owned() } else { format!("{name}/{namespace}") };
    let grant = Grant {
        binding: binding.into(),
        is_cluster_binding: kind == Kind::ClusterRoleBinding,
        role_namespace: role_namespace.into(),
        role: role.name.as_str().into(),
    };
    Binding { namespace: namespace.into(), users, groups, grant }
}

fn unreadable(object: &Object, error: &serde_json::Error) {
    tracing::warn!(key = %object.key(), %error, "a stored RBAC object cannot be read and gives nobody anything");
}
