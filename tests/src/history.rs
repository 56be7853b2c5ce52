//! A checker of histories: were the servers, taken together, one consistent store?
//!
//! Clients note what they asked, when, and what they heard ([`Write`], [`Read`]); watchers note every event
//! ([`Stream`]); etcd, asked afterwards, tells what really happened ([`Change`]s, in the order of their revisions).
//! [`check`] holds the notes against that:
//!
//! - **Nothing acknowledged is lost.** Every acknowledged write is a change of etcd, at the revision the client was told.
//! - **Nothing is made up or repeated.** Every change comes from exactly one write, and from none that was refused.
//! - **One winner a version.** A write on condition of a version directly follows that version; a creation follows
//!   nothing or a deletion. As every change has one predecessor, two winners of one version cannot both do so.
//! - **No travel back in time.** A write that began after another was acknowledged has a greater revision. A consistent
//!   read shows a state at least as new as everything acknowledged, and everything read by anyone through any server,
//!   before it began; and it shows exactly the state etcd had then.
//! - **Watches tell every change once and in order**, from where they started to the last one they told, whichever
//!   servers they were resumed at.
//!
//! "Before" is by the ticks of one counter that all clients share: one operation is before another if it ended at a
//! smaller tick than the other began at.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// A version of the store or of an object: etcd's revision.
pub type Revision = u64;

/// The counter that orders operations.
#[derive(Debug, Default)]
pub struct Clock(AtomicU64);

impl Clock {
    /// The next tick.
    pub fn tick(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

/// From the tick before the request was sent to the tick after its answer was read.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Before the request was sent.
    pub start: u64,
    /// After the answer was read, or given up.
    pub end: u64,
}

/// What the client demanded of the version it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// Nothing.
    Any,
    /// That there is none.
    Absent,
    /// That it is this one.
    Version(Revision),
}

/// How a write ended, as far as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done; for all but deletions the answer tells the revision.
    Acknowledged(Option<Revision>),
    /// Not done, and never will be.
    Refused,
    /// The connection broke, or the server did not know itself.
    Unknown,
}

/// One create, update or deletion.
#[derive(Clone, Debug)]
pub struct Write {
    /// The object.
    pub key: String,
    /// What is written, different in every write; `None` deletes.
    pub value: Option<u64>,
    /// The condition.
    pub base: Base,
    /// When.
    pub span: Span,
    /// How it ended.
    pub outcome: Outcome,
}

/// An object as it is at one revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// The revision that made it so.
    pub revision: Revision,
    /// What was written.
    pub value: u64,
}

/// All objects at one revision, by key.
pub type State = BTreeMap<String, Version>;

/// A consistent read.
#[derive(Clone, Debug)]
pub enum Read {
    /// Of everything.
    List {
        /// When.
        span: Span,
        /// The list's resourceVersion.
        revision: Revision,
        /// What it held.
        state: State,
    },
    /// Of one object.
    Get {
        /// When.
        span: Span,
        /// The object.
        key: String,
        /// What was there.
        found: Option<Version>,
    },
}

/// An event of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// ADDED, MODIFIED or DELETED.
    pub kind: Kind,
    /// What changed. A deletion carries the last value.
    pub key: String,
    /// The object's resourceVersion and value.
    pub version: Version,
}

/// The kind of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are upstream's words")]
pub enum Kind {
    Added,
    Modified,
    Deleted,
}

/// One watcher's story, across all its reconnections.
#[derive(Clone, Debug)]
pub struct Stream {
    /// The revision it began after.
    pub from: Revision,
    /// The revision up to which it must have told everything.
    pub to: Revision,
    /// What it told.
    pub events: Vec<Event>,
}

/// What etcd says happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub revision: Revision,
    /// To what.
    pub key: String,
    /// What was written; `None` is a deletion.
    pub value: Option<u64>,
}

/// Everything that was noted.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// In any order.
    pub writes: Vec<Write>,
    /// In any order.
    pub reads: Vec<Read>,
    /// One a watcher.
    pub streams: Vec<Stream>,
    /// In the order of revisions, from an empty store.
    pub changes: Vec<Change>,
}

/// Something that cannot happen in one consistent store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which rule is broken.
    pub rule: Rule,
    /// By what.
    pub what: String,
}

/// The rules, as the module's documentation lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the module's documentation explains them")]
pub enum Rule {
    Lost,
    MadeUp,
    TwoWinners,
    BackInTime,
    WrongRead,
    WatchMissed,
    WatchRepeated,
    WatchWrong,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.what)
    }
}

/// Every violation of the rules; none means that the history is one of a consistent store.
pub fn check(history: &History) -> Vec<Violation> {
    let mut check = Check { log: Log::new(&history.changes), violations: Vec::new() };
    let effects = check.effects(&history.writes);
    check.order(&history.writes, &effects, &history.reads);
    for read in &history.reads {
        check.read(read);
    }
    for (number, stream) in history.streams.iter().enumerate() {
        check.stream(number, stream);
    }
    check.violations
}

