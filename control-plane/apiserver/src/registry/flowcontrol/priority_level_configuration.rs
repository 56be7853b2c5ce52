//! PriorityLevelConfigurations.

use jiff::Timestamp;
use k8s_openapi::api::flowcontrol::v1::{
    LimitedPriorityLevelConfiguration, PriorityLevelConfiguration, PriorityLevelConfigurationStatus,
};
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::resource::ResourceInfo;

use super::GROUP;
use crate::registry::cell;
use crate::registry::checks::{not_negative, positive, text};
use crate::registry::strategy::{Column, Context, Strategy};
use crate::registry::table_info::info;

/// The strategy of priority levels.
#[derive(Debug)]
pub(crate) struct PriorityLevelConfigurations;

type Level = PriorityLevelConfiguration;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Type", "string", "Whether requests of this level are limited."),
    Column::new("NominalConcurrencyShares", "string", "The share of the server's capacity this level has."),
    Column::new("Queues", "string", "How many queues requests wait in."),
    Column::new("HandSize", "string", "How many queues each flow is dealt."),
    Column::new("QueueLengthLimit", "string", "How many requests may wait in one queue."),
    Column::AGE,
];
const DEFAULT_SHARES: i32 = 30;
const MAX_QUEUES: i32 = 10_000_000;

impl Strategy for PriorityLevelConfigurations {
    type Object = Level;

    fn info(&self) -> &'static ResourceInfo {
        info(GROUP, "prioritylevelconfigurations")
    }

    fn prefix(&self) -> &'static str {
        "/registry/prioritylevelconfigurations/"
    }

    fn default(&self, level: &mut Level) {
        let Some(spec) = &mut level.spec else { return };
        if spec.type_ == "Exempt" {
            let exempt = spec.exempt.get_or_insert_default();
            exempt.nominal_concurrency_shares.get_or_insert(0);
            exempt.lendable_percent.get_or_insert(0);
        }
        if let Some(limited) = &mut spec.limited {
            limited.nominal_concurrency_shares.get_or_insert(DEFAULT_SHARES);
            limited.lendable_percent.get_or_insert(0);
            if let Some(queuing) = limited.limit_response.as_mut().and_then(|r| r.queuing.as_mut()) {
                for (field, value) in
                    [(&mut queuing.queues, 64), (&mut queuing.hand_size, 8), (&mut queuing.queue_length_limit, 50)]
                {
                    *field = field.filter(|v| *v != 0).or(Some(value));
                }
            }
        }
    }

    fn prepare_for_create(&self, _ctx: &Context<'_>, level: &mut Level) {
        level.status = Some(PriorityLevelConfigurationStatus::default());
    }

    fn validate(&self, level: &Level) -> Errors {
        let mut errors = Errors::new();
        let spec = level.spec.clone().unwrap_or_default();
        let path = Path::new("spec");
        let name = text(&level.metadata.name);
        if (name == "exempt") != (spec.type_ == "Exempt") && ["Exempt", "Limited"].contains(&spec.type_.as_str()) {
            let why = "type must be 'Exempt' if and only if `name` is 'exempt'";
            errors.push(Error::invalid(&path.child("type"), &spec.type_, why));
        }
        match spec.type_.as_str() {
            "Exempt" => {
                if spec.limited.is_some() {
                    let why = "must be nil if the type is not Limited";
                    errors.push(Error::forbidden(&path.child("limited"), why));
                }
                let exempt = spec.exempt.unwrap_or_default();
                let at = path.child("exempt");
                not_negative(&mut errors, &at.child("nominalConcurrencyShares"), exempt.nominal_concurrency_shares);
                percent(exempt.lendable_percent, &at.child("lendablePercent"), &mut errors);
            }
            "Limited" => {
                if spec.exempt.is_some() {
                    let why = "must be nil if the type is Limited";
                    errors.push(Error::forbidden(&path.child("exempt"), why));
                }
                match &spec.limited {
                    None => {
                        errors.push(Error::required(&path.child("limited"), "must not be empty when type is Limited"))
                    }
                    Some(limited) => validate_limited(limited, &path.child("limited"), &mut errors),
                }
            }
            other => errors.push(Error::not_supported(&path.child("type"), other, &["Exempt", "Limited"])),
        }
        errors
    }

    fn prepare_for_update(&self, _ctx: &Context<'_>, level: &mut Level, old: &Level) {
        level.status.clone_from(&old.status);
    }

    fn bumps_generation(&self, level: &Level, old: &Level) -> bool {
        level.spec != old.spec
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn prepare_for_status_update(&self, _ctx: &Context<'_>, level: &mut Level, old: &Level) {
        level.spec.clone_from(&old.spec);
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, level: &Level, now: Timestamp) -> Vec<Value> {
        let spec = level.spec.clone().unwrap_or_default();
        let limited = spec.limited.as_ref();
        let queuing = limited.and_then(|l| l.limit_response.as_ref()).and_then(|r| r.queuing.as_ref());
        let number = |number: Option<i32>| number.map_or_else(|| json!("<none>"), |n| json!(n));
        vec![
            cell::name(&level.metadata),
            json!(spec.type_),
            number(limited.and_then(|l| l.nominal_concurrency_shares)),
            number(queuing.and_then(|q| q.queues)),
            number(queuing.and_then(|q| q.hand_size)),
            number(queuing.and_then(|q| q.queue_length_limit)),
            cell::age(&level.metadata, now),
        ]
    }
}

