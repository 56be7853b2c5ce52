//! A client that connects without pause while something happens to the cluster.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// A running `toolbox hammer`.
pub struct Hammer {
    child: Child,
}

/// What a [`Hammer`] heard.
#[derive(Debug, Default)]
pub struct Heard {
    /// How often each pod answered, by name.
    pub answers: BTreeMap<String, u64>,
    /// How often each error was met, by text.
    pub errors: BTreeMap<String, u64>,
}

impl Hammer {
    /// Starts `command`, which must be `toolbox hammer ADDRESS`.
    pub fn start(mut command: Command) -> Result<Self> {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start the hammer")?;
        Ok(Self { child })
    }

    /// Ends it and returns what it heard.
    pub fn stop(mut self) -> Result<Heard> {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.child.stdout.take().context("the hammer has no output")?.read_to_string(&mut text)?;
        ensure!(self.child.wait()?.success(), "the hammer failed");
        let mut heard = Heard::default();
        for line in text.lines() {
            let (count, what) = line.split_once(' ').with_context(|| format!("a strange line: {line}"))?;
            let (map, what) = match what.strip_prefix("error: ") {
                Some(error) => (&mut heard.errors, error),
                None => (&mut heard.answers, what),
            };
            map.insert(what.to_owned(), count.parse()?);
        }
        Ok(heard)
    }
}

impl Drop for Hammer {
    fn drop(&mut self) {
        // Already ended after `stop`; otherwise the test failed and this is its clean-up.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
