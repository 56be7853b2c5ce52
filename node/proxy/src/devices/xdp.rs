//! The fast lane (`from_wire`, XDP) on the node's own devices. Minimum kernel: 5.9 (links).
//!
//! Never on pods' devices nor on the tunnel. A link is pinned under the name of its mode, so the next daemon knows which it
//! is; a changed program is put into the link in place of the old one.
//!
//! A packet whose checksum its sender left to the device (`CHECKSUM_PARTIAL`: veth, virtio between machines of one host)
//! would leave with a wrong one if it were sent on from here. The program recognises such packets and leaves them to tc, so
//! no mode and no device needs a setting. And a veth device runs it natively only while its other end takes frames of a driver
//! (an XDP program or GRO there): else what it sends back would be lost.

mod link;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::AsFd,
    path::Path,
};

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
    programs::{
        Xdp,
        links::{FdLink, PinnedLink},
        xdp::{XdpLink, XdpMode},
    },
};
use skep_ebpf_common::packet::Device;

use super::{
    Devices,
    pins::{self, Pinned},
};
use crate::{
    Attachment, Error, Result,
    bpffs::{self, Paths},
    sys,
};

/// Name of the program.
pub(crate) const PROGRAM: &str = "from_wire";
/// Names of its pins on a device, by mode.
pub(crate) const PINS: [&str; 2] = [NATIVE, GENERIC];
const NATIVE: &str = "from_wire";
const GENERIC: &str = "from_wire_generic";
/// Name of the map of devices that have it.
pub(crate) const DEVICES: &str = "DEVICES";

/// Whether packets that only pass through are forwarded before the kernel makes anything of them (as Cilium's
/// `bpf-lb-acceleration`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acceleration {
    /// They go through tc.
    #[default]
    Disabled,
    /// In the driver. A device whose driver cannot is an error.
    Native,
    /// In the driver where it can, else behind it (generic XDP, which saves little).
    BestEffort,
}

impl Devices {
    /// Puts the program on those devices (names) that are there, keeps it there, and takes it off all others. Returns what
    /// concerns each device; what one refuses is noted, and keeps nothing else from it.
    pub(super) fn accelerate(
        &mut self,
        present: &BTreeSet<String>,
        node: &[String],
    ) -> Result<Vec<(String, &'static str, Attachment)>> {
        let acceleration = self.settings.acceleration;
        let mut done = Vec::new();
        self.refused.clear();
        for device in present {
            let Some(index) = sys::interface_index(device) else { continue };
            if acceleration == Acceleration::Disabled || !node.contains(device) {
                self.decelerate(device, index)?;
                continue;
            }
            let settled = PINS.into_iter().find(|pin| self.settled.contains(&(pin, index)));
            let result = match settled {
                Some(pin) => Ok((pin, Attachment::Kept)),
                None => attach(&mut self.ebpf, &self.paths, acceleration, device),
            };
            match result {
                Ok((pin, attachment)) => {
                    self.settled.insert((pin, index));
                    done.push((device.clone(), pin, attachment));
                }
                // It may have gone meanwhile.
                Err(_) if sys::interface_index(device) != Some(index) => {}
                Err(error) => self.refused.push(error),
            }
        }
        if acceleration != Acceleration::Disabled {
            tell(&mut self.ebpf, &done)?;
        }
        Ok(done)
    }

    /// Why devices lack the fast lane that was asked for, as the last [`Devices::reconcile`] found: [`Error::NotNative`], or the
    /// kernel's word where somebody else has an XDP program there. All else works on them.
    pub fn refused(&self) -> &[Error] {
        &self.refused
    }

    fn decelerate(&mut self, device: &str, index: u32) -> Result<()> {
        PINS.into_iter().try_for_each(|pin| {
            self.settled.remove(&(pin, index));
            take_off(&pins::path(&self.paths, pin, device))
        })
    }
}

/// Loads the program.
pub(crate) fn load(ebpf: &mut Ebpf) -> Result<()> {
    super::load(ebpf, PROGRAM)
}

