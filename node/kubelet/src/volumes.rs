//! A pod's volumes: made before its first container, refreshed while it lives, removed after its last.
//!
//! Layout as upstream's: `<data>/pods/<uid>/volumes/kubernetes.io~<plugin>/<name>`.

pub(crate) mod atomic_writer;
mod content;

use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, HostPathVolumeSource, Pod, Volume};
use nix::mount::{MntFlags, MsFlags};

use crate::Error;
use crate::context::Context;
use crate::downward::Facts;
use crate::podext::PodExt;
use crate::quantity;

/// How old a ConfigMap or Secret may be when volumes are looked at: pods that use the same one share a GET.
const SHARED_FOR: Duration = Duration::from_secs(30);

/// Host paths of a pod's volumes by name.
pub(crate) type Mounted = HashMap<String, PathBuf>;

/// Makes all volumes of the pod. Idempotent.
pub(crate) async fn set_up(context: &Context, pod: &Pod, facts: &Facts) -> Result<Mounted, Error> {
    let mut mounted = Mounted::new();
    let now = Instant::now();
    for volume in pod.pod_spec().volumes.iter().flatten() {
        let path = set_up_one(context, pod, volume, facts, now).await.map_err(|error| match error {
            error @ (Error::Api(_) | Error::Runtime(_)) => error,
            error => Error::pod(format!("MountVolume.SetUp failed for volume {:?} : {error}", volume.name)),
        })?;
        mounted.insert(volume.name.clone(), path);
    }
    Ok(mounted)
}

/// Writes changed ConfigMaps, Secrets and fields into running pods' volumes. Pods share what has been read lately.
pub(crate) async fn refresh(context: &Context, pod: &Pod, facts: &Facts) -> Result<(), Error> {
    let now = Instant::now();
    let not_before = now.checked_sub(SHARED_FOR).unwrap_or(now);
    for volume in pod.pod_spec().volumes.iter().flatten().filter(|volume| is_content(volume)) {
        if !context.pod_dir(pod.uid()).exists() {
            // The pod is on its way out, and nothing may come after its clean-up.
            return Ok(());
        }
        set_up_one(context, pod, volume, facts, not_before).await?;
    }
    Ok(())
}

/// Whether anything of the pod may need [`refresh`].
pub(crate) fn needs_refresh(pod: &Pod) -> bool {
    pod.pod_spec().volumes.iter().flatten().any(is_content)
}

fn is_content(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
}

async fn set_up_one(
    context: &Context,
    pod: &Pod,
    volume: &Volume,
    facts: &Facts,
    not_before: Instant,
) -> Result<PathBuf, Error> {
    if let Some(source) = volume.host_path.clone() {
        // It may lie on a network file system that hangs: this pod waits then, and no other.
        return blocking(move || host_path(&source)).await;
    }
    let plugin = match volume {
        v if v.empty_dir.is_some() => "empty-dir",
        v if v.config_map.is_some() => "configmap",
        v if v.secret.is_some() => "secret",
        v if v.downward_api.is_some() => "downward-api",
        v if v.projected.is_some() => "projected",
        _ => return Err(Error::pod("this kind of volume is not supported by this node")),
    };
    let dir = context.pod_dir(pod.uid()).join("volumes").join(format!("kubernetes.io~{plugin}")).join(&volume.name);
    let group = pod.pod_spec().security_context.as_ref().and_then(|security| security.fs_group);
    let group = group.and_then(|group| u32::try_from(group).ok());
    if let Some(source) = volume.empty_dir.clone() {
        return blocking(move || empty_dir(&dir, &source, group).map(|()| dir)).await;
    }
    let Some(files) = content::of(context, pod, volume, facts, not_before).await? else {
        return Err(Error::pod("this kind of volume is not supported by this node"));
    };
    blocking(move || atomic_writer::write(&dir, &files, group).map_err(Error::file(&dir)).map(|_| dir)).await
}

/// File systems may block; the runtime's threads must not.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(Error::pod("work on files was interrupted")))
}

