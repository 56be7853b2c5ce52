//! The kubectls of this machine, driven by lines as a person types them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use xtask::command::{find, require};
use xtask::wait;

use crate::cluster::LIMIT;

/// The name for the one kubectl of a machine that has no others beside it.
const ON_PATH: &str = "on PATH";

/// Those of `wanted` that lie beside the kubectl on PATH as `kubectl.<version>`; otherwise that kubectl alone, which is
/// then said.
pub fn versions(wanted: &[&'static str]) -> Vec<&'static str> {
    let newest = find("kubectl").and_then(|path| path.canonicalize().ok()).unwrap_or_default();
    let beside = |version: &&&str| newest.with_file_name(format!("kubectl.{version}")).exists();
    let found: Vec<_> = wanted.iter().filter(beside).copied().collect();
    if found.is_empty() {
        eprintln!("of kubectl {wanted:?} this machine has none: running with {} alone", newest.display());
        return vec![ON_PATH];
    }
    found
}

/// The program that [`versions`] calls `version`.
pub fn program(version: &str) -> Result<PathBuf> {
    let newest = require("kubectl")?.canonicalize()?;
    Ok(if version == ON_PATH { newest } else { newest.with_file_name(format!("kubectl.{version}")) })
}

/// How a program is started where the API server can be reached.
type Launcher = Arc<dyn Fn(&Path) -> Command + Send + Sync>;

/// One kubectl, one server, one user, one namespace. In a line, words are parted by blanks, single quotes keep blanks,
/// and `{ns}` stands for the namespace.
#[derive(Clone)]
pub struct Kubectl {
    version: String,
    program: PathBuf,
    kubeconfig: PathBuf,
    /// Where commands run; home, cache and files that lines name lie here.
    folder: PathBuf,
    namespace: String,
    launcher: Launcher,
}

/// What a command did.
#[derive(Clone, Debug)]
pub struct Told {
    /// Its exit code.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Kubectl {
    /// kubectl `version` of [`versions`], for the user of `kubeconfig`.
    pub fn new(
        version: &str,
        kubeconfig: &Path,
        folder: &Path,
        launcher: impl Fn(&Path) -> Command + Send + Sync + 'static,
    ) -> Result<Self> {
        let program = program(version)?;
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let (version, namespace) = (version.to_owned(), "default".to_owned());
        let (kubeconfig, folder) = (kubeconfig.to_owned(), folder.to_owned());
        Ok(Self { version, program, kubeconfig, folder, namespace, launcher: Arc::new(launcher) })
    }

    /// The kubectl on PATH.
    pub fn newest(
        kubeconfig: &Path,
        folder: &Path,
        launcher: impl Fn(&Path) -> Command + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::new(ON_PATH, kubeconfig, folder, launcher)
    }

    /// The same in another namespace, which is created.
    pub fn in_new_namespace(&self, namespace: &str) -> Result<Self> {
        let folder = self.folder.join(namespace);
        std::fs::create_dir_all(&folder)?;
        let other = Self { namespace: namespace.to_owned(), folder, ..self.clone() };
        other.ok("create namespace {ns}")?;
        Ok(other)
    }

    /// The same user's requests with another kubeconfig.
    pub fn with_kubeconfig(&self, kubeconfig: &Path) -> Self {
        Self { kubeconfig: kubeconfig.to_owned(), ..self.clone() }
    }

    /// Its version, as [`versions`] names it.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Where commands run.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a file that lines can name.
    pub fn file(&self, name: &str, content: &str) -> Result<()> {
        let path = self.folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(&self.folder))?;
        std::fs::write(&path, content.replace("{ns}", &self.namespace))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// The command that `line` means, ready to be started.
    pub fn command(&self, line: &str) -> Result<Command> {
        self.started_by(&self.program, &[], line)
    }

    fn started_by(&self, program: &Path, first: &[&str], line: &str) -> Result<Command> {
        let mut command = (self.launcher)(program);
        command.args(first).arg("--kubeconfig").arg(&self.kubeconfig).args(["--namespace", &self.namespace]);
        command.args(words(&line.replace("{ns}", &self.namespace))?);
        // Its cache of discovery must not outlive this test's server.
        command.env("HOME", &self.folder).current_dir(&self.folder);
        Ok(command)
    }

    /// Runs `line` with `input` and tells how it went.
    pub fn tell(&self, line: &str, env: &[(&str, &str)], input: &str) -> Result<Told> {
        // timeout(1) ends what hangs; waiting needs no polling then.
        let kubectl = self.program.display().to_string();
        let limit = LIMIT.as_secs().to_string();
        let mut command = self.started_by(&require("timeout")?, &["--kill-after=5", &limit, &kubectl], line)?;
        command.envs(env.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot run kubectl {line}"))?;
        let stdin = child.stdin.take();
        let output = std::thread::scope(|scope| {
            scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input.as_bytes())));
            child.wait_with_output()
        })?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Told { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) })
    }

    /// Runs `line`, which must succeed, and returns its standard output.
    pub fn ok(&self, line: &str) -> Result<String> {
        self.ok_with(line, &[], "")
    }

    /// Like [`Kubectl::ok`], with variables and input.
    pub fn ok_with(&self, line: &str, env: &[(&str, &str)], input: &str) -> Result<String> {
        let told = self.tell(line, env, input)?;
        ensure!(told.code == Some(0), "`kubectl {line}` failed ({:?}): {}{}", told.code, told.stdout, told.stderr);
        Ok(told.stdout)
    }

    /// Runs `line`, which must succeed and print every one of `expected`.
    pub fn says(&self, line: &str, expected: &[&str]) -> Result<String> {
        let said = self.ok(line)?;
        contains(line, &said, expected, &self.namespace)?;
        Ok(said)
    }

    /// Runs `line` with `input`, which must succeed and print every one of `expected`.
    pub fn reads(&self, line: &str, input: &str, expected: &[&str]) -> Result<String> {
        let said = self.ok_with(line, &[], &input.replace("{ns}", &self.namespace))?;
        contains(line, &said, expected, &self.namespace)?;
        Ok(said)
    }

    /// Runs `line`, which must succeed and print exactly `expected`, but for blanks at the ends.
    pub fn is(&self, line: &str, expected: &str) -> Result<()> {
        let said = self.ok(line)?;
        let expected = expected.replace("{ns}", &self.namespace);
        ensure!(said.trim() == expected.trim(), "`kubectl {line}` said\n{said}\nand not\n{expected}");
        Ok(())
    }

    /// Asks for a part of an object by JSONPath; it must be `expected`.
    pub fn has(&self, object: &str, path: &str, expected: &str) -> Result<()> {
        self.is(&format!("get {object} -o 'jsonpath={path}'"), expected)
    }

    /// Runs `line`, which must fail and say `expected` on its standard error.
    pub fn refuses(&self, line: &str, expected: &str) -> Result<()> {
        let told = self.tell(line, &[], "")?;
        let expected = expected.replace("{ns}", &self.namespace);
        ensure!(
            told.code != Some(0) && told.stderr.contains(&expected),
            "`kubectl {line}` ({:?}) should fail and say\n{expected}\nIt said:\n{}{}",
            told.code,
            told.stdout,
            told.stderr
        );
        Ok(())
    }

    /// Runs `line` until it succeeds and prints every one of `expected`.
    pub fn waits(&self, line: &str, expected: &[&str]) -> Result<String> {
        wait::until(&format!("`kubectl {line}`"), LIMIT, || self.says(line, expected))
    }

    /// Starts `line` in a terminal of its own that script(1) makes, and leaves it running. What it says last is
    /// `code=` and its exit code.
    pub fn spawn_in_terminal(&self, line: &str) -> Result<Session> {
        let command = self.command(line)?;
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let quoted: Vec<_> = words.map(|word| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"))).collect();
        let mut script = Command::new(require("script")?);
        script.args(["-qec", &format!("{}; echo code=$?", quoted.join(" ")), "/dev/null"]);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => script.env(name, value),
                None => script.env_remove(name),
            };
        }
        script.current_dir(command.get_current_dir().unwrap_or(&self.folder));
        Session::start(script, line)
    }

    /// Starts `line` and leaves it running.
    pub fn spawn(&self, line: &str) -> Result<Session> {
        Session::start(self.command(line)?, line)
    }
}

