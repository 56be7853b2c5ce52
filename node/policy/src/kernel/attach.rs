//! Programs on the host's ends of pods' devices.
//!
//! | program | where | minimum kernel |
//! |---|---|---|
//! | `policy_from_pod` | ingress, before all others: they may translate or redirect | 5.10; TCX from 6.6, before that a filter of a clsact qdisc |
//! | `policy_to_pod` | egress | as above |
//!
//! TCX links are pinned, so they outlive the daemon; the next one puts its program into the link in place of the old one,
//! with no packet in between that meets none. A clsact filter outlives the daemon too, but is replaced with a short gap.

use std::{collections::BTreeSet, fs, path::Path};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        links::{FdLink, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions},
    },
    util::KernelVersion,
};

use crate::{Error, PodDevice, Result};

/// Programs and their sides of the device.
pub(crate) const PROGRAMS: [(&str, TcAttachType); 2] =
    [("policy_from_pod", TcAttachType::Ingress), ("policy_to_pod", TcAttachType::Egress)];

/// Filters with this priority run before those whose priority the kernel chooses.
const PRIORITY: u16 = 1;

/// How often loading is tried when a signal interrupts it.
const LOAD_ATTEMPTS: u32 = 5;

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// A TCX link. Minimum kernel: 6.6.
    Tcx,
    /// A filter of a clsact qdisc.
    Clsact,
}

impl Method {
    /// The better one this kernel has.
    pub(crate) fn of_this_kernel() -> Self {
        if is_at_least(6, 6) { Self::Tcx } else { Self::Clsact }
    }
}

pub(super) fn is_at_least(major: u8, minor: u8) -> bool {
    KernelVersion::current().is_ok_and(|found| found >= KernelVersion::new(major, minor, 0))
}

/// What this process attached.
#[derive(Debug)]
pub(super) struct Attacher {
    method: Method,
    attached: BTreeSet<(u32, String)>,
}

/// Asks the verifier.
pub(super) fn load(ebpf: &mut Ebpf) -> Result<()> {
    for (name, _) in PROGRAMS {
        let program = program(ebpf, name)?;
        let mut result = program.load();
        for _ in 1..LOAD_ATTEMPTS {
            match result {
                // A signal came while the verifier was at work.
                Err(ProgramError::LoadError { ref io_error, .. })
                    if io_error.kind() == std::io::ErrorKind::WouldBlock =>
                {
                    result = program.load();
                }
                _ => break,
            }
        }
        result.map_err(Error::program(name))?;
    }
    Ok(())
}

impl Attacher {
    pub(super) fn new(method: Method) -> Self {
        Self { method, attached: BTreeSet::new() }
    }

    /// Attaches what is not attached yet, and removes pins of devices that are gone. How many devices were attached to.
    pub(super) fn reconcile(&mut self, ebpf: &mut Ebpf, links: &Path, devices: &[PodDevice]) -> Result<usize> {
        let present: BTreeSet<(u32, String)> =
            devices.iter().map(|device| (device.index, device.name.clone())).collect();
        self.attached.retain(|device| present.contains(device));
        for pin in super::entries(links)? {
            let name = pin.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let device = name.split_once('-').map(|(_, device)| device).unwrap_or_default();
            if !devices.iter().any(|present| present.name == device) {
                super::remove(&pin, fs::remove_file)?;
            }
        }
        let fresh: Vec<_> = present.difference(&self.attached).cloned().collect();
        let mut failed = None;
        for device in &fresh {
            match self.attach(ebpf, links, &device.1) {
                Ok(()) => drop(self.attached.insert(device.clone())),
                // It has gone meanwhile.
                Err(_) if !names().contains(&device.1) => {}
                // The others must not wait for this one.
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(fresh.len()), Err)
    }

    fn attach(&self, ebpf: &mut Ebpf, links: &Path, device: &str) -> Result<()> {
        for (name, side) in PROGRAMS {
            let program = program(ebpf, name)?;
            match self.method {
                Method::Tcx => attach_link(program, links, name, side, device)?,
                Method::Clsact => attach_filter(program, name, side, device)?,
            }
        }
        Ok(())
    }
}

pub(super) fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier> {
    ebpf.program_mut(name).ok_or(Error::Object(name))?.try_into().map_err(Error::program(name))
}

fn attach_link(
    program: &mut SchedClassifier,
    links: &Path,
    name: &'static str,
    side: TcAttachType,
    device: &str,
) -> Result<()> {
    // Devices of pods have names of letters and digits.
    let pin = links.join(format!("{name}-{device}"));
    if pin.exists() {
        if take_over(program, name, &pin).is_ok() {
            return Ok(());
        }
        // Of a former device of that name.
        super::remove(&pin, fs::remove_file)?;
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(device, side, options).map_err(Error::program(name))?;
    let link: FdLink = program.take_link(id).map_err(Error::program(name))?.try_into()?;
    link.pin(&pin).map_err(|source| Error::Pin { what: format!("the link of {name} on {device}"), source })?;
    Ok(())
}

/// Puts the program into a pinned link. Fails if its device is gone.
fn take_over(program: &mut SchedClassifier, name: &'static str, pin: &Path) -> Result<()> {
    let link: SchedClassifierLink = FdLink::from(PinnedLink::from_pin(pin)?).try_into()?;
    let id = program.attach_to_link(link).map_err(Error::program(name))?;
    // The pin keeps it.
    drop(program.take_link(id).map_err(Error::program(name))?);
    Ok(())
}

fn attach_filter(program: &mut SchedClassifier, name: &'static str, side: TcAttachType, device: &str) -> Result<()> {
    let failed = Error::program(name);
    match tc::qdisc_add_clsact(device) {
        Ok(()) | Err(tc::TcError::AlreadyAttached) => {}
        Err(tc::TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        Err(error) => return Err(failed(error.into())),
    }
    // One of an earlier daemon; mostly there is none.
    let _ = tc::qdisc_detach_program(device, side, name);
    let options = TcAttachOptions::Netlink(NlOptions { priority: PRIORITY, ..NlOptions::default() });
    let id = program.attach_with_options(device, side, options).map_err(failed)?;
    // It would be taken off when dropped; it shall outlive this process.
    std::mem::forget(program.take_link(id).map_err(Error::program(name))?);
    Ok(())
}

/// Takes filters off all devices of this thread's network namespace; links go with their pins.
pub(super) fn remove_filters() {
    if Method::of_this_kernel() == Method::Tcx {
        return;
    }
    for device in names() {
        for (name, side) in PROGRAMS {
            // Most devices have none.
            let _ = tc::qdisc_detach_program(&device, side, name);
        }
    }
}

/// Names of the devices of this thread's network namespace. (`/sys/class/net` may show another one's.)
fn names() -> BTreeSet<String> {
    // Two lines of headings, then `name: counters`.
    let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    text.lines().skip(2).filter_map(|line| Some(line.rsplit_once(':')?.0.trim().to_owned())).collect()
}
