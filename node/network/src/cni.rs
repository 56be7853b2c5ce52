//! The CNI plugin: one call, one command, JSON in and out.
//! <https://github.com/containernetworking/cni/blob/spec-v1.1.0/SPEC.md>

mod protocol;

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::pod_link::{self, Wiring};
use crate::{Error, Ipam, Lease, bandwidth};
use protocol::{CniError, NetConf, PrevResult, Version, code};

/// The plugin's name: its file's in the plugin directory, its `type` in a network configuration.
pub const PLUGIN_NAME: &str = "skep-cni";
/// containerd runs a plugin of this name for every pod, too.
pub(crate) const LOOPBACK_NAME: &str = "loopback";
/// Directory of the leases below the data directory.
pub(crate) const IPAM_DIR: &str = "ipam";
/// More is no network configuration.
const MAX_STDIN: u64 = 1 << 20;

/// What the runtime says by environment variables.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `CNI_COMMAND`.
    pub command: String,
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_NETNS`.
    pub namespace: PathBuf,
    /// `CNI_IFNAME`.
    pub interface: String,
}

impl Environment {
    /// The process's.
    pub fn from_process() -> Self {
        let text = |name| std::env::var(name).unwrap_or_default();
        Self {
            command: text("CNI_COMMAND"),
            container: text("CNI_CONTAINERID"),
            namespace: std::env::var_os("CNI_NETNS").unwrap_or_default().into(),
            interface: text("CNI_IFNAME"),
        }
    }
}

/// Whether this process was called as the plugin, going by the name it was called by. A binary that is also the plugin
/// asks before anything else, and then does [`cni_main`] alone.
pub fn is_cni_call() -> bool {
    let called: Option<OsString> = std::env::args_os().next();
    let name = called.as_deref().map(Path::new).and_then(Path::file_name);
    name.is_some_and(|name| name == PLUGIN_NAME || name == LOOPBACK_NAME)
}

/// Answers one call: environment and standard input in, standard output and exit code out.
pub fn cni_main() -> ExitCode {
    let mut stdin = String::new();
    // Unreadable input is no JSON either, and gets that answer.
    let _ = std::io::stdin().lock().take(MAX_STDIN).read_to_string(&mut stdin);
    let (output, success) = match respond(&Environment::from_process(), &stdin) {
        Ok(output) => (output, true),
        Err(output) => (output, false),
    };
    let written = std::io::stdout().lock().write_all(output.as_bytes());
    if success && written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Answers one call in the calling thread's network namespace: the text for standard output, empty if there is none.
///
/// # Errors
/// The JSON error of the CNI specification, as text.
pub fn respond(environment: &Environment, stdin: &str) -> Result<String, String> {
    let text = |value: Value| format!("{value}\n");
    let version = Version::requested(stdin);
    match answer(environment, stdin) {
        Ok(answer) => Ok(answer.map_or_else(String::new, text)),
        Err(error) => Err(text(error.to_json(&version))),
    }
}

/// The plugin's entry of a network configuration; [`NetConf`] reads it.
pub(crate) fn plugin_config(pod_cidrs: &[IpNet], data_dir: &Path, wiring: &Wiring) -> Value {
    json!({
        "type": PLUGIN_NAME,
        "podCIDRs": pod_cidrs,
        "dataDir": data_dir,
        "mtu": wiring.mtu,
        "nodeIPs": wiring.node_ips,
        "capabilities": { "bandwidth": true },
    })
}

fn answer(environment: &Environment, stdin: &str) -> Result<Option<Value>, CniError> {
    if environment.command == "VERSION" {
        let requested = Version::requested(stdin);
        return Ok(Some(json!({ "cniVersion": requested, "supportedVersions": Version::SUPPORTED })));
    }
    let conf = NetConf::parse(stdin)?;
    let version = conf.version()?;
    let command = environment.command.as_str();
    if !matches!(command, "ADD" | "DEL" | "CHECK" | "GC" | "STATUS") {
        let message = if command.is_empty() {
            "CNI_COMMAND is not set".to_owned()
        } else {
            format!("unknown CNI_COMMAND {command:?}")
        };
        return Err(CniError::new(code::ENVIRONMENT, message));
    }
    if matches!(command, "GC" | "STATUS") {
        return collect_or_tell(command, &conf, version).map(|()| None);
    }
    for (name, missing) in [
        ("CNI_CONTAINERID", environment.container.is_empty()),
        ("CNI_IFNAME", environment.interface.is_empty()),
        ("CNI_NETNS", environment.namespace.as_os_str().is_empty() && command != "DEL"),
    ] {
        if missing {
            return Err(CniError::new(code::ENVIRONMENT, format!("{name} is not set")));
        }
    }
    if command == "CHECK" && !version.has_check() {
        return Err(CniError::new(code::VERSION, format!("cniVersion {version} does not allow CHECK")));
    }
    if conf.kind == LOOPBACK_NAME {
        return loopback(environment, version);
    }
    let call = Call::new(environment, &conf)?;
    match command {
        "ADD" => call.add(version, &conf).map(Some),
        "DEL" => call.delete().map(|()| None),
        _ => call.check(&conf).map(|()| None),
    }
}

/// A call with its configuration understood.
struct Call<'a> {
    environment: &'a Environment,
    ipam: Ipam,
    wiring: Wiring,
}

impl<'a> Call<'a> {
    fn new(environment: &'a Environment, conf: &NetConf) -> Result<Self, CniError> {
        let wiring = Wiring { mtu: conf.mtu.unwrap_or(1500), node_ips: conf.node_ips() };
        Ok(Self { environment, ipam: ipam(conf)?, wiring })
    }

    fn add(&self, version: Version, conf: &NetConf) -> Result<Value, CniError> {
        let Environment { container, namespace, interface, .. } = self.environment;
        let _lock = self.ipam.lock_pod(&pod_link::host_device_name(container, interface))?;
        let (lease, new) = self.ipam.allocate(container, interface, namespace, conf.runtime_config.bandwidth)?;
        // A second ADD for the same interface: what is there and whole is the answer.
        let connected = !new && pod_link::check(&lease, &self.wiring).is_ok();
        let wired = if connected { Ok(()) } else { pod_link::connect(&lease, &self.wiring) };
        if let Err(error) = wired.and_then(|()| bandwidth::limit(&lease)) {
            // The runtime sends DEL after a failed ADD, but it need not. A device of an earlier ADD goes with the address.
            let released =
                pod_link::disconnect(container, interface).and_then(|_| self.ipam.release(container, interface));
            if let Err(leaked) = released {
                return Err(CniError { details: leaked.to_string(), ..error.into() });
            }
            return Err(error.into());
        }
        Ok(self.result(&lease, version))
    }

    fn delete(&self) -> Result<(), CniError> {
        let Environment { container, interface, .. } = self.environment;
        let _lock = self.ipam.lock_pod(&pod_link::host_device_name(container, interface))?;
        // The address last: nobody gets it while the device with it is there.
        pod_link::disconnect(container, interface)?;
        self.ipam.release(container, interface)?;
        Ok(())
    }

    fn check(&self, conf: &NetConf) -> Result<(), CniError> {
        let Environment { container, interface, namespace, .. } = self.environment;
        let unknown =
            || CniError::new(code::UNKNOWN_CONTAINER, format!("{interface} of container {container} was never added"));
        let lease =
            Lease { namespace: namespace.clone(), ..self.ipam.find(container, interface)?.ok_or_else(unknown)? };
        let named = |result: &PrevResult, address| result.ips.iter().any(|ip| ip.address.addr() == address);
        for address in lease.addresses.iter() {
            if conf.prev_result.as_ref().is_some_and(|result| !named(result, address)) {
                let message = format!("{interface} has the address {address}, which prevResult does not name");
                return Err(CniError::new(code::BROKEN, message));
            }
        }
        Ok(pod_link::check(&lease, &self.wiring)?)
    }

    fn result(&self, lease: &Lease, version: Version) -> Value {
        let host_device = pod_link::host_device_name(&lease.container, &lease.interface);
        let address = |address: IpAddr| {
            let gateway = pod_link::gateway(address);
            let mut told = json!({ "address": IpNet::from(address), "gateway": gateway, "interface": 1 });
            if version.has_address_families() {
                told["version"] = json!(if address.is_ipv4() { "4" } else { "6" });
            }
            told
        };
        let route = |address: IpAddr| {
            let all = if address.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            json!({ "dst": all, "gw": pod_link::gateway(address) })
        };
        let host = json!({ "name": host_device, "mac": mac_text(pod_link::host_mac(lease.addresses)) });
        let pod = json!({
            "name": lease.interface,
            "mac": mac_text(pod_link::pod_mac(lease.addresses)),
            "sandbox": lease.namespace,
        });
        json!({
            "cniVersion": version,
            "interfaces": [host, pod],
            "ips": lease.addresses.iter().map(address).collect::<Vec<_>>(),
            "routes": lease.addresses.iter().map(route).collect::<Vec<_>>(),
            "dns": {},
        })
    }
}

/// GC and STATUS, which are of no container.
fn collect_or_tell(command: &str, conf: &NetConf, version: Version) -> Result<(), CniError> {
    if !version.has_collection() {
        return Err(CniError::new(code::VERSION, format!("cniVersion {version} does not allow {command}")));
    }
    if conf.kind == LOOPBACK_NAME {
        return Ok(());
    }
    let ipam = ipam(conf)?;
    if command == "STATUS" {
        let full = |error: Error| CniError::new(code::NOT_AVAILABLE, error.to_string());
        return ipam.check_room().map_err(full);
    }
    let valid = conf.valid_attachments.as_ref().ok_or_else(|| {
        // Without the list everything would be garbage.
        CniError::new(code::CONFIG, "the network configuration has no cni.dev/valid-attachments")
    })?;
    let is_valid = |lease: &Lease| {
        valid.iter().any(|valid| valid.container == lease.container && valid.interface == lease.interface)
    };
    for lease in ipam.leases()?.iter().filter(|lease| !is_valid(lease)) {
        let _lock = ipam.lock_pod(&pod_link::host_device_name(&lease.container, &lease.interface))?;
        pod_link::disconnect(&lease.container, &lease.interface)?;
        ipam.release(&lease.container, &lease.interface)?;
    }
    Ok(())
}

/// The leases a network configuration speaks of.
fn ipam(conf: &NetConf) -> Result<Ipam, CniError> {
    let missing = |key: &str| CniError::new(code::CONFIG, format!("the network configuration has no {key}"));
    let cidrs = conf.pod_cidrs();
    if cidrs.is_empty() {
        return Err(missing("podCIDRs"));
    }
    let data_dir = conf.data_dir.as_ref().ok_or_else(|| missing("dataDir"))?;
    Ok(Ipam::open(data_dir.join(IPAM_DIR), &cidrs)?)
}

fn loopback(environment: &Environment, version: Version) -> Result<Option<Value>, CniError> {
    // DEL: the device ends with its namespace.
    if environment.command == "DEL" {
        return Ok(None);
    }
    pod_link::loopback_up(&environment.namespace)?;
    if environment.command == "CHECK" {
        return Ok(None);
    }
    let address = |text: &str, family: &str| {
        let mut address = json!({ "address": text, "interface": 0 });
        if version.has_address_families() {
            address["version"] = json!(family);
        }
        address
    };
    Ok(Some(json!({
        "cniVersion": version,
        "interfaces": [{ "name": "lo", "mac": "00:00:00:00:00:00", "sandbox": environment.namespace }],
        "ips": [address("127.0.0.1/8", "4"), address("::1/128", "6")],
        "dns": {},
    })))
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

impl From<Error> for CniError {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Exhausted { .. } => code::TRY_AGAIN_LATER,
            Error::Config(_) => code::CONFIG,
            Error::Io { .. } => code::IO,
            Error::Namespace { .. } => code::UNKNOWN_CONTAINER,
            Error::Netlink { .. } => code::KERNEL,
            Error::Broken(_) => code::BROKEN,
        };
        Self::new(code, error.to_string())
    }
}
