//! `skepctl bugtool`: what somebody else needs to see to understand what is wrong here, in one file.
//!
//! It never reads kubeconfigs, certificates, environments or command lines; texts others wrote (logs, metrics) lose what
//! looks like a credential. What cannot be had is told in the place where it would stand.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Args;
use flate2::{Compression, write::GzEncoder};
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use skep_policy::reader::Reader as PolicyReader;
use skep_proxy::maps::Reader;

use crate::{endpoint, names::Names, redact::redact, status, trace::policy};

/// How long a server of this node may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How much of the end of a log is taken, bytes.
const LOG: u64 = 8 << 20;

/// What others tell about the network, and the file it goes to.
const COMMANDS: [(&str, &[&str]); 9] = [
    ("network/links.txt", &["ip", "-details", "-statistics", "link"]),
    ("network/addresses.txt", &["ip", "address"]),
    ("network/rules.txt", &["ip", "rule"]),
    ("network/rules6.txt", &["ip", "-6", "rule"]),
    ("network/routes.txt", &["ip", "route", "show", "table", "all"]),
    ("network/routes6.txt", &["ip", "-6", "route", "show", "table", "all"]),
    ("network/neighbours.txt", &["ip", "neighbour"]),
    ("network/forwarding.txt", &["bridge", "fdb", "show"]),
    ("network/queues.txt", &["tc", "qdisc"]),
];

/// What the kernel tells in files.
const FILES: [&str; 8] = [
    "/proc/version",
    "/proc/uptime",
    "/proc/meminfo",
    "/proc/net/snmp",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/ipv6/conf/all/forwarding",
    "/proc/sys/net/ipv4/ip_local_port_range",
    "/proc/sys/net/ipv4/ip_local_reserved_ports",
];

#[derive(Debug, Args)]
pub(crate) struct BugtoolCommand {
    /// The file to write [default: skep-bugtool-TIME.tar.gz in this folder].
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Where skep-node serves /metrics.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:10249")]
    metrics: SocketAddr,
    /// Where skep-node serves /healthz.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:10256")]
    healthz: SocketAddr,
    /// A log to put in, such as skep-node's: its end.
    #[arg(long, value_name = "FILE")]
    log: Vec<PathBuf>,
}

impl BugtoolCommand {
    pub(crate) fn run(&self, root: &Path, out: &mut impl Write) -> Result<()> {
        let now = Timestamp::now();
        let name = format!("skep-bugtool-{}", now.strftime("%Y%m%d-%H%M%S"));
        let path = self.file.clone().unwrap_or_else(|| format!("{name}.tar.gz").into());
        // Addresses and names are nobody else's business.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.with_context(|| format!("creating {}", path.display()))?;
        let mut archive = Archive { tar: tar::Builder::new(GzEncoder::new(file, Compression::default())), name, now };
        self.collect(&mut archive, root)?;
        archive.finish()?;
        writeln!(out, "{}", path.display())?;
        Ok(())
    }

    fn collect(&self, archive: &mut Archive, root: &Path) -> Result<()> {
        let about = format!("skepctl {} at {}\nbpf root: {}\n", env!("CARGO_PKG_VERSION"), archive.now, root.display());
        archive.add("about.txt", Ok(about))?;
        data_plane(archive, root)?;
        for (file, command) in COMMANDS {
            archive.add(file, run(command))?;
        }
        for file in FILES {
            let name = format!("kernel/{}", file.trim_start_matches('/').replace('/', "-"));
            archive.add(&name, fs::read_to_string(file).with_context(|| format!("reading {file}")))?;
        }
        archive.add("metrics.txt", get(self.metrics, "/metrics").map(|text| redact(&text)))?;
        archive.add("healthz.txt", get(self.healthz, "/healthz").map(|text| redact(&text)))?;
        for (n, log) in self.log.iter().enumerate() {
            archive.add(&format!("logs/{n}.log"), end_of(log).map(|text| redact(&text)))?;
        }
        Ok(())
    }
}

/// What the maps say, as the other commands print it.
fn data_plane(archive: &mut Archive, root: &Path) -> Result<()> {
    archive.add("pins.txt", Ok(pins(root)))?;
    let reader = match Reader::open(root) {
        Ok(reader) => reader,
        Err(error) => return archive.add("status.json", Err(error.into())),
    };
    archive.add("status.json", status::read(&reader, root).and_then(|status| json(&status)))?;
    archive.add("services.json", reader.services().map_err(Into::into).and_then(|services| json(&services)))?;
    archive.add("conntrack.json", reader.flows().map_err(Into::into).and_then(|flows| json(&flows)))?;
    let endpoints = endpoint::endpoints(&reader, root, &Names::none());
    archive.add("endpoints.json", endpoints.and_then(|endpoints| json(&endpoints)))?;
    let pods = |reader: PolicyReader| json(&reader.pods()?);
    match policy(root) {
        Ok(Some(reader)) => archive.add("policy.json", pods(reader)),
        Ok(None) => Ok(()),
        Err(error) => archive.add("policy.json", Err(error)),
    }
}

/// The archive, one folder with everything in it.
struct Archive {
    tar: tar::Builder<GzEncoder<File>>,
    name: String,
    now: Timestamp,
}

impl Archive {
    /// Puts in a text, or why there is none.
    fn add(&mut self, file: &str, text: Result<String>) -> Result<()> {
        let (file, text) = match text {
            Ok(text) => (file.to_owned(), text),
            Err(error) => (format!("{file}.error"), format!("{error:#}\n")),
        };
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(self.now.as_second()).unwrap_or_default());
        let path = format!("{}/{file}", self.name);
        self.tar.append_data(&mut header, &path, text.as_bytes()).with_context(|| format!("writing {path}"))
    }

    fn finish(self) -> Result<()> {
        Ok(self.tar.into_inner()?.finish()?.sync_all()?)
    }
}

fn json<T: Serialize + ?Sized>(value: &T) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// What a program prints.
fn run(command: &[&str]) -> Result<String> {
    let (program, arguments) = command.split_first().context("no program")?;
    let output = Command::new(program).args(arguments).output().with_context(|| format!("running {program}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

/// Every pin below a folder.
fn pins(folder: &Path) -> String {
    let mut text = String::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        match fs::read_dir(&folder) {
            Err(error) => text += &format!("{}: {error}\n", folder.display()),
            Ok(entries) => {
                for entry in entries.flatten() {
                    text += &format!("{}\n", entry.path().display());
                    folders.extend(entry.file_type().is_ok_and(|kind| kind.is_dir()).then(|| entry.path()));
                }
            }
        }
    }
    text
}

/// What a server of this node answers. (HTTP/1.0: it closes behind its answer.)
fn get(at: SocketAddr, path: &str) -> Result<String> {
    let ask = || -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {at}\r\n\r\n").as_bytes())?;
        let mut answer = Vec::new();
        stream.take(LOG).read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    ask().with_context(|| format!("asking http://{at}{path}"))
}

/// The end of a file.
fn end_of(path: &Path) -> Result<String> {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG)))?;
        let mut bytes = Vec::new();
        file.take(LOG).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().with_context(|| format!("reading {}", path.display()))
}
