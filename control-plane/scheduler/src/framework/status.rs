//! What a plugin answers.

use std::borrow::Cow;

/// Upstream's status codes (`k8s.io/kube-scheduler/framework.Code`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The plugin agrees.
    Success,
    /// Something is broken, not merely unsuitable: the pod is retried with backoff.
    Error,
    /// The pod does not fit now; preemption might help.
    Unschedulable,
    /// The pod does not fit, and removing other pods would not change that.
    UnschedulableAndUnresolvable,
    /// Permit: bind only after being allowed.
    Wait,
    /// Bind: not mine. PreFilter, PreScore: leave my Filter, Score out of this cycle.
    Skip,
    /// Rejected until something outside the scheduler, already under way, has happened.
    Pending,
}

/// A code, its reasons, and the plugin that gave them. Success allocates nothing.
#[derive(Clone, Debug)]
pub struct Status {
    code: Code,
    reasons: Vec<Cow<'static, str>>,
    plugin: &'static str,
}

impl Status {
    /// A status with one reason.
    pub fn new(code: Code, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { code, reasons: vec![reason.into()], plugin: "" }
    }

    /// A status with several reasons, as NodeResourcesFit gives.
    pub fn with_reasons(code: Code, reasons: Vec<Cow<'static, str>>) -> Self {
        Self { code, reasons, plugin: "" }
    }

    /// The plugin agrees.
    pub const fn success() -> Self {
        Self { code: Code::Success, reasons: Vec::new(), plugin: "" }
    }

    /// See [`Code::Skip`].
    pub const fn skip() -> Self {
        Self { code: Code::Skip, reasons: Vec::new(), plugin: "" }
    }

    /// See [`Code::Error`].
    pub fn error(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::Error, reason)
    }

    /// See [`Code::Unschedulable`].
    pub fn unschedulable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::Unschedulable, reason)
    }

    /// See [`Code::UnschedulableAndUnresolvable`].
    pub fn unresolvable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::UnschedulableAndUnresolvable, reason)
    }

    /// Names the plugin that answered.
    #[must_use]
    pub fn from_plugin(mut self, plugin: &'static str) -> Self {
        self.plugin = plugin;
        self
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The reasons, in the plugin's order.
    pub fn reasons(&self) -> &[Cow<'static, str>] {
        &self.reasons
    }

    /// The plugin that answered; empty when the framework did.
    pub fn plugin(&self) -> &'static str {
        self.plugin
    }

    /// Whether the plugin agrees.
    pub fn is_success(&self) -> bool {
        self.code == Code::Success
    }

    /// Whether the pod was found unsuitable, as opposed to something being broken.
    pub fn is_rejected(&self) -> bool {
        matches!(self.code, Code::Unschedulable | Code::UnschedulableAndUnresolvable | Code::Pending)
    }

    /// All reasons in one line.
    pub fn message(&self) -> String {
        self.reasons.join(", ")
    }
}
