//! An etcd that an earlier run left behind.

use crate::error::{Error, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};
use tracing::info;

/// How long it gets to stop by itself, and then to die.
const PATIENCE: Duration = Duration::from_secs(5);

/// A process, told from a later one with the same id by its start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    pid: i32,
    start_time: u64,
}

/// Notes the etcd that runs now.
pub(super) fn note(pid_file: &Path, pid: u32) -> std::io::Result<()> {
    let start_time = start_time(pid as i32).unwrap_or(0);
    fs::write(pid_file, format!("{pid} {start_time}\n"))
}

/// Ends the etcd that was noted, if it still runs.
pub(super) async fn end(pid_file: &Path, data_dir: &Path) -> Result<()> {
    let Some(old) = noted(pid_file) else { return Ok(()) };
    if alive(old) && serves(old, data_dir) {
        info!(pid = old.pid, "ending an etcd left over from an earlier run");
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            match kill(Pid::from_raw(old.pid), signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(e) => {
                    let pid = old.pid;
                    return Err(Error::Supervisor(format!("cannot end the etcd of an earlier run (pid {pid}): {e}")));
                }
            }
            let deadline = Instant::now() + PATIENCE;
            while alive(old) && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            if !alive(old) {
                break;
            }
        }
        if alive(old) {
            return Err(Error::Supervisor(format!("the etcd of an earlier run (pid {}) does not die", old.pid)));
        }
    }
    Ok(())
}

fn noted(pid_file: &Path) -> Option<Process> {
    let text = fs::read_to_string(pid_file).ok()?;
    let (pid, start_time) = text.trim().split_once(' ')?;
    let old = Process { pid: pid.parse().ok()?, start_time: start_time.parse().ok()? };
    // Never a process group, never everybody.
    (old.pid > 1).then_some(old)
}

fn alive(process: Process) -> bool {
    start_time(process.pid) == Some(process.start_time)
}

/// Start time in clock ticks since boot; `None` if there is no such process, or only its zombie.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name, in parentheses, may contain anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    // State is field 3 of proc(5), start time field 22.
    fields.nth(18)?.parse().ok()
}

/// Does the process's command line name this data directory?
fn serves(process: Process, data_dir: &Path) -> bool {
    let mut flag = b"--data-dir=".to_vec();
    flag.extend_from_slice(data_dir.as_os_str().as_bytes());
    let command_line = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
    command_line.split(|byte| *byte == 0).any(|argument| argument == flag)
}
