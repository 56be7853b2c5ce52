//! Asking many addresses at once from one place of the cluster.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// How often each address is asked: of three equal backends one is missed once in a thousand times, and asked for again.
const TIMES: u32 = 16;

/// A running `toolbox probe`.
pub(crate) struct Prober {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Prober {
    /// Starts `command`, which must be `toolbox probe`.
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start the probe")?;
        let (questions, answers) = (child.stdin.take(), child.stdout.take());
        let (questions, answers) = questions.zip(answers).context("the probe has no pipes")?;
        Ok(Self { child, questions, answers: BufReader::new(answers) })
    }

    /// Sends questions (`tcp ADDRESS`), to be heard by [`Prober::hear`].
    pub(crate) fn ask(&mut self, questions: &[String]) -> Result<()> {
        let lines = questions.iter().enumerate().map(|(id, question)| format!("{id} {question} {TIMES}\n"));
        self.questions.write_all(lines.collect::<String>().as_bytes())?;
        Ok(self.questions.flush()?)
    }

    /// What each of `count` questions met.
    pub(crate) fn hear(&mut self, count: usize) -> Result<Vec<BTreeSet<String>>> {
        let mut met = vec![BTreeSet::new(); count];
        for _ in 0..count {
            let mut line = String::new();
            ensure!(self.answers.read_line(&mut line)? > 0, "the probe has ended");
            let (id, words) = line.trim().split_once(' ').with_context(|| format!("a strange line: {line:?}"))?;
            let place = met.get_mut(id.parse::<usize>()?).with_context(|| format!("nobody asked {id}"))?;
            place.extend(words.split(' ').map(str::to_owned));
        }
        Ok(met)
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
