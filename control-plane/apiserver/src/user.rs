//! Who makes a request.

use std::collections::BTreeMap;

/// The group of everyone who may do everything.
pub const MASTERS: &str = "system:masters";
/// The group every authenticated user belongs to.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of requests that carry no identity.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The user of requests that carry no identity.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group of node daemons.
pub const NODES: &str = "system:nodes";

/// The identity a request acts with.
///
/// In-process callers (scheduler, controllers) put one into the request's extensions; requests from the network get
/// theirs from their client certificate, never from anything the request itself says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// The user's name, such as `system:kube-scheduler`.
    pub name: String,
    /// What distinguishes this user from others of the same name over time; empty if unknown.
    pub uid: String,
    /// The groups the user belongs to.
    pub groups: Vec<String>,
    /// What an authenticator knows beyond that.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// An authenticated user; `system:authenticated` is added to the groups.
    pub fn authenticated(name: impl Into<String>, groups: impl IntoIterator<Item = String>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().collect();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self { name: name.into(), groups, ..Self::default() }
    }

    /// A member of `system:masters`: the identity of administrators and of the server itself.
    pub fn master(name: impl Into<String>) -> Self {
        Self::authenticated(name, [MASTERS.to_owned()])
    }

    /// A component inside this process, such as `system:kube-scheduler`.
    pub fn component(name: impl Into<String>) -> Self {
        Self::authenticated(name, [])
    }

    /// Nobody in particular.
    pub fn anonymous() -> Self {
        Self { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..Self::default() }
    }

    /// Whether the user belongs to `group`.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }
}
