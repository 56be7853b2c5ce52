//! Who has which addresses of the node's pod CIDRs.
//!
//! A lease is one file, `ADDRESS,CONTAINER,INTERFACE` or `ADDRESS+ADDRESS,CONTAINER,INTERFACE` with one of each family. It
//! holds the path of the pod's network namespace, and after a line break its bandwidth limits as JSON if it has any. A
//! listing of the directory is the whole state; a lock file keeps writers apart, and a rename makes each change whole.
//! Addresses are given out in turn, so one that was freed stays unused for as long as possible.

mod pool;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use crate::{Addresses, Bandwidth, Error, Result, files};
use pool::Pool;

/// Files that hold the addresses given out last. The dot sets them apart from leases.
const LAST: &str = ".last";
const LAST6: &str = ".last6";
const LOCK: &str = ".lock";
/// Pods share this many locks: enough that two seldom wait for each other, few enough to be left lying.
const POD_LOCKS: u8 = 64;
/// Longest container id: with addresses, interface and temporary name it still is a file name.
const MAX_CONTAINER_ID: usize = 150;

/// Addresses in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The pod's addresses.
    pub addresses: Addresses,
    /// The sandbox's id at the container runtime.
    pub container: String,
    /// The interface inside the pod.
    pub interface: String,
    /// The file that stands for the pod's network namespace.
    pub namespace: PathBuf,
    /// How fast it may send and receive, for when its wire has to be made again.
    pub limits: Bandwidth,
}

/// What a lease's file name says.
struct Owner {
    addresses: Addresses,
    container: String,
    interface: String,
}

impl Owner {
    fn is(&self, container: &str, interface: &str) -> bool {
        self.container == container && self.interface == interface
    }

    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.splitn(3, ',');
        let (addresses, container, interface) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self {
            addresses: addresses.parse().ok()?,
            container: container.to_owned(),
            interface: interface.to_owned(),
        })
    }

    fn file_name(&self) -> String {
        format!("{},{},{}", self.addresses, self.container, self.interface)
    }
}

