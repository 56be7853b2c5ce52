//! Secrets.

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::resource::ResourceInfo;
use skep_api::{meta, name};
use skep_storage::SelectableField;

use super::checks::{self, text};
use super::config_map::{FROZEN, MAX_DATA};
use super::strategy::{Column, Context, Strategy, age};
use super::table_info::info;

/// The strategy of secrets.
#[derive(Debug)]
pub(crate) struct Secrets;

const ACCOUNT: &str = "kubernetes.io/service-account.name";

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new(
        "Type",
        "string",
        "Used to facilitate programmatic handling of secret data. More info: \
         https://kubernetes.io/docs/concepts/configuration/secret/#secret-types",
    ),
    Column::new("Data", "string", "Data contains the secret data."),
    Column::AGE,
];

impl Strategy for Secrets {
    type Object = Secret;

    fn info(&self) -> &'static ResourceInfo {
        info("", "secrets")
    }

    fn prefix(&self) -> &'static str {
        "/registry/secrets/"
    }

    fn selectable_fields(&self) -> Vec<SelectableField> {
        vec![SelectableField::new("type")]
    }

    fn default(&self, secret: &mut Secret) {
        if text(&secret.type_).is_empty() {
            secret.type_ = Some("Opaque".to_owned());
        }
        // Write-only: what is given as text becomes data.
        if let Some(strings) = secret.string_data.take()
            && !strings.is_empty()
        {
            let data = secret.data.get_or_insert_default();
            data.extend(strings.into_iter().map(|(key, value)| (key, ByteString(value.into_bytes()))));
        }
    }

    fn validate(&self, secret: &Secret) -> Errors {
        let mut errors = Errors::new();
        let path = Path::new("data");
        let mut total = 0;
        for (key, value) in secret.data.iter().flatten() {
            checks::name(&mut errors, &path.key(key), key, name::config_map_key);
            total += value.0.len();
        }
        if total > MAX_DATA {
            errors.push(Error::too_long(&path, MAX_DATA));
        }
        validate_type(secret, &mut errors);
        errors
    }

    fn prepare_for_update(&self, _ctx: &Context<'_>, secret: &mut Secret, old: &Secret) {
        if text(&secret.type_).is_empty() {
            secret.type_.clone_from(&old.type_);
        }
    }

    fn validate_update(&self, secret: &Secret, old: &Secret) -> Errors {
        let mut errors = Errors::new();
        if secret.type_ != old.type_ {
            errors.push(Error::invalid(&Path::new("type"), &secret.type_, meta::IMMUTABLE));
        }
        if old.immutable == Some(true) {
            let changes = [("immutable", secret.immutable != Some(true)), ("data", secret.data != old.data)];
            for (field, _) in changes.into_iter().filter(|(_, changed)| *changed) {
                errors.push(Error::forbidden(&Path::new(field), FROZEN));
            }
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, secret: &Secret, now: Timestamp) -> Vec<Value> {
        vec![
            json!(text(&secret.metadata.name)),
            json!(text(&secret.type_)),
            json!(secret.data.as_ref().map_or(0, |d| d.len())),
            json!(age(secret.metadata.creation_timestamp.as_ref().map(|t| t.0), now)),
        ]
    }
}

/// What each well-known type must hold.
fn validate_type(secret: &Secret, errors: &mut Errors) {
    let path = Path::new("data");
    let value = |key: &str| secret.data.as_ref().and_then(|d| d.get(key)).map(|v| &v.0);
    let kind = text(&secret.type_);
    let required: &[&str] = match kind {
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        // One of the two will do, but when neither is there both are named.
        "kubernetes.io/basic-auth" if value("username").is_none() && value("password").is_none() => {
            &["username", "password"]
        }
        _ => &[],
    };
    for key in required {
        match value(key) {
            None => errors.push(Error::required(&path.key(key), "")),
            Some(value) if key.starts_with(".docker") => validate_json(value, &path.key(key), errors),
            Some(_) => {}
        }
    }
    if kind == "kubernetes.io/service-account-token" {
        let account = secret.metadata.annotations.as_ref().and_then(|a| a.get(ACCOUNT));
        if account.is_none_or(|a| a.is_empty()) {
            let annotations = Path::new("metadata.annotations");
            errors.push(Error::required(&annotations.key(ACCOUNT), ""));
        }
    }
}

fn validate_json(value: &[u8], path: &Path<'_>, errors: &mut Errors) {
    if let Err(error) = serde_json::from_slice::<serde_json::Map<String, Value>>(value) {
        errors.push(Error::invalid(path, "<secret contents redacted>", error.to_string()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(value: Value) -> Secret {
        let mut secret = serde_json::from_value(value).unwrap();
        Secrets.default(&mut secret);
        secret
    }

    #[test]
    fn text_becomes_data_and_the_type_is_opaque() {
        let got = serde_json::to_value(secret(json!({"stringData": {"a": "b"}, "data": {"c": "ZA=="}}))).unwrap();
        assert_eq!(got["data"], json!({"a": "Yg==", "c": "ZA=="}));
        assert_eq!(got["type"], "Opaque");
        assert_eq!(got["stringData"], Value::Null);
    }

    #[test]
    fn a_type_does_not_change() {
        let old = secret(json!({"type": "a/b"}));
        assert_eq!(
            Secrets.validate_update(&secret(json!({"type": "c/d"})), &old)[0].to_string(),
            "type: Invalid value: \"c/d\": field is immutable"
        );
    }

    #[test]
    fn known_types_hold_what_they_must() {
        let found = |value| Secrets.validate(&secret(value)).iter().map(Error::to_string).collect::<Vec<_>>();
        assert_eq!(
            found(json!({"type": "kubernetes.io/tls"})),
            ["data[tls.crt]: Required value", "data[tls.key]: Required value"]
        );
        let bad = found(json!({"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": "{"}}));
        assert!(bad[0].contains("<secret contents redacted>"), "{bad:?}");
        assert_eq!(found(json!({"type": "kubernetes.io/service-account-token"})).len(), 1);
    }
}
