//! Events. They live for an hour.

mod events_v1;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::resource::ResourceInfo;
use skep_storage::SelectableField;

use super::checks::text;
use super::strategy::{Column, Strategy, age};
use super::table_info::info;

pub(crate) use events_v1::EventsV1;

/// The strategy of events.
#[derive(Debug)]
pub(crate) struct Events;

const TTL_SECONDS: u64 = 3600;

const COLUMNS: &[Column] = &[
    Column::new("Last Seen", "string", "The time at which the most recent occurrence of this event was recorded."),
    Column::new("Type", "string", "Type of this event (Normal, Warning), new types could be added in the future"),
    Column::new(
        "Reason",
        "string",
        "This should be a short, machine understandable string that gives the reason for the transition into the object's \
         current status.",
    ),
    Column::new("Object", "string", "The object that this event is about."),
    Column::wide(
        "Subobject",
        "string",
        "If referring to a piece of an object instead of an entire object, this string should contain a valid JSON/Go \
         field access statement, such as desiredState.manifest.containers[2].",
    ),
    Column::wide(
        "Source",
        "string",
        "The component reporting this event. Should be a short machine understandable string.",
    ),
    Column::new("Message", "string", "A human-readable description of the status of this operation."),
    Column::wide(
        "First Seen",
        "string",
        "The time at which the event was first recorded. (Time of server receipt is in TypeMeta.)",
    ),
    Column::wide("Count", "string", "The number of times this event has occurred."),
    Column { priority: 1, ..Column::NAME },
];

impl Strategy for Events {
    type Object = Event;

    fn info(&self) -> &'static ResourceInfo {
        info("", "events")
    }

    fn prefix(&self) -> &'static str {
        "/registry/events/"
    }

    fn selectable_fields(&self) -> Vec<SelectableField> {
        vec![
            SelectableField::new("involvedObject.kind"),
            SelectableField::new("involvedObject.namespace"),
            SelectableField::new("involvedObject.name"),
            SelectableField::new("involvedObject.uid"),
            SelectableField::new("involvedObject.apiVersion"),
            SelectableField::new("involvedObject.resourceVersion"),
            SelectableField::new("involvedObject.fieldPath"),
            SelectableField::new("reason"),
            SelectableField::new("reportingComponent"),
            SelectableField::at("source", vec!["source".into(), "component".into()]).or_path("reportingComponent"),
            SelectableField::new("type"),
        ]
    }

    fn validate(&self, event: &Event) -> Errors {
        let mut errors = Errors::new();
        let about = text(&event.involved_object.namespace);
        let own = text(&event.metadata.namespace);
        // Events about cluster-scoped objects are kept in `default`.
        let fits = if about.is_empty() { ["", "default", "kube-system"].contains(&own) } else { about == own };
        if !fits {
            let path = Path::new("involvedObject.namespace");
            errors.push(Error::invalid(&path, about, "does not match event.namespace"));
        }
        if event.event_time.is_some() {
            validate_new_style(event, &mut errors);
        }
        errors
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn ttl(&self) -> Option<u64> {
        Some(TTL_SECONDS)
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, event: &Event, now: Timestamp) -> Vec<Value> {
        let event_time = event.event_time.as_ref().map(|t| t.0);
        let first = event.first_timestamp.as_ref().map(|t| t.0).or(event_time);
        let mut last = event.last_timestamp.as_ref().map(|t| t.0).or(first);
        let mut count = event.count.unwrap_or(0);
        if let Some(series) = &event.series {
            last = series.last_observed_time.as_ref().map(|t| t.0);
            count = series.count.unwrap_or(0);
        } else if count == 0 {
            count = 1;
        }
        let object = &event.involved_object;
        let kind = text(&object.kind).to_lowercase();
        let target = if text(&object.name).is_empty() { kind } else { format!("{kind}/{}", text(&object.name)) };
        vec![
            json!(age(last, now)),
            json!(text(&event.type_)),
            json!(text(&event.reason)),
            json!(target),
            json!(text(&object.field_path)),
            json!(source(event)),
            json!(text(&event.message).trim()),
            json!(age(first, now)),
            json!(count),
            json!(text(&event.metadata.name)),
        ]
    }
}

/// What upstream demands of events that carry `eventTime`.
fn validate_new_style(event: &Event, errors: &mut Errors) {
    let required = [
        ("reportingController", text(&event.reporting_component)),
        ("reportingInstance", text(&event.reporting_instance)),
        ("action", text(&event.action)),
        ("reason", text(&event.reason)),
    ];
    for (field, _) in required.into_iter().filter(|(_, value)| value.is_empty()) {
        errors.push(Error::required(&Path::new(field), ""));
    }
    for (field, value) in [("reportingInstance", text(&event.reporting_instance)), ("action", text(&event.action))] {
        if value.len() > 128 {
            errors.push(Error::invalid(&Path::new(field), "", "can have at most 128 characters"));
        }
    }
    if text(&event.message).len() > 1024 {
        errors.push(Error::invalid(&Path::new("message"), "", "can have at most 1024 characters"));
    }
}

fn source(event: &Event) -> String {
    let source = event.source.as_ref();
    let or = |a: Option<&String>, b: &Option<String>| {
        a.filter(|s| !s.is_empty()).cloned().unwrap_or_else(|| text(b).to_owned())
    };
    let component = or(source.and_then(|s| s.component.as_ref()), &event.reporting_component);
    let host = or(source.and_then(|s| s.host.as_ref()), &event.reporting_instance);
    if host.is_empty() { component } else { format!("{component}, {host}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(value: Value) -> Event {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn an_event_lives_beside_its_object() {
        let good = event(json!({"metadata": {"name": "e", "namespace": "a"}, "involvedObject": {"namespace": "a"}}));
        assert_eq!(Events.validate(&good), []);
        let bad = event(json!({"metadata": {"name": "e", "namespace": "a"}, "involvedObject": {"namespace": "b"}}));
        assert_eq!(
            Events.validate(&bad)[0].to_string(),
            "involvedObject.namespace: Invalid value: \"b\": does not match event.namespace"
        );
    }

    #[test]
    fn a_row_tells_who_saw_what_and_when() {
        let row = Events.row(
            &event(json!({
                "metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p"}, "type": "Normal", "reason": "Pulled",
                "message": " done \n", "firstTimestamp": "1970-01-01T00:00:00Z", "lastTimestamp": "1970-01-01T00:00:30Z",
                "count": 3, "source": {"component": "kubelet", "host": "n1"},
            })),
            Timestamp::from_second(60).unwrap(),
        );
        assert_eq!(
            row,
            [
                json!("30s"),
                json!("Normal"),
                json!("Pulled"),
                json!("pod/p"),
                json!(""),
                json!("kubelet, n1"),
                json!("done"),
                json!("60s"),
                json!(3),
                json!("e")
            ]
        );
    }
}
