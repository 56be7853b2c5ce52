//! Facts about the machine, from /proc and /etc.

use std::fs;
use std::path::Path;

use k8s_openapi::api::core::v1::NodeSystemInfo;

/// What the node status says of the machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Machine {
    pub(crate) cpus: i64,
    pub(crate) memory: i64,
    pub(crate) ephemeral_storage: i64,
    pub(crate) info: NodeSystemInfo,
}

/// Architecture in Go's words, as labels and nodeInfo carry it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

impl Machine {
    /// Reads the facts; `runtime` is the runtime's name and version.
    pub(crate) fn read(data_dir: &Path, runtime: String) -> Self {
        let line = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let boot_id = line("/proc/sys/kernel/random/boot_id");
        let uuid = line("/sys/class/dmi/id/product_uuid");
        let machine_id = Some(line("/etc/machine-id")).filter(|id| !id.is_empty()).unwrap_or_else(|| boot_id.clone());
        Self {
            cpus: std::thread::available_parallelism().map_or(1, |cpus| i64::try_from(cpus.get()).unwrap_or(1)),
            memory: memory_total(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
            ephemeral_storage: storage(data_dir).map_or(0, |(total, _)| total),
            info: NodeSystemInfo {
                architecture: architecture().to_owned(),
                boot_id,
                container_runtime_version: runtime,
                kernel_version: line("/proc/sys/kernel/osrelease"),
                kube_proxy_version: String::new(),
                kubelet_version: crate::KUBERNETES_VERSION.to_owned(),
                operating_system: "linux".to_owned(),
                os_image: os_name(&fs::read_to_string("/etc/os-release").unwrap_or_default()),
                system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
                machine_id,
                ..Default::default()
            },
        }
    }
}

fn memory_field(meminfo: &str, name: &str) -> Option<i64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().trim_end_matches(" kB").trim().parse::<i64>().ok().map(|kib| kib * 1024)
}

fn memory_total(meminfo: &str) -> i64 {
    memory_field(meminfo, "MemTotal").unwrap_or(0)
}

/// Bytes of memory there are, and that programs could still get.
pub(crate) fn memory() -> Option<(i64, i64)> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    Some((memory_total(&meminfo), memory_field(&meminfo, "MemAvailable")?))
}

/// Total and available bytes of the file system below `path`.
pub(crate) fn storage(path: &Path) -> Option<(i64, i64)> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    let block = stat.fragment_size();
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(block)).unwrap_or(i64::MAX);
    Some((bytes(stat.blocks()), bytes(stat.blocks_available())))
}

/// Total and free inodes of the file system below `path`; none for one that does not count them.
pub(crate) fn inodes(path: &Path) -> Option<(i64, i64)> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    let count = |inodes: u64| i64::try_from(inodes).unwrap_or(i64::MAX);
    (stat.files() > 0).then(|| (count(stat.files()), count(stat.files_available())))
}

/// Threads that exist and that may exist.
pub(crate) fn processes() -> Option<(i64, i64)> {
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    let running = load.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
    let limit = fs::read_to_string("/proc/sys/kernel/pid_max").ok()?.trim().parse().ok()?;
    Some((running, limit))
}

fn os_name(os_release: &str) -> String {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    value.map(|value| value.trim_matches('"').to_owned()).unwrap_or_else(|| "Linux".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_and_os_release_are_read() {
        assert_eq!(memory_total("MemFree: 1 kB\nMemTotal:       24576 kB\n"), 24_576 * 1024);
        assert_eq!(os_name("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
    }
}
