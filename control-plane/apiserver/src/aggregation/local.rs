//! The APIServices of groups this server answers for itself: made when the group is served, removed when it is not.

use std::collections::BTreeSet;

use http::StatusCode;
use jiff::Timestamp;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use serde_json::json;
use skep_api::{
    StatusError,
    options::{DeleteOptions, FieldValidation},
};

use super::priority;
use crate::{
    dispatch::{Registries, Table},
    registry::{
        api_service::{GROUP, PLURAL},
        generic::Scope,
    },
    user::UserInfo,
};

/// Says who keeps an APIService: `onstart` for built-in groups, `true` for those of custom resources.
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// Creates what is missing and removes what is served no more.
pub(super) async fn sync(registries: &Registries, stored: &[APIService]) {
    let user = UserInfo::master("system:apiserver");
    let built_in = served(registries.built_in());
    let custom = served(&registries.custom());
    for (group, version) in built_in.iter().chain(&custom) {
        // Its own group needs none, as upstream has it.
        let name = format!("{version}.{group}");
        if group == GROUP || stored.iter().any(|own| own.metadata.name.as_deref() == Some(&name)) {
            continue;
        }
        let managed = if built_in.contains(&(group.clone(), version.clone())) { "onstart" } else { "true" };
        if let Err(error) = create(registries, &user, group, version, managed).await {
            tracing::debug!(api_service = %name, %error, "an APIService was not created");
        }
    }
    for object in stored {
        let managed = object.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED));
        let spec = object.spec.clone().unwrap_or_default();
        let own = (spec.group.unwrap_or_default(), spec.version.unwrap_or_default());
        let served = built_in.contains(&own) || custom.contains(&own);
        if managed.is_none() || served || spec.service.is_some() {
            continue;
        }
        let name = object.metadata.name.clone().unwrap_or_default();
        if let Err(error) = remove(registries, &user, &name).await {
            tracing::debug!(api_service = %name, %error, "an APIService was not removed");
        }
    }
}

fn served(table: &Table) -> BTreeSet<(String, String)> {
    table.iter().map(|registry| (registry.info().group.to_string(), registry.info().version.to_string())).collect()
}

async fn create(
    registries: &Registries,
    user: &UserInfo,
    group: &str,
    version: &str,
    managed: &str,
) -> Result<(), StatusError> {
    let registry = registries.get(GROUP, "v1", PLURAL).ok_or_else(StatusError::generic_not_found)?;
    let (group_priority, version_priority) = priority::of(group, version);
    let object = json!({
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": format!("{version}.{group}"), "labels": {MANAGED: managed}},
        "spec": {
            "group": group,
            "version": version,
            "groupPriorityMinimum": group_priority,
            "versionPriority": version_priority,
        },
    });
    let object = registry.decode_patched(object, FieldValidation::Strict, &mut Vec::new())?;
    let scope = Scope::internal(user, None, Timestamp::now());
    match registry.create(&scope, object).await {
        // Another server was faster.
        Err(error) if error.code() == StatusCode::CONFLICT => Ok(()),
        other => other.map(drop),
    }
}

async fn remove(registries: &Registries, user: &UserInfo, name: &str) -> Result<(), StatusError> {
    let registry = registries.get(GROUP, "v1", PLURAL).ok_or_else(StatusError::generic_not_found)?;
    let scope = Scope::internal(user, None, Timestamp::now());
    match registry.delete(&scope, name, &DeleteOptions::default()).await {
        Err(error) if error.code() == StatusCode::NOT_FOUND => Ok(()),
        other => other.map(drop),
    }
}
