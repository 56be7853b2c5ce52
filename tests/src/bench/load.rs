//! Traffic that is under way while something happens to the cluster.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::place::Place;

/// A running `toolbox streams|storm|blast`; it ends when this is dropped.
pub struct Load {
    child: Child,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Operations that succeeded.
    pub done: u64,
    /// Operations that failed.
    pub failed: u64,
    /// How often each error was met, by text.
    pub errors: BTreeMap<String, u64>,
}

impl Load {
    /// Starts `toolbox` with `args`.
    pub fn start(place: &Place, args: &[&str]) -> Result<Self> {
        Self::run(place.toolbox(args))
    }

    /// Starts `command`, which must be such a toolbox.
    pub fn run(mut command: Command) -> Result<Self> {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        Ok(Self { child })
    }

    /// Ends it and returns what came of it. One that did nothing is an error.
    pub fn stop(mut self) -> Result<Outcome> {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.child.stdout.take().context("no output")?.read_to_string(&mut text)?;
        ensure!(self.child.wait()?.success(), "the client failed");
        let outcome = Outcome::parse(&text).with_context(|| format!("the client printed {text:?}"))?;
        ensure!(outcome.done > 0, "nothing succeeded: {:?}", outcome.errors);
        Ok(outcome)
    }
}

impl Outcome {
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let (done, failed) = lines.next()?.split_once(' ')?;
        let errors = lines.map(|line| {
            let (count, error) = line.split_once(' ')?;
            Some((error.to_owned(), count.parse().ok()?))
        });
        Some(Self { done: done.parse().ok()?, failed: failed.parse().ok()?, errors: errors.collect::<Option<_>>()? })
    }

    /// Both together.
    pub fn and(mut self, other: Self) -> Self {
        self.done += other.done;
        self.failed += other.failed;
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
        self
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Already ended after `stop`; otherwise the measurement failed and this is its clean-up.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_read_and_added() {
        let one = Outcome::parse("10 3\n2 refused\n1 timed out\n").unwrap();
        let both = one.and(Outcome::parse("5 1\n1 refused\n").unwrap());
        assert_eq!((both.done, both.failed), (15, 4));
        assert_eq!(both.errors, BTreeMap::from([("refused".to_owned(), 3), ("timed out".to_owned(), 1)]));
        assert!(Outcome::parse("").is_none() && Outcome::parse("1 2\nnonsense").is_none());
    }
}
