//! `authentication.k8s.io` and `authorization.k8s.io`: questions that are answered and not stored.

use super::ResourceInfo;
use super::row::{CREATE, ROW, Row, resource};

const AUTHENTICATION: Row = Row { group: "authentication.k8s.io", verbs: CREATE, namespaced: false, ..ROW };
const AUTHORIZATION: Row = Row { group: "authorization.k8s.io", verbs: CREATE, namespaced: false, ..ROW };

pub(super) static ROWS: &[ResourceInfo] = &[
    resource(Row {
        kind: "SelfSubjectReview",
        plural: "selfsubjectreviews",
        singular: "selfsubjectreview",
        ..AUTHENTICATION
    }),
    resource(Row { kind: "TokenReview", plural: "tokenreviews", singular: "tokenreview", ..AUTHENTICATION }),
    resource(Row {
        kind: "LocalSubjectAccessReview",
        plural: "localsubjectaccessreviews",
        singular: "localsubjectaccessreview",
        namespaced: true,
        ..AUTHORIZATION
    }),
    resource(Row {
        kind: "SelfSubjectAccessReview",
        plural: "selfsubjectaccessreviews",
        singular: "selfsubjectaccessreview",
        ..AUTHORIZATION
    }),
    resource(Row {
        kind: "SelfSubjectRulesReview",
        plural: "selfsubjectrulesreviews",
        singular: "selfsubjectrulesreview",
        ..AUTHORIZATION
    }),
    resource(Row {
        kind: "SubjectAccessReview",
        plural: "subjectaccessreviews",
        singular: "subjectaccessreview",
        ..AUTHORIZATION
    }),
];
