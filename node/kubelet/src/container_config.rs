//! What the runtime is told about a container.

use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use skep_cri::api::{
    ContainerConfig, ContainerMetadata, Image, ImageSpec, KeyValue, LinuxContainerConfig, Mount, MountPropagation,
};

use crate::context::Context;
use crate::downward::Facts;
use crate::env::{self, Environment};
use crate::expansion::expand;
use crate::podext::{PodExt, hex};
use crate::volumes::Mounted;
use crate::{Error, dns, labels, resources, security};

/// Builds the configuration for attempt `attempt`; makes the files it mounts.
pub(crate) async fn build(
    context: &Context,
    pod: &Pod,
    container: &Container,
    attempt: u32,
    image: &Image,
    facts: &Facts,
    volumes: &Mounted,
) -> Result<ContainerConfig, Error> {
    context.services.synced().await;
    let environment = env::resolve(context, pod, container, facts).await?;
    let expanded = |words: &Option<Vec<String>>| -> Vec<String> {
        words.iter().flatten().map(|word| expand(word, |name| environment.get(name))).collect()
    };
    let command = expanded(&container.command);
    let args = expanded(&container.args);
    let mounts = mounts(context, pod, container, facts, volumes, &environment)?;
    let log_dir = context.log_dir(pod).join(&container.name);
    fs::create_dir_all(&log_dir).map_err(Error::file(&log_dir))?;
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata { name: container.name.clone(), attempt }),
        image: Some(ImageSpec {
            image: image.id.clone(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command,
        args,
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: environment.into_pairs().into_iter().map(|(key, value)| KeyValue { key, value }).collect(),
        mounts,
        labels: labels::container(pod, container),
        annotations: labels::annotations(pod, container, attempt),
        log_path: format!("{}/{attempt}.log", container.name),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        linux: Some(LinuxContainerConfig {
            resources: Some(resources::container(pod, container, context.memory_capacity)),
            security_context: Some(security::container(pod, container, &context.config, image)?),
        }),
        ..Default::default()
    })
}

fn mounts(
    context: &Context,
    pod: &Pod,
    container: &Container,
    facts: &Facts,
    volumes: &Mounted,
    environment: &Environment,
) -> Result<Vec<Mount>, Error> {
    let mut mounts = Vec::new();
    for wanted in container.volume_mounts.iter().flatten() {
        let volume = volumes.get(&wanted.name).ok_or_else(|| {
            Error::pod(format!("cannot find volume {:?} to mount into container {:?}", wanted.name, container.name))
        })?;
        mounts.push(volume_mount(wanted, volume, environment)?);
    }
    let taken = |path: &str| mounts.iter().any(|mount: &Mount| mount.container_path.trim_end_matches('/') == path);
    if !taken("/etc/hosts") {
        let host_path = hosts_file(context, pod, facts)?;
        mounts.push(plain("/etc/hosts", &host_path));
    }
    let message = labels::message_path(container);
    if !mounts.iter().any(|mount| mount.container_path == message) {
        let dir = context.pod_dir(pod.uid()).join("containers").join(&container.name);
        fs::create_dir_all(&dir).map_err(Error::file(&dir))?;
        let file = dir.join(hex(&rand::random::<[u8; 4]>()));
        fs::write(&file, b"").map_err(Error::file(&file))?;
        // Whatever user the container runs as may leave its message.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        fs::set_permissions(&file, open).map_err(Error::file(&file))?;
        mounts.push(plain(message, &file));
    }
    Ok(mounts)
}

fn plain(container_path: &str, host_path: &Path) -> Mount {
    Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.to_string_lossy().into_owned(),
        ..Default::default()
    }
}

fn hosts_file(context: &Context, pod: &Pod, facts: &Facts) -> Result<PathBuf, Error> {
    let node = if pod.host_network() { fs::read_to_string("/etc/hosts").unwrap_or_default() } else { String::new() };
    let text = dns::hosts_file(pod, &context.config, &facts.pod_ips, &node);
    let path = context.pod_dir(pod.uid()).join("etc-hosts");
    // Written in place: running containers have this very file mounted.
    fs::write(&path, text).map_err(Error::file(&path))?;
    Ok(path)
}

fn volume_mount(wanted: &VolumeMount, volume: &Path, environment: &Environment) -> Result<Mount, Error> {
    let sub_path = match (wanted.sub_path_expr.as_deref(), wanted.sub_path.as_deref()) {
        (Some(expression), _) if !expression.is_empty() => {
            let expanded = expand(expression, |name| environment.get(name));
            if expanded.contains("$(") {
                return Err(Error::pod(format!("failed to expand subPathExpr {expression:?}: missing value")));
            }
            expanded
        }
        (_, sub_path) => sub_path.unwrap_or_default().to_owned(),
    };
    let host_path = if sub_path.is_empty() { volume.to_owned() } else { inside(volume, &sub_path)? };
    let propagation = match wanted.mount_propagation.as_deref() {
        Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => MountPropagation::PropagationBidirectional,
        _ => MountPropagation::PropagationPrivate,
    };
    Ok(Mount {
        container_path: absolute(&wanted.mount_path),
        host_path: host_path.to_string_lossy().into_owned(),
        readonly: wanted.read_only.unwrap_or(false),
        propagation: propagation as i32,
        ..Default::default()
    })
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// A path below the volume, made if missing; nothing in it, nor any symlink on the way, may lead out.
fn inside(volume: &Path, sub_path: &str) -> Result<PathBuf, Error> {
    let relative = Path::new(sub_path);
    if !relative.components().all(|part| matches!(part, std::path::Component::Normal(_) | std::path::Component::CurDir))
    {
        return Err(Error::pod(format!("subPath {sub_path:?} must be relative and must not contain \"..\"")));
    }
    let root = fs::canonicalize(volume).map_err(Error::file(volume))?;
    let mut path = root.clone();
    for part in relative {
        path.push(part);
        match fs::canonicalize(&path) {
            Ok(real) if real.starts_with(&root) => path = real,
            Ok(_) => return Err(Error::pod(format!("subPath {sub_path:?} leads out of the volume"))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                fs::create_dir(&path).map_err(Error::file(&path))?;
            }
            Err(error) => return Err(Error::file(&path)(error)),
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sub_path_stays_inside_its_volume() {
        let volume = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), volume.path().join("out")).unwrap();
        assert!(inside(volume.path(), "a/b").unwrap().is_dir());
        for bad in ["../x", "/x", "out", "out/x"] {
            assert!(inside(volume.path(), bad).is_err(), "{bad}");
        }
    }
}
