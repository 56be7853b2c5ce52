//! `authorizer` in expressions: the server's own authorizer.

use std::sync::Arc;

use skep_cel::{Answer, Question};

use super::{Attributes, matching::name_of};
use crate::{authz, registry::object::Object, service::Shared, user::UserInfo};

/// Answers for one request.
pub(super) struct Judge<'a> {
    shared: Option<Arc<Shared>>,
    attributes: &'a Attributes<'a>,
    name: &'a str,
}

impl<'a> Judge<'a> {
    pub(super) fn new(
        shared: Option<Arc<Shared>>,
        attributes: &'a Attributes<'a>,
        object: Option<&'a dyn Object>,
    ) -> Self {
        Self { shared, attributes, name: name_of(attributes, object) }
    }

    /// What `authorizer.requestResource` asks about.
    pub(super) fn question(&self) -> Question {
        let info = self.attributes.info;
        Question {
            group: info.group.to_string(),
            resource: info.plural.to_string(),
            subresource: self.attributes.subresource.to_owned(),
            namespace: self.attributes.scope.namespace.filter(|_| info.namespaced).unwrap_or_default().to_owned(),
            name: self.name.to_owned(),
            ..Question::default()
        }
    }
}

impl skep_cel::Authorizer for Judge<'_> {
    fn authorize(&self, question: &Question) -> Answer {
        let account;
        let user = match &question.service_account {
            Some((namespace, name)) => {
                account = UserInfo::authenticated(
                    format!("system:serviceaccount:{namespace}:{name}"),
                    ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")],
                );
                &account
            }
            None => self.attributes.scope.user,
        };
        let Some(shared) = &self.shared else { return Answer::default() };
        let asked = authz::Attributes {
            user,
            verb: &question.verb,
            is_resource: question.path.is_none(),
            group: &question.group,
            resource: &question.resource,
            subresource: &question.subresource,
            name: &question.name,
            namespace: &question.namespace,
            path: question.path.as_deref().unwrap_or_default(),
        };
        match shared.authorizer.authorize(&asked) {
            Ok(()) => Answer { allowed: true, ..Answer::default() },
            Err(reason) => Answer { reason, ..Answer::default() },
        }
    }
}