fn contains(line: &str, said: &str, expected: &[&str], namespace: &str) -> Result<()> {
    for part in expected {
        let part = part.replace("{ns}", namespace);
        ensure!(said.contains(&part), "`kubectl {line}`: no {part:?} in\n{said}");
    }
    Ok(())
}

/// The words of a line; single quotes keep blanks.
fn words(line: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let (mut word, mut quoted, mut begun) = (String::new(), false, false);
    for character in line.chars() {
        match character {
            '\'' => (quoted, begun) = (!quoted, true),
            blank if blank.is_whitespace() && !quoted => {
                if std::mem::take(&mut begun) {
                    words.push(std::mem::take(&mut word));
                }
            }
            other => {
                word.push(other);
                begun = true;
            }
        }
    }
    ensure!(!quoted, "a quote is open in: {line}");
    if begun {
        words.push(word);
    }
    Ok(words)
}

/// A command that runs until it is told to end, or ends by itself.
pub struct Session {
    child: Child,
    line: String,
    said: Receiver<String>,
    errors: Arc<Mutex<String>>,
}

impl Session {
    fn start(mut command: Command, line: &str) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot run kubectl {line}"))?;
        let (stdout, stderr) = (child.stdout.take().context("no stdout")?, child.stderr.take().context("no stderr")?);
        let (sender, said) = channel();
        // Both threads end with the pipes.
        std::thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let errors = Arc::new(Mutex::new(String::new()));
        let kept = Arc::clone(&errors);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Ok(mut kept) = kept.lock() {
                    kept.push_str(&line);
                    kept.push('\n');
                }
            }
        });
        Ok(Self { child, line: line.to_owned(), said, errors })
    }

    /// Waits for a line of its output that contains `expected`, and returns it.
    pub fn hears(&self, expected: &str) -> Result<String> {
        let deadline = Instant::now() + LIMIT;
        let mut heard = Vec::new();
        loop {
            match self.said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(expected) => return Ok(line),
                Ok(line) => heard.push(line),
                Err(end) => {
                    let how = if end == RecvTimeoutError::Timeout { "in time" } else { "before it ended" };
                    let errors = self.errors.lock().map(|errors| errors.clone()).unwrap_or_default();
                    bail!("`kubectl {}` did not say {expected:?} {how}: {heard:?}\n{errors}", self.line);
                }
            }
        }
    }

    /// What it has said on its standard error so far.
    pub fn errors(&self) -> String {
        self.errors.lock().map(|errors| errors.clone()).unwrap_or_default()
    }

    /// Nothing but what was heard may come within `time`.
    pub fn is_silent(&self, time: Duration) -> Result<()> {
        match self.said.recv_timeout(time) {
            Ok(line) => bail!("`kubectl {}` said {line:?}", self.line),
            Err(_) => Ok(()),
        }
    }

    /// Writes to its standard input.
    pub fn tell(&mut self, text: &str) -> Result<()> {
        Ok(self.child.stdin.as_mut().context("its input is closed")?.write_all(text.as_bytes())?)
    }

    /// Waits for its end and returns the exit code.
    pub fn end(&mut self) -> Result<Option<i32>> {
        wait::until(&format!("the end of `kubectl {}`", self.line), LIMIT, || {
            Ok(self.child.try_wait()?.context("it runs")?.code())
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_words_and_quotes_keep_blanks() {
        assert_eq!(words(" a  'b c' d'e f'g '' ").unwrap(), ["a", "b c", "de fg", ""]);
        assert!(words("'open").is_err());
    }
}
