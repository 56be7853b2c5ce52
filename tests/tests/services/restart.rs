//! A daemon that stops, dies and starts in the middle of traffic.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use skep_tests::cluster::{Shape, TestCluster};
use skep_tests::hammer::Hammer;

use crate::{node_ports, service, wait_heard, web};

#[test]
fn a_daemon_that_is_restarted_or_killed_loses_no_connection_from_outside() -> Result<()> {
    let cluster = TestCluster::start_shape(&Shape::nodes(2))?;
    let manifest = [
        web(&cluster, "here", "here", 1),
        web(&cluster, "there", "there", 2),
        service("here", "here", "type: NodePort"),
        service("there", "there", "type: NodePort"),
    ];
    cluster.apply(&manifest.concat())?;
    let mut traffic = Vec::new();
    for name in ["here", "there"] {
        cluster.wait_ready_pods(&format!("app={name}"), 1)?;
        let (tcp, udp) = node_ports(&cluster, name)?;
        let address = format!("10.111.0.1:{tcp}");
        wait_heard(&cluster, &address, &format!("10.111.0.1:{udp}"), name)?;
        traffic
            .push((Stream::open(&cluster, &address)?, Hammer::start(cluster.outside_toolbox(&["hammer", &address])?)?));
    }
    let first = cluster.nodes()[0];
    // Killed, gone for a while, back; then stopped as an upgrade does, gone, back.
    first.node.kill()?;
    std::thread::sleep(Duration::from_secs(1));
    first.start_node()?;
    first.node.stop()?;
    std::thread::sleep(Duration::from_secs(1));
    first.start_node()?;
    std::thread::sleep(Duration::from_secs(1));
    for (name, (stream, hammer)) in ["here", "there"].iter().zip(traffic) {
        let answer = stream.end().with_context(|| format!("the stream to {name}"))?;
        ensure!(answer.ends_with(&format!("{name}\n")), "the stream to {name} ends with {answer:?}");
        let heard = hammer.stop()?;
        ensure!(heard.errors.is_empty(), "{name}: {:?}", heard.errors);
        ensure!(heard.answers.len() == 1 && heard.answers.contains_key(*name), "{name}: {:?}", heard.answers);
    }
    Ok(())
}

/// A request that goes on for as long as it is wanted, from the machine outside.
#[derive(Debug)]
pub(crate) struct Stream {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Result<String>>,
}

impl Stream {
    pub(crate) fn open(cluster: &TestCluster, address: &str) -> Result<Self> {
        let netns = std::fs::File::open(cluster.outside()?.path())?;
        let (ended, address) = (Arc::new(AtomicBool::new(false)), address.to_owned());
        let thread = std::thread::spawn({
            let ended = Arc::clone(&ended);
            move || {
                nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET)?;
                let mut stream = TcpStream::connect(address)?;
                stream.set_read_timeout(Some(Duration::from_secs(20)))?;
                stream.write_all(b"GET / HTTP/1.1\r\n")?;
                while !ended.load(Ordering::Relaxed) {
                    // A header field at a time; the server hears 16 KiB at most, and waits five seconds.
                    stream.write_all(b"x: y\r\n")?;
                    std::thread::sleep(Duration::from_millis(50));
                }
                stream.write_all(b"\r\n")?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer)?;
                Ok(answer)
            }
        });
        Ok(Self { ended, thread })
    }

    /// Ends the request and returns the answer.
    pub(crate) fn end(self) -> Result<String> {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the stream panicked"))?
    }
}
