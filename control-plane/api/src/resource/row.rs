//! How rows of the table are written down.

use std::borrow::Cow;

use super::{ResourceInfo, Str, SubresourceInfo};

/// A constant list of names.
macro_rules! strs {
    ($($s:expr),* $(,)?) => {{
        const LIST: &[$crate::resource::Str] = &[$(std::borrow::Cow::Borrowed($s)),*];
        LIST
    }};
}
pub(super) use strs;

pub(super) const CRUD: &[Str] =
    strs!["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
pub(super) const GET_PATCH_UPDATE: &[Str] = strs!["get", "patch", "update"];
pub(super) const CREATE: &[Str] = strs!["create"];
pub(super) const GET: &[Str] = strs!["get"];
pub(super) const UPDATE: &[Str] = strs!["update"];
pub(super) const NONE: &[Str] = &[];
/// The category `all`.
pub(super) const ALL: &[Str] = strs!["all"];

/// A subresource that speaks a kind of the parent's own group and version.
pub(super) const fn sub(name: &'static str, kind: &'static str, verbs: &'static [Str]) -> SubresourceInfo {
    sub_of(name, "", "", kind, verbs)
}

/// A subresource that speaks another group's kind.
pub(super) const fn sub_of(
    name: &'static str,
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    verbs: &'static [Str],
) -> SubresourceInfo {
    SubresourceInfo {
        name: Cow::Borrowed(name),
        group: Cow::Borrowed(group),
        version: Cow::Borrowed(version),
        kind: Cow::Borrowed(kind),
        verbs: Cow::Borrowed(verbs),
    }
}

/// `status`.
pub(super) const fn status(kind: &'static str) -> SubresourceInfo {
    sub("status", kind, GET_PATCH_UPDATE)
}

/// `scale`.
pub(super) const SCALE: SubresourceInfo = sub_of("scale", "autoscaling", "v1", "Scale", GET_PATCH_UPDATE);

/// A row of the table as written down.
pub(super) struct Row {
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) kind: &'static str,
    pub(super) plural: &'static str,
    pub(super) singular: &'static str,
    pub(super) short_names: &'static [Str],
    pub(super) categories: &'static [Str],
    pub(super) namespaced: bool,
    pub(super) verbs: &'static [Str],
    pub(super) subresources: &'static [SubresourceInfo],
}

/// What most rows say.
pub(super) const ROW: Row = Row {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short_names: NONE,
    categories: NONE,
    namespaced: true,
    verbs: CRUD,
    subresources: &[],
};

pub(super) const fn resource(row: Row) -> ResourceInfo {
    ResourceInfo {
        group: Cow::Borrowed(row.group),
        version: Cow::Borrowed(row.version),
        kind: Cow::Borrowed(row.kind),
        list_kind: Cow::Borrowed(""),
        plural: Cow::Borrowed(row.plural),
        singular: Cow::Borrowed(row.singular),
        short_names: Cow::Borrowed(row.short_names),
        categories: Cow::Borrowed(row.categories),
        namespaced: row.namespaced,
        verbs: Cow::Borrowed(row.verbs),
        subresources: Cow::Borrowed(row.subresources),
    }
}
