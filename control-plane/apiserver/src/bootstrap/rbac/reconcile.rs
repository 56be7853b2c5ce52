//! Makes and mends the roles and bindings.

use std::collections::BTreeMap;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::{
    api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::{Serialize, de::DeserializeOwned};
use skep_api::{options::DeleteOptions, status::StatusError};

use super::{AUTOUPDATE, GROUP, controllers, roles};
use crate::{
    Error,
    authz::rule,
    bootstrap::decode,
    dispatch::Registries,
    error::Result,
    registry::{
        erased::UpdateKind,
        generic::{Registry, Scope, update::Replacement},
    },
    user::UserInfo,
};

/// Creates what is missing and mends what lacks something. Every server does it at its start, and no later: what an
/// administrator changes stays changed until then.
pub(crate) async fn run(registries: &Registries, user: &UserInfo) -> Result<()> {
    let bootstrap = Bootstrap { registries, user };
    let roles = roles::cluster_roles().into_iter().chain(controllers::cluster_roles());
    bootstrap.ensure_all("clusterroles", roles).await?;
    let bindings = roles::cluster_role_bindings().into_iter().chain(controllers::cluster_role_bindings());
    bootstrap.ensure_all("clusterrolebindings", bindings).await?;
    bootstrap.ensure_all("roles", roles::namespace_roles()).await?;
    bootstrap.ensure_all("rolebindings", roles::namespace_role_bindings()).await
}

/// How many objects are written at a time: there are many, and a cluster's first start should not wait for each.
const AT_ONCE: usize = 16;

struct Bootstrap<'a> {
    registries: &'a Registries,
    user: &'a UserInfo,
}

impl Bootstrap<'_> {
    async fn ensure_all<T: Reconciled>(&self, plural: &str, all: impl IntoIterator<Item = T>) -> Result<()> {
        let all = stream::iter(all).map(Ok);
        all.try_for_each_concurrent(AT_ONCE, |wanted| ensure(self.registries, self.user, plural, wanted)).await
    }
}

/// What to do with an object that is there.
enum Repair<T> {
    Nothing,
    Update(Box<T>),
    /// It cannot be changed into what it must be.
    Replace,
}

/// An object of RBAC, as far as mending goes.
trait Reconciled: Serialize + DeserializeOwned + Clone {
    fn metadata(&self) -> &ObjectMeta;

    /// How `stored` becomes what `self` demands, without taking anything from it.
    fn repair(&self, stored: Self) -> Repair<Self>;
}

async fn ensure<T: Reconciled>(registries: &Registries, user: &UserInfo, plural: &str, wanted: T) -> Result<()> {
    let Some(registry) = registries.get(GROUP, "v1", plural) else { return Ok(()) };
    let meta = wanted.metadata();
    let name = meta.name.clone().unwrap_or_default();
    let namespace = meta.namespace.clone();
    let scope = Scope::internal(user, namespace.as_deref(), Timestamp::now());
    try_ensure(&registry, &scope, &name, &wanted)
        .await
        .map_err(|source| Error::Bootstrap { what: format!("{plural} {name}"), source })
}

async fn try_ensure<T: Reconciled>(
    registry: &Registry,
    scope: &Scope<'_>,
    name: &str,
    wanted: &T,
) -> Result<(), StatusError> {
    let cached = registry.key(scope.namespace, name).and_then(|key| registry.cache.get(&key));
    let object = |value: &T| decode(registry, serde_json::to_value(value).map_err(StatusError::internal_error)?);
    let Some(cached) = cached else { return create(registry, scope, object(wanted)?).await };
    // One that cannot be read is somebody's whole work: it is left alone.
    let Ok(stored) = serde_json::from_slice::<T>(cached.json()) else { return Ok(()) };
    let annotation = stored.metadata().annotations.as_ref().and_then(|annotations| annotations.get(AUTOUPDATE));
    if annotation.is_some_and(|mend| mend == "false") {
        return Ok(());
    }
    match wanted.repair(stored) {
        Repair::Nothing => Ok(()),
        Repair::Update(mended) => {
            let mut source = Replacement(object(&mended)?);
            registry.update(scope, name, UpdateKind::Main, &mut source).await.map(drop)
        }
        Repair::Replace => {
            registry.delete(scope, name, &DeleteOptions::default()).await?;
            create(registry, scope, object(wanted)?).await
        }
    }
}

/// Another server may be about the same.
async fn create(
    registry: &Registry,
    scope: &Scope<'_>,
    object: Box<dyn crate::registry::object::Object>,
) -> Result<(), StatusError> {
    match registry.create(scope, object).await {
        Err(error) if error.reason() == "AlreadyExists" => Ok(()),
        other => other.map(drop),
    }
}

/// Adds what labels and annotations lack; whether they lacked any.
fn add_metadata(stored: &mut ObjectMeta, wanted: &ObjectMeta) -> bool {
    let add = |stored: &mut Option<BTreeMap<String, String>>, wanted: &Option<BTreeMap<String, String>>| {
        let mut lacked = false;
        for (key, value) in wanted.iter().flatten() {
            let own = stored.get_or_insert_default();
            if !own.contains_key(key) {
                own.insert(key.clone(), value.clone());
                lacked = true;
            }
        }
        lacked
    };
    let labels = add(&mut stored.labels, &wanted.labels);
    add(&mut stored.annotations, &wanted.annotations) || labels
}

