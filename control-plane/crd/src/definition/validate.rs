//! What upstream demands of a definition, apart from its schemas.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition, CustomResourceDefinitionNames,
    CustomResourceDefinitionVersion, CustomResourceSubresources,
};
use skep_api::{
    field::{Error, Errors, Path},
    name,
};

use super::{conversion, is_true, schema, selectable};

const COLUMN_TYPES: &str = "boolean,date,integer,number,string";
const COLUMN_FORMATS: &str = "byte,date,date-time,double,float,int32,int64,password";
const APPROVAL: &str = "api-approved.kubernetes.io";
const IMMUTABLE: &str = "field is immutable";

/// Checks a definition by itself. Its metadata is checked elsewhere.
pub fn validate(crd: &CustomResourceDefinition) -> Errors {
    let mut errors = Errors::new();
    let spec = &crd.spec;
    let own = crd.metadata.name.as_deref().unwrap_or_default();
    if !own.is_empty() && own != format!("{}.{}", spec.names.plural, spec.group) {
        let at = Path::new("metadata.name");
        errors.push(Error::invalid(&at, own, "must be spec.names.plural+\".\"+spec.group"));
    }
    let path = Path::new("spec");
    group(&spec.group, &path, &mut errors);
    let scope = path.child("scope");
    one_of(&spec.scope, &["Cluster", "Namespaced"], &scope, &mut errors);
    let shared = Parts::shared(&spec.versions);
    versions(crd, shared, &path, &mut errors);
    let names_at = path.child("names");
    let no = |name: Option<&str>| name.unwrap_or_default().is_empty();
    for (field, missing) in [
        ("plural", spec.names.plural.is_empty()),
        ("singular", no(spec.names.singular.as_deref())),
        ("kind", spec.names.kind.is_empty()),
        ("listKind", no(spec.names.list_kind.as_deref())),
    ] {
        if missing {
            errors.push(Error::required(&names_at.child(field), ""));
        }
    }
    names(&spec.names, &names_at, &mut errors);
    if let Some(first) = spec.versions.first() {
        parts(first, shared, spec.versions.iter().any(has_status), (&path, "validation"), &mut errors);
    }
    if let Some(conversion) = &spec.conversion {
        conversion::validate(conversion, &path.child("conversion"), &mut errors);
    }
    if spec.preserve_unknown_fields == Some(true) {
        let at = path.child("preserveUnknownFields");
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in \
                      spec.versions[*].schema instead";
        errors.push(Error::invalid(&at, true, detail));
    }
    status(crd, &mut errors);
    approval(crd, &mut errors);
    errors
}

/// Checks what an update changes.
pub fn validate_update(crd: &CustomResourceDefinition, old: &CustomResourceDefinition) -> Errors {
    let mut errors = validate(crd);
    let mut same = |field: &str, new: &str, old: &str| {
        if new != old {
            errors.push(Error::invalid(&Path::new(field), new, IMMUTABLE));
        }
    };
    if is_true(old, "Established") {
        same("spec.scope", &crd.spec.scope, &old.spec.scope);
        same("spec.names.kind", &crd.spec.names.kind, &old.spec.names.kind);
    }
    same("spec.group", &crd.spec.group, &old.spec.group);
    same("spec.names.plural", &crd.spec.names.plural, &old.spec.names.plural);
    errors
}

fn group(group: &str, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("group");
    if group.is_empty() {
        errors.push(Error::required(&at, ""));
        return;
    }
    let complaints = name::dns1123_subdomain(group);
    if !complaints.is_empty() {
        errors.push(Error::invalid(&at, group, complaints.join(",")));
    } else if !group.contains('.') {
        errors.push(Error::invalid(&at, group, "should be a domain with at least one dot"));
    }
}

pub(super) fn one_of(value: &str, known: &[&str], at: &Path<'_>, errors: &mut Errors) {
    if value.is_empty() {
        errors.push(Error::required(at, ""));
    } else if !known.contains(&value) {
        errors.push(Error::not_supported(at, value, known));
    }
}

fn label(value: &str, at: &Path<'_>, errors: &mut Errors) {
    let complaints = name::dns1035_label(value);
    if !complaints.is_empty() {
        errors.push(Error::invalid(at, value, complaints.join(",")));
    }
}

/// Which parts the versions have. Upstream's own form has what all versions share but once, above them, and its errors
/// name that place.
#[derive(Clone, Copy)]
struct Parts {
    schema: bool,
    subresources: bool,
    columns: bool,
    fields: bool,
}