/// Held while a pod's wiring is changed; see [`Ipam::lock_pod`].
pub(crate) struct PodLock(#[expect(dead_code, reason = "held for its lock")] File);

/// The addresses of one node.
#[derive(Clone, Debug)]
pub struct Ipam {
    dir: PathBuf,
    pools: Vec<Pool>,
}

impl Ipam {
    /// Manages `cidrs` (one, or one of each family with the primary first) with its state in `dir` (made if absent).
    ///
    /// # Errors
    /// When there are none, too many or two of one family, when one has no address for a pod (longer than /30, of IPv6
    /// /126), or the directory cannot be made.
    pub fn open(dir: impl Into<PathBuf>, cidrs: &[IpNet]) -> Result<Self> {
        let dir = dir.into();
        crate::network::check_families("pod CIDRs", cidrs.iter().map(IpNet::addr))?;
        if cidrs.is_empty() {
            return Err(Error::Config("the node has no pod CIDR".to_owned()));
        }
        let pools = cidrs.iter().map(|cidr| Pool::new(*cidr)).collect::<Result<_>>()?;
        fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        Ok(Self { dir, pools })
    }

    /// The lease of an interface of a container: the one it has, or a new one (then the second value is true).
    ///
    /// # Errors
    /// [`Error::Exhausted`] when every address of one of the CIDRs is in use.
    pub fn allocate(
        &self,
        container: &str,
        interface: &str,
        namespace: &Path,
        limits: Bandwidth,
    ) -> Result<(Lease, bool)> {
        check_ids(container, interface)?;
        if namespace.as_os_str().as_bytes().contains(&b'\n') {
            return Err(Error::Config(format!("{namespace:?} has a line break")));
        }
        let _lock = self.lock()?;
        let leases = self.scan()?;
        let own = leases.iter().find(|owner| owner.is(container, interface));
        let new = own.is_none();
        let addresses = match own {
            Some(own) => own.addresses,
            None => self.next(&leases)?,
        };
        let lease = Lease {
            addresses,
            container: container.to_owned(),
            interface: interface.to_owned(),
            namespace: namespace.to_owned(),
            limits,
        };
        // The lease last: a failure leaves none behind.
        if new {
            for address in addresses.iter() {
                files::write(&self.dir.join(last_file(address)), address.to_string().as_bytes(), 0o600)?;
            }
        }
        self.write(&lease)?;
        Ok((lease, new))
    }

    /// The lease of an interface of a container, if it has one.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn find(&self, container: &str, interface: &str) -> Result<Option<Lease>> {
        let _lock = self.lock()?;
        let own = self.scan()?.into_iter().find(|owner| owner.is(container, interface));
        own.map(|own| self.read(own)).transpose()
    }

    /// Frees the addresses of an interface of a container; returns them if there were any.
    ///
    /// # Errors
    /// When the state cannot be read or changed.
    pub fn release(&self, container: &str, interface: &str) -> Result<Option<Addresses>> {
        let _lock = self.lock()?;
        let mut freed = None;
        for owner in self.scan()?.iter().filter(|owner| owner.is(container, interface)) {
            files::remove(&self.dir.join(owner.file_name()))?;
            freed = Some(owner.addresses);
        }
        Ok(freed)
    }

    /// All leases.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn leases(&self) -> Result<Vec<Lease>> {
        let _lock = self.lock()?;
        self.scan()?.into_iter().map(|owner| self.read(owner)).collect()
    }

    /// Whether there are addresses for one more pod.
    ///
    /// # Errors
    /// [`Error::Exhausted`] when there are none.
    pub fn check_room(&self) -> Result<()> {
        let _lock = self.lock()?;
        self.next(&self.scan()?).map(drop)
    }

    /// Removes the directory and with it every lease.
    pub(crate) fn destroy(self) -> Result<()> {
        let lock = self.lock()?;
        let removed = fs::remove_dir_all(&self.dir).map_err(Error::io("remove", &self.dir));
        drop(lock);
        removed
    }

    /// The first free address of each pool after the one given out last.
    fn next(&self, leases: &[Owner]) -> Result<Addresses> {
        let mut found = Vec::with_capacity(2);
        for pool in &self.pools {
            let used: HashSet<IpAddr> = leases
                .iter()
                .flat_map(|owner| owner.addresses.iter())
                .filter(|address| pool.cidr.contains(address))
                .collect();
            // A file that is absent or does not read means: from the start. It is only there for the order.
            let last = fs::read_to_string(self.dir.join(last_file(pool.cidr.addr()))).ok();
            found.push(pool.next(last.and_then(|text| text.trim().parse().ok()), &used)?);
        }
        Addresses::new(found).ok_or_else(|| Error::Config("the node has no pod CIDR".to_owned()))
    }

    /// Keeps other plugin calls and [`crate::Network::reconcile`] away from a pod's wiring while it is changed. To be taken
    /// before anything else, one at a time.
    pub(crate) fn lock_pod(&self, device: &str) -> Result<PodLock> {
        let stripe = device.bytes().fold(0u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte)) % POD_LOCKS;
        self.lock_file(&format!(".pod-{stripe}.lock")).map(PodLock)
    }

    fn lock(&self) -> Result<File> {
        self.lock_file(LOCK)
    }

    fn lock_file(&self, name: &str) -> Result<File> {
        let path = self.dir.join(name);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        file.lock().map_err(Error::io("lock", &path))?;
        Ok(file)
    }

    /// The lease of that file.
    fn read(&self, owner: Owner) -> Result<Lease> {
        let path = self.dir.join(owner.file_name());
        let contents = fs::read(&path).map_err(Error::io("read", &path))?;
        let (namespace, limits) = match contents.iter().position(|byte| *byte == b'\n') {
            Some(end) => (&contents[..end], serde_json::from_slice(&contents[end..]).unwrap_or_default()),
            None => (contents.as_slice(), Bandwidth::default()),
        };
        let Owner { addresses, container, interface } = owner;
        Ok(Lease { addresses, container, interface, namespace: OsStr::from_bytes(namespace).into(), limits })
    }

    fn write(&self, lease: &Lease) -> Result<()> {
        let Lease { addresses, container, interface, namespace, limits } = lease;
        let mut contents = namespace.as_os_str().as_bytes().to_vec();
        if *limits != Bandwidth::default() {
            contents.push(b'\n');
            contents.extend(serde_json::json!(limits).to_string().into_bytes());
        }
        let owner = Owner { addresses: *addresses, container: container.clone(), interface: interface.clone() };
        files::write(&self.dir.join(owner.file_name()), &contents, 0o600)
    }

    /// What the file names say.
    fn scan(&self) -> Result<Vec<Owner>> {
        let failed = |error| Error::io("read", &self.dir)(error);
        let mut leases = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
            leases.extend(Owner::parse(name));
        }
        Ok(leases)
    }
}

fn last_file(address: IpAddr) -> &'static str {
    if address.is_ipv4() { LAST } else { LAST6 }
}

/// The CNI specification's rules for ids, so that they can be part of a file name.
fn check_ids(container: &str, interface: &str) -> Result<()> {
    let starts_well = container.starts_with(|c: char| c.is_ascii_alphanumeric());
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if !starts_well || !container.chars().all(plain) || container.len() > MAX_CONTAINER_ID {
        return Err(Error::Config(format!(
            "{container:?} is not a container id: letters, digits, '_', '.' and '-', at most {MAX_CONTAINER_ID}"
        )));
    }
    let odd = |c: char| c == '/' || c == ':' || c == ',' || c.is_whitespace() || c.is_control();
    if interface.is_empty() || interface.len() > 15 || matches!(interface, "." | "..") || interface.contains(odd) {
        return Err(Error::Config(format!("{interface:?} is not an interface name")));
    }
    Ok(())
}
