//! client-go's event correlation: a token bucket per source and object, similar events folded into one after ten in ten minutes,
//! identical ones counted in place. Pure: time is handed in.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use lru::LruCache;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Source, Type};

const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
const SPAM_BURST: f64 = 25.0;
const SPAM_TOKENS_PER_SECOND: f64 = 1.0 / 300.0;
const SIMILAR_MAX: usize = 10;
const SIMILAR_WINDOW: Duration = Duration::from_secs(600);

/// Something that happened, as the caller told it.
#[derive(Clone, Debug)]
pub(super) struct Occurrence {
    pub(super) source: Arc<Source>,
    pub(super) object: ObjectReference,
    pub(super) kind: Type,
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) time: Timestamp,
}

/// What to tell the API server.
#[derive(Debug)]
pub(super) struct Write {
    /// The whole Event, for creation.
    pub(super) event: Event,
    /// Name of an Event already there and what to change in it; tried first.
    pub(super) patch: Option<(String, Value)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Subject {
    source: Arc<Source>,
    api_version: Option<String>,
    kind: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    uid: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Similar {
    subject: Subject,
    kind: Type,
    reason: String,
}

/// Identity of one Event object in the API.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    similar: Similar,
    field_path: Option<String>,
    /// Empty for the combined Event of many similar ones.
    message: String,
}

struct Bucket {
    tokens: f64,
    filled: Instant,
}

struct Group {
    messages: Vec<String>,
    last: Instant,
}

struct Recorded {
    count: i32,
    first: Time,
    name: String,
}

pub(super) struct Correlator {
    buckets: LruCache<Subject, Bucket>,
    groups: LruCache<Similar, Group>,
    recorded: LruCache<Key, Recorded>,
}

impl Default for Correlator {
    fn default() -> Self {
        Self {
            buckets: LruCache::new(REMEMBERED),
            groups: LruCache::new(REMEMBERED),
            recorded: LruCache::new(REMEMBERED),
        }
    }
}

impl Correlator {
    /// What to write for `occurrence`; `None` when its object has had too many events of late.
    pub(super) fn correlate(&mut self, occurrence: Occurrence, now: Instant) -> Option<(Key, Write)> {
        let subject = Subject {
            source: occurrence.source.clone(),
            api_version: occurrence.object.api_version.clone(),
            kind: occurrence.object.kind.clone(),
            namespace: occurrence.object.namespace.clone(),
            name: occurrence.object.name.clone(),
            uid: occurrence.object.uid.clone(),
        };
        if !self.has_token(&subject, now) {
            return None;
        }
        let similar = Similar { subject, kind: occurrence.kind, reason: occurrence.reason.clone() };
        let combined = self.is_one_of_many(&similar, &occurrence.message, now);
        let field_path = occurrence.object.field_path.clone();
        let key =
            Key { similar, field_path, message: if combined { String::new() } else { occurrence.message.clone() } };
        let mut event = event(occurrence, combined);
        let patch = self.recorded.get(&key).map(|known| {
            event.count = Some(known.count.saturating_add(1));
            event.first_timestamp = Some(known.first.clone());
            let patch = json!({
                "count": event.count,
                "message": event.message,
                "lastTimestamp": event.last_timestamp,
            });
            (known.name.clone(), patch)
        });
        Some((key, Write { event, patch }))
    }

    /// Remembers what the API server made of a write.
    pub(super) fn written(&mut self, key: &Key, event: &Event) {
        let (Some(name), Some(first)) = (&event.metadata.name, &event.first_timestamp) else { return };
        let recorded = Recorded { count: event.count.unwrap_or(1), first: first.clone(), name: name.clone() };
        self.recorded.put(key.clone(), recorded);
    }

