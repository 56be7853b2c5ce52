//! Two API servers over one etcd: while each is killed in turn, clients that use both must see one consistent store.
//! What they saw is judged by the history checker.
#![allow(clippy::disallowed_methods, reason = "the thread that kills has no runtime: it may sleep")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use etcd_client::{EventType, GetOptions, WatchOptions};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, WatchEvent, WatchParams};
use rand::Rng as _;
use serde_json::{Value, json};
use skep_tests::clients::client;
use skep_tests::cluster::LIMIT;
use skep_tests::history::{
    Base, Change, Clock, Event, History, Kind, Outcome, Read, Revision, Span, Stream, Version, Write, check,
};
use skep_tests::masters::Masters;
use xtask::wait;

const NAMESPACE: &str = "two-masters";
/// Few, so that writers meet.
const KEYS: usize = 4;
const WRITERS: usize = 4;
const WATCHERS: usize = 3;
/// How often a server is killed; both in turn.
const KILLS: usize = 4;
/// Writes that must be acknowledged before a kill, and again before the killed one is started.
const BETWEEN: u64 = 60;

/// What all clients share.
struct World {
    /// One for each server.
    maps: Vec<Api<ConfigMap>>,
    clock: Clock,
    history: Mutex<History>,
    /// The next value to write.
    values: AtomicU64,
    acknowledged: AtomicU64,
    done: AtomicBool,
    /// The revision of the last change, once all writing is done.
    last: AtomicU64,
}

impl World {
    fn any_server(&self) -> &Api<ConfigMap> {
        &self.maps[dice(self.maps.len())]
    }

