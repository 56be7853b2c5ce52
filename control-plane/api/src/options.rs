//! Options clients give in the query, and for deletions in the body.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions as WireDeleteOptions, Preconditions};

use crate::field::{self, Path, quote};
use crate::request::{Query, query_bool};
use crate::selector::{FieldSelector, LabelSelector};
use crate::status::StatusError;

const META_GROUP: &str = "meta.k8s.io";

/// How a `resourceVersion` binds a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResourceVersionMatch {
    /// Exactly that version.
    Exact,
    /// That version or a newer one.
    NotOlderThan,
}

/// Options of list, watch and deletecollection.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListOptions {
    /// Labels objects must have.
    pub label_selector: LabelSelector,
    /// Fields objects must have.
    pub field_selector: FieldSelector,
    /// Follow instead of list.
    pub watch: bool,
    /// Whether the client wants bookmarks.
    pub allow_watch_bookmarks: bool,
    /// Revision asked for; `Some(0)` means anything will do.
    pub resource_version: Option<u64>,
    /// How [`Self::resource_version`] binds.
    pub resource_version_match: Option<ResourceVersionMatch>,
    /// When to end the request.
    pub timeout_seconds: Option<u64>,
    /// Page size; 0 is everything.
    pub limit: u64,
    /// Where the last page ended.
    pub continue_token: Option<String>,
    /// Begin a watch with the present state.
    pub send_initial_events: Option<bool>,
}

/// Options of get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GetOptions {
    /// Revision asked for; `Some(0)` means anything will do.
    pub resource_version: Option<u64>,
}

/// What to do about unknown and repeated fields in a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop them silently.
    Ignore,
    /// Drop them with a warning header: the default.
    #[default]
    Warn,
    /// Refuse the request.
    Strict,
}

/// Options of create.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CreateOptions {
    /// Do everything but persist.
    pub dry_run: bool,
    /// Who is writing, for server-side apply.
    pub field_manager: Option<String>,
    /// About unknown fields.
    pub field_validation: FieldValidation,
}

/// Options of update.
pub type UpdateOptions = CreateOptions;

/// Options of patch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatchOptions {
    /// Do everything but persist.
    pub dry_run: bool,
    /// Take fields other managers own; apply only.
    pub force: Option<bool>,
    /// Who is writing.
    pub field_manager: Option<String>,
    /// About unknown fields.
    pub field_validation: FieldValidation,
}

/// How dependents of a deleted object are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PropagationPolicy {
    /// They stay, without owner.
    Orphan,
    /// They go after their owner.
    Background,
    /// They go before their owner.
    Foreground,
}

/// Options of delete and deletecollection.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeleteOptions {
    /// Do everything but persist.
    pub dry_run: bool,
    /// Seconds until the object is gone; 0 is at once.
    pub grace_period_seconds: Option<i64>,
    /// Uid and resourceVersion the object must have.
    pub preconditions: Option<Preconditions>,
    /// What happens to dependents.
    pub propagation_policy: Option<PropagationPolicy>,
    /// Older form of the above.
    pub orphan_dependents: Option<bool>,
}

impl ListOptions {
    /// Reads the query of a list, watch or deletecollection.
    pub fn parse(query: &Query) -> Result<Self, StatusError> {
        let options = ListOptions {
            label_selector: LabelSelector::parse(query.get("labelSelector").unwrap_or_default())?,
            field_selector: FieldSelector::parse(query.get("fieldSelector").unwrap_or_default())?,
            watch: boolean(query, "watch").unwrap_or(false),
            allow_watch_bookmarks: boolean(query, "allowWatchBookmarks").unwrap_or(false),
            resource_version: resource_version(query)?,
            resource_version_match: None,
            timeout_seconds: integer(query, "timeoutSeconds")?.and_then(|s| u64::try_from(s).ok()),
            limit: integer(query, "limit")?.and_then(|l| u64::try_from(l).ok()).unwrap_or(0),
            continue_token: text(query, "continue"),
            send_initial_events: boolean(query, "sendInitialEvents"),
        };
        options.with_match(query.get("resourceVersionMatch").unwrap_or_default())
    }