/// Puts the program on a device, or keeps it there. What is returned first is the pin's name, which tells the mode.
fn attach(
    ebpf: &mut Ebpf,
    paths: &Paths,
    acceleration: Acceleration,
    device: &str,
) -> Result<(&'static str, Attachment)> {
    let program = program(ebpf)?;
    let (native, generic) = (pins::path(paths, NATIVE, device), pins::path(paths, GENERIC, device));
    let is_heard = sys::interface_index(device).and_then(link::is_heard);
    let is_deaf = is_heard == Some(false);
    // A device has it in one mode only.
    if Pinned::read(&generic).is_some() {
        if acceleration == Acceleration::BestEffort && is_heard != Some(true) {
            return renew(program, paths, GENERIC, device).map(|attachment| (GENERIC, attachment));
        }
        take_off(&generic)?;
    }
    if Pinned::read(&native).is_some() {
        if !is_deaf {
            return renew(program, paths, NATIVE, device).map(|attachment| (NATIVE, attachment));
        }
        take_off(&native)?;
    }
    let made = if is_deaf { Err(deaf()) } else { create(program, paths, NATIVE, XdpMode::Driver, device) };
    match made {
        Ok(()) => Ok((NATIVE, Attachment::Attached)),
        Err(source) if acceleration == Acceleration::Native => {
            Err(Error::NotNative { device: device.to_owned(), source: Box::new(source) })
        }
        Err(source) => {
            tracing::warn!(
                device,
                "the driver does not take the fast lane ({}); it runs behind the driver, where it saves less",
                chain(&source)
            );
            create(program, paths, GENERIC, XdpMode::Skb, device)?;
            Ok((GENERIC, Attachment::Attached))
        }
    }
}

/// Takes a program off its device, if there is one.
fn take_off(pin: &Path) -> Result<()> {
    if let Ok(link) = sys::open_pin(pin) {
        // At once, for another may follow. Where it does not work, the link goes with its pin.
        let _ = sys::raw::detach(link.as_fd());
    }
    bpffs::unpin(pin)
}

fn deaf() -> Error {
    let why = "the other end of the pair takes no frames of a driver: it needs GRO or an XDP program";
    Error::io("send frames back by a veth device")(io::Error::new(io::ErrorKind::Unsupported, why))
}

/// Tells the program which devices have it.
fn tell(ebpf: &mut Ebpf, on: &[(String, &'static str, Attachment)]) -> Result<()> {
    let map = ebpf.map_mut(DEVICES).ok_or_else(|| Error::Object(format!("map {DEVICES}")))?;
    let mut map: HashMap<&mut MapData, u32, Device> = map.try_into().map_err(Error::map(DEVICES))?;
    let wanted: BTreeMap<u32, Device> = on.iter().filter_map(|(device, pin, _)| describe(device, pin)).collect();
    let known: BTreeMap<u32, Device> = map.iter().filter_map(|entry| entry.ok()).collect();
    for index in known.keys().filter(|index| !wanted.contains_key(index)) {
        map.remove(index).map_err(Error::map(DEVICES))?;
    }
    for (index, device) in wanted.iter().filter(|(index, device)| known.get(index) != Some(device)) {
        map.insert(index, device, 0).map_err(Error::map(DEVICES))?;
    }
    Ok(())
}

/// `None` for a device that is gone, or is no Ethernet device.
fn describe(device: &str, pin: &str) -> Option<(u32, Device)> {
    let index = sys::interface_index(device)?;
    let mut flags = 0;
    if pin == GENERIC {
        flags |= Device::HANDS_TO_ALL;
    }
    if link::takes_redirected(index) {
        flags |= Device::TAKES;
    }
    Some((index, Device::new(link::hardware_address(index).ok()?, flags)))
}

/// Puts the program into its link on the device.
fn renew(program: &mut Xdp, paths: &Paths, name: &'static str, device: &str) -> Result<Attachment> {
    let failed = |source| Error::Program { name, source };
    let info = program.info().map_err(failed)?;
    let pin = pins::path(paths, name, device);
    if let Some(pinned) = Pinned::read(&pin)
        && pinned.tag == info.tag()
        && pinned.is_on(paths, &info)?
    {
        return Ok(Attachment::Kept);
    }
    let link: XdpLink = FdLink::from(PinnedLink::from_pin(&pin)?).try_into()?;
    let id = program.attach_to_link(link).map_err(failed)?;
    // The pin keeps it.
    drop(program.take_link(id).map_err(failed)?);
    Ok(Attachment::Attached)
}

fn create(program: &mut Xdp, paths: &Paths, name: &'static str, mode: XdpMode, device: &str) -> Result<()> {
    let failed = |source| Error::Program { name, source };
    let id = program.attach(device, mode).map_err(failed)?;
    let link: FdLink = program.take_link(id).map_err(failed)?.try_into()?;
    let what = format!("the link of {name} on {device}");
    link.pin(pins::path(paths, name, device)).map_err(|source| Error::Pin { what, source })?;
    Ok(())
}

pub(crate) fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    ebpf.program_mut(PROGRAM)
        .ok_or_else(|| Error::Object(format!("program {PROGRAM}")))?
        .try_into()
        .map_err(|source| Error::Program { name: PROGRAM, source })
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
