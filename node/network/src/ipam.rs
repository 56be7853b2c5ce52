//! Who has which address of the node's pod CIDR.
//!
//! A lease is one file, `ADDRESS,CONTAINER,INTERFACE`, that holds the path of the pod's network namespace. A listing of the
//! directory is the whole state; a lock file keeps writers apart, and a rename makes each change whole. Addresses are given
//! out in turn, so one that was freed stays unused for as long as possible.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::net::Ipv4Addr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;

use crate::{Error, Result, files};

/// File that holds the address given out last. The dot sets it apart from leases.
const LAST: &str = ".last";
const LOCK: &str = ".lock";
/// Pods share this many locks: enough that two seldom wait for each other, few enough to be left lying.
const POD_LOCKS: u8 = 64;
/// Longest container id: with address, interface and temporary name it still is a file name.
const MAX_CONTAINER_ID: usize = 200;

/// An address in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The pod's address.
    pub address: Ipv4Addr,
    /// The sandbox's id at the container runtime.
    pub container: String,
    /// The interface inside the pod.
    pub interface: String,
    /// The file that stands for the pod's network namespace.
    pub namespace: PathBuf,
}

impl Lease {
    fn file_name(&self) -> String {
        format!("{},{},{}", self.address, self.container, self.interface)
    }
}

