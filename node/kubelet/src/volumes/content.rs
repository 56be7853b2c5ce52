//! What goes into configMap, secret, downwardAPI and projected volumes.

use std::collections::BTreeMap;
use std::time::Instant;

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Volume};

use super::atomic_writer::{Payload, Payloads};
use crate::Error;
use crate::context::Context;
use crate::downward::{self, Facts};
use crate::podext::PodExt;

const DEFAULT_MODE: i32 = 0o644;

type Data = BTreeMap<String, Vec<u8>>;

/// The files of a volume as of `not_before` or later, or `None` when it is not one of these kinds.
pub(crate) async fn of(
    context: &Context,
    pod: &Pod,
    volume: &Volume,
    facts: &Facts,
    not_before: Instant,
) -> Result<Option<Payloads>, Error> {
    let mut files = Payloads::new();
    if let Some(source) = &volume.config_map {
        let wanted = Wanted {
            name: &source.name,
            items: source.items.as_deref(),
            optional: source.optional == Some(true),
            not_before,
            mode: source.default_mode.unwrap_or(DEFAULT_MODE),
        };
        config_map(context, pod, &wanted, &mut files).await?;
    } else if let Some(source) = &volume.secret {
        let wanted = Wanted {
            name: source.secret_name.as_deref().unwrap_or_default(),
            items: source.items.as_deref(),
            optional: source.optional == Some(true),
            not_before,
            mode: source.default_mode.unwrap_or(DEFAULT_MODE),
        };
        secret(context, pod, &wanted, &mut files).await?;
    } else if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        downward_api(pod, source.items.as_deref().unwrap_or_default(), mode, facts, &mut files)?;
    } else if let Some(source) = &volume.projected {
        projected(context, pod, source, facts, not_before, &mut files).await?;
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
    not_before: Instant,
}

async fn projected(
    context: &Context,
    pod: &Pod,
    source: &ProjectedVolumeSource,
    facts: &Facts,
    not_before: Instant,
    files: &mut Payloads,
) -> Result<(), Error> {
    let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
    for part in source.sources.iter().flatten() {
        if let Some(part) = &part.config_map {
            let optional = part.optional == Some(true);
            let wanted = Wanted { name: &part.name, items: part.items.as_deref(), optional, mode, not_before };
            config_map(context, pod, &wanted, files).await?;
        } else if let Some(part) = &part.secret {
            let optional = part.optional == Some(true);
            let wanted = Wanted { name: &part.name, items: part.items.as_deref(), optional, mode, not_before };
            secret(context, pod, &wanted, files).await?;
        } else if let Some(part) = &part.downward_api {
            downward_api(pod, part.items.as_deref().unwrap_or_default(), mode, facts, files)?;
        } else if let Some(part) = &part.service_account_token {
            let token = context.tokens.get(&context.client, pod, part).await?;
            // The token is for the pod's processes, whoever they run as, and for nobody else on the node.
            let fs_group = pod.pod_spec().security_context.as_ref().and_then(|security| security.fs_group);
            let mode = if fs_group.is_some() { 0o600 } else { mode };
            files.insert(part.path.clone(), payload(token.as_bytes().to_vec(), mode));
        } else {
            return Err(Error::pod("this kind of projected volume source is not supported by this node"));
        }
    }
    Ok(())
}

async fn config_map(context: &Context, pod: &Pod, wanted: &Wanted<'_>, files: &mut Payloads) -> Result<(), Error> {
    match context.config_maps.get(pod.ns(), wanted.name, wanted.not_before).await? {
        Some(map) => {
            let texts = map.data.iter().flatten().map(|(key, text)| (key.clone(), text.clone().into_bytes()));
            let binaries = map.binary_data.iter().flatten().map(|(key, bytes)| (key.clone(), bytes.0.clone()));
            let all: Data = texts.chain(binaries).collect();
            select(all, wanted, files)
        }
        None if wanted.optional => Ok(()),
        None => Err(Error::pod(format!("configmap {:?} not found", wanted.name))),
    }
}

async fn secret(context: &Context, pod: &Pod, wanted: &Wanted<'_>, files: &mut Payloads) -> Result<(), Error> {
    match context.secrets.get(pod.ns(), wanted.name, wanted.not_before).await? {
        Some(secret) => {
            let all = secret.data.iter().flatten().map(|(key, bytes)| (key.clone(), bytes.0.clone()));
            select(all.collect(), wanted, files)
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

fn payload(data: Vec<u8>, mode: i32) -> Payload {
    Payload { data, mode: u32::try_from(mode & 0o777).unwrap_or(0o644) }
}