impl Parts {
    /// Those that are the same in all versions.
    fn shared(all: &[CustomResourceDefinitionVersion]) -> Self {
        let Some(first) = all.first() else { return Self::none() };
        let schema = all.iter().all(|version| version.schema == first.schema);
        Self {
            schema,
            subresources: all.iter().all(|version| version.subresources == first.subresources),
            columns: all.iter().all(|version| version.additional_printer_columns == first.additional_printer_columns),
            fields: schema && all.iter().all(|version| version.selectable_fields == first.selectable_fields),
        }
    }

    fn none() -> Self {
        Self { schema: false, subresources: false, columns: false, fields: false }
    }

    fn others(self) -> Self {
        Self { schema: !self.schema, subresources: !self.subresources, columns: !self.columns, fields: !self.fields }
    }
}

fn versions(crd: &CustomResourceDefinition, shared: Parts, path: &Path<'_>, errors: &mut Errors) {
    let all = &crd.spec.versions;
    let list = path.child("versions");
    for (i, version) in all.iter().enumerate() {
        let at = list.index(i);
        if version.schema.as_ref().is_none_or(|schema| schema.open_api_v3_schema.is_none()) {
            let at = at.child("schema.openAPIV3Schema");
            errors.push(Error::required(&at, "schemas are required"));
        }
    }
    for (i, version) in all.iter().enumerate() {
        let at = list.index(i);
        label(&version.name, &at.child("name"), errors);
        deprecation(version, &at, errors);
        parts(version, shared.others(), has_status(version), (&at, "schema"), errors);
    }
    let mut unique: Vec<&str> = all.iter().map(|version| version.name.as_str()).collect();
    unique.sort_unstable();
    unique.dedup();
    if unique.len() != all.len() {
        errors.push(Error::invalid(&list, all, "must contain unique version names"));
    }
    if all.iter().filter(|version| version.storage).count() != 1 {
        errors.push(Error::invalid(&list, all, "must have exactly one version marked as storage version"));
    }
}

fn has_status(version: &CustomResourceDefinitionVersion) -> bool {
    version.subresources.as_ref().is_some_and(|subresources| subresources.status.is_some())
}

fn deprecation(version: &CustomResourceDefinitionVersion, at: &Path<'_>, errors: &mut Errors) {
    let Some(warning) = &version.deprecation_warning else { return };
    let at = at.child("deprecationWarning");
    if version.deprecated != Some(true) {
        errors.push(Error::invalid(&at, warning, "can only be set for deprecated versions"));
    } else if warning.len() > 256 {
        errors.push(Error::invalid(&at, warning, "must be <= 256 characters long"));
    } else if warning.is_empty() {
        errors.push(Error::invalid(&at, warning, "must not be an empty string"));
    } else if let Some((index, _)) = warning.char_indices().find(|(_, c)| c.is_control()) {
        let detail =
            format!("must only contain printable UTF-8 characters; non-printable character found at index {index}");
        errors.push(Error::invalid(&at, warning, detail));
    }
}

/// Checks these parts of a version. `schema_name` is what the schema is called there.
fn parts(
    version: &CustomResourceDefinitionVersion,
    which: Parts,
    has_status: bool,
    (at, schema_name): (&Path<'_>, &str),
    errors: &mut Errors,
) {
    let schema = version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref());
    if let Some(schema) = schema.filter(|_| which.schema) {
        schema::validate(schema, has_status, &at.child(schema_name), errors);
    }
    if let Some(found) = version.subresources.as_ref().filter(|_| which.subresources) {
        subresources(found, &at.child("subresources"), errors);
    }
    if which.columns {
        let columns = at.child("additionalPrinterColumns");
        for (i, column) in version.additional_printer_columns.iter().flatten().enumerate() {
            self::column(column, &columns.index(i), errors);
        }
    }
    if let (true, Some(fields), Some(schema)) = (which.fields, &version.selectable_fields, schema) {
        selectable::validate(fields, schema, &at.child("selectableFields"), errors);
    }
}

fn column(column: &CustomResourceColumnDefinition, at: &Path<'_>, errors: &mut Errors) {
    if column.name.is_empty() {
        errors.push(Error::required(&at.child("name"), ""));
    }
    let must = format!("must be one of {COLUMN_TYPES}");
    if column.type_.is_empty() {
        errors.push(Error::required(&at.child("type"), must));
    } else if !COLUMN_TYPES.split(',').any(|known| known == column.type_) {
        errors.push(Error::invalid(&at.child("type"), &column.type_, must));
    }
    let format = column.format.as_deref().unwrap_or_default();
    if !format.is_empty() && !COLUMN_FORMATS.split(',').any(|known| known == format) {
        errors.push(Error::invalid(&at.child("format"), format, format!("must be one of {COLUMN_FORMATS}")));
    }
    if column.json_path.is_empty() {
        errors.push(Error::required(&at.child("jsonPath"), ""));
    } else {
        simple_path(&column.json_path, &at.child("jsonPath"), errors);
    }
}

