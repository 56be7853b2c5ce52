//! What goes into configMap, secret, downwardAPI and projected volumes.

use std::collections::BTreeMap;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Secret, ServiceAccount,
    ServiceAccountTokenProjection, Volume,
};
use kube::Api;
use kube::api::PostParams;

use super::atomic_writer::{Payload, Payloads};
use crate::Error;
use crate::context::Context;
use crate::downward::{self, Facts};
use crate::podext::PodExt;

const DEFAULT_MODE: i32 = 0o644;

type Data = BTreeMap<String, Vec<u8>>;

/// The files of a volume, or `None` when it is not one of these kinds.
pub(crate) async fn of(
    context: &Context,
    pod: &Pod,
    volume: &Volume,
    facts: &Facts,
) -> Result<Option<Payloads>, Error> {
    let mut files = Payloads::new();
    if let Some(source) = &volume.config_map {
        let wanted = Wanted {
            name: &source.name,
            items: source.items.as_deref(),
            optional: source.optional == Some(true),
            mode: source.default_mode.unwrap_or(DEFAULT_MODE),
        };
        config_map(context, pod, &wanted, &mut files).await?;
    } else if let Some(source) = &volume.secret {
        let wanted = Wanted {
            name: source.secret_name.as_deref().unwrap_or_default(),
            items: source.items.as_deref(),
            optional: source.optional == Some(true),
            mode: source.default_mode.unwrap_or(DEFAULT_MODE),
        };
        secret(context, pod, &wanted, &mut files).await?;
    } else if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        downward_api(pod, source.items.as_deref().unwrap_or_default(), mode, facts, &mut files)?;
    } else if let Some(source) = &volume.projected {
        projected(context, pod, source, facts, &mut files).await?;
    } else {
        return Ok(None);
    }
    Ok(Some(files))
}

struct Wanted<'a> {
    name: &'a str,
    items: Option<&'a [KeyToPath]>,
    optional: bool,
    mode: i32,
}

async fn projected(
    context: &Context,
    pod: &Pod,
    source: &ProjectedVolumeSource,
    facts: &Facts,
    files: &mut Payloads,
) -> Result<(), Error> {
    let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
    for part in source.sources.iter().flatten() {
        if let Some(part) = &part.config_map {
            let optional = part.optional == Some(true);
            let wanted = Wanted { name: &part.name, items: part.items.as_deref(), optional, mode };
            config_map(context, pod, &wanted, files).await?;
        } else if let Some(part) = &part.secret {
            let optional = part.optional == Some(true);
            let wanted = Wanted { name: &part.name, items: part.items.as_deref(), optional, mode };
            secret(context, pod, &wanted, files).await?;
        } else if let Some(part) = &part.downward_api {
            downward_api(pod, part.items.as_deref().unwrap_or_default(), mode, facts, files)?;
        } else if let Some(part) = &part.service_account_token {
            let data = token(context, pod, part).await?;
            // The token is for the pod's processes, whoever they run as, and for nobody else on the node.
            let fs_group = pod.pod_spec().security_context.as_ref().and_then(|security| security.fs_group);
            let mode = if fs_group.is_some() { 0o600 } else { mode };
            files.insert(part.path.clone(), payload(data, mode));
        } else {
            return Err(Error::pod("this kind of projected volume source is not supported by this node"));
        }
    }
    Ok(())
}

async fn config_map(context: &Context, pod: &Pod, wanted: &Wanted<'_>, files: &mut Payloads) -> Result<(), Error> {
    match context.config_map(pod.ns(), wanted.name).await? {
        Some(ConfigMap { data, binary_data, .. }) => {
            let mut all: Data = data.into_iter().flatten().map(|(key, text)| (key, text.into_bytes())).collect();
            all.extend(binary_data.into_iter().flatten().map(|(key, bytes)| (key, bytes.0)));
            select(all, wanted, files)
        }
        None if wanted.optional => Ok(()),
        None => Err(Error::pod(format!("configmap {:?} not found", wanted.name))),
    }
}

async fn secret(context: &Context, pod: &Pod, wanted: &Wanted<'_>, files: &mut Payloads) -> Result<(), Error> {
    match context.secret(pod.ns(), wanted.name).await? {
        Some(Secret { data, .. }) => {
            select(data.into_iter().flatten().map(|(key, bytes)| (key, bytes.0)).collect(), wanted, files)
        }
        None if wanted.optional => Ok(()),
        None => Err(Error::pod(format!("secret {:?} not found", wanted.name))),
    }
}

/// All keys, or those that `items` names, at the paths it gives.
fn select(mut data: Data, wanted: &Wanted<'_>, files: &mut Payloads) -> Result<(), Error> {
    let Some(items) = wanted.items.filter(|items| !items.is_empty()) else {
        files.extend(data.into_iter().map(|(key, bytes)| (key, payload(bytes, wanted.mode))));
        return Ok(());
    };
    for item in items {
        match data.remove(&item.key) {
            Some(bytes) => {
                files.insert(item.path.clone(), payload(bytes, item.mode.unwrap_or(wanted.mode)));
            }
            None if wanted.optional => {}
            None => return Err(Error::pod(format!("references non-existent config key: {}", item.key))),
        }
    }
    Ok(())
}

fn downward_api(
    pod: &Pod,
    items: &[DownwardAPIVolumeFile],
    mode: i32,
    facts: &Facts,
    files: &mut Payloads,
) -> Result<(), Error> {
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => downward::field(pod, &field.field_path, facts)?,
            (None, Some(selector)) => downward::resource(pod, None, selector, facts)?,
            (None, None) => continue,
        };
        files.insert(item.path.clone(), payload(text.into_bytes(), item.mode.unwrap_or(mode)));
    }
    Ok(())
}

async fn token(context: &Context, pod: &Pod, wanted: &ServiceAccountTokenProjection) -> Result<Vec<u8>, Error> {
    let account = pod.pod_spec().service_account_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: wanted.audience.iter().filter(|audience| !audience.is_empty()).cloned().collect(),
            expiration_seconds: Some(wanted.expiration_seconds.unwrap_or(3600)),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
        },
        ..Default::default()
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(context.client.clone(), pod.ns());
    let answer = accounts.create_token_request(account, &PostParams::default(), &request).await?;
    Ok(answer.status.map(|status| status.token).unwrap_or_default().into_bytes())
}

fn payload(data: Vec<u8>, mode: i32) -> Payload {
    Payload { data, mode: u32::try_from(mode & 0o777).unwrap_or(0o644) }
}