fn empty_dir(dir: &Path, source: &EmptyDirVolumeSource, group: Option<u32>) -> Result<(), Error> {
    let fresh = !dir.exists();
    fs::create_dir_all(dir).map_err(Error::file(dir))?;
    match source.medium.as_deref() {
        None | Some("") => {}
        Some("Memory") if is_mount_point(dir).map_err(Error::file(dir))? => {}
        Some("Memory") => {
            let limit = source.size_limit.as_ref().and_then(quantity::units).filter(|bytes| *bytes > 0);
            let options = limit.map_or_else(String::new, |bytes| format!("size={bytes}"));
            nix::mount::mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
                .map_err(|errno| Error::file(dir)(errno.into()))?;
        }
        Some(other) => return Err(Error::pod(format!("unknown storage medium {other:?}"))),
    }
    // Every user of the pod may write; a group of its own gets it with new files inheriting it.
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    if fresh || source.medium.is_some() {
        if let Some(group) = group {
            chown(dir, None, Some(group)).map_err(Error::file(dir))?;
        }
        fs::set_permissions(dir, fs::Permissions::from_mode(mode)).map_err(Error::file(dir))?;
    }
    Ok(())
}

fn host_path(source: &HostPathVolumeSource) -> Result<PathBuf, Error> {
    use std::os::unix::fs::FileTypeExt;
    let path = PathBuf::from(&source.path);
    let found = fs::metadata(&path).ok();
    let kind = |ok: bool, what: &str| {
        if ok { Ok(()) } else { Err(Error::pod(format!("hostPath type check failed: {} is not {what}", source.path))) }
    };
    let is = |test: fn(&fs::FileType) -> bool| found.as_ref().is_some_and(|meta| test(&meta.file_type()));
    match source.type_.as_deref().unwrap_or_default() {
        "" => {}
        "DirectoryOrCreate" => {
            if found.is_none() {
                fs::create_dir_all(&path).map_err(Error::file(&path))?;
            } else {
                kind(is(fs::FileType::is_dir), "a directory")?;
            }
        }
        "FileOrCreate" => {
            if found.is_none() {
                fs::File::create(&path).map_err(Error::file(&path))?;
            } else {
                kind(is(fs::FileType::is_file), "a file")?;
            }
        }
        "Directory" => kind(is(fs::FileType::is_dir), "a directory")?,
        "File" => kind(is(fs::FileType::is_file), "a file")?,
        "Socket" => kind(is(FileTypeExt::is_socket), "a socket file")?,
        "CharDevice" => kind(is(FileTypeExt::is_char_device), "a character device")?,
        "BlockDevice" => kind(is(FileTypeExt::is_block_device), "a block device")?,
        other => return Err(Error::pod(format!("{other} is an invalid volume type"))),
    }
    Ok(path)
}

fn is_mount_point(dir: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let Some(parent) = dir.parent() else { return Ok(true) };
    Ok(fs::metadata(dir)?.dev() != fs::metadata(parent)?.dev())
}

/// Removes the pod's directory; unmounts what is mounted in it first, so that nothing of a mounted file system is deleted.
pub(crate) fn tear_down(pod_dir: &Path) -> Result<(), Error> {
    // Mount points are told without symlinks.
    let pod_dir = match fs::canonicalize(pod_dir) {
        Ok(real) => real,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::file(pod_dir)(error)),
    };
    let pod_dir = pod_dir.as_path();
    let path = "/proc/self/mountinfo";
    let mounts = fs::read_to_string(path).map_err(Error::file(path))?;
    let mut inside: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|mount| PathBuf::from(unescape(mount)))
        .filter(|mount| mount.starts_with(pod_dir))
        .collect();
    inside.sort_by_key(|mount| std::cmp::Reverse(mount.components().count()));
    for mount in inside {
        nix::mount::umount2(&mount, MntFlags::empty())
            .or_else(|_| nix::mount::umount2(&mount, MntFlags::MNT_DETACH))
            .map_err(|errno| Error::file(&mount)(errno.into()))?;
    }
    match fs::remove_dir_all(pod_dir) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::file(pod_dir)(error)),
    }
}

/// Mount points escape blanks as octal.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}