/// Held while a pod's wiring is changed; see [`Ipam::lock_pod`].
pub(crate) struct PodLock(#[expect(dead_code, reason = "held for its lock")] File);

/// The addresses of one node.
#[derive(Clone, Debug)]
pub struct Ipam {
    dir: PathBuf,
    cidr: Ipv4Net,
}

impl Ipam {
    /// Manages `cidr` with its state in `dir` (made if absent).
    ///
    /// # Errors
    /// When the CIDR has no address for a pod (longer than /30) or the directory cannot be made.
    pub fn open(dir: impl Into<PathBuf>, cidr: Ipv4Net) -> Result<Self> {
        let dir = dir.into();
        if cidr.prefix_len() > 30 {
            return Err(Error::Config(format!(
                "the pod CIDR {cidr} has no address for a pod: it must be /30 or larger"
            )));
        }
        fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        Ok(Self { dir, cidr: cidr.trunc() })
    }

    /// The lease of an interface of a container: the one it has, or a new one (then the second value is true).
    ///
    /// # Errors
    /// [`Error::Exhausted`] when every address is in use.
    pub fn allocate(&self, container: &str, interface: &str, namespace: &Path) -> Result<(Lease, bool)> {
        check_ids(container, interface)?;
        let _lock = self.lock()?;
        let leases = self.scan()?;
        let own = leases.iter().find(|(_, owner, own)| owner == container && own == interface);
        let (address, new) = match own {
            Some((address, ..)) => (*address, false),
            None => (self.next(&leases)?, true),
        };
        let lease = Lease {
            address,
            container: container.to_owned(),
            interface: interface.to_owned(),
            namespace: namespace.to_owned(),
        };
        // The lease last: a failure leaves none behind.
        if new {
            files::write(&self.dir.join(LAST), address.to_string().as_bytes(), 0o600)?;
        }
        files::write(&self.dir.join(lease.file_name()), namespace.as_os_str().as_bytes(), 0o600)?;
        Ok((lease, new))
    }

    /// The lease of an interface of a container, if it has one.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn find(&self, container: &str, interface: &str) -> Result<Option<Lease>> {
        let _lock = self.lock()?;
        let own = self.scan()?.into_iter().find(|(_, owner, own)| owner == container && own == interface);
        own.map(|own| self.read(own)).transpose()
    }

    /// Frees the address of an interface of a container; returns it if there was one.
    ///
    /// # Errors
    /// When the state cannot be read or changed.
    pub fn release(&self, container: &str, interface: &str) -> Result<Option<Ipv4Addr>> {
        check_ids(container, interface)?;
        let _lock = self.lock()?;
        let mut freed = None;
        for (address, owner, own) in self.scan()? {
            if owner == container && own == interface {
                files::remove(&self.dir.join(format!("{address},{owner},{own}")))?;
                freed = Some(address);
            }
        }
        Ok(freed)
    }

    /// All leases.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn leases(&self) -> Result<Vec<Lease>> {
        let _lock = self.lock()?;
        self.scan()?.into_iter().map(|name| self.read(name)).collect()
    }

    /// Whether there is an address for one more pod.
    ///
    /// # Errors
    /// [`Error::Exhausted`] when there is none.
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

    /// The first free address after the one given out last.
    fn next(&self, leases: &[(Ipv4Addr, String, String)]) -> Result<Ipv4Addr> {
        let used: HashSet<Ipv4Addr> = leases.iter().map(|(address, ..)| *address).collect();
        // After the network's own address and the gateway, before broadcast; never empty for /30 and larger.
        let first = self.cidr.network().to_bits() + 2;
        let count = self.cidr.broadcast().to_bits() - first;
        // A file that is absent or does not read means: from the start. It is only there for the order.
        let last = fs::read_to_string(self.dir.join(LAST)).ok().and_then(|text| text.trim().parse::<Ipv4Addr>().ok());
        let start = match last.map(Ipv4Addr::to_bits) {
            Some(last) if last >= first && last - first < count => last - first + 1,
            _ => 0,
        };
        (0..count)
            .map(|n| Ipv4Addr::from_bits(first + (start + n) % count))
            .find(|address| !used.contains(address))
            .ok_or(Error::Exhausted { cidr: self.cidr, used: used.len() })
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
    fn read(&self, (address, container, interface): (Ipv4Addr, String, String)) -> Result<Lease> {
        let mut lease = Lease { address, container, interface, namespace: PathBuf::new() };
        let path = self.dir.join(lease.file_name());
        lease.namespace = OsStr::from_bytes(&fs::read(&path).map_err(Error::io("read", &path))?).into();
        Ok(lease)
    }

    /// What the file names say: address, container, interface.
    fn scan(&self) -> Result<Vec<(Ipv4Addr, String, String)>> {
        let failed = |error| Error::io("read", &self.dir)(error);
        let mut leases = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
            let mut parts = name.splitn(3, ',');
            if let (Some(address), Some(container), Some(interface)) = (parts.next(), parts.next(), parts.next())
                && let Ok(address) = address.parse()
            {
                leases.push((address, container.to_owned(), interface.to_owned()));
            }
        }
        Ok(leases)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn ipam(cidr: &str) -> (tempfile::TempDir, Ipam) {
        let dir = tempfile::tempdir().unwrap();
        let ipam = Ipam::open(dir.path().join("ipam"), cidr.parse().unwrap()).unwrap();
        (dir, ipam)
    }

    fn take(ipam: &Ipam, container: &str) -> Result<String> {
        ipam.allocate(container, "eth0", Path::new("/ns")).map(|(lease, _)| lease.address.to_string())
    }

    #[test]
    fn network_gateway_and_broadcast_are_never_given_out() {
        let (_dir, ipam) = ipam("10.0.0.0/29");
        let given: Vec<_> = (0..5).map(|n| take(&ipam, &format!("c{n}")).unwrap()).collect();
        assert_eq!(given, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        let error = take(&ipam, "one-more").unwrap_err().to_string();
        assert_eq!(error, "no free address in 10.0.0.0/29: all 5 are in use by pods of this node");
    }

    #[test]
    fn a_freed_address_is_the_last_to_be_given_out_again() {
        let (_dir, ipam) = ipam("10.0.0.0/29");
        assert_eq!(take(&ipam, "a").unwrap(), "10.0.0.2");
        assert_eq!(ipam.release("a", "eth0").unwrap(), Some(Ipv4Addr::new(10, 0, 0, 2)));
        let given: Vec<_> = (0..5).map(|n| take(&ipam, &format!("c{n}")).unwrap()).collect();
        assert_eq!(given, ["10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2"]);
    }

    #[test]
    fn asking_twice_gives_the_same_address_and_freeing_twice_is_fine() {
        let (_dir, ipam) = ipam("10.0.0.0/24");
        let (first, new) = ipam.allocate("a", "eth0", Path::new("/ns/1")).unwrap();
        assert!(new);
        let (second, new) = ipam.allocate("a", "eth0", Path::new("/ns/2")).unwrap();
        assert!(!new);
        assert_eq!(first.address, second.address);
        assert_eq!(ipam.leases().unwrap(), std::slice::from_ref(&second));
        assert_eq!(ipam.find("a", "eth0").unwrap(), Some(second));
        assert_ne!(take(&ipam, "b").unwrap(), first.address.to_string());
        assert!(ipam.release("a", "eth0").unwrap().is_some());
        assert!(ipam.release("a", "eth0").unwrap().is_none());
    }

    #[test]
    fn leases_survive_and_a_broken_cursor_does_no_harm() {
        let (_dir, ipam) = ipam("10.0.0.0/24");
        take(&ipam, "a").unwrap();
        fs::write(ipam.dir.join(LAST), "\0nonsense").unwrap();
        fs::write(ipam.dir.join(".1.1.tmp10.0.0.9,x,eth0"), "left by a crash").unwrap();
        let again = Ipam::open(ipam.dir.clone(), ipam.cidr).unwrap();
        assert_eq!(take(&again, "b").unwrap(), "10.0.0.3");
        assert_eq!(again.leases().unwrap().len(), 2);
    }

    #[test]
    fn a_cidr_without_room_and_ids_that_are_no_file_names_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for cidr in ["10.0.0.0/31", "10.0.0.0/32"] {
            assert!(Ipam::open(dir.path(), cidr.parse().unwrap()).is_err(), "{cidr}");
        }
        let (_dir, ipam) = ipam("10.0.0.0/30");
        for container in ["", "../x", "a,b", "-a", "a/b", &"x".repeat(201)] {
            assert!(take(&ipam, container).is_err(), "{container}");
        }
        for interface in ["", "a/b", "a,b", "..", "sixteen-letters-", "a b"] {
            assert!(ipam.allocate("c", interface, Path::new("/ns")).is_err(), "{interface}");
        }
        assert_eq!(take(&ipam, "c").unwrap(), "10.0.0.2");
    }

    #[test]
    fn takers_at_once_never_share_an_address() {
        let (_dir, ipam) = ipam("10.0.0.0/24");
        let given: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|thread| {
                    let ipam = &ipam;
                    scope.spawn(move || {
                        (0..25)
                            .map(|n| {
                                let container = format!("c{thread}-{n}");
                                // Some give back and take again in between.
                                if n % 3 == 0 {
                                    take(ipam, &container).unwrap();
                                    ipam.release(&container, "eth0").unwrap();
                                }
                                take(ipam, &container).unwrap()
                            })
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(given.iter().collect::<HashSet<_>>().len(), 200);
        assert_eq!(ipam.leases().unwrap().len(), 200);
    }
}