/// etcd's changes, indexed.
struct Log<'a> {
    changes: &'a [Change],
    /// Per key, the changes' places.
    by_key: BTreeMap<&'a str, Vec<usize>>,
}

impl<'a> Log<'a> {
    fn new(changes: &'a [Change]) -> Self {
        let mut by_key = BTreeMap::<_, Vec<_>>::new();
        for (place, change) in changes.iter().enumerate() {
            by_key.entry(change.key.as_str()).or_default().push(place);
        }
        Self { changes, by_key }
    }

    fn of(&self, key: &str) -> impl DoubleEndedIterator<Item = &'a Change> + '_ {
        self.by_key.get(key).into_iter().flatten().map(|place| &self.changes[*place])
    }

    /// The change of `key` before `revision`.
    fn before(&self, key: &str, revision: Revision) -> Option<&'a Change> {
        self.of(key).rev().find(|change| change.revision < revision)
    }

    /// What `key` was at `revision`.
    fn at(&self, key: &str, revision: Revision) -> Option<Version> {
        let change = self.before(key, revision + 1)?;
        change.value.map(|value| Version { revision: change.revision, value })
    }

    fn state(&self, revision: Revision) -> State {
        let keys = self.by_key.keys();
        keys.filter_map(|key| Some(((*key).to_owned(), self.at(key, revision)?))).collect()
    }
}

struct Check<'a> {
    log: Log<'a>,
    violations: Vec<Violation>,
}