    fn has_token(&mut self, subject: &Subject, now: Instant) -> bool {
        if !self.buckets.contains(subject) {
            self.buckets.put(subject.clone(), Bucket { tokens: SPAM_BURST, filled: now });
        }
        let Some(bucket) = self.buckets.get_mut(subject) else { return true };
        let refill = now.saturating_duration_since(bucket.filled).as_secs_f64() * SPAM_TOKENS_PER_SECOND;
        bucket.tokens = (bucket.tokens + refill).min(SPAM_BURST);
        bucket.filled = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    fn is_one_of_many(&mut self, similar: &Similar, message: &str, now: Instant) -> bool {
        if !self.groups.contains(similar) {
            self.groups.put(similar.clone(), Group { messages: Vec::new(), last: now });
        }
        let Some(group) = self.groups.get_mut(similar) else { return false };
        if now.saturating_duration_since(group.last) > SIMILAR_WINDOW {
            group.messages.clear();
        }
        group.last = now;
        if group.messages.iter().any(|known| known == message) {
            return false;
        }
        group.messages.push(message.to_owned());
        if group.messages.len() < SIMILAR_MAX {
            return false;
        }
        // Full: this one and later ones are folded; the oldest makes room so that memory stays bounded.
        group.messages.remove(0);
        true
    }
}

fn event(occurrence: Occurrence, combined: bool) -> Event {
    let Occurrence { source, object, kind, reason, message, time } = occurrence;
    let message = if combined { format!("(combined from similar events): {message}") } else { message };
    let namespace = object.namespace.clone().unwrap_or_else(|| "default".to_owned());
    Event {
        metadata: ObjectMeta {
            name: Some(event_name(object.name.as_deref().unwrap_or_default(), time)),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        },
        involved_object: object,
        reason: Some(reason),
        message: Some(truncate(message, 1024)),
        source: Some(EventSource {
            component: Some(source.component.clone()),
            host: Some(source.host.clone()).filter(|host| !host.is_empty()),
        }),
        reporting_component: Some(source.component.clone()),
        reporting_instance: Some(source.host.clone()),
        first_timestamp: Some(Time(time)),
        last_timestamp: Some(Time(time)),
        count: Some(1),
        type_: Some(kind.as_str().to_owned()),
        ..Event::default()
    }
}

/// `<object>.<nanoseconds in hex>`, within the 253 characters a name may have.
fn event_name(object: &str, time: Timestamp) -> String {
    let suffix = format!("{:x}", time.as_nanosecond());
    let keep = 252 - suffix.len();
    let object = truncate(object.to_owned(), keep);
    format!("{}.{suffix}", object.trim_end_matches(['.', '-']))
}

fn truncate(mut text: String, bytes: usize) -> String {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occurrence(name: &str, message: &str) -> Occurrence {
        Occurrence {
            source: Arc::new(Source { component: "default-scheduler".to_owned(), host: String::new() }),
            object: ObjectReference {
                kind: Some("Pod".to_owned()),
                namespace: Some("ns".to_owned()),
                name: Some(name.to_owned()),
                ..ObjectReference::default()
            },
            kind: Type::Warning,
            reason: "FailedScheduling".to_owned(),
            message: message.to_owned(),
            time: Timestamp::from_second(1_700_000_000).unwrap(),
        }
    }

    fn record(correlator: &mut Correlator, name: &str, message: &str, now: Instant) -> Option<Write> {
        let (key, write) = correlator.correlate(occurrence(name, message), now)?;
        correlator.written(&key, &write.event);
        Some(write)
    }

    #[test]
    fn the_same_event_again_counts_up_the_one_already_there() {
        let mut correlator = Correlator::default();
        let now = Instant::now();
        let first = record(&mut correlator, "a", "no room", now).unwrap();
        assert!(first.patch.is_none());
        assert_eq!(first.event.count, Some(1));
        let second = record(&mut correlator, "a", "no room", now).unwrap();
        let (name, patch) = second.patch.unwrap();
        assert_eq!(Some(&name), first.event.metadata.name.as_ref());
        assert_eq!(patch["count"], 2);
        let third = record(&mut correlator, "a", "no room", now).unwrap();
        assert_eq!(third.patch.unwrap().1["count"], 3);
    }

    #[test]
    fn many_similar_events_are_folded_into_one() {
        let mut correlator = Correlator::default();
        let now = Instant::now();
        for number in 1..SIMILAR_MAX {
            let write = record(&mut correlator, "a", &format!("message {number}"), now).unwrap();
            assert!(write.patch.is_none());
        }
        let combined = record(&mut correlator, "a", "message 10", now).unwrap();
        assert_eq!(combined.event.message.as_deref(), Some("(combined from similar events): message 10"));
        let again = record(&mut correlator, "a", "message 11", now).unwrap();
        assert_eq!(again.patch.unwrap().1["message"], "(combined from similar events): message 11");
    }

    #[test]
    fn one_noisy_object_is_silenced_and_others_are_not() {
        let mut correlator = Correlator::default();
        let now = Instant::now();
        for _ in 0..25 {
            assert!(record(&mut correlator, "noisy", "again", now).is_some());
        }
        assert!(record(&mut correlator, "noisy", "again", now).is_none());
        assert!(record(&mut correlator, "quiet", "once", now).is_some());
        assert!(record(&mut correlator, "noisy", "again", now + Duration::from_secs(301)).is_some());
    }

    #[test]
    fn names_and_messages_stay_within_the_api_limits() {
        let time = Timestamp::from_second(1_700_000_000).unwrap();
        assert_eq!(event_name("web", time), format!("web.{:x}", time.as_nanosecond()));
        assert!(event_name(&"x".repeat(253), time).len() <= 253);
        let mut correlator = Correlator::default();
        let write = record(&mut correlator, "a", &"é".repeat(2000), Instant::now()).unwrap();
        assert!(write.event.message.unwrap().len() <= 1024);
    }
}
