//! exec, attach, cp and port-forward, with the kubectls people have: SPDY from the old ones, WebSocket from the new.
#![allow(clippy::disallowed_methods, reason = "these tests have no runtime: they may sleep")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use skep_tests::cluster::{LIMIT, TestCluster};
use skep_tests::kubectl;
use xtask::command::output;
use xtask::wait;

/// The last that speaks SPDY only, the first that could do otherwise, and those that try WebSocket first.
const VERSIONS: [&str; 4] = ["1.27", "1.30", "1.32", "1.33"];

const SHELL: &str = "
apiVersion: v1
kind: Pod
metadata: { name: shell, labels: { app: shell } }
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: localhost/skep/toolbox:1
      command: [busybox, sh, -c, 'mkdir -p /applets && busybox --install -s /applets && exec toolbox serve 8080']
      env: [{ name: PATH, value: '/usr/bin:/bin:/applets' }]
      readinessProbe: { httpGet: { port: 8080 }, periodSeconds: 1 }
    - name: other
      image: localhost/skep/toolbox:1
      command: [busybox, sleep, '3600']
";

/// Echoes what it is told, and ends when told so.
const PARROT: &str = "
apiVersion: v1
kind: Pod
metadata: { name: NAME, labels: { app: parrot } }
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: localhost/skep/toolbox:1
      stdin: true
      stdinOnce: true
      tty: TTY
      command: [sh, -c, 'echo ready; while read word; do echo \"heard $word\"; [ \"$word\" = end ] && exit 0; done']
";

fn ready_shell() -> Result<TestCluster> {
    let cluster = TestCluster::start()?;
    cluster.apply(SHELL)?;
    cluster.wait_ready_pods("app=shell", 1)?;
    Ok(cluster)
}

fn versions() -> Vec<&'static str> {
    kubectl::versions(&VERSIONS)
}

/// kubectl of a version, on the cluster's machine.
fn kubectl(cluster: &TestCluster, version: &str, args: &[&str]) -> Result<Command> {
    let mut command = cluster.parts().on_machine(kubectl::program(version)?);
    command.arg("--kubeconfig").arg(cluster.parts().kubeconfig()).args(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
    Ok(command)
}

/// Runs a command with `input` on its standard input, at most `LIMIT`.
fn run(command: &mut Command, input: &[u8]) -> Result<Output> {
    let mut child = Running(command.stdin(Stdio::piped()).spawn()?);
    let mut stdin = child.0.stdin.take().context("no stdin")?;
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let (stdout, stderr) = (child.0.stdout.take().context("no stdout")?, child.0.stderr.take().context("no stderr")?);
    let readers = [read_all(stdout), read_all(stderr)];
    let status = wait::until("the command's end", LIMIT, || child.0.try_wait()?.context("it runs"))?;
    // It may have ended without reading everything.
    let _ = writer.join();
    let [stdout, stderr] = readers.map(|reader| reader.join().unwrap_or_default());
    Ok(Output { status, stdout, stderr })
}

fn read_all(mut from: impl std::io::Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        let _ = from.read_to_end(&mut all);
        all
    })
}

