//! XDP programs of a few instructions, made here, for measurements: one that says the same of every packet, and one that puts
//! packets back as they were.
//!
//! Audit: pointers handed to the kernel are to buffers that live for the call and have the lengths that go with them.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    time::Duration,
};

use super::bpf;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 2;
const BPF_FUNC_GET_PRANDOM_U32: i32 = 7;

/// `XDP_DROP` and `XDP_TX`.
const DROP: i32 = 1;
const TX: i32 = 3;

/// `bpf_attr` of `BPF_PROG_LOAD`, as far as it is used.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// `bpf_attr.test`.
#[repr(C)]
#[derive(Default)]
struct Test {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// `bpf_attr.link_create`.
#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// `struct bpf_insn`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: to | (from << 4), offset, immediate }
}

/// `r0 = verdict; exit`.
fn say(verdict: i32) -> [Instruction; 2] {
    [instruction(0xb7, 0, 0, 0, verdict), instruction(0x95, 0, 0, 0, 0)]
}

/// A program that sends every packet back.
pub(crate) fn bounce() -> io::Result<OwnedFd> {
    load(&say(TX))
}

/// A program that copies `length` bytes (a multiple of 8) from `from` to the beginning of the packet, puts one of `count` ports
/// (from `first` on) at byte `port`, and drops the packet.
pub(crate) fn restorer(from: i16, length: i16, port: i16, first: u16, count: u16) -> io::Result<OwnedFd> {
    let mut program = vec![
        // r6 = data, r7 = data_end.
        instruction(0x61, 6, 1, 0, 0),
        instruction(0x61, 7, 1, 4, 0),
        // Packets that are shorter are dropped as they are.
        instruction(0xbf, 2, 6, 0, 0),
        instruction(0x07, 2, 0, 0, i32::from(from) + i32::from(length)),
    ];
    let mut body = Vec::new();
    for at in (0..length).step_by(8) {
        body.push(instruction(0x79, 3, 6, from + at, 0));
        body.push(instruction(0x7b, 6, 3, at, 0));
    }
    // r0 = random % count + first, in network order.
    body.push(instruction(0x85, 0, 0, 0, BPF_FUNC_GET_PRANDOM_U32));
    body.push(instruction(0x94, 0, 0, 0, i32::from(count)));
    body.push(instruction(0x07, 0, 0, 0, i32::from(first)));
    body.push(instruction(0xdc, 0, 0, 0, 16));
    body.push(instruction(0x6b, 6, 0, port, 0));
    // if r2 > r7, over the body.
    program.push(instruction(0x2d, 2, 7, body.len() as i16, 0));
    program.extend(body);
    program.extend(say(DROP));
    load(&program)
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let mut attr = Load {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr().addr() as u64,
        license: c"GPL".as_ptr().addr() as u64,
        ..Load::default()
    };
    let fd = bpf(BPF_PROG_LOAD, &mut attr)?;
    // SAFETY: a successful BPF_PROG_LOAD returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// Puts an XDP program on a device, in the driver, for as long as what is returned lives.
pub(crate) fn attach(program: BorrowedFd<'_>, device: u32) -> io::Result<OwnedFd> {
    let mut attr = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target_ifindex: device,
        attach_type: BPF_XDP,
        // `XDP_FLAGS_DRV_MODE`.
        flags: 4,
    };
    let fd = bpf(BPF_LINK_CREATE, &mut attr)?;
    // SAFETY: a successful BPF_LINK_CREATE returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// Runs an XDP program on `repeat` live frames that came in by a device, `batch` at a time; the time of one. Minimum kernel:
/// 5.18.
pub(crate) fn live_frames(
    program: BorrowedFd<'_>,
    frame: &[u8],
    device: u32,
    repeat: u32,
    batch: u32,
) -> io::Result<Duration> {
    // `struct xdp_md`: no metadata, the frame's length, the device, its first queue.
    let context = [0, frame.len() as u32, 0, device, 0, 0];
    let mut attr = Test {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr().addr() as u64,
        repeat,
        ctx_size_in: size_of_val(&context) as u32,
        ctx_in: context.as_ptr().addr() as u64,
        flags: BPF_F_TEST_XDP_LIVE_FRAMES,
        batch_size: batch,
        ..Test::default()
    };
    bpf(BPF_PROG_TEST_RUN, &mut attr)?;
    Ok(Duration::from_nanos(attr.duration.into()))
}