    fn note(&self, add: impl FnOnce(&mut History)) {
        add(&mut self.history.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    }

    fn writing(&self) -> bool {
        !self.done.load(Ordering::SeqCst)
    }

    /// Runs one request and tells when.
    async fn timed<T>(&self, request: impl Future<Output = kube::Result<T>>) -> (Span, Option<kube::Result<T>>) {
        let start = self.clock.tick();
        let answer = tokio::time::timeout(Duration::from_secs(20), request).await.ok();
        (Span { start, end: self.clock.tick() }, answer)
    }
}

/// A number below `sides`.
fn dice(sides: usize) -> usize {
    rand::rng().random_range(0..sides)
}

fn revision(map: &ConfigMap) -> Result<Revision> {
    Ok(map.metadata.resource_version.as_deref().context("no resourceVersion")?.parse()?)
}

fn value(map: &ConfigMap) -> Option<u64> {
    map.data.as_ref()?.get("value")?.parse().ok()
}

fn version(map: &ConfigMap) -> Result<Version> {
    Ok(Version { revision: revision(map)?, value: value(map).context("no value")? })
}

fn name(map: &ConfigMap) -> &str {
    map.metadata.name.as_deref().unwrap_or_default()
}

fn body(key: &str, value: u64, version: Option<Revision>) -> Result<ConfigMap> {
    let metadata = json!({"name": key, "resourceVersion": version.map(|version| version.to_string())});
    Ok(serde_json::from_value(json!({"metadata": metadata, "data": {"value": value.to_string()}}))?)
}

/// What an answer to a write means; `told` reads the new version out of a good one.
fn outcome<T>(answer: Option<kube::Result<T>>, told: impl FnOnce(T) -> Option<Revision>) -> Outcome {
    match answer {
        Some(Ok(answer)) => Outcome::Acknowledged(told(answer)),
        Some(Err(kube::Error::Api(status))) if (400..429).contains(&status.code) => Outcome::Refused,
        // The connection broke, or the server does not know how the write ended.
        _ => Outcome::Unknown,
    }
}

/// Reads a key, then creates, updates or deletes it on condition of what was read, or patches it on none.
async fn write_something(world: &World) -> Result<()> {
    let key = format!("key-{}", dice(KEYS));
    let (span, got) = world.timed(world.any_server().get_opt(&key)).await;
    let Some(Ok(found)) = got else {
        tokio::time::sleep(Duration::from_millis(20)).await;
        return Ok(());
    };
    let found = found.as_ref().map(version).transpose()?;
    world.note(|history| history.reads.push(Read::Get { span, key: key.clone(), found }));

    let next = world.values.fetch_add(1, Ordering::SeqCst);
    let server = world.any_server();
    let told = |map: ConfigMap| revision(&map).ok();
    let (span, written, base, outcome) = match (found, dice(10)) {
        (None, _) => {
            let (params, map) = (PostParams::default(), body(&key, next, None)?);
            let (span, answer) = world.timed(server.create(&params, &map)).await;
            (span, Some(next), Base::Absent, outcome(answer, told))
        }
        (Some(found), 0..2) => {
            let mut params = DeleteParams::default();
            let resource_version = Some(found.revision.to_string());
            params.preconditions = Some(Preconditions { resource_version, uid: None });
            let (span, answer) = world.timed(server.delete(&key, &params)).await;
            (span, None, Base::Version(found.revision), outcome(answer, |_| None))
        }
        (Some(_), 2..5) => {
            let patch = Patch::Merge(json!({"data": {"value": next.to_string()}}));
            let (span, answer) = world.timed(server.patch(&key, &PatchParams::default(), &patch)).await;
            (span, Some(next), Base::Any, outcome(answer, told))
        }
        (Some(found), _) => {
            let (params, map) = (PostParams::default(), body(&key, next, Some(found.revision))?);
            let (span, answer) = world.timed(server.replace(&key, &params, &map)).await;
            (span, Some(next), Base::Version(found.revision), outcome(answer, told))
        }
    };
    if matches!(outcome, Outcome::Acknowledged(_)) {
        world.acknowledged.fetch_add(1, Ordering::SeqCst);
    }
    world.note(|history| history.writes.push(Write { key, value: written, base, span, outcome }));
    Ok(())
}

/// Lists at any server and returns the list's version.
async fn list_once(world: &World) -> Result<Option<Revision>> {
    let (span, listed) = world.timed(world.any_server().list(&ListParams::default())).await;
    let Some(Ok(list)) = listed else {
        tokio::time::sleep(Duration::from_millis(20)).await;
        return Ok(None);
    };
    let revision: Revision = list.metadata.resource_version.context("a list without a version")?.parse()?;
    // The namespace also has the cluster's certificate.
    let ours = list.items.iter().filter(|map| name(map).starts_with("key-"));
    let state = ours.map(|map| Ok((name(map).to_owned(), version(map)?))).collect::<Result<_>>()?;
    world.note(|history| history.reads.push(Read::List { span, revision, state }));
    Ok(Some(revision))
}

/// Watches from a list on, at one server after the other, until it has told the last change.
async fn watch(world: &World) -> Result<()> {
    let from = loop {
        if let Some(revision) = list_once(world).await? {
            break revision;
        }
    };
    let (mut at, mut events) = (from, Vec::new());
    while world.last.load(Ordering::SeqCst) == 0 || at < world.last.load(Ordering::SeqCst) {
        // A short one now and then: resuming is the point.
        let seconds = 1 + dice(3) as u32;
        let params = WatchParams::default().timeout(seconds);
        let Ok(stream) = world.any_server().watch(&params, &at.to_string()).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let mut stream = std::pin::pin!(stream);
        while let Some(event) = stream.next().await {
            let (kind, map) = match event {
                Ok(WatchEvent::Added(map)) => (Kind::Added, map),
                Ok(WatchEvent::Modified(map)) => (Kind::Modified, map),
                Ok(WatchEvent::Deleted(map)) => (Kind::Deleted, map),
                Ok(WatchEvent::Bookmark(bookmark)) => {
                    at = bookmark.metadata.resource_version.parse()?;
                    continue;
                }
                Ok(WatchEvent::Error(status)) => bail!("a watch from {at} was told: {status:?}"),
                // The server died.
                Err(_) => break,
            };
            let version = version(&map)?;
            at = version.revision;
            events.push(Event { kind, key: name(&map).to_owned(), version });
            if dice(40) == 0 {
                break;
            }
        }
    }
    let to = world.last.load(Ordering::SeqCst);
    world.note(|history| history.streams.push(Stream { from, to, events }));
    Ok(())
}

/// What etcd itself says happened to the keys, from revision `from` until now.
async fn changes(etcd_url: &str, from: Revision) -> Result<Vec<Change>> {
    let mut etcd = etcd_client::Client::connect([etcd_url], None).await?;
    let prefix = format!("/registry/configmaps/{NAMESPACE}/key-");
    let now = etcd.get(prefix.as_str(), Some(GetOptions::new().with_prefix())).await?;
    let now = now.header().context("no header")?.revision();
    // So that the watch has an end.
    let end = format!("{prefix}end");
    etcd.put(end.as_str(), "", None).await?;
    let options = WatchOptions::new().with_prefix().with_start_revision(i64::try_from(from)? + 1);
    let mut watch = etcd.watch(prefix.as_str(), Some(options)).await?;
    let mut changes = Vec::new();
    while let Some(answer) = watch.message().await? {
        for event in answer.events() {
            let pair = event.kv().context("an event without a key")?;
            if pair.mod_revision() > now {
                etcd.delete(end.as_str(), None).await?;
                return Ok(changes);
            }
            let value = match event.event_type() {
                EventType::Delete => None,
                EventType::Put => {
                    let object: Value = serde_json::from_slice(pair.value())?;
                    let value = object["data"]["value"].as_str().context("an object without a value")?;
                    Some(value.parse()?)
                }
            };
            let key = pair.key_str()?.rsplit('/').next().unwrap_or_default().to_owned();
            changes.push(Change { revision: u64::try_from(pair.mod_revision())?, key, value });
        }
    }
    bail!("etcd ended the watch")
}

/// Kills one server after the other, with work done before, meanwhile and after.
fn kill_in_turn(masters: &Masters, world: &World) -> Result<()> {
    let worked = || {
        let enough = world.acknowledged.load(Ordering::SeqCst) + BETWEEN;
        wait::until("the writers get on", LIMIT, || {
            let count = world.acknowledged.load(Ordering::SeqCst);
            ensure!(count >= enough, "{count} writes are acknowledged, {enough} should be");
            Ok(())
        })
    };
    for number in 0..KILLS {
        let victim = number % 2;
        worked()?;
        // The last one is asked to end, as an upgrade does.
        if number == KILLS - 1 {
            masters.server(victim).stop()?
        } else {
            masters.server(victim).kill()?
        }
        worked()?;
        masters.spawn(victim)?;
        masters.wait_ready(victim)?;
    }
    worked()
}

#[test]
fn killing_either_server_loses_nothing_and_no_watch_misses_or_repeats_an_event() -> Result<()> {
    let masters = Masters::start(2)?;
    let runtime = tokio::runtime::Runtime::new()?;
    masters.kubectl(0)?.in_new_namespace(NAMESPACE)?;
    let world = runtime.block_on(async {
        let mut maps = Vec::new();
        for number in 0..2 {
            maps.push(Api::namespaced(client(&masters.kubeconfig(number)).await?, NAMESPACE));
        }
        anyhow::Ok(Arc::new(World {
            maps,
            clock: Clock::default(),
            history: Mutex::default(),
            values: AtomicU64::new(1),
            acknowledged: AtomicU64::new(0),
            done: AtomicBool::new(false),
            last: AtomicU64::new(0),
        }))
    })?;
    // Made by a controller, not by a writer.
    masters
        .kubectl(1)?
        .waits(&format!("get configmap kube-root-ca.crt -n {NAMESPACE} -o name"), &["kube-root-ca.crt"])?;
    let from = runtime.block_on(list_once(&world))?.context("no list")?;

    let mut busy = Vec::new();
    for _ in 0..WRITERS {
        let world = Arc::clone(&world);
        busy.push(runtime.spawn(async move {
            while world.writing() {
                write_something(&world).await?;
            }
            anyhow::Ok(())
        }));
    }
    let reader = Arc::clone(&world);
    busy.push(runtime.spawn(async move {
        while reader.writing() {
            list_once(&reader).await?;
        }
        anyhow::Ok(())
    }));
    let watchers: Vec<_> = (0..WATCHERS)
        .map(|_| {
            let world = Arc::clone(&world);
            runtime.spawn(async move { watch(&world).await })
        })
        .collect();
    let killed = kill_in_turn(&masters, &world);
    world.done.store(true, Ordering::SeqCst);

    let log = runtime.block_on(async {
        futures::stream::iter(busy).then(|task| async { task.await? }).try_for_each(|()| async { Ok(()) }).await?;
        let log = changes(masters.etcd_url(), from).await?;
        let last = log.last().context("nothing was written")?.revision;
        world.last.store(last, Ordering::SeqCst);
        for watcher in watchers {
            let told = tokio::time::timeout(LIMIT, watcher).await;
            told.context("a watcher does not get to the last change")???;
        }
        list_once(&world).await?;
        anyhow::Ok(log)
    });
    killed?;
    let log = log?;

    let mut history = std::mem::take(&mut *world.history.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    history.changes = log;
    let count = |wanted: fn(&Outcome) -> bool| history.writes.iter().filter(|write| wanted(&write.outcome)).count();
    println!(
        "{} changes, {} writes acknowledged, {} refused, {} unknown, {} reads",
        history.changes.len(),
        count(|outcome| matches!(outcome, Outcome::Acknowledged(_))),
        count(|outcome| *outcome == Outcome::Refused),
        count(|outcome| *outcome == Outcome::Unknown),
        history.reads.len(),
    );
    let violations = check(&history);
    let shown: Vec<_> = violations.iter().take(20).map(ToString::to_string).collect();
    ensure!(violations.is_empty(), "{} violations, the first of them:\n{}", violations.len(), shown.join("\n"));
    Ok(())
}

#[test]
fn the_controllers_go_on_at_the_other_server_when_their_leader_is_killed() -> Result<()> {
    let masters = Masters::start(2)?;
    let kubectls = [masters.kubectl(0)?, masters.kubectl(1)?];
    kubectls[0].ok("create deployment before --image=i --replicas=1")?;
    kubectls[1].waits("get replicasets -l app=before -o name", &["replicaset.apps/before-"])?;
    // Whichever leads: after this, the other one must.
    for number in 0..2 {
        masters.server(number).kill()?;
        let (survivor, name) = (&kubectls[1 - number], format!("after-{number}"));
        survivor.ok(&format!("create deployment {name} --image=i --replicas=1"))?;
        survivor.waits(&format!("get pods -l app={name} -o name"), &[&format!("pod/{name}-")])?;
        masters.spawn(number)?;
        masters.wait_ready(number)?;
    }
    Ok(())
}
