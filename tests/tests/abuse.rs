//! Clients that mean harm, or are badly made, against a running server: everybody else is served meanwhile, and what the
//! server spends on them is bounded.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use skep_pki::{Kubeconfig, client_config};
use skep_tests::bench::client::{Client, Protocol, load};
use skep_tests::bench::usage::{forget_peak, peak_rss_mb, rss_mb};
use skep_tests::cluster::LIMIT;
use skep_tests::masters::Masters;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Nothing here is slow by itself: a wait this long has failed.
const LONG: Duration = LIMIT.saturating_mul(3);

/// A server, and how to reach it.
struct World {
    masters: Masters,
    address: SocketAddr,
    tls: rustls::ClientConfig,
}

impl World {
    fn start() -> Result<Arc<Self>> {
        let masters = Masters::start(1)?;
        let credentials = Kubeconfig::load(&masters.kubeconfig(0))?.credentials()?;
        let tls =
            client_config(&credentials.ca.context("admin.conf names no authority")?, credentials.identity.as_ref())?;
        let address = masters.url(0).trim_start_matches("https://").parse()?;
        Ok(Arc::new(Self { masters, address, tls }))
    }

    async fn client(&self, connections: usize) -> Result<Client> {
        Client::connect_with(self.address, self.tls.clone(), Protocol::Http2, connections).await
    }

    fn pid(&self) -> Result<i32> {
        self.masters.server(0).pid().context("the server has ended")
    }

    /// A connection that speaks what the test writes; its kernel takes little of what it does not read.
    async fn raw(&self) -> Result<TlsStream<TcpStream>> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(8 * 1024)?;
        let stream = socket.connect(self.address).await?;
        let mut tls = self.tls.clone();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name = ServerName::from(self.address.ip());
        Ok(TlsConnector::from(Arc::new(tls)).connect(name, stream).await?)
    }

    /// Runs `abuse` while a well-behaved client goes on with its work: none of its requests may fail.
    async fn while_others_are_served(self: &Arc<Self>, abuse: impl Future<Output = Result<()>>) -> Result<()> {
        let canary = Canary::start(self).await?;
        let outcome = abuse.await;
        let served = canary.stop().await;
        outcome?;
        let served = served?;
        eprintln!("meanwhile {served} rounds of requests were served");
        ensure!(served > 0, "nobody asked anything meanwhile");
        Ok(())
    }
}

/// Reads, writes and asks for the server's health again and again, on an old connection and on new ones.
struct Canary {
    done: Arc<AtomicBool>,
    task: JoinHandle<Result<u64>>,
}

impl Canary {
    async fn start(world: &Arc<World>) -> Result<Self> {
        let done = Arc::new(AtomicBool::new(false));
        let (ended, world) = (Arc::clone(&done), Arc::clone(world));
        let old = world.client(1).await?;
        let task = tokio::spawn(async move {
            let mut rounds = 0;
            while !ended.load(Ordering::SeqCst) {
                let new = timeout(LIMIT, world.client(1)).await.context("no connection is accepted")??;
                for client in [&old, &new] {
                    timeout(LIMIT, round(client, rounds)).await.context("the canary waits in vain")??;
                }
                rounds += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(rounds)
        });
        Ok(Self { done, task })
    }

    async fn stop(self) -> Result<u64> {
        self.done.store(true, Ordering::SeqCst);
        self.task.await?
    }
}

async fn round(client: &Client, number: u64) -> Result<()> {
    for path in ["/livez", "/readyz", "/healthz", "/api/v1/namespaces/default", "/api/v1/namespaces?limit=5"] {
        client.expect(Method::GET, path, Bytes::new()).await?;
    }
    let name = format!("canary-{number}");
    let namespace = "/api/v1/namespaces/kube-public/configmaps";
    let (status, answer) = client.send(Method::POST, namespace, map(&name, "sings")).await?;
    ensure!(status.is_success() || status == StatusCode::CONFLICT, "{status}: {answer:?}");
    let path = format!("{namespace}/{name}");
    let read = client.expect(Method::GET, &path, Bytes::new()).await?;
    ensure!(serde_json::from_slice::<Value>(&read)?["data"]["value"] == "sings", "{read:?}");
    Ok(())
}

fn map(name: &str, value: &str) -> Bytes {
    json!({"metadata": {"name": name}, "data": {"value": value}}).to_string().into()
}

fn run<F: Future<Output = Result<()>>>(test: impl FnOnce(Arc<World>) -> F) -> Result<()> {
    let world = World::start()?;
    tokio::runtime::Runtime::new()?.block_on(test(world))
}

/// How many descriptors the server has open.
fn descriptors(world: &World) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{}/fd", world.pid()?))?.count())
}

