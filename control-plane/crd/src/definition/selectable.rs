//! Fields that field selectors may name (`selectableFields`).

use std::collections::BTreeSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{JSONSchemaProps, SelectableField};
use skep_api::field::{Error, Errors, Path};

use crate::schema::{Kind, Schema};

const MOST: usize = 8;

pub(super) fn validate(fields: &[SelectableField], props: &JSONSchemaProps, path: &Path<'_>, errors: &mut Errors) {
    if fields.len() > MOST {
        errors.push(Error::too_many(path, fields.len(), MOST));
    }
    let schema = Schema::new(props);
    let mut seen = BTreeSet::new();
    for (i, field) in fields.iter().enumerate() {
        let item = path.index(i);
        let at = item.child("jsonPath");
        let json_path = field.json_path.as_str();
        if json_path.is_empty() {
            errors.push(Error::required(&at, ""));
            continue;
        }
        if !seen.insert(json_path) {
            errors.push(Error::duplicate(&at, json_path));
        }
        let Some(names) = json_path.strip_prefix('.').map(|path| path.split('.').collect::<Vec<_>>()) else {
            errors.push(Error::invalid(&at, json_path, "must be a simple json path starting with ."));
            continue;
        };
        if names.first() == Some(&"metadata") {
            let detail = "must not point to fields in metadata";
            errors.push(Error::invalid(&at, json_path, detail));
            continue;
        }
        let found = names.iter().try_fold(&schema, |schema, name| schema.properties.get(*name));
        match found.map(|schema| schema.kind) {
            Some(Kind::String | Kind::Integer | Kind::Boolean) => {}
            Some(_) => {
                let detail = "must point to a field of type string, boolean or integer. Enum string fields and \
                              strings with formats are allowed";
                errors.push(Error::invalid(&at, json_path, detail));
            }
            None => {
                let detail = "is an invalid path: does not refer to a valid field";
                errors.push(Error::invalid(&at, json_path, detail));
            }
        }
    }
}