    fn with_match(mut self, text: &str) -> Result<Self, StatusError> {
        let mut errors = field::Errors::new();
        let path = Path::new("resourceVersionMatch");
        self.resource_version_match = match text {
            "" => None,
            "Exact" if !self.watch => Some(ResourceVersionMatch::Exact),
            "NotOlderThan" => Some(ResourceVersionMatch::NotOlderThan),
            other if self.watch => {
                errors.push(field::Error::not_supported(&path, other, &["NotOlderThan"]));
                None
            }
            other => {
                errors.push(field::Error::not_supported(&path, other, &["Exact", "NotOlderThan", ""]));
                None
            }
        };
        let forbid = |errors: &mut field::Errors, why: &str| errors.push(field::Error::forbidden(&path, why));
        if self.watch {
            if self.send_initial_events.is_some()
                && self.resource_version_match != Some(ResourceVersionMatch::NotOlderThan)
            {
                forbid(&mut errors, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
            }
            if !text.is_empty() && self.send_initial_events.is_none() {
                forbid(&mut errors, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
            }
        } else {
            if !text.is_empty() && self.resource_version.is_none() {
                forbid(&mut errors, "resourceVersionMatch is forbidden unless resourceVersion is provided");
            }
            if text == "Exact" && self.resource_version == Some(0) {
                forbid(&mut errors, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
            }
            if self.send_initial_events.is_some() {
                let path = Path::new("sendInitialEvents");
                errors.push(field::Error::forbidden(&path, "sendInitialEvents is forbidden for list"));
            }
        }
        if !text.is_empty() && self.continue_token.is_some() {
            forbid(&mut errors, "resourceVersionMatch is forbidden when continue is provided");
        }
        checked("ListOptions", &errors)?;
        if self.continue_token.is_some() && self.resource_version.is_some_and(|v| v != 0) {
            return Err(StatusError::bad_request("specifying resource version is not allowed when using continue"));
        }
        Ok(self)
    }
}

impl GetOptions {
    /// Reads the query of a get.
    pub fn parse(query: &Query) -> Result<Self, StatusError> {
        Ok(GetOptions { resource_version: resource_version(query)? })
    }
}

impl CreateOptions {
    /// Reads the query of a create.
    pub fn parse(query: &Query) -> Result<Self, StatusError> {
        Self::parse_as("CreateOptions", query)
    }

    /// Reads the query of an update.
    pub fn parse_update(query: &Query) -> Result<Self, StatusError> {
        Self::parse_as("UpdateOptions", query)
    }

    fn parse_as(kind: &str, query: &Query) -> Result<Self, StatusError> {
        let mut errors = field::Errors::new();
        let options = CreateOptions {
            dry_run: dry_run(query.all("dryRun"), &mut errors),
            field_manager: field_manager(query, &mut errors),
            field_validation: field_validation(query, &mut errors),
        };
        checked(kind, &errors)?;
        Ok(options)
    }
}

impl PatchOptions {
    /// Reads the query of a patch; `apply` is whether its media type is a server-side apply.
    pub fn parse(query: &Query, apply: bool) -> Result<Self, StatusError> {
        let mut errors = field::Errors::new();
        let force = boolean(query, "force");
        if !apply && force.is_some() {
            errors.push(field::Error::forbidden(&Path::new("force"), "may not be specified for non-apply patch"));
        }
        let manager = field_manager(query, &mut errors);
        if apply && manager.is_none() {
            errors.push(field::Error::required(&Path::new("fieldManager"), "is required for apply patch"));
        }
        let options = PatchOptions {
            dry_run: dry_run(query.all("dryRun"), &mut errors),
            force,
            field_manager: manager,
            field_validation: field_validation(query, &mut errors),
        };
        checked("PatchOptions", &errors)?;
        Ok(options)
    }
}

impl DeleteOptions {
    /// Reads the query of a delete that has no body.
    pub fn parse(query: &Query) -> Result<Self, StatusError> {
        Self::check(WireDeleteOptions {
            dry_run: Some(query.all("dryRun").map(str::to_owned).collect()),
            grace_period_seconds: integer(query, "gracePeriodSeconds")?,
            orphan_dependents: boolean(query, "orphanDependents"),
            propagation_policy: text(query, "propagationPolicy"),
            ..WireDeleteOptions::default()
        })
    }

    /// Takes the body of a delete; where it is given the query is not looked at, as upstream does.
    pub fn from_body(body: WireDeleteOptions) -> Result<Self, StatusError> {
        Self::check(body)
    }

    fn check(wire: WireDeleteOptions) -> Result<Self, StatusError> {
        let mut errors = field::Errors::new();
        let path = Path::new("propagationPolicy");
        if wire.orphan_dependents.is_some() && wire.propagation_policy.is_some() {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(field::Error::invalid(&path, &wire.propagation_policy, why));
        }
        let propagation_policy = match wire.propagation_policy.as_deref() {
            None => None,
            Some("Orphan") => Some(PropagationPolicy::Orphan),
            Some("Background") => Some(PropagationPolicy::Background),
            Some("Foreground") => Some(PropagationPolicy::Foreground),
            Some(other) => {
                errors.push(field::Error::not_supported(&path, other, &["Background", "Foreground", "Orphan"]));
                None
            }
        };
        let dry_run = dry_run(wire.dry_run.iter().flatten().map(String::as_str), &mut errors);
        checked("DeleteOptions", &errors)?;
        Ok(DeleteOptions {
            dry_run,
            // Upstream takes a negative grace period for one second.
            grace_period_seconds: wire.grace_period_seconds.map(|s| if s < 0 { 1 } else { s }),
            preconditions: wire.preconditions,
            propagation_policy,
            orphan_dependents: wire.orphan_dependents,
        })
    }
}

fn checked(kind: &str, errors: &[field::Error]) -> Result<(), StatusError> {
    if errors.is_empty() { Ok(()) } else { Err(StatusError::invalid(META_GROUP, kind, "", errors)) }
}

fn text(query: &Query, key: &str) -> Option<String> {
    query.get(key).filter(|v| !v.is_empty()).map(str::to_owned)
}

fn boolean(query: &Query, key: &str) -> Option<bool> {
    query.get(key).map(query_bool)
}

fn integer(query: &Query, key: &str) -> Result<Option<i64>, StatusError> {
    let Some(text) = query.get(key).filter(|v| !v.is_empty()) else { return Ok(None) };
    text.parse().map(Some).map_err(|e| StatusError::bad_request(go_number_error("ParseInt", text, &e)))
}

fn resource_version(query: &Query) -> Result<Option<u64>, StatusError> {
    let Some(text) = query.get("resourceVersion").filter(|v| !v.is_empty()) else { return Ok(None) };
    text.parse().map(Some).map_err(|e| {
        let why = go_number_error("ParseUint", text, &e);
        StatusError::bad_request(format!("resourceVersion: Invalid value: {}: {why}", quote(text)))
    })
}

fn go_number_error(function: &str, text: &str, error: &std::num::ParseIntError) -> String {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    let why = match error.kind() {
        PosOverflow | NegOverflow => "value out of range",
        _ => "invalid syntax",
    };
    format!("strconv.{function}: parsing {}: {why}", quote(text))
}

fn dry_run<'a>(values: impl Iterator<Item = &'a str>, errors: &mut field::Errors) -> bool {
    let values: Vec<&str> = values.collect();
    if values.iter().any(|v| *v != "All") {
        errors.push(field::Error::not_supported(&Path::new("dryRun"), &values, &["All"]));
    }
    !values.is_empty()
}

fn field_manager(query: &Query, errors: &mut field::Errors) -> Option<String> {
    let manager = text(query, "fieldManager")?;
    validate_field_manager(&manager, &Path::new("fieldManager"), errors);
    Some(manager)
}

/// Checks the name of a manager of fields.
pub(crate) fn validate_field_manager(manager: &str, path: &Path<'_>, errors: &mut field::Errors) {
    if manager.len() > 128 {
        errors.push(field::Error::too_long(path, 128));
    }
    for (at, character) in manager.char_indices().filter(|(_, character)| !is_printable(*character)) {
        let why = format!("invalid character U+{:04X} (at position {at})", u32::from(character));
        errors.push(field::Error::invalid(path, manager, why));
    }
}

/// Whether Go calls it printable: of all white space only the common space is.
fn is_printable(character: char) -> bool {
    character == ' '
        || (!character.is_whitespace() && !matches!(character.escape_debug().nth(1), Some('u' | 'n' | 'r' | 't' | '0')))
}

fn field_validation(query: &Query, errors: &mut field::Errors) -> FieldValidation {
    match query.get("fieldValidation").unwrap_or_default() {
        "Ignore" => FieldValidation::Ignore,
        "" | "Warn" => FieldValidation::Warn,
        "Strict" => FieldValidation::Strict,
        other => {
            let path = Path::new("fieldValidation");
            errors.push(field::Error::not_supported(&path, other, &["", "Ignore", "Strict", "Warn"]));
            FieldValidation::Warn
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::parse(text).unwrap()
    }

    #[test]
    fn a_list_reads_everything_it_is_given() {
        let options =
            ListOptions::parse(&query("labelSelector=a%3Db&limit=5&resourceVersion=7&resourceVersionMatch=Exact"))
                .unwrap();
        assert_eq!((options.limit, options.resource_version), (5, Some(7)));
        assert_eq!(options.resource_version_match, Some(ResourceVersionMatch::Exact));
        assert!(!options.watch);
    }

    #[test]
    fn bad_numbers_are_refused_in_gos_words() {
        let error = ListOptions::parse(&query("limit=x")).unwrap_err();
        assert_eq!(error.message(), "strconv.ParseInt: parsing \"x\": invalid syntax");
        let error = GetOptions::parse(&query("resourceVersion=-1")).unwrap_err();
        assert_eq!(
            error.message(),
            "resourceVersion: Invalid value: \"-1\": strconv.ParseUint: parsing \"-1\": invalid syntax"
        );
    }

    #[test]
    fn combinations_that_make_no_sense_are_refused() {
        for (text, why) in [
            ("resourceVersionMatch=Exact", "unless resourceVersion is provided"),
            ("resourceVersionMatch=Exact&resourceVersion=0", "is forbidden for resourceVersion \"0\""),
            ("sendInitialEvents=true", "sendInitialEvents is forbidden for list"),
            ("watch=1&sendInitialEvents=true", "requires setting resourceVersionMatch to NotOlderThan"),
            ("watch=1&resourceVersionMatch=NotOlderThan", "forbidden for watch unless sendInitialEvents"),
            ("resourceVersionMatch=Foo&resourceVersion=1", "Unsupported value: \"Foo\""),
        ] {
            let error = ListOptions::parse(&query(text)).unwrap_err();
            assert_eq!(error.code(), 422, "{text}");
            assert!(error.message().contains(why), "{text}: {}", error.message());
        }
        assert_eq!(ListOptions::parse(&query("continue=abc&resourceVersion=3")).unwrap_err().code(), 400);
        assert!(ListOptions::parse(&query("continue=abc&resourceVersion=0")).is_ok());
    }

    #[test]
    fn writes_know_dry_run_and_field_validation() {
        let options = CreateOptions::parse(&query("dryRun=All&fieldManager=kubectl&fieldValidation=Strict")).unwrap();
        assert!(options.dry_run);
        assert_eq!(options.field_validation, FieldValidation::Strict);
        assert_eq!(
            CreateOptions::parse(&query("dryRun=Some")).unwrap_err().message(),
            "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\""
        );
        let error = CreateOptions::parse(&query("fieldManager=a%07%C2%A0")).unwrap_err();
        let text = error.message();
        assert!(text.contains("invalid character U+0007 (at position 1)"), "{text}");
        assert!(text.contains("invalid character U+00A0 (at position 2)"), "{text}");
        let long = format!("fieldManager={}", "x".repeat(129));
        let error = CreateOptions::parse(&query(&long)).unwrap_err();
        assert!(error.message().contains("fieldManager: Too long: may not be more than 128 bytes"), "{error}");
        assert!(CreateOptions::parse(&query("fieldManager=a%20%5C%22'")).is_ok());
        let error = PatchOptions::parse(&query(""), true).unwrap_err();
        assert!(error.message().contains("fieldManager: Required value: is required for apply patch"));
    }

    #[test]
    fn deletions_choose_one_way_to_treat_dependents() {
        let options = DeleteOptions::parse(&query("gracePeriodSeconds=-3&propagationPolicy=Foreground")).unwrap();
        assert_eq!(options.grace_period_seconds, Some(1));
        assert_eq!(options.propagation_policy, Some(PropagationPolicy::Foreground));
        assert!(DeleteOptions::parse(&query("orphanDependents=true&propagationPolicy=Orphan")).is_err());
        assert!(DeleteOptions::parse(&query("propagationPolicy=Nope")).is_err());
    }
}
