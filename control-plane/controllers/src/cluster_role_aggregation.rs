//! ClusterRoles with an aggregation rule: their rules are those of all roles that a selector matches.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::api::{Api, PostParams};
use kube::core::SelectorExt as _;

use crate::context::Context;
use crate::controller::{Queue, Reconciler};
use crate::error::{Context as _, Error};
use crate::meta::{self, ObjectKey};

/// The clusterrole-aggregation controller; its keys are names of ClusterRoles.
pub(crate) struct ClusterRoleAggregation {
    context: Context,
}

impl ClusterRoleAggregation {
    /// The controller, with its event handlers registered.
    pub(crate) fn new(context: Context, queue: Queue) -> Arc<Self> {
        let informer = &context.informers.cluster_roles;
        let all = informer.clone();
        // Any role may be part of any other: there are few that aggregate.
        informer.on_change(move |_| {
            for role in all.list().iter().filter(|role| role.aggregation_rule.is_some()) {
                queue.add(ObjectKey::of(&role.metadata));
            }
        });
        Arc::new(Self { context })
    }
}

impl Reconciler for ClusterRoleAggregation {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "clusterrole-aggregation-controller"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let informer = &self.context.informers.cluster_roles;
        let Some(role) = informer.by_key(key) else { return Ok(None) };
        if role.aggregation_rule.is_none() || meta::is_deleting(&role.metadata) {
            return Ok(None);
        }
        let rules = aggregate(&role, &informer.list())?;
        if role.rules.as_deref().unwrap_or_default() == rules {
            return Ok(None);
        }
        let changed = ClusterRole { rules: Some(rules), ..role.as_ref().clone() };
        let api: Api<ClusterRole> = Api::all(self.context.client.clone());
        let written = api.replace(&key.name, &PostParams::default(), &changed).await;
        match written.context(|| format!("aggregating cluster role {key}")) {
            Ok(written) => informer.wrote(&written),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        Ok(None)
    }
}

/// The rules of all roles that match, by the order of their names, each rule once.
fn aggregate(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Result<Vec<PolicyRule>, Error> {
    let selectors = role.aggregation_rule.as_ref().and_then(|rule| rule.cluster_role_selectors.as_deref());
    let selectors = selectors.unwrap_or_default().iter();
    let selectors =
        selectors.map(|selector| meta::selector(selector, &role.metadata)).collect::<Result<Vec<_>, _>>()?;
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors {
        let mut parts: Vec<_> = all
            .iter()
            .filter(|other| {
                other.metadata.name != role.metadata.name && selector.matches(meta::labels(&other.metadata))
            })
            .collect();
        parts.sort_by_key(|part| meta::name(&part.metadata).to_owned());
        for rule in parts.into_iter().flat_map(|part| part.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_of_all_that_match_are_taken_once_and_in_order() {
        let role = |name: &str, label: &str, verbs: &[&str]| -> Arc<ClusterRole> {
            let rules: Vec<_> =
                verbs.iter().map(|verb| json!({"apiGroups": [""], "resources": ["pods"], "verbs": [verb]})).collect();
            let value = json!({"metadata": {"name": name, "labels": {label: "true"}}, "rules": rules});
            Arc::new(serde_json::from_value(value).unwrap())
        };
        let whole: ClusterRole = serde_json::from_value(json!({
            "metadata": {"name": "whole", "labels": {"a": "true"}},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "true"}}, {"matchLabels": {"b": "true"}}]},
        }))
        .unwrap();
        let all = [
            role("z", "a", &["list"]),
            role("y", "a", &["get", "list"]),
            role("x", "b", &["watch"]),
            role("w", "c", &["delete"]),
            Arc::new(whole.clone()),
        ];
        let verbs: Vec<_> = aggregate(&whole, &all).unwrap().into_iter().flat_map(|rule| rule.verbs).collect();
        assert_eq!(verbs, ["get", "list", "watch"]);
    }
}
