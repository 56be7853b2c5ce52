//! Maps of the fast lane; pinned as the others are.

use aya_ebpf::{bindings::BPF_F_NO_PREALLOC, macros::map, maps::HashMap};
use skep_ebpf_common::packet::Device;

/// Number of a device that has the program -> what is known of it. A packet may be handed from one of them to another.
#[map]
pub(super) static DEVICES: HashMap<u32, Device> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);