fn simple_path(path: &str, at: &Path<'_>, errors: &mut Errors) -> bool {
    if path.starts_with('.') {
        return true;
    }
    errors.push(Error::invalid(at, path, "must be a simple json path starting with ."));
    false
}

fn subresources(found: &CustomResourceSubresources, at: &Path<'_>, errors: &mut Errors) {
    let Some(scale) = &found.scale else { return };
    for (field, path, root) in [
        ("scale.specReplicasPath", &scale.spec_replicas_path, ".spec"),
        ("scale.statusReplicasPath", &scale.status_replicas_path, ".status"),
    ] {
        let at = at.child(field);
        if path.is_empty() {
            errors.push(Error::required(&at, ""));
        } else if simple_path(path, &at, errors) && !path.starts_with(&format!("{root}.")) {
            errors.push(Error::invalid(&at, path, format!("should be a json path under {root}")));
        }
    }
    if let Some(path) = scale.label_selector_path.as_ref().filter(|path| !path.is_empty()) {
        let at = at.child("scale.labelSelectorPath");
        if simple_path(path, &at, errors) && !path.starts_with(".spec.") && !path.starts_with(".status.") {
            errors.push(Error::invalid(&at, path, "should be a json path under either .spec or .status"));
        }
    }
}

fn names(names: &CustomResourceDefinitionNames, path: &Path<'_>, errors: &mut Errors) {
    let singular = names.singular.as_deref().unwrap_or_default();
    for (field, value) in [("plural", names.plural.as_str()), ("singular", singular)] {
        if !value.is_empty() {
            label(value, &path.child(field), errors);
        }
    }
    let list_kind = names.list_kind.as_deref().unwrap_or_default();
    for (field, value) in [("kind", names.kind.as_str()), ("listKind", list_kind)] {
        let complaints = name::dns1035_label(&value.to_lowercase());
        if !value.is_empty() && !complaints.is_empty() {
            let detail = format!("may have mixed case, but should otherwise match: {}", complaints.join(","));
            errors.push(Error::invalid(&path.child(field), value, detail));
        }
    }
    let list = path.child("shortNames");
    for (i, short) in names.short_names.iter().flatten().enumerate() {
        label(short, &list.index(i), errors);
    }
    if !names.kind.is_empty() && names.kind == list_kind {
        errors.push(Error::invalid(&path.child("listKind"), list_kind, "kind and listKind may not be the same"));
    }
    let list = path.child("categories");
    for (i, category) in names.categories.iter().flatten().enumerate() {
        label(category, &list.index(i), errors);
    }
}

fn status(crd: &CustomResourceDefinition, errors: &mut Errors) {
    let path = Path::new("status");
    if let Some(accepted) = crd.status.as_ref().and_then(|status| status.accepted_names.as_ref()) {
        names(accepted, &path.child("acceptedNames"), errors);
    }
    let at = path.child("storedVersions");
    let stored = crd.status.as_ref().and_then(|status| status.stored_versions.as_deref()).unwrap_or_default();
    if stored.is_empty() {
        errors.push(Error::invalid(&at, stored, "must have at least one stored version"));
        return;
    }
    for version in crd.spec.versions.iter().filter(|version| version.storage && !stored.contains(&version.name)) {
        errors.push(Error::invalid(&at, version, format!("must have the storage version {}", version.name)));
    }
    for (i, name) in stored.iter().enumerate() {
        if !crd.spec.versions.iter().any(|version| version.name == *name) {
            errors.push(Error::invalid(&at.index(i), name, "must appear in spec.versions"));
        }
    }
}

/// Groups of the Kubernetes project need its approval.
fn approval(crd: &CustomResourceDefinition, errors: &mut Errors) {
    let group = &crd.spec.group;
    let protected = ["k8s.io", "kubernetes.io"].iter().any(|own| group == own || group.ends_with(&format!(".{own}")));
    if !protected {
        return;
    }
    let annotations = Path::new("metadata.annotations");
    let at = annotations.key(APPROVAL);
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    match crd.metadata.annotations.as_ref().and_then(|annotations| annotations.get(APPROVAL)) {
        None => {
            let detail = format!("protected groups must have approval annotation {APPROVAL:?}, {see}");
            errors.push(Error::required(&at, detail));
        }
        Some(value) if value.starts_with("unapproved") || value.starts_with("https://") => {}
        Some(value) => {
            let detail = format!(
                "protected groups must have approval annotation {APPROVAL:?} with either a URL or a reason starting \
                 with \"unapproved\", {see}"
            );
            errors.push(Error::invalid(&at, value, detail));
        }
    }
}
