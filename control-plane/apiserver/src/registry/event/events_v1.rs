//! `events.k8s.io/v1`: the same events in newer words.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use skep_api::field::{Error, Errors, Path};
use skep_api::resource::ResourceInfo;

use crate::registry::checks::{immutable, text};
use crate::registry::table_info::info;
use crate::registry::version::{FieldNames, Version};

/// Events as `events.k8s.io/v1` shows them.
#[derive(Debug)]
pub(crate) struct EventsV1;

impl Version for EventsV1 {
    type Served = Event;
    type Stored = core::Event;

    fn info(&self) -> &'static ResourceInfo {
        info("events.k8s.io", "events")
    }

    fn field_names(&self) -> FieldNames {
        &[
            ("regarding.kind", "involvedObject.kind"),
            ("regarding.namespace", "involvedObject.namespace"),
            ("regarding.name", "involvedObject.name"),
            ("regarding.uid", "involvedObject.uid"),
            ("regarding.apiVersion", "involvedObject.apiVersion"),
            ("regarding.resourceVersion", "involvedObject.resourceVersion"),
            ("regarding.fieldPath", "involvedObject.fieldPath"),
            ("reason", "reason"),
            ("reportingController", "reportingComponent"),
            ("type", "type"),
        ]
    }

    fn to_stored(&self, event: Event) -> core::Event {
        core::Event {
            action: event.action,
            count: event.deprecated_count,
            event_time: event.event_time,
            first_timestamp: event.deprecated_first_timestamp,
            involved_object: event.regarding.unwrap_or_default(),
            last_timestamp: event.deprecated_last_timestamp,
            message: event.note,
            metadata: event.metadata,
            reason: event.reason,
            related: event.related,
            reporting_component: event.reporting_controller,
            reporting_instance: event.reporting_instance,
            series: event.series.map(|series| core::EventSeries {
                count: Some(series.count),
                last_observed_time: Some(series.last_observed_time),
            }),
            source: event.deprecated_source,
            type_: event.type_,
        }
    }

    fn to_served(&self, event: core::Event) -> Event {
        Event {
            action: event.action,
            deprecated_count: event.count,
            deprecated_first_timestamp: event.first_timestamp,
            deprecated_last_timestamp: event.last_timestamp,
            deprecated_source: event.source,
            event_time: event.event_time,
            metadata: event.metadata,
            note: event.message,
            reason: event.reason,
            regarding: Some(event.involved_object),
            related: event.related,
            reporting_controller: event.reporting_component,
            reporting_instance: event.reporting_instance,
            series: event.series.and_then(|series| {
                Some(EventSeries { count: series.count.unwrap_or(0), last_observed_time: series.last_observed_time? })
            }),
            type_: event.type_,
        }
    }

    fn validate_create(&self, event: &core::Event) -> Errors {
        let mut errors = Errors::new();
        if event.event_time.is_none() {
            errors.push(Error::required(&Path::new("eventTime"), ""));
        }
        validate_type(event, &mut errors);
        let why = "needs to be unset";
        if event.first_timestamp.is_some() {
            errors.push(Error::invalid(&Path::new("firstTimestamp"), "", why));
        }
        if event.last_timestamp.is_some() {
            errors.push(Error::invalid(&Path::new("lastTimestamp"), "", why));
        }
        if event.count.unwrap_or(0) != 0 {
            errors.push(Error::invalid(&Path::new("count"), "", why));
        }
        let source = event.source.clone().unwrap_or_default();
        if !text(&source.component).is_empty() || !text(&source.host).is_empty() {
            errors.push(Error::invalid(&Path::new("source"), "", why));
        }
        errors.extend(validate_series(event));
        errors
    }

    fn validate_update(&self, event: &core::Event, old: &core::Event) -> Errors {
        let mut errors = Errors::new();
        validate_type(event, &mut errors);
        immutable(&mut errors, &Path::new("involvedObject"), &event.involved_object, &old.involved_object);
        immutable(&mut errors, &Path::new("reason"), &event.reason, &old.reason);
        immutable(&mut errors, &Path::new("message"), &event.message, &old.message);
        immutable(&mut errors, &Path::new("eventTime"), &event.event_time, &old.event_time);
        immutable(&mut errors, &Path::new("firstTimestamp"), &event.first_timestamp, &old.first_timestamp);
        immutable(&mut errors, &Path::new("lastTimestamp"), &event.last_timestamp, &old.last_timestamp);
        immutable(&mut errors, &Path::new("count"), &event.count, &old.count);
        immutable(&mut errors, &Path::new("related"), &event.related, &old.related);
        let path = Path::new("reportingController");
        immutable(&mut errors, &path, &event.reporting_component, &old.reporting_component);
        let path = Path::new("reportingInstance");
        immutable(&mut errors, &path, &event.reporting_instance, &old.reporting_instance);
        immutable(&mut errors, &Path::new("action"), &event.action, &old.action);
        errors.extend(validate_series(event));
        errors
    }
}

fn validate_type(event: &core::Event, errors: &mut Errors) {
    let kind = text(&event.type_);
    if !["Normal", "Warning"].contains(&kind) {
        errors.push(Error::invalid(&Path::new("type"), "", format!("has invalid value: {kind}")));
    }
}

fn validate_series(event: &core::Event) -> Errors {
    let mut errors = Errors::new();
    if let Some(series) = &event.series {
        if series.count.unwrap_or(0) < 2 {
            let why = "should be at least 2";
            errors.push(Error::invalid(&Path::new("series.count"), "", why));
        }
        if series.last_observed_time.is_none() {
            errors.push(Error::required(&Path::new("series.lastObservedTime"), ""));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_versions_say_the_same() {
        let stored: core::Event = serde_json::from_value(json!({
            "metadata": {"name": "e", "namespace": "a"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "a"},
            "message": "pulled", "reason": "Pulled", "type": "Normal", "count": 3,
            "firstTimestamp": "2024-01-01T00:00:00Z", "lastTimestamp": "2024-01-01T00:00:30Z",
            "source": {"component": "kubelet", "host": "n1"}, "reportingComponent": "kubelet", "reportingInstance": "n1",
        }))
        .unwrap();
        let served = EventsV1.to_served(stored.clone());
        let shown = serde_json::to_value(&served).unwrap();
        assert_eq!(shown["apiVersion"], "events.k8s.io/v1");
        assert_eq!((&shown["note"], &shown["deprecatedCount"]), (&json!("pulled"), &json!(3)));
        assert_eq!((&shown["regarding"]["name"], &shown["reportingController"]), (&json!("p"), &json!("kubelet")));
        assert_eq!(EventsV1.to_stored(served), stored);
    }

    #[test]
    fn new_events_speak_no_deprecated_words() {
        let event = serde_json::from_value(json!({"count": 1, "type": "Odd"})).unwrap();
        let texts: Vec<_> = EventsV1.validate_create(&event).iter().map(Error::to_string).collect();
        assert_eq!(
            texts,
            [
                "eventTime: Required value",
                "type: Invalid value: \"\": has invalid value: Odd",
                "count: Invalid value: \"\": needs to be unset"
            ]
        );
    }
}
