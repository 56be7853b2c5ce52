//! `authorizer`: asking from an expression whether somebody may do something.

use std::{fmt, rc::Rc};

use crate::types::Opaque;

/// Answers questions an expression asks of the API server's authorizer.
pub trait Authorizer {
    /// May this be done? `user` is None for the user of the request.
    fn authorize(&self, question: &Question) -> Answer;
}

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// The service account that asks (`(namespace, name)`), or None for the user of the request.
    pub service_account: Option<(String, String)>,
    /// The verb.
    pub verb: String,
    /// A path that is no resource; then nothing below is set.
    pub path: Option<String>,
    /// The API group.
    pub group: String,
    /// The resource.
    pub resource: String,
    /// The subresource, or empty.
    pub subresource: String,
    /// The namespace, or empty.
    pub namespace: String,
    /// The object's name, or empty.
    pub name: String,
    /// A field selector to narrow a list, or empty.
    pub field_selector: String,
    /// A label selector to narrow a list, or empty.
    pub label_selector: String,
}

/// What the authorizer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What went wrong, if something did.
    pub error: Option<String>,
}

/// A question in the making.
#[derive(Clone)]
pub struct Check<'a> {
    pub(crate) authorizer: &'a dyn Authorizer,
    pub(crate) stage: Opaque,
    pub(crate) question: Question,
}

impl<'a> Check<'a> {
    pub(crate) fn new(authorizer: &'a dyn Authorizer) -> Self {
        Self { authorizer, stage: Opaque::Authorizer, question: Question::default() }
    }

    /// A question about a resource whose parts are known (`authorizer.requestResource`).
    pub(crate) fn about(authorizer: &'a dyn Authorizer, question: Question) -> Self {
        Self { authorizer, stage: Opaque::ResourceCheck, question }
    }

    pub(crate) fn opaque(&self) -> Opaque {
        self.stage
    }

    /// The same question, one step further.
    pub(crate) fn with(&self, stage: Opaque, change: impl FnOnce(&mut Question)) -> Rc<Self> {
        let mut next = self.clone();
        next.stage = stage;
        change(&mut next.question);
        Rc::new(next)
    }
}

/// What the authorizer said, as an expression sees it.
#[derive(Clone, Debug)]
pub struct Decision(pub(crate) Answer);

impl fmt::Debug for Check<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check").field("question", &self.question).finish_non_exhaustive()
    }
}