fn percent(value: Option<i32>, path: &Path<'_>, errors: &mut Errors) {
    if let Some(value) = value.filter(|v| !(0..=100).contains(v)) {
        errors.push(Error::invalid(path, value, "must be between 0 and 100, inclusive"));
    }
}

fn validate_limited(limited: &LimitedPriorityLevelConfiguration, path: &Path<'_>, errors: &mut Errors) {
    if let Some(shares) = limited.nominal_concurrency_shares.filter(|s| *s < 0) {
        let why = "must be a non-negative integer";
        errors.push(Error::invalid(&path.child("nominalConcurrencyShares"), shares, why));
    }
    percent(limited.lendable_percent, &path.child("lendablePercent"), errors);
    if let Some(borrowed) = limited.borrowing_limit_percent.filter(|b| *b < 0) {
        let why = "if specified, must be a non-negative integer";
        errors.push(Error::invalid(&path.child("borrowingLimitPercent"), borrowed, why));
    }
    let path = path.child("limitResponse");
    let response = limited.limit_response.clone().unwrap_or_default();
    match (response.type_.as_str(), &response.queuing) {
        ("Reject", Some(_)) => {
            let why = "must be nil if limited.limitResponse.type is not Limited";
            errors.push(Error::forbidden(&path.child("queuing"), why));
        }
        ("Reject", None) => {}
        ("Queue", None) => {
            let why = "must not be empty if limited.limitResponse.type is Limited";
            errors.push(Error::required(&path.child("queuing"), why));
        }
        ("Queue", Some(queuing)) => {
            let path = path.child("queuing");
            positive(errors, &path.child("queueLengthLimit"), queuing.queue_length_limit);
            let queues = queuing.queues.unwrap_or(0);
            positive(errors, &path.child("queues"), queuing.queues);
            if queues > MAX_QUEUES {
                let why = format!("must not be greater than {MAX_QUEUES}");
                errors.push(Error::invalid(&path.child("queues"), queues, why));
            }
            positive(errors, &path.child("handSize"), queuing.hand_size);
            if let Some(hand) = queuing.hand_size.filter(|hand| *hand > queues) {
                let why = format!("should not be greater than queues ({queues})");
                errors.push(Error::invalid(&path.child("handSize"), hand, why));
            }
        }
        (other, _) => errors.push(Error::not_supported(&path.child("type"), other, &["Queue", "Reject"])),
    }
}
