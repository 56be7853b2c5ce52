//! Acting as somebody else (`kubectl --as`), for those who may.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName};
use skep_api::status::StatusError;

use crate::{
    authz::{Attributes, Authorizer, forbidden},
    user::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, UserInfo},
};

const USER: HeaderName = HeaderName::from_static("impersonate-user");
const UID: HeaderName = HeaderName::from_static("impersonate-uid");
const GROUP: HeaderName = HeaderName::from_static("impersonate-group");
const EXTRA: &str = "impersonate-extra-";

/// The user to act as, if the headers name one and `user` may; the headers are taken away.
pub(crate) fn impersonated(
    authorizer: &Authorizer,
    user: &UserInfo,
    headers: &mut HeaderMap,
) -> Result<Option<UserInfo>, StatusError> {
    if !headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
        return Ok(None);
    }
    let all = |headers: &HeaderMap, name: &HeaderName| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
    };
    let name = all(headers, &USER).into_iter().next().unwrap_or_default();
    let uid = all(headers, &UID).into_iter().next().unwrap_or_default();
    let mut groups = all(headers, &GROUP);
    let mut extra = BTreeMap::<String, Vec<String>>::new();
    let keys: Vec<HeaderName> = headers.keys().filter(|key| key.as_str().starts_with(EXTRA)).cloned().collect();
    for key in &keys {
        extra.entry(unescape(&key.as_str()[EXTRA.len()..])).or_default().extend(all(headers, key));
    }
    for key in keys.iter().chain([&USER, &UID, &GROUP]) {
        headers.remove(key);
    }
    if name.is_empty() {
        if groups.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(None);
        }
        let why = "requested user impersonation information without impersonating a user";
        return Err(StatusError::internal_error(why));
    }
    let demand = |wanted: Attributes<'_>| authorizer.authorize(&wanted).map_err(|reason| forbidden(&wanted, &reason));
    let account = service_account(&name);
    match account {
        Some((namespace, name)) => {
            demand(Attributes::resource(user, "impersonate", "", "serviceaccounts").within(namespace).named(name))?;
        }
        None => demand(Attributes::resource(user, "impersonate", "", "users").named(&name))?,
    }
    for group in &groups {
        demand(Attributes::resource(user, "impersonate", "", "groups").named(group))?;
    }
    const IDENTITY: &str = "authentication.k8s.io";
    if !uid.is_empty() {
        demand(Attributes::resource(user, "impersonate", IDENTITY, "uids").named(&uid))?;
    }
    for (key, values) in &extra {
        for value in values {
            let wanted = Attributes::resource(user, "impersonate", IDENTITY, "userextras").named(value);
            demand(Attributes { subresource: key, ..wanted })?;
        }
    }
    if let Some((namespace, _)) = account
        && groups.is_empty()
    {
        groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
    }
    let belongs = if name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
    let is_said = groups.iter().any(|group| group == AUTHENTICATED || group == UNAUTHENTICATED);
    if !is_said {
        groups.push(belongs.to_owned());
    }
    Ok(Some(UserInfo { name, uid, groups, extra }))
}

/// Namespace and name of a service account's user name.
fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

/// Undoes the percent-encoding of keys in header names; what cannot be undone stays.
pub(super) fn unescape(key: &str) -> String {
    let bytes = key.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = |index: usize| bytes.get(index).and_then(|digit| char::from(*digit).to_digit(16));
        match (byte, hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_unescaped_as_far_as_they_are_escaped() {
        for (escaped, plain) in [("scopes", "scopes"), ("a%2fb", "a/b"), ("a%2", "a%2"), ("%zz", "%zz"), ("%ff", "%ff")]
        {
            assert_eq!(unescape(escaped), plain);
        }
    }

    #[test]
    fn accounts_are_told_from_users() {
        assert_eq!(service_account("system:serviceaccount:ns:name"), Some(("ns", "name")));
        for other in ["jane", "system:serviceaccount:ns", "system:serviceaccount::a", "system:serviceaccount:a:b:c"] {
            assert_eq!(service_account(other), None, "{other}");
        }
    }
}
