//! ConfigMaps.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::name;
use skep_api::resource::ResourceInfo;

use super::checks::{self, text};
use super::strategy::{Column, Strategy, age};
use super::table_info::info;

/// The strategy of config maps.
#[derive(Debug)]
pub(crate) struct ConfigMaps;

/// The most bytes all values of a ConfigMap or Secret may have.
pub(crate) const MAX_DATA: usize = 1024 * 1024;
/// Said of a change to what was declared immutable.
pub(crate) const FROZEN: &str = "field is immutable when `immutable` is set";

const COLUMNS: &[Column] =
    &[Column::NAME, Column::new("Data", "string", "Data contains the configuration data."), Column::AGE];

impl Strategy for ConfigMaps {
    type Object = ConfigMap;

    fn info(&self) -> &'static ResourceInfo {
        info("", "configmaps")
    }

    fn prefix(&self) -> &'static str {
        "/registry/configmaps/"
    }

    fn validate(&self, map: &ConfigMap) -> Errors {
        let mut errors = Errors::new();
        let (data, binary) = (Path::new("data"), Path::new("binaryData"));
        let mut total = 0;
        for (key, value) in map.data.iter().flatten() {
            checks::name(&mut errors, &data.key(key), key, name::config_map_key);
            if map.binary_data.as_ref().is_some_and(|b| b.contains_key(key)) {
                errors.push(Error::invalid(&data.key(key), key, "duplicate of key present in binaryData"));
            }
            total += value.len();
        }
        for (key, value) in map.binary_data.iter().flatten() {
            checks::name(&mut errors, &binary.key(key), key, name::config_map_key);
            total += value.0.len();
        }
        if total > MAX_DATA {
            errors.push(Error::too_long(&Path::ROOT.key(""), MAX_DATA));
        }
        errors
    }

    fn validate_update(&self, map: &ConfigMap, old: &ConfigMap) -> Errors {
        let mut errors = Errors::new();
        if old.immutable != Some(true) {
            return errors;
        }
        let changes = [
            ("immutable", map.immutable != Some(true)),
            ("data", map.data != old.data),
            ("binaryData", map.binary_data != old.binary_data),
        ];
        for (field, _) in changes.into_iter().filter(|(_, changed)| *changed) {
            errors.push(Error::forbidden(&Path::new(field), FROZEN));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, map: &ConfigMap, now: Timestamp) -> Vec<Value> {
        let count = map.data.as_ref().map_or(0, |d| d.len()) + map.binary_data.as_ref().map_or(0, |d| d.len());
        vec![
            json!(text(&map.metadata.name)),
            json!(count),
            json!(age(map.metadata.creation_timestamp.as_ref().map(|t| t.0), now)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(value: Value) -> ConfigMap {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn keys_are_file_names_and_distinct() {
        let found = ConfigMaps.validate(&map(json!({"data": {"a b": "", "c": "x"}, "binaryData": {"c": "AA=="}})));
        assert!(
            found[0].to_string().starts_with("data[a b]: Invalid value: \"a b\": a valid config key must consist of")
        );
        assert_eq!(found[1].to_string(), "data[c]: Invalid value: \"c\": duplicate of key present in binaryData");
    }

    #[test]
    fn what_is_declared_immutable_stays() {
        let old = map(json!({"data": {"a": "1"}, "immutable": true}));
        assert_eq!(ConfigMaps.validate_update(&old, &old), []);
        let found = ConfigMaps.validate_update(&map(json!({"data": {"a": "2"}})), &old);
        assert_eq!(
            found.iter().map(Error::to_string).collect::<Vec<_>>(),
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set"
            ]
        );
    }

    #[test]
    fn there_is_a_limit() {
        let big = "x".repeat(MAX_DATA + 1);
        assert_eq!(
            ConfigMaps.validate(&map(json!({"data": {"a": big}})))[0].to_string(),
            "[]: Too long: may not be more than 1048576 bytes"
        );
    }
}
