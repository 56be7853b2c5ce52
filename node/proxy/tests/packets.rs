//! The per-packet programs on the real kernel: crafted packets through `BPF_PROG_TEST_RUN`, and real traffic between network
//! namespaces. Needs root; nothing leaves the namespaces.

#[path = "packets/acceleration.rs"]
mod acceleration;
#[path = "packets/conntrack.rs"]
mod conntrack;
#[path = "packets/craft.rs"]
mod craft;
#[path = "packets/devices.rs"]
mod devices;
#[path = "packets/direct.rs"]
mod direct;
#[path = "packets/dsr.rs"]
mod dsr;
#[path = "packets/dsr_traffic.rs"]
mod dsr_traffic;
#[path = "packets/errors.rs"]
mod errors;
#[path = "packets/flows.rs"]
mod flows;
#[path = "packets/limits.rs"]
mod limits;
#[path = "packets/loads.rs"]
mod loads;
#[path = "packets/malformed.rs"]
mod malformed;
#[path = "packets/pinned.rs"]
mod pinned;
#[path = "packets/ports.rs"]
mod ports;
#[path = "packets/rig.rs"]
mod rig;
#[path = "packets/sctp.rs"]
mod sctp;
#[path = "packets/short_way.rs"]
mod short_way;
#[path = "packets/trace.rs"]
mod trace;
#[path = "packets/traffic.rs"]
mod traffic;
#[path = "packets/translated.rs"]
mod translated;
#[path = "packets/xdp.rs"]
mod xdp;