/// Waits until `happened`, and says what was awaited if it does not.
async fn until(what: &str, mut happened: impl FnMut() -> Result<bool>) -> Result<()> {
    let waited = timeout(LONG, async {
        while !happened()? {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    });
    waited.await.with_context(|| format!("in vain: {what}"))?
}

async fn version(client: &Client) -> Result<String> {
    let list = client.expect(Method::GET, &format!("{MAPS}?limit=1"), Bytes::new()).await?;
    let list: Value = serde_json::from_slice(&list)?;
    Ok(list["metadata"]["resourceVersion"].as_str().context("no resourceVersion")?.to_owned())
}

#[test]
fn ten_thousand_idle_watches_cost_little_and_all_hear_the_next_change() -> Result<()> {
    const WATCHES: usize = 10_000;
    const CONNECTIONS: usize = 20;
    /// Far more than what one is known to cost (a debug build's futures are large), and far less than a buffer for each.
    const KIB_PER_WATCH: f64 = 48.0;
    run(async |world| {
        let client = Arc::new(world.client(CONNECTIONS).await?);
        let path = format!("{MAPS}?watch=1&resourceVersion={}", version(&client).await?);
        let watch = async |client: &Client| client.stream(&path, "application/json").await;
        // What the first watches make ready is not counted.
        let mut watches = Vec::new();
        for _ in 0..CONNECTIONS {
            watches.push(watch(&client).await?);
        }
        let (before, open) = (rss_mb(world.pid()?)?, descriptors(&world)?);
        let inner = Arc::clone(&world);
        world
            .while_others_are_served(async {
                while watches.len() < WATCHES {
                    let next = (0..100.min(WATCHES - watches.len())).map(|_| watch(&client));
                    watches.extend(try_join_all(next).await?);
                }
                let cost = (rss_mb(inner.pid()?)? - before) * 1e6 / 1024.0 / WATCHES as f64;
                eprintln!("an idle watch costs {cost:.1} KiB");
                ensure!(cost < KIB_PER_WATCH, "an idle watch costs {cost:.1} KiB");
                client.expect(Method::POST, MAPS, map("news", "for all")).await?;
                let hear = watches.iter_mut().map(async |watch| {
                    let frame = timeout(LONG, watch.body_mut().frame()).await.context("a watch heard nothing")?;
                    let data = frame.context("a watch ended")??.into_data().ok().context("trailers")?;
                    let event: Value = serde_json::from_slice(&data)?;
                    ensure!(event["type"] == "ADDED" && event["object"]["metadata"]["name"] == "news", "{event}");
                    Ok(())
                });
                try_join_all(hear).await?;
                Ok(())
            })
            .await?;
        drop(watches);
        drop(client);
        until("the end of the watches' connections", || Ok(descriptors(&world)? < open)).await
    })
}

#[test]
fn watchers_that_read_nothing_cost_little_and_are_cut_off_while_others_see_every_change() -> Result<()> {
    const SLOW: usize = 30;
    const GOOD: usize = 3;
    const CHANGES: usize = 6_000;
    const BYTES: usize = 16 * 1024;
    /// What the server may grow by: a fraction of what a copy for each slow client would take.
    const GROWTH: f64 = (SLOW * CHANGES * BYTES) as f64 / 1e6 / 8.0;
    run(async |world| {
        let client = Arc::new(world.client(4).await?);
        client.expect(Method::POST, MAPS, map("busy", "")).await?;
        let from = version(&client).await?;
        let path = format!("{MAPS}?watch=1&resourceVersion={from}&fieldSelector=metadata.name%3Dbusy");
        let address = world.address;
        let mut slow = Vec::new();
        for _ in 0..SLOW {
            let mut stream = world.raw().await?;
            let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\naccept: application/json\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            slow.push(stream);
        }
        // Those that share a connection with somebody who reads.
        let shared = Arc::new(world.client(1).await?);
        let mut unread = Vec::new();
        for _ in 0..SLOW {
            unread.push(shared.stream(&path, "application/json").await?);
        }
        let good: Vec<_> = (0..GOOD)
            .map(|_| {
                let (shared, path) = (Arc::clone(&shared), path.clone());
                tokio::spawn(async move { events(shared.stream(&path, "application/json").await?, CHANGES).await })
            })
            .collect();
        forget_peak(world.pid()?)?;
        let before = rss_mb(world.pid()?)?;
        let inner = Arc::clone(&world);
        world
            .while_others_are_served(async {
                let padding = "x".repeat(BYTES);
                let writer = Arc::clone(&client);
                let written = Arc::new(AtomicU64::new(0));
                load(8, CHANGES, move |_| {
                    let (client, written, padding) = (Arc::clone(&writer), Arc::clone(&written), padding.clone());
                    async move {
                        let number = written.fetch_add(1, Ordering::SeqCst);
                        let patch = json!({"data": {"value": format!("{number}{padding}")}}).to_string();
                        let path = format!("{MAPS}/busy");
                        client.patch(&path, "application/merge-patch+json", patch.into()).await.map(drop)
                    }
                })
                .await?;
                for watcher in good {
                    let seen = timeout(LONG, watcher).await.context("a good watcher waits in vain")???;
                    ensure!(seen == CHANGES, "a good watcher saw {seen} of {CHANGES} changes");
                }
                let growth = peak_rss_mb(inner.pid()?)? - before;
                eprintln!("the server grew by {growth:.0} MB, a copy for each were {:.0} MB", GROWTH * 8.0);
                ensure!(growth < GROWTH, "the server grew by {growth:.0} MB");
                Ok(())
            })
            .await?;
        // Once they read, they find the end: the history does not wait for them.
        for stream in &mut slow {
            let heard = timeout(LONG, to_the_end(stream)).await.context("a slow watch was never cut off")??;
            ensure!(heard < CHANGES * BYTES / 2, "a slow watch heard {heard} bytes: it was not slow");
        }
        for watch in unread {
            let seen =
                timeout(LONG, events(watch, CHANGES)).await.context("a watch nobody read was never cut off")??;
            ensure!(seen < CHANGES, "a watch nobody read saw everything");
        }
        Ok(())
    })
}

/// Counts the changes a watch hears, in order and without gaps, up to `most`, its end, or its being cut off.
async fn events(watch: http::Response<hyper::body::Incoming>, most: usize) -> Result<usize> {
    let (mut body, mut text, mut seen, mut last) = (watch.into_body(), Vec::new(), 0, 0_u64);
    while seen < most {
        let Some(frame) = body.frame().await else { break };
        let Ok(data) = frame?.into_data() else { continue };
        text.extend_from_slice(&data);
        let mut from = 0;
        while let Some(length) = text[from..].iter().position(|byte| *byte == b'\n') {
            let event: Value = serde_json::from_slice(&text[from..from + length])?;
            from += length + 1;
            if event["type"] == "ERROR" {
                ensure!(event["object"]["code"] == 410, "{event}");
                return Ok(seen);
            }
            let version = event["object"]["metadata"]["resourceVersion"].as_str().context("no resourceVersion")?;
            let version: u64 = version.parse()?;
            ensure!(event["type"] == "MODIFIED" && version > last, "{} {version} after {last}", event["type"]);
            (last, seen) = (version, seen + 1);
        }
        text.drain(..from);
    }
    Ok(seen)
}

/// How many bytes come until the answer or the connection ends.
async fn to_the_end(stream: &mut TlsStream<TcpStream>) -> Result<usize> {
    let (mut buffer, mut heard, mut tail) = (vec![0; 64 * 1024], 0, Vec::new());
    loop {
        let length = match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return Ok(heard),
            Ok(length) => length,
        };
        heard += length;
        tail.extend_from_slice(&buffer[..length]);
        // The last chunk.
        if tail.ends_with(b"\r\n0\r\n\r\n") {
            return Ok(heard);
        }
        tail.drain(..tail.len().saturating_sub(16));
    }
}

