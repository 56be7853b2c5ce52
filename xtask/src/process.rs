//! Long-running programs: started detached with a log file and a pid file, found again, and ended by pid only.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// How long a daemon may take to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(20);

/// One daemon of a cluster: `<folder>/<name>.pid` says which process it is, `<folder>/<name>.log` what it said.
#[derive(Clone, Debug)]
pub struct Daemon {
    name: String,
    folder: PathBuf,
}

impl Daemon {
    /// The daemon called `name` whose pid and log files lie in `folder`.
    pub fn new(name: &str, folder: &Path) -> Self {
        Self { name: name.to_owned(), folder: folder.to_owned() }
    }

    /// What the daemon is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its output goes.
    pub fn log(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name))
    }

    fn pid_file(&self) -> PathBuf {
        self.folder.join(format!("{}.pid", self.name))
    }

    /// Its pid, if it runs. The pid file also holds the process's start time, so a recycled pid is not mistaken for it.
    pub fn pid(&self) -> Option<i32> {
        let text = fs::read_to_string(self.pid_file()).ok()?;
        let (pid, started) = text.trim().split_once(' ')?;
        let pid = pid.parse().ok()?;
        (start_time(pid)? == started).then_some(pid)
    }

    /// Starts it in a process group of its own.
    pub fn start(&self, command: &mut Command) -> Result<()> {
        fs::create_dir_all(&self.folder).with_context(|| format!("cannot create {}", self.folder.display()))?;
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .with_context(|| format!("cannot open {}", self.log().display()))?;
        use std::os::unix::process::CommandExt as _;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {} ({})", self.name, command.get_program().to_string_lossy()))?;
        let pid = i32::try_from(child.id()).context("pid out of range")?;
        let started = start_time(pid).with_context(|| format!("{} ended at once: {}", self.name, self.log_tail(15)))?;
        fs::write(self.pid_file(), format!("{pid} {started}\n"))?;
        Ok(())
    }

    /// An error with the end of the log if it does not run.
    pub fn check(&self) -> Result<()> {
        if self.pid().is_none() {
            bail!("{} has ended; the end of {}:\n{}", self.name, self.log().display(), self.log_tail(15));
        }
        Ok(())
    }

    /// The last `lines` lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<_> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Kills it without warning, as a crash would.
    pub fn kill(&self) -> Result<()> {
        if let Some(pid) = self.pid() {
            kill(Pid::from_raw(pid), Signal::SIGKILL).with_context(|| format!("cannot kill {}", self.name))?;
            wait_gone(pid, GRACE);
        }
        self.forget();
        Ok(())
    }

    /// Asks it to end, and kills it if it does not.
    pub fn stop(&self) -> Result<()> {
        if let Some(pid) = self.pid() {
            kill(Pid::from_raw(pid), Signal::SIGTERM).with_context(|| format!("cannot stop {}", self.name))?;
            if !wait_gone(pid, GRACE) {
                return self.kill();
            }
        }
        self.forget();
        Ok(())
    }

    fn forget(&self) {
        // Absent is what we want; anything else shows up when the folder is removed.
        let _ = fs::remove_file(self.pid_file());
    }
}

/// Ends the process `pid` (SIGTERM, then SIGKILL) and waits until it is gone.
pub fn end(pid: i32) {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        // It may be gone already; that is the goal.
        let _ = kill(Pid::from_raw(pid), signal);
        if wait_gone(pid, Duration::from_secs(5)) {
            return;
        }
    }
}

/// Waits until `pid` is gone, reaping it when it is our child; false when it is still there after `limit`.
fn wait_gone(pid: i32, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        // ECHILD for a process that another shell started: /proc tells then.
        let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
        if start_time(pid).is_none() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The kernel's start time of a live process (field 22 of `/proc/<pid>/stat`); `None` when it is gone or a zombie.
fn start_time(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in parentheses and may hold anything.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}

/// The pids and command lines of all processes for which `matches` holds.
pub fn find(matches: impl Fn(&[String]) -> bool) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let Ok(raw) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
            let words: Vec<_> =
                raw.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
            matches(&words)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_found_by_its_pid_file_and_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let daemon = Daemon::new("sleeper", dir.path());
        assert_eq!(daemon.pid(), None);
        daemon.start(Command::new("sleep").arg("60")).unwrap();
        assert!(daemon.pid().is_some());
        daemon.check().unwrap();
        daemon.stop().unwrap();
        assert_eq!(daemon.pid(), None);
    }

    #[test]
    fn a_recycled_pid_is_not_taken_for_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("other.pid"), format!("{} 1\n", std::process::id())).unwrap();
        assert_eq!(Daemon::new("other", dir.path()).pid(), None);
    }

    #[test]
    fn the_error_about_a_dead_daemon_shows_the_end_of_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let daemon = Daemon::new("brief", dir.path());
        daemon.start(Command::new("sh").args(["-c", "echo no such luck; sleep 0.2"])).unwrap();
        wait_gone(daemon.pid().unwrap(), GRACE);
        assert!(daemon.check().unwrap_err().to_string().contains("no such luck"));
    }
}
