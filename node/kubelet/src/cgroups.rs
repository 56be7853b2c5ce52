//! The cgroups of pods: `<root>/kubepods[/<qos>]/pod<uid>` in every hierarchy of the machine, made and removed by us.
//!
//! Works on pure cgroup v2, on v1, and on the hybrid of both. containerd's runtime puts containers below the path given as
//! `cgroup_parent`; the limits of the pod as a whole are ours to set.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Error;
use crate::podext::Qos;

/// Limits of a whole pod; `None` leaves the kernel's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) cpu_shares: Option<i64>,
    pub(crate) cpu_quota: Option<i64>,
    pub(crate) memory: Option<i64>,
}

/// CFS period, microseconds.
pub(crate) const PERIOD: i64 = 100_000;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    /// Empty for cgroup v2.
    controllers: Vec<String>,
    unified: bool,
}

/// The machine's cgroup hierarchies and our place in them.
#[derive(Clone, Debug)]
pub(crate) struct Cgroups {
    hierarchies: Vec<Hierarchy>,
    root: PathBuf,
}

impl Cgroups {
    /// Finds the hierarchies from `/proc/self/mountinfo`; `root` is absolute within each of them.
    pub(crate) fn discover(root: &Path) -> Result<Self, Error> {
        let path = "/proc/self/mountinfo";
        let mounts = fs::read_to_string(path).map_err(Error::file(path))?;
        let hierarchies = parse_mounts(&mounts);
        if hierarchies.is_empty() {
            return Err(Error::Cgroup("no cgroup file system is mounted; mount cgroup2 on /sys/fs/cgroup".to_owned()));
        }
        let root =
            root.strip_prefix("/").map_err(|_| Error::Cgroup("the cgroup root must be an absolute path".to_owned()))?;
        Ok(Self { hierarchies, root: root.to_owned() })
    }

    /// The path of a pod's cgroup within every hierarchy, as CRI's `cgroup_parent`.
    pub(crate) fn pod_path(&self, uid: &str, qos: Qos) -> PathBuf {
        Path::new("/").join(&self.root).join(qos_dir(qos)).join(format!("pod{uid}"))
    }

    /// Creates the pod's cgroup everywhere and sets its limits. Idempotent.
    pub(crate) fn create_pod(&self, uid: &str, qos: Qos, limits: Limits) -> Result<PathBuf, Error> {
        let path = self.pod_path(uid, qos);
        for hierarchy in &self.hierarchies {
            hierarchy.create(&path)?;
            hierarchy.limit(&path, limits)?;
        }
        Ok(path)
    }

    /// Removes the pod's cgroups with what lies below, killing nothing: waits shortly for the last process to go.
    pub(crate) async fn remove_pod(&self, uid: &str) -> Result<(), Error> {
        for qos in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
            let path = self.pod_path(uid, qos);
            for hierarchy in &self.hierarchies {
                let dir = hierarchy.mount.join(path.strip_prefix("/").unwrap_or(&path));
                remove_tree(&dir).await?;
            }
        }
        Ok(())
    }

    /// Removes `kubepods` itself when no pod is left in it, and the root above it where nobody else uses that.
    pub(crate) async fn remove_root(&self) -> Result<(), Error> {
        for hierarchy in &self.hierarchies {
            let root = hierarchy.mount.join(&self.root);
            remove_tree(&root.join("kubepods")).await?;
            if !self.root.as_os_str().is_empty() {
                // Refused while anything is in it, which then is not ours.
                let _ = fs::remove_dir(&root);
            }
        }
        Ok(())
    }
}

fn qos_dir(qos: Qos) -> &'static str {
    match qos {
        Qos::Guaranteed => "kubepods",
        Qos::Burstable => "kubepods/burstable",
        Qos::BestEffort => "kubepods/besteffort",
    }
}

fn parse_mounts(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut right = right.split(' ');
        let kind = right.next().unwrap_or_default();
        let options = right.nth(1).unwrap_or_default();
        let Some(mount) = left.split(' ').nth(4) else { continue };
        let hierarchy = match kind {
            "cgroup2" => Hierarchy { mount: mount.into(), controllers: Vec::new(), unified: true },
            "cgroup" => Hierarchy {
                mount: mount.into(),
                controllers: options.split(',').filter(|o| !matches!(*o, "rw" | "ro")).map(str::to_owned).collect(),
                unified: false,
            },
            _ => continue,
        };
        // A hierarchy mounted twice is served at its first place.
        let twin = |other: &Hierarchy| other.unified == hierarchy.unified && other.controllers == hierarchy.controllers;
        if !found.iter().any(twin) {
            found.push(hierarchy);
        }
    }
    found
}