#[test]
fn clients_that_never_finish_their_requests_keep_nobody_out_and_are_thrown_out() -> Result<()> {
    const EACH: usize = 300;
    run(async |world| {
        let before = descriptors(&world)?;
        let address = world.address;
        let inner = Arc::clone(&world);
        world
            .while_others_are_served(async {
                let mut kept = Vec::new();
                let mut dribbling = Vec::new();
                for _ in 0..EACH {
                    // Says nothing at all, or half a greeting.
                    kept.push(TcpStream::connect(address).await?);
                    let mut half = TcpStream::connect(address).await?;
                    half.write_all(&[0x16, 0x03, 0x01]).await?;
                    kept.push(half);
                }
                let heads = format!("GET /api HTTP/1.1\r\nhost: {address}\r\nx-slow: ");
                let bodies = format!(
                    "POST {MAPS}?timeout=20s HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n{{\"metadata\":"
                );
                let reviews = bodies.replace(MAPS, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews");
                let chunks = bodies.replace("content-length: 100000", "transfer-encoding: chunked").replace("{\"metadata\":", "");
                for number in 0..EACH {
                    let (head, drip): (&str, &[u8]) = match number % 5 {
                        // Has shaken hands, and waits.
                        0 => ("", b""),
                        1 => (&heads, b"x"),
                        2 => (&bodies, b" "),
                        3 => (&reviews, b" "),
                        _ => (&chunks, b"1\r\n \r\n"),
                    };
                    let mut stream = inner.raw().await?;
                    stream.write_all(head.as_bytes()).await?;
                    let drip = drip.to_vec();
                    dribbling.push(tokio::spawn(async move { dribble(stream, &drip).await }));
                }
                let open = descriptors(&inner)?;
                ensure!(open > before + EACH, "the server has {open} descriptors: nobody was let in");
                for client in dribbling {
                    timeout(LONG, client).await.context("a client that never finishes was never thrown out")?.context("a client panicked")?;
                }
                for mut stream in kept {
                    let mut rest = Vec::new();
                    // A reset is an end as well.
                    let _ = timeout(LONG, stream.read_to_end(&mut rest)).await.context("a silent client was never thrown out")?;
                }
                Ok(())
            })
            .await?;
        until("the end of the descriptors that bad clients had", || Ok(descriptors(&world)? < before + EACH / 10)).await
    })
}

/// Sends `drip` now and then until the server has had enough.
async fn dribble(mut stream: TlsStream<TcpStream>, drip: &[u8]) {
    let mut answer = [0; 4096];
    loop {
        tokio::select! {
            read = stream.read(&mut answer) => match read {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            },
            () = tokio::time::sleep(Duration::from_millis(300)) => {
                if !drip.is_empty() && stream.write_all(drip).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[test]
fn bodies_that_are_too_large_or_too_deep_are_refused_and_nobody_else_waits() -> Result<()> {
    const ROUNDS: usize = 8;
    run(async |world| {
        let client = Arc::new(world.client(4).await?);
        client.expect(Method::POST, MAPS, map("target", "")).await?;
        let target = format!("{MAPS}/target");
        let nested = |open: &str, close: &str, depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
        let json = "application/json";
        let (deep, wide) = (nested("[", "]", 400_000), vec!["{}"; 300_000].join(","));
        let copies =
            (0..25).map(|_| r#"{"op":"copy","from":"/data","path":"/data/more"}"#).collect::<Vec<_>>().join(",");
        let laughs = (1..12).fold("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, number| {
            let alias = format!("*a{}", number - 1);
            format!("{text}a{number}: &a{number} [{}]\n", vec![alias; 10].join(","))
        });
        let post = Method::POST;
        let patch = Method::PATCH;
        type Case = (&'static str, Method, String, &'static str, String, &'static [u16]);
        let cases: Vec<Case> = vec![
            // More than etcd takes, less than the server reads.
            (
                "2 MiB",
                post.clone(),
                MAPS.into(),
                json,
                String::from_utf8(map("large", &"x".repeat(900_000)).to_vec())?.replace(
                    "\"data\":",
                    &format!("\"immutable\":false,\"binaryData\":{{\"b\":\"{}\"}},\"data\":", "eHh4".repeat(400_000)),
                ),
                &[413, 422],
            ),
            (
                "4 MiB",
                post.clone(),
                MAPS.into(),
                json,
                format!("{{\"data\":{{\"a\":\"{}\"}}}}", "x".repeat(4 << 20)),
                &[413],
            ),
            ("deep JSON", post.clone(), MAPS.into(), json, deep.clone(), &[400]),
            ("deep object", post.clone(), MAPS.into(), json, nested("{\"metadata\":", "}", 100_000), &[400]),
            ("deep YAML", post.clone(), MAPS.into(), "application/yaml", deep.clone(), &[400]),
            ("laughing YAML", post.clone(), MAPS.into(), "application/yaml", laughs, &[400, 413, 422]),
            (
                "protobuf",
                post.clone(),
                MAPS.into(),
                "application/vnd.kubernetes.protobuf",
                format!("k8s\0{}", "\n\u{7f}".repeat(100_000)),
                &[400],
            ),
            (
                "deep merge patch",
                patch.clone(),
                target.clone(),
                "application/merge-patch+json",
                nested("{\"a\":", "}", 200_000),
                &[400],
            ),
            (
                "deep strategic patch",
                patch.clone(),
                target.clone(),
                "application/strategic-merge-patch+json",
                nested("{\"a\":", "}", 200_000),
                &[400],
            ),
            (
                "deep apply",
                patch.clone(),
                format!("{target}?fieldManager=t"),
                "application/apply-patch+yaml",
                nested("{a: ", "}", 200_000),
                &[400],
            ),
            ("deep JSON patch", patch.clone(), target.clone(), "application/json-patch+json", deep, &[400]),
            (
                "many operations",
                patch.clone(),
                target.clone(),
                "application/json-patch+json",
                format!("[{wide}]"),
                &[400, 413, 422],
            ),
            ("doubling copies", patch, target, "application/json-patch+json", format!("[{copies}]"), &[400, 413, 422]),
            (
                "many owners",
                post,
                MAPS.into(),
                json,
                format!("{{\"metadata\":{{\"name\":\"o\",\"ownerReferences\":[{wide}]}}}}"),
                &[413, 422],
            ),
        ];
        let cases = Arc::new(cases);
        forget_peak(world.pid()?)?;
        let before = rss_mb(world.pid()?)?;
        world
            .while_others_are_served(async {
                let total = cases.len() * ROUNDS;
                load(8, total, move |number| {
                    let (client, cases) = (Arc::clone(&client), Arc::clone(&cases));
                    async move {
                        let (what, method, path, media_type, body, expected) = &cases[number % cases.len()];
                        let body = Bytes::from(body.clone());
                        let sent = client.send_typed(method.clone(), path, media_type, body);
                        let (status, answer) = timeout(LONG, sent)
                            .await
                            .with_context(|| format!("{what}: no answer"))?
                            .with_context(|| (*what).to_owned())?;
                        let text = String::from_utf8_lossy(&answer[..answer.len().min(300)]).into_owned();
                        if !expected.contains(&status.as_u16()) {
                            bail!("{what}: {status} instead of {expected:?}: {text}");
                        }
                        let told: Value = serde_json::from_slice(&answer).with_context(|| format!("{what}: {text}"))?;
                        ensure!(told["kind"] == "Status" && told["code"] == status.as_u16(), "{what}: {text}");
                        ensure!(answer.len() < 1 << 20, "{what}: the refusal has {} bytes", answer.len());
                        Ok(())
                    }
                })
                .await
                .map(drop)
            })
            .await?;
        let growth = peak_rss_mb(world.pid()?)? - before;
        eprintln!("the server grew by {growth:.0} MB at most");
        ensure!(growth < 1000.0, "the server grew by {growth:.0} MB");
        Ok(())
    })
}
