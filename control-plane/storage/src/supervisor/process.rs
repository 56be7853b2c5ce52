//! Keeps one child process running.

use super::leftover;
use crate::error::{Error, Result};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, getppid};
use parking_lot::{Condvar, Mutex};
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{error, warn};

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A child that lived this long is restarted at once.
const STEADY: Duration = Duration::from_secs(30);

/// What is started.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) log_file: PathBuf,
    pub(super) pid_file: PathBuf,
}

/// A child and the thread that restarts it. Dropping it kills the child.
#[derive(Debug)]
pub(super) struct Keeper {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Set only while the child is not reaped, so that a signal cannot hit another process.
    pid: Option<u32>,
    stopping: bool,
    ended: bool,
    deaths: usize,
    last_death: Option<String>,
}

impl Keeper {
    /// Starts the child; fails if that is impossible.
    pub(super) fn start(launch: Launch) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let (first, started) = std::sync::mpsc::channel();
        let keeper = shared.clone();
        // A thread of its own that lives as long as the child: the parent-death signal is bound to the thread that forked.
        std::thread::Builder::new()
            .name("etcd-keeper".into())
            .spawn(move || keeper.keep(&launch, &first))
            .map_err(|e| Error::Supervisor(format!("cannot start a thread: {e}")))?;
        match started.recv() {
            Ok(Ok(())) => Ok(Self { shared }),
            Ok(Err(e)) => Err(Error::Supervisor(format!("cannot start etcd: {e}"))),
            Err(_) => Err(Error::Supervisor("cannot start etcd".into())),
        }
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.shared.state.lock().pid
    }

    pub(super) fn deaths(&self) -> usize {
        self.shared.state.lock().deaths
    }

    pub(super) fn last_death(&self) -> Option<String> {
        self.shared.state.lock().last_death.clone()
    }

    /// Asks the child to end, kills it after `patience`, and waits.
    pub(super) async fn stop(&self, patience: Duration) {
        self.shared.signal_to_stop(if patience.is_zero() { Signal::SIGKILL } else { Signal::SIGTERM });
        let shared = self.shared.clone();
        // Waiting is all this does, so a failure to run it harms nothing: drop kills.
        let _ = tokio::task::spawn_blocking(move || {
            if !shared.wait_for_end(patience) {
                shared.signal_to_stop(Signal::SIGKILL);
                shared.wait_for_end(Duration::from_secs(5));
            }
        })
        .await;
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.signal_to_stop(Signal::SIGKILL);
        // Until it is reaped it may hold its port and its lock. A killed process is gone within milliseconds.
        self.shared.wait_for_end(Duration::from_secs(2));
    }
}

impl Shared {
    fn signal_to_stop(&self, signal: Signal) {
        let mut state = self.state.lock();
        state.stopping = true;
        if let Some(pid) = state.pid {
            // The child is not reaped, so the id is still its own.
            let _ = kill(Pid::from_raw(pid as i32), signal);
        }
        self.changed.notify_all();
    }

    fn wait_for_end(&self, patience: Duration) -> bool {
        let mut state = self.state.lock();
        self.changed.wait_while_for(&mut state, |state| !state.ended, patience);
        state.ended
    }

    fn keep(&self, launch: &Launch, first: &std::sync::mpsc::Sender<io::Result<()>>) {
        let mut backoff = BACKOFF_MIN;
        let mut starting = true;
        loop {
            let started = Instant::now();
            let spawned = self.spawn(launch);
            if starting {
                starting = false;
                let failed = spawned.is_err();
                let _ = first.send(spawned.as_ref().map(drop).map_err(|e| io::Error::new(e.kind(), e.to_string())));
                if failed {
                    break;
                }
            }
            let death = match spawned {
                Ok(Some(child)) => self.await_death(child),
                Ok(None) => break,
                Err(e) => format!("cannot be started: {e}"),
            };
            if started.elapsed() > STEADY {
                backoff = BACKOFF_MIN;
            }
            let mut state = self.state.lock();
            if state.stopping {
                break;
            }
            error!(%death, ?backoff, "etcd died; restarting it");
            state.deaths += 1;
            state.last_death = Some(death);
            self.changed.wait_while_for(&mut state, |state| !state.stopping, backoff);
            if state.stopping {
                break;
            }
            drop(state);
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
        let _ = std::fs::remove_file(&launch.pid_file);
        self.state.lock().ended = true;
        self.changed.notify_all();
    }

    /// `None` if it is to stop already.
    fn spawn(&self, launch: &Launch) -> io::Result<Option<Child>> {
        let mut state = self.state.lock();
        if state.stopping {
            return Ok(None);
        }
        let log = File::options().create(true).append(true).open(&launch.log_file)?;
        let mut command = Command::new(&launch.program);
        command.args(&launch.arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A group of its own: Ctrl-C on the terminal is for us, and we stop etcd when its last writer is done.
        command.process_group(0);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD_") {
                command.env_remove(name);
            }
        }
        die_with_parent(&mut command);
        let child = command.spawn()?;
        state.pid = Some(child.id());
        if let Err(error) = leftover::note(&launch.pid_file, child.id()) {
            warn!(%error, path = %launch.pid_file.display(), "cannot note etcd's process id");
        }
        Ok(Some(child))
    }

    fn await_death(&self, mut child: Child) -> String {
        let pid = Pid::from_raw(child.id() as i32);
        // Waits without reaping, so that `pid` can be cleared before its id may be used again.
        while let Err(nix::errno::Errno::EINTR) = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {}
        let mut state = self.state.lock();
        state.pid = None;
        match child.wait() {
            Ok(status) => status.to_string(),
            Err(e) => e.to_string(),
        }
    }
}

/// Has the kernel kill the child when the thread that starts it ends, which is when this process ends.
#[expect(unsafe_code, reason = "the parent-death signal can only be asked for between fork and exec")]
fn die_with_parent(command: &mut Command) {
    let parent = Pid::this();
    let ask = move || {
        set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have died before the signal was asked for.
        if getppid() == parent { Ok(()) } else { Err(io::Error::from_raw_os_error(nix::libc::ESRCH)) }
    };
    // SAFETY: between fork and exec only async-signal-safe functions may run: `ask` makes the system calls prctl and
    // getppid, allocates nothing and takes no lock.
    unsafe { command.pre_exec(ask) };
}