/// Adds the rules that are lacking; whether any were.
fn add_rules(stored: &mut Option<Vec<PolicyRule>>, wanted: &Option<Vec<PolicyRule>>) -> bool {
    let missing = rule::missing(stored.as_deref().unwrap_or_default(), wanted.as_deref().unwrap_or_default());
    let lacked = !missing.is_empty();
    if lacked {
        stored.get_or_insert_default().extend(rule::compact(missing));
    }
    lacked
}

fn add_subjects(stored: &mut Option<Vec<Subject>>, wanted: &Option<Vec<Subject>>) -> bool {
    let mut lacked = false;
    for subject in wanted.iter().flatten() {
        let own = stored.get_or_insert_default();
        if !own.contains(subject) {
            own.push(subject.clone());
            lacked = true;
        }
    }
    lacked
}

fn updated<T>(object: T, changed: bool) -> Repair<T> {
    if changed { Repair::Update(Box::new(object)) } else { Repair::Nothing }
}

fn repair_binding(
    (meta, role, subjects): (&mut ObjectMeta, &RoleRef, &mut Option<Vec<Subject>>),
    (wanted_meta, wanted_role, wanted_subjects): (&ObjectMeta, &RoleRef, &Option<Vec<Subject>>),
) -> Option<bool> {
    if role != wanted_role {
        return None;
    }
    let changed = add_metadata(meta, wanted_meta);
    Some(add_subjects(subjects, wanted_subjects) || changed)
}

impl Reconciled for ClusterRole {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn repair(&self, mut stored: Self) -> Repair<Self> {
        let mut changed = add_metadata(&mut stored.metadata, &self.metadata);
        changed |= add_rules(&mut stored.rules, &self.rules);
        if let Some(wanted) = &self.aggregation_rule {
            let own = stored.aggregation_rule.get_or_insert_default();
            for selector in wanted.cluster_role_selectors.iter().flatten() {
                let selectors = own.cluster_role_selectors.get_or_insert_default();
                if !selectors.contains(selector) {
                    selectors.push(selector.clone());
                    changed = true;
                }
            }
        }
        updated(stored, changed)
    }
}

impl Reconciled for Role {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn repair(&self, mut stored: Self) -> Repair<Self> {
        let mut changed = add_metadata(&mut stored.metadata, &self.metadata);
        changed |= add_rules(&mut stored.rules, &self.rules);
        updated(stored, changed)
    }
}

impl Reconciled for ClusterRoleBinding {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn repair(&self, mut stored: Self) -> Repair<Self> {
        let own = (&mut stored.metadata, &stored.role_ref, &mut stored.subjects);
        match repair_binding(own, (&self.metadata, &self.role_ref, &self.subjects)) {
            Some(changed) => updated(stored, changed),
            None => Repair::Replace,
        }
    }
}

impl Reconciled for RoleBinding {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn repair(&self, mut stored: Self) -> Repair<Self> {
        let own = (&mut stored.metadata, &stored.role_ref, &mut stored.subjects);
        match repair_binding(own, (&self.metadata, &self.role_ref, &self.subjects)) {
            Some(changed) => updated(stored, changed),
            None => Repair::Replace,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_stays_and_what_was_taken_comes_back() {
        let wanted =
            roles::cluster_roles().into_iter().find(|role| role.metadata.name.as_deref() == Some("system:node"));
        let wanted = wanted.unwrap();
        assert!(matches!(wanted.repair(wanted.clone()), Repair::Nothing));
        let mut changed = wanted.clone();
        let rules = changed.rules.as_mut().unwrap();
        let (taken, added) = (rules.remove(0), PolicyRule { verbs: vec!["x".to_owned()], ..PolicyRule::default() });
        rules.push(added.clone());
        changed.metadata.labels = None;
        let Repair::Update(mended) = wanted.repair(changed) else { panic!("something was missing") };
        let rules = mended.rules.as_ref().unwrap();
        assert!(rules.contains(&added));
        assert_eq!(rule::missing(rules, &[taken]), []);
        assert!(mended.metadata.labels.is_some());
    }

    #[test]
    fn a_binding_to_another_role_is_made_anew() {
        let wanted = roles::cluster_role_bindings().remove(0);
        let mut other = wanted.clone();
        other.role_ref.name = "x".to_owned();
        assert!(matches!(wanted.repair(other), Repair::Replace));
        let mut fewer = wanted.clone();
        fewer.subjects = None;
        let Repair::Update(mended) = wanted.repair(fewer) else { panic!("the subjects were missing") };
        assert_eq!(mended.subjects, wanted.subjects);
    }

    #[test]
    fn names_are_given_once() {
        let names =
            roles::cluster_roles().into_iter().chain(controllers::cluster_roles()).map(|role| role.metadata.name);
        let mut names: Vec<_> = names.collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