/// A child that does not outlive the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command in a terminal that script(1) makes, after `prelude` in the same shell; it tells the exit code last.
fn in_terminal(prelude: &str, command: &Command) -> Result<Running> {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted: Vec<_> = words.map(|word| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"))).collect();
    let inner = format!("{prelude}{}; echo code=$?", quoted.join(" "));
    let mut script = Command::new("script");
    script.args(["-qec", &inner, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    Ok(Running(script.spawn()?))
}

#[test]
fn exec_carries_output_input_and_the_exit_code_for_every_kubectl() -> Result<()> {
    let cluster = ready_shell()?;
    for version in versions() {
        let exec = |args: &[&str], input: &[u8]| -> Result<Output> {
            let all = [&["exec", "shell", "-c", "main"], args].concat();
            run(&mut kubectl(&cluster, version, &all)?, input).with_context(|| format!("kubectl {version}: {args:?}"))
        };
        let told = exec(&["--", "sh", "-c", "echo out; echo err >&2; exit 7"], b"")?;
        let seen = (told.status.code(), text(&told.stdout));
        ensure!(seen == (Some(7), "out\n".to_owned()), "{version}: {told:?}");
        let stderr = text(&told.stderr);
        ensure!(stderr.contains("err\n") && stderr.contains("exit code 7"), "{version}: {stderr}");

        // The end of input reaches the command, or cat would never end.
        let input: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let told = exec(&["-i", "--", "cat"], &input)?;
        ensure!(told.status.success() && told.stdout == input, "{version}: {} bytes came back", told.stdout.len());

        // A command that does not read what it is sent still tells how it ended. (Of megabytes it may not: containerd 1.6
        // stops reading the connection then, at times for good.)
        let told = exec(&["-i", "--", "sh", "-c", "exit 3"], &input[..10_000])?;
        ensure!(told.status.code() == Some(3), "{version}: {told:?}");

        let told = exec(&["--", "no-such-program"], b"")?;
        ensure!(!told.status.success() && text(&told.stderr).contains("no-such-program"), "{version}: {told:?}");

        let words = ["a b", "\"c\"", "d&e=f", "%20", "ü", ""];
        let told = exec(&[&["--", "sh", "-c", "for w; do echo \"[$w]\"; done", "sh"], &words[..]].concat(), b"")?;
        let expected: String = words.iter().map(|word| format!("[{word}]\n")).collect();
        ensure!(text(&told.stdout) == expected, "{version}: {told:?}");
    }
    Ok(())
}

#[test]
fn what_cannot_be_is_refused_with_upstreams_words() -> Result<()> {
    let cluster = ready_shell()?;
    for version in versions() {
        let refused = |args: &[&str], words: &str| -> Result<()> {
            let told = run(&mut kubectl(&cluster, version, args)?, b"")?;
            ensure!(!told.status.success(), "{version} {args:?}: {told:?}");
            ensure!(text(&told.stderr).contains(words), "{version} {args:?}: {}", text(&told.stderr));
            Ok(())
        };
        refused(&["exec", "nobody", "--", "true"], "pods \"nobody\" not found")?;
        refused(&["exec", "shell", "-c", "third", "--", "true"], "container third is not valid for pod shell")?;
    }
    // Without a container's name kubectl chooses one itself; a plain request shows what the server says.
    let raw = |path: &str| match cluster.kubectl(&["get", "--raw", path]) {
        Ok(answer) => answer,
        Err(error) => format!("{error:#}"),
    };
    let exec = "/api/v1/namespaces/default/pods/shell/exec?command=true&stdout=true";
    let said = raw(exec);
    ensure!(said.contains("a container name must be specified for pod shell, choose one of: [main other]"), "{said}");
    let said = raw(&format!("{exec}&container=main"));
    ensure!(said.contains("Upgrade request required"), "{said}");

    let resources = cluster.kubectl(&["get", "--raw", "/api/v1"])?;
    for kind in ["PodExecOptions", "PodAttachOptions", "PodPortForwardOptions"] {
        ensure!(resources.contains(kind), "discovery does not list {kind}");
    }
    Ok(())
}

#[test]
fn a_terminal_has_a_size_that_follows_its_window() -> Result<()> {
    let cluster = ready_shell()?;
    for version in versions() {
        let kubectl = kubectl(&cluster, version, &["exec", "-it", "shell", "-c", "main", "--", "/bin/sh"])?;
        let resized = "stty rows 33 cols 111; mine=$(tty); (sleep 4; stty -F $mine rows 44 cols 122) & ";
        let mut child = in_terminal(resized, &kubectl)?;
        let mut stdin = child.0.stdin.take().context("no stdin")?;
        let out = read_all(child.0.stdout.take().context("no stdout")?);
        std::thread::sleep(Duration::from_secs(1));
        stdin.write_all(b"while [ \"$(stty size)\" != '33 111' ]; do sleep 0.1; done; echo first=$(stty size)\n")?;
        stdin.write_all(b"while [ \"$(stty size)\" != '44 122' ]; do sleep 0.1; done; echo second=$(stty size)\n")?;
        stdin.write_all(b"exit 5\n")?;
        wait::until("the session's end", LIMIT, || child.0.try_wait()?.context("it runs"))
            .with_context(|| format!("kubectl {version}"))?;
        drop(stdin);
        let said = text(&out.join().unwrap_or_default());
        for part in ["first=33 111", "second=44 122", "code=5"] {
            ensure!(said.contains(part), "{version}: no {part:?} in\n{said}");
        }
    }
    Ok(())
}

#[test]
fn large_files_are_copied_both_ways_unharmed() -> Result<()> {
    let cluster = ready_shell()?;
    let folder = tempfile::tempdir()?;
    let mut state = 1_u64;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        // xorshift: nothing that a stream could compress or repeat unseen.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .take(20 * 1024 * 1024 / 8)
    .flatten()
    .collect();
    let sent = folder.path().join("sent");
    std::fs::write(&sent, &bytes)?;
    for version in versions() {
        let copy = |from: &str, to: &str| -> Result<()> {
            let told = run(&mut kubectl(&cluster, version, &["cp", "-c", "main", from, to])?, b"")?;
            ensure!(told.status.success(), "{version}: {told:?}");
            Ok(())
        };
        let (there, back) = (format!("shell:/tmp/of-{version}"), folder.path().join(version));
        copy(&sent.display().to_string(), &there)?;
        copy(&there, &back.display().to_string())?;
        ensure!(std::fs::read(&back)? == bytes, "{version}: the copy differs");
    }
    Ok(())
}

fn parrot(cluster: &TestCluster, name: &str, tty: bool) -> Result<()> {
    cluster.apply(&PARROT.replace("NAME", name).replace("TTY", &tty.to_string()))?;
    wait::until("the parrot", LIMIT, || {
        let logs = cluster.kubectl(&["logs", name])?;
        ensure!(logs.contains("ready"), "it says {logs:?}");
        Ok(())
    })
}

fn wait_succeeded(cluster: &TestCluster, name: &str) -> Result<()> {
    wait::until("the pod's end", LIMIT, || {
        let phase = cluster.get(&["pod", name], "{.status.phase}")?;
        ensure!(phase == "Succeeded", "it is {phase}");
        Ok(())
    })
}

#[test]
fn attach_joins_a_running_container_and_ends_with_it() -> Result<()> {
    let cluster = TestCluster::start()?;
    for (number, version) in versions().into_iter().enumerate() {
        let name = format!("parrot-{number}");
        parrot(&cluster, &name, false)?;
        let mut child = Running(kubectl(&cluster, version, &["attach", "-i", &name])?.stdin(Stdio::piped()).spawn()?);
        let mut stdin = child.0.stdin.take().context("no stdin")?;
        let mut heard = BufReader::new(child.0.stdout.take().context("no stdout")?);
        let errors = read_all(child.0.stderr.take().context("no stderr")?);
        stdin.write_all(b"hello\n")?;
        let mut line = String::new();
        while !line.contains("heard hello") {
            line.clear();
            if heard.read_line(&mut line)? == 0 {
                let _ = child.0.wait();
                anyhow::bail!("{version}: it ended without an answer: {}", text(&errors.join().unwrap_or_default()));
            }
        }
        // Input stays open: the session ends because the container does.
        stdin.write_all(b"end\n")?;
        let status = wait::until("attach's end", LIMIT, || child.0.try_wait()?.context("it runs"))
            .with_context(|| format!("kubectl {version}"))?;
        ensure!(status.success(), "{version}: {status}");
        wait_succeeded(&cluster, &name)?;
    }
    Ok(())
}

#[test]
fn attach_with_a_terminal_ends_with_the_container_too() -> Result<()> {
    let cluster = TestCluster::start()?;
    for (number, version) in versions().into_iter().enumerate() {
        let name = format!("parrot-{number}");
        parrot(&cluster, &name, true)?;
        let mut child = in_terminal("", &kubectl(&cluster, version, &["attach", "-it", &name])?)?;
        let mut stdin = child.0.stdin.take().context("no stdin")?;
        let out = read_all(child.0.stdout.take().context("no stdout")?);
        std::thread::sleep(Duration::from_secs(1));
        stdin.write_all(b"hello\nend\n")?;
        wait::until("attach's end", LIMIT, || child.0.try_wait()?.context("it runs"))
            .with_context(|| format!("kubectl {version}"))?;
        drop(stdin);
        let said = text(&out.join().unwrap_or_default());
        ensure!(said.contains("heard hello") && said.contains("code=0"), "{version}: {said}");
        wait_succeeded(&cluster, &name)?;
    }
    Ok(())
}

#[test]
fn a_forwarded_port_answers_many_at_once() -> Result<()> {
    let cluster = ready_shell()?;
    for version in versions() {
        let mut forward = Running(kubectl(&cluster, version, &["port-forward", "pod/shell", ":8080"])?.spawn()?);
        let mut said = BufReader::new(forward.0.stdout.take().context("no stdout")?);
        let errors = read_all(forward.0.stderr.take().context("no stderr")?);
        let mut line = String::new();
        said.read_line(&mut line)?;
        let Some(port) = line.strip_prefix("Forwarding from 127.0.0.1:").and_then(|rest| rest.split(' ').next()) else {
            let _ = forward.0.kill();
            anyhow::bail!("{version}: it said {line:?} and {}", text(&errors.join().unwrap_or_default()));
        };
        let address = format!("127.0.0.1:{port}");
        std::thread::scope(|scope| -> Result<()> {
            let asked: Vec<_> =
                (0..8).map(|_| scope.spawn(|| (0..5).map(|_| cluster.ask(&address)).collect())).collect();
            for asker in asked {
                let answers: Result<Vec<String>> = asker.join().map_err(|_| anyhow::anyhow!("an asker panicked"))?;
                let answers = answers.with_context(|| format!("kubectl {version}"))?;
                ensure!(answers.iter().all(|answer| answer == "shell"), "{version}: {answers:?}");
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_pod_that_dies_ends_its_streams() -> Result<()> {
    let cluster = ready_shell()?;
    let mut sessions = Vec::new();
    for version in versions() {
        let exec = ["exec", "shell", "-c", "main", "--", "sh", "-c", "echo here; sleep 3600"];
        let mut child = Running(kubectl(&cluster, version, &exec)?.spawn()?);
        let mut line = String::new();
        BufReader::new(child.0.stdout.take().context("no stdout")?).read_line(&mut line)?;
        ensure!(line == "here\n", "{version}: {line:?}");
        sessions.push((version, child));
    }
    cluster.kubectl(&["delete", "pod", "shell", "--wait=false"])?;
    for (version, mut child) in sessions {
        let status = wait::until("the session's end", LIMIT, || child.0.try_wait()?.context("it runs"))
            .with_context(|| format!("kubectl {version}"))?;
        ensure!(!status.success(), "{version}: a killed command must not look like a success");
    }
    Ok(())
}

#[test]
fn clients_that_vanish_leave_nothing_open() -> Result<()> {
    let cluster = ready_shell()?;
    let open = || -> Result<usize> {
        let metrics = cluster.kubectl(&["get", "--raw", "/metrics"])?;
        let line = metrics.lines().find(|line| line.starts_with("apiserver_longrunning_requests"));
        let count = line.and_then(|line| line.rsplit(' ').next()).context("no such metric")?;
        Ok(count.parse()?)
    };
    let processes = || {
        output(
            kubectl(&cluster, versions()[versions().len() - 1], &["exec", "shell", "-c", "main", "--", "ps"])?
                .stderr(Stdio::null()),
        )
    };
    let before = open()?;
    let mut sessions = Vec::new();
    for version in versions() {
        let exec = ["exec", "-i", "shell", "-c", "main", "--", "cat"];
        sessions.push(Running(kubectl(&cluster, version, &exec)?.stdin(Stdio::piped()).spawn()?));
    }
    wait::until("the sessions", LIMIT, || {
        let count = processes()?.matches(" cat\n").count();
        ensure!(count == versions().len(), "{count} run");
        ensure!(open()? >= before + versions().len(), "not all are counted");
        Ok(())
    })?;
    drop(sessions);
    wait::until("the sessions' end", LIMIT, || {
        let left = open()?;
        ensure!(left <= before, "{left} are open, {before} were");
        Ok(())
    })
}
