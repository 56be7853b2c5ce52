//! Requests that never end: slow loris.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::world::{HTTP1, HTTP2, LONG, MAPS, World, run, until};

/// Clients of each kind.
const EACH: usize = 40;

/// What a client says after its handshake, and then again and again.
struct Kind {
    name: &'static str,
    protocol: &'static [u8],
    head: String,
    drip: &'static [u8],
}

/// How HTTP/2 begins: its preface, and empty settings.
const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The beginning of headers that do not end (RFC 9113, 6.2).
const HEADERS: &str = "\0\0\x01\x01\0\0\0\0\x01\x02";

#[test]
fn clients_that_never_finish_their_requests_keep_nobody_out_and_are_thrown_out() -> Result<()> {
    run(async |world| {
        let before = world.descriptors()?;
        let kinds = kinds(&world);
        let abuse = async {
            let mut silent = Vec::new();
            let mut dribbling = Vec::new();
            for _ in 0..EACH {
                // Says nothing at all, or half a greeting.
                silent.push(TcpStream::connect(world.address).await?);
                let mut half = TcpStream::connect(world.address).await?;
                half.write_all(&[0x16, 0x03, 0x01]).await?;
                silent.push(half);
                for kind in &kinds {
                    dribbling.push((kind.name, begin(&world, kind).await?));
                }
            }
            let (open, all) = (world.descriptors()?, silent.len() + dribbling.len());
            ensure!(open > before + all / 2, "the server has {open} descriptors: few of {all} clients were let in");
            for mut stream in silent {
                let mut rest = Vec::new();
                // A reset is an end as well.
                let end = timeout(LONG, stream.read_to_end(&mut rest)).await;
                let _ = end.context("a silent client was never thrown out")?;
            }
            for (name, client) in dribbling {
                timeout(LONG, client).await.with_context(|| format!("never thrown out: {name}"))??;
            }
            Ok(())
        };
        world.while_others_are_served(abuse).await?;
        until("the end of the descriptors that bad clients had", || Ok(world.descriptors()? < before + EACH)).await
    })
}

fn kinds(world: &World) -> Vec<Kind> {
    let kind = |name, head, drip| Kind { name, protocol: HTTP1, head, drip };
    let second = |name, head| Kind { name, protocol: HTTP2, head, drip: b"" };
    let host = world.address;
    let post = |path: &str, length: &str, begin: &str| {
        format!(
            "POST {path}?timeout=20s HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n{length}\r\n\r\n{begin}"
        )
    };
    let (known, begin) = ("content-length: 100000", "{\"metadata\":");
    vec![
        kind("has shaken hands and waits", String::new(), b""),
        second("has shaken hands for HTTP/2 and waits", String::new()),
        second("has said that it speaks HTTP/2", PREFACE.to_owned()),
        second("headers in HTTP/2", format!("{PREFACE}{HEADERS}")),
        kind("headers", format!("GET /api HTTP/1.1\r\nhost: {host}\r\nx-slow: "), b"x"),
        kind("a body", post(MAPS, known, begin), b" "),
        kind("a review", post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", known, begin), b" "),
        kind("chunks", post(MAPS, "transfer-encoding: chunked", ""), b"1\r\n \r\n"),
        kind("a body where none is read", post("/version", known, begin), b" "),
    ]
}

/// Connects and begins to dribble.
async fn begin(world: &World, kind: &Kind) -> Result<JoinHandle<()>> {
    let mut stream = world.raw(kind.protocol).await?;
    stream.write_all(kind.head.as_bytes()).await?;
    Ok(tokio::spawn(dribble(stream, kind.drip)))
}

/// Sends `drip` now and then until the server has had enough.
async fn dribble(mut stream: TlsStream<TcpStream>, drip: &'static [u8]) {
    let mut answer = [0; 4096];
    loop {
        tokio::select! {
            read = stream.read(&mut answer) => match read {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            },
            () = tokio::time::sleep(Duration::from_millis(300)) => {
                let sent = async {
                    stream.write_all(drip).await?;
                    stream.flush().await
                };
                if !drip.is_empty() && sent.await.is_err() {
                    return;
                }
            }
        }
    }
}
