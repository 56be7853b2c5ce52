//! The parameters of a policy that a binding points at.

use std::sync::Arc;

use serde_json::Value;
use skep_api::selector::LabelSelector;

use super::policy::{Binding, Policy};
use crate::{
    admission::matching::World,
    registry::generic::{Registry, refresh},
};

/// The objects to evaluate with, null where the policy has no parameters. None at all: the policy does not apply.
pub(super) async fn find(
    world: &World,
    policy: &Policy,
    binding: &Binding,
    request_namespace: &str,
) -> Result<Vec<Value>, String> {
    let (Some(kind), Some(wanted)) = (&policy.param_kind, &binding.param_ref) else { return Ok(vec![Value::Null]) };
    let (api_version, kind) =
        (kind.api_version.as_deref().unwrap_or_default(), kind.kind.as_deref().unwrap_or_default());
    let registry = registry(world, api_version, kind).ok_or_else(|| {
        format!(
            "failed to configure policy: failed to find resource referenced by paramKind: '{api_version}, Kind={kind}'"
        )
    })?;
    let given = wanted.namespace.as_deref().unwrap_or_default();
    let namespace = match (registry.info().namespaced, given, request_namespace) {
        (false, "", _) => None,
        (false, ..) => {
            return Err(
                "failed to configure binding: paramRef.namespace must not be provided for a cluster-scoped `paramKind`"
                    .to_owned(),
            );
        }
        (true, "", "") => {
            return Err(
                "failed to configure binding: cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"
                    .to_owned(),
            );
        }
        (true, "", own) => Some(own),
        (true, given, _) => Some(given),
    };
    let mut found = Vec::new();
    match (wanted.name.as_deref().filter(|name| !name.is_empty()), &wanted.selector) {
        (Some(name), _) => {
            let Some(key) = registry.key(namespace, name) else {
                return Err("paramRef.name can be no name".to_owned());
            };
            let mut cached = registry.cache.get(&key);
            if cached.is_none() {
                // The cache may only be behind.
                refresh(&registry.storage).await.map_err(|error| error.message().to_owned())?;
                cached = registry.cache.get(&key);
            }
            found.extend(cached);
        }
        (None, selector) => {
            let selector =
                LabelSelector::from_optional(selector.as_ref()).map_err(|error| error.message().to_owned())?;
            let snapshot = registry.cache.snapshot();
            let scope = registry.key_scope(namespace);
            let matching = snapshot.range(&scope, "").filter(|cached| selector.matches(|key| cached.label(key)));
            found.extend(matching.cloned());
        }
    }
    if found.is_empty() {
        return match wanted.parameter_not_found_action.as_deref() {
            Some("Deny") => Err(
                "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"
                    .to_owned(),
            ),
            _ => Ok(Vec::new()),
        };
    }
    let mut out = Vec::with_capacity(found.len());
    for cached in found {
        let shown = registry.show(cached.json()).await.map_err(|error| error.message().to_owned())?;
        out.push(serde_json::from_slice(&shown).map_err(|error| error.to_string())?);
    }
    Ok(out)
}

fn registry(world: &World, api_version: &str, kind: &str) -> Option<Arc<Registry>> {
    let shared = world.shared()?;
    let custom = shared.registries.custom();
    let is_it =
        |registry: &&Arc<Registry>| registry.info().kind == kind && registry.info().api_version() == api_version;
    shared.registries.built_in().iter().chain(custom.iter()).find(is_it).cloned()
}
