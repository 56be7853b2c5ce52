//! Pinned links of devices: `<links>/<program>-<device>`. (A BPF file system allows no dot in a name, a device does.)

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use aya::{
    maps::MapData,
    programs::{ProgramInfo, loaded_programs},
};

use crate::{
    Result,
    bpffs::{self, Paths},
    object, sys,
};

/// Where the link of a program on a device is pinned.
pub(super) fn path(paths: &Paths, program: &str, device: &str) -> PathBuf {
    paths.links.join(format!("{program}-{}", encoded(device)))
}

/// A name without dots and other surprises.
fn encoded(device: &str) -> String {
    let mut name = String::new();
    for byte in device.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
            name.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(name, "%{byte:02x}");
        }
    }
    name
}

/// The device in the name of a pin, if it is one of that program.
pub(crate) fn device(path: &Path, program: &str) -> Option<String> {
    let name = path.file_name()?.to_str()?.strip_prefix(program)?.strip_prefix('-')?;
    let mut bytes = Vec::new();
    let mut rest = name.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// Removes the pins of links whose device is gone.
pub(super) fn remove_dead(paths: &Paths) -> Result<()> {
    for pin in bpffs::pins(&paths.links)? {
        if fdinfo(&pin).is_some_and(|text| is_dead(&text)) {
            bpffs::unpin(&pin)?;
        }
    }
    Ok(())
}

/// What the kernel says about the link of a living device.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pinned {
    pub(crate) program: u32,
    pub(crate) tag: u64,
}

impl Pinned {
    /// `None` when nothing of the kind is pinned there.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        Self::parse(&fdinfo(path)?)
    }

    fn parse(text: &str) -> Option<Self> {
        if !is_of_device(text) || is_dead(text) {
            return None;
        }
        Some(Self {
            program: field(text, "prog_id")?.parse().ok()?,
            tag: u64::from_str_radix(field(text, "prog_tag")?, 16).ok()?,
        })
    }

    /// Does the program behind it work on the same pinned maps as the other one?
    pub(super) fn is_on(&self, paths: &Paths, other: &ProgramInfo) -> Result<bool> {
        let pinned: BTreeSet<u32> = bpffs::pins(&paths.maps)?
            .iter()
            .filter_map(|pin| Some(MapData::from_pin(pin).ok()?.info().ok()?.id()))
            .collect();
        let running = loaded_programs().filter_map(|info| info.ok()).find(|info| info.id() == self.program);
        Ok(running.is_some_and(|running| object::same_maps(&running, other, &pinned)))
    }
}

fn fdinfo(path: &Path) -> Option<String> {
    let fd = sys::open_pin(path).ok()?;
    fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()
}

/// The kernel sets the number to zero when the device goes.
fn is_dead(fdinfo: &str) -> bool {
    is_of_device(fdinfo) && field(fdinfo, "ifindex") == Some("0")
}

fn is_of_device(fdinfo: &str) -> bool {
    matches!(field(fdinfo, "link_type"), Some("tcx" | "xdp"))
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices_become_names_of_pins_one_to_one() {
        assert_eq!(encoded("eth0"), "eth0");
        assert_eq!(encoded("eth0.100"), "eth0%2e100");
        assert_eq!(encoded("a%2eb"), "a%252eb");
        for name in ["eth0", "eth0.100", "a%2eb", "a-b_c"] {
            let pin = Path::new("/x").join(format!("to_device-{}", encoded(name)));
            assert_eq!(device(&pin, "to_device").as_deref(), Some(name));
            assert_eq!(device(&pin, "from_device"), None);
        }
        assert_eq!(device(Path::new("/x/to_device-a%2"), "to_device"), None);
    }

    #[test]
    fn a_link_without_a_device_is_told_from_a_living_one() {
        let text = "pos:\t0\nlink_type:\ttcx\nlink_id:\t4\nprog_tag:\t00000000deadbeef\nprog_id:\t21\nifindex:\t7\n";
        assert_eq!(Pinned::parse(text), Some(Pinned { program: 21, tag: 0xdead_beef }));
        assert!(
            Pinned::parse(&text.replace("tcx", "xdp")).is_some()
                && Pinned::parse(&text.replace("tcx", "netns")).is_none()
        );
        let dead = text.replace("ifindex:\t7", "ifindex:\t0");
        assert!(is_dead(&dead) && !is_dead(text));
        assert_eq!(Pinned::parse(&dead), None);
        assert_eq!(Pinned::parse(&text.replace("tcx", "cgroup")), None);
        assert!(!is_dead(&dead.replace("tcx", "netns")));
    }
}