impl Check<'_> {
    fn violated(&mut self, rule: Rule, what: String) {
        self.violations.push(Violation { rule, what });
    }

    /// Which change each write made; and that acknowledged writes made one, that every change was made by one, and that
    /// conditions held.
    fn effects(&mut self, writes: &[Write]) -> Vec<Option<Revision>> {
        let mut made = BTreeMap::<Revision, usize>::new();
        let mut effects = Vec::new();
        for (number, write) in writes.iter().enumerate() {
            let effect = self.effect(write);
            effects.push(effect);
            let Some(revision) = effect else {
                if let Outcome::Acknowledged(told) = write.outcome {
                    self.violated(Rule::Lost, format!("etcd has no change (told: {told:?}) for {write:?}"));
                }
                continue;
            };
            match write.outcome {
                Outcome::Acknowledged(Some(told)) if told != revision => {
                    self.violated(Rule::Lost, format!("it was made at {revision}: {write:?}"));
                }
                // Of a deletion one cannot tell whose it was: another's on the same version may have been done.
                Outcome::Refused if write.value.is_some() => {
                    self.violated(Rule::MadeUp, format!("made at {revision} although refused: {write:?}"));
                }
                _ => {}
            }
            let before = self.log.before(&write.key, revision);
            let before_version = before.and_then(|change| change.value.map(|_| change.revision));
            let held = match write.base {
                Base::Any => true,
                Base::Absent => before_version.is_none(),
                Base::Version(version) => before_version == Some(version),
            };
            if !held {
                self.violated(Rule::TwoWinners, format!("made at {revision}, upon {before:?}: {write:?}"));
            }
            if write.outcome != Outcome::Refused
                && let Some(other) = made.insert(revision, number)
                && write.outcome != Outcome::Unknown
                && writes[other].outcome != Outcome::Unknown
            {
                self.violated(Rule::TwoWinners, format!("{write:?} and {:?}", writes[other]));
            }
        }
        let unmade: Vec<_> = self.log.changes.iter().filter(|change| !made.contains_key(&change.revision)).collect();
        for change in unmade {
            self.violated(Rule::MadeUp, format!("nobody wrote {change:?}"));
        }
        effects
    }

    /// The change that `write` made, if it made one.
    fn effect(&self, write: &Write) -> Option<Revision> {
        let made = |change: &&Change| change.value == write.value;
        match (write.value, write.base) {
            (Some(_), _) => self.log.of(&write.key).find(made).map(|change| change.revision),
            // A deletion on condition is the next change of its version, or was not done.
            (None, Base::Version(version)) => {
                let next = self.log.of(&write.key).find(|change| change.revision > version);
                next.filter(made).map(|change| change.revision)
            }
            (None, _) => None,
        }
    }

    /// That what happened before in the clients' time happened before in the store's.
    fn order(&mut self, writes: &[Write], effects: &[Option<Revision>], reads: &[Read]) {
        // (start, end, lowest revision it may have, revision it makes known, what)
        let mut operations = Vec::new();
        for (write, effect) in writes.iter().zip(effects) {
            if let (Outcome::Acknowledged(_), Some(revision)) = (write.outcome, effect) {
                operations.push((write.span, *revision, Some(*revision), format!("{write:?}")));
            }
        }
        for read in reads {
            match read {
                Read::List { span, revision, .. } => {
                    operations.push((*span, *revision, Some(*revision), format!("a list at {revision}")));
                }
                Read::Get { span, key, found } => {
                    // It shows the object as it was until its next change.
                    let since = found.map_or(0, |found| found.revision);
                    let known = found.map(|found| found.revision);
                    let until = self.last_with(key, *found).unwrap_or(since);
                    operations.push((*span, until, known, format!("a get of {key} that found {found:?}")));
                }
            }
        }
        // By start, beside those same operations by end: what ended before each began.
        let mut by_end: Vec<usize> = (0..operations.len()).collect();
        by_end.sort_by_key(|place| operations[*place].0.end);
        let mut by_start = by_end.clone();
        by_start.sort_by_key(|place| operations[*place].0.start);
        let mut ended = by_end.into_iter().peekable();
        let mut newest: Option<(Revision, usize)> = None;
        let mut found = Vec::new();
        for place in by_start {
            let (span, latest, ..) = &operations[place];
            while let Some(earlier) = ended.next_if(|earlier| operations[*earlier].0.end < span.start) {
                if let Some(known) = operations[earlier].2
                    && newest.is_none_or(|(revision, _)| known > revision)
                {
                    newest = Some((known, earlier));
                }
            }
            if let Some((revision, earlier)) = newest
                && *latest < revision
            {
                found.push(format!("{} after {}", operations[place].3, operations[earlier].3));
            }
        }
        for what in found {
            self.violated(Rule::BackInTime, what);
        }
    }

    /// The last revision at which `key` was as `found`.
    fn last_with(&self, key: &str, found: Option<Version>) -> Option<Revision> {
        let mut changes = self.log.of(key).rev();
        match found {
            Some(found) => {
                let next = self.log.of(key).find(|change| change.revision > found.revision);
                Some(next.map_or(Revision::MAX, |next| next.revision - 1))
            }
            // Absent last before its last creation, or at the end.
            None => match changes.next() {
                None => Some(Revision::MAX),
                Some(last) if last.value.is_none() => Some(Revision::MAX),
                Some(_) => {
                    let all: Vec<_> = self.log.of(key).collect();
                    let created = all.iter().enumerate().rev().find(|(place, change)| {
                        change.value.is_some() && (*place == 0 || all[place - 1].value.is_none())
                    });
                    created.map(|(_, change)| change.revision - 1)
                }
            },
        }
    }

    /// That a read shows what there was.
    fn read(&mut self, read: &Read) {
        match read {
            Read::List { revision, state, .. } => {
                let expected = self.log.state(*revision);
                if *state != expected {
                    let all: BTreeSet<_> = state.keys().chain(expected.keys()).collect();
                    let differ: Vec<_> = all
                        .into_iter()
                        .filter(|key| state.get(*key) != expected.get(*key))
                        .map(|key| format!("{key}: {:?} and not {:?}", state.get(key), expected.get(key)))
                        .collect();
                    self.violated(Rule::WrongRead, format!("a list at {revision}: {}", differ.join(", ")));
                }
            }
            Read::Get { key, found: Some(found), .. } => {
                if self.log.at(key, found.revision) != Some(*found) {
                    self.violated(Rule::WrongRead, format!("a get of {key}: {found:?} never was"));
                }
            }
            Read::Get { .. } => {}
        }
    }

    /// That a stream tells every change of its range once, in order and truly.
    fn stream(&mut self, number: usize, stream: &Stream) {
        let mut told = BTreeSet::new();
        let mut last = stream.from;
        for event in &stream.events {
            let revision = event.version.revision;
            if !told.insert(revision) {
                self.violated(Rule::WatchRepeated, format!("stream {number}: {event:?}"));
            } else if revision <= last {
                self.violated(Rule::WatchWrong, format!("stream {number}: {event:?} came after {last}"));
            }
            last = last.max(revision);
            let Some(expected) = self.expected(revision) else {
                self.violated(Rule::WatchWrong, format!("stream {number}: {event:?} never happened"));
                continue;
            };
            if *event != expected {
                self.violated(Rule::WatchWrong, format!("stream {number}: {event:?} and not {expected:?}"));
            }
        }
        let range = |change: &&Change| (stream.from + 1..=stream.to).contains(&change.revision);
        let missed: Vec<_> =
            self.log.changes.iter().filter(range).filter(|change| !told.contains(&change.revision)).collect();
        for change in missed {
            self.violated(Rule::WatchMissed, format!("stream {number}: {change:?}"));
        }
    }

    /// The event of the change at `revision`.
    fn expected(&self, revision: Revision) -> Option<Event> {
        let place = self.log.changes.binary_search_by_key(&revision, |change| change.revision).ok()?;
        let change = &self.log.changes[place];
        let before = self.log.before(&change.key, revision).and_then(|before| before.value);
        let (kind, value) = match (before, change.value) {
            (None, Some(value)) => (Kind::Added, value),
            (Some(_), Some(value)) => (Kind::Modified, value),
            (Some(value), None) => (Kind::Deleted, value),
            (None, None) => return None,
        };
        Some(Event { kind, key: change.key.clone(), version: Version { revision, value } })
    }
}

#[cfg(test)]
mod tests;