impl Hierarchy {
    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }

    fn create(&self, path: &Path) -> Result<(), Error> {
        let mut dir = self.mount.clone();
        for part in path.strip_prefix("/").unwrap_or(path) {
            if self.unified {
                enable_controllers(&dir);
            }
            let parent = dir.clone();
            dir.push(part);
            match fs::create_dir(&dir) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::file(&dir)(error)),
            }
            if self.has("cpuset") {
                inherit_cpuset(&parent, &dir)?;
            }
        }
        Ok(())
    }

    fn limit(&self, path: &Path, limits: Limits) -> Result<(), Error> {
        let dir = self.mount.join(path.strip_prefix("/").unwrap_or(path));
        if self.unified {
            let quota = limits.cpu_quota.map_or("max".to_owned(), |quota| quota.to_string());
            write_if_there(&dir.join("cpu.max"), &format!("{quota} {PERIOD}"))?;
            if let Some(shares) = limits.cpu_shares {
                write_if_there(&dir.join("cpu.weight"), &weight(shares).to_string())?;
            }
            let memory = limits.memory.map_or("max".to_owned(), |bytes| bytes.to_string());
            return write_if_there(&dir.join("memory.max"), &memory);
        }
        if self.has("cpu") {
            if let Some(shares) = limits.cpu_shares {
                write_if_there(&dir.join("cpu.shares"), &shares.to_string())?;
            }
            if let Some(quota) = limits.cpu_quota {
                write_if_there(&dir.join("cpu.cfs_period_us"), &PERIOD.to_string())?;
                write_if_there(&dir.join("cpu.cfs_quota_us"), &quota.to_string())?;
            }
        }
        if self.has("memory")
            && let Some(memory) = limits.memory
        {
            write_if_there(&dir.join("memory.limit_in_bytes"), &memory.to_string())?;
        }
        Ok(())
    }
}

/// cgroup v2's weight (1..10000) for v1's shares (2..262144), by the formula of the OCI runtimes.
fn weight(shares: i64) -> i64 {
    1 + ((shares.clamp(2, 262_144) - 2) * 9999) / 262_142
}

/// Lets children of `dir` use what the kernel offers there; what it refuses stays off.
fn enable_controllers(dir: &Path) {
    let Ok(offered) = fs::read_to_string(dir.join("cgroup.controllers")) else { return };
    for controller in offered.split_whitespace() {
        if let Err(error) = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}")) {
            tracing::debug!(dir = %dir.display(), controller, %error, "controller stays off");
        }
    }
}

/// A new cpuset cgroup is empty and takes no process until it names CPUs and memory nodes.
fn inherit_cpuset(parent: &Path, dir: &Path) -> Result<(), Error> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = fs::read_to_string(dir.join(file)).map_err(Error::file(dir.join(file)))?;
        if own.trim().is_empty() {
            let value = fs::read_to_string(parent.join(file)).map_err(Error::file(parent.join(file)))?;
            fs::write(dir.join(file), value.trim()).map_err(Error::file(dir.join(file)))?;
        }
    }
    Ok(())
}

fn write_if_there(path: &Path, value: &str) -> Result<(), Error> {
    match fs::write(path, value) {
        Ok(()) => Ok(()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
            tracing::debug!(path = %path.display(), "no such limit here");
            Ok(())
        }
        Err(error) => Err(Error::file(path)(error)),
    }
}

async fn remove_tree(dir: &Path) -> Result<(), Error> {
    let mut attempt: u32 = 0;
    loop {
        match remove_once(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ResourceBusy && attempt < 10 => {
                attempt += 1;
                tokio::time::sleep(Duration::from_millis(10 << attempt.min(6))).await;
            }
            Err(error) => return Err(Error::file(dir)(error)),
        }
    }
}

fn remove_once(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_once(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 25 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw shared:10 - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 / /mnt/again rw - cgroup cgroup rw,cpu,cpuacct
34 30 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd";

    #[test]
    fn hybrid_mounts_are_told_apart_and_counted_once() {
        let found = parse_mounts(HYBRID);
        assert_eq!(found.len(), 3);
        assert!(found[0].unified);
        assert!(found[1].has("cpu") && found[1].has("cpuacct"));
        assert_eq!(found[1].mount, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
    }

    #[test]
    fn pods_lie_below_their_class() {
        let cgroups = Cgroups { hierarchies: Vec::new(), root: "n1".into() };
        assert_eq!(cgroups.pod_path("u", Qos::Guaranteed), Path::new("/n1/kubepods/podu"));
        assert_eq!(cgroups.pod_path("u", Qos::BestEffort), Path::new("/n1/kubepods/besteffort/podu"));
    }

    #[test]
    fn shares_become_weights() {
        assert_eq!((weight(2), weight(1024), weight(262_144)), (1, 39, 10_000));
    }
}
