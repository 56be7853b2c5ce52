//! Bootstrap tokens: Secrets in kube-system that let a new node ask for its certificate.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use skep_storage::Resource;
use subtle::ConstantTimeEq as _;

use crate::user::{AUTHENTICATED, UserInfo};

const TYPE: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";

/// Whom a bootstrap token identifies; `None` if the text has not the form of one.
pub(super) fn authenticate(secrets: &Resource, token: &str, now: Timestamp) -> Option<Result<UserInfo, String>> {
    let (id, secret) = token.split_once('.')?;
    let is_part = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    if !is_part(id, 6) || !is_part(secret, 16) {
        return None;
    }
    let stored = secrets.get(&format!("/registry/secrets/kube-system/bootstrap-token-{id}"));
    let stored = stored.and_then(|stored| serde_json::from_slice::<Secret>(stored.json()).ok());
    Some(stored.ok_or_else(|| "no such bootstrap token".to_owned()).and_then(|stored| user(&stored, id, secret, now)))
}

fn user(stored: &Secret, id: &str, secret: &str, now: Timestamp) -> Result<UserInfo, String> {
    let refuse = |why: &str| Err(format!("bootstrap token {id}: {why}"));
    let data = |key: &str| stored.data.as_ref().and_then(|data| data.get(key)).map(|value| value.0.as_slice());
    let text = |key: &str| data(key).and_then(|value| std::str::from_utf8(value).ok());
    if stored.metadata.deletion_timestamp.is_some() {
        return refuse("its Secret is being deleted");
    }
    if stored.type_.as_deref() != Some(TYPE) {
        return refuse("its Secret has another type");
    }
    let known = data("token-secret").unwrap_or_default();
    let differs = !bool::from(known.ct_eq(secret.as_bytes()));
    if differs {
        return refuse("wrong secret");
    }
    if text("token-id") != Some(id) {
        return refuse("its Secret is another token's");
    }
    if let Some(expiration) = text("expiration").filter(|text| !text.is_empty())
        && !expiration.parse::<Timestamp>().is_ok_and(|end| end > now)
    {
        return refuse("it has expired");
    }
    if text("usage-bootstrap-authentication") != Some("true") {
        return refuse("it is not for authentication");
    }
    let mut groups = vec![GROUP.to_owned(), AUTHENTICATED.to_owned()];
    for group in text("auth-extra-groups").unwrap_or_default().split(',').map(str::trim).filter(|text| !text.is_empty())
    {
        if !is_group(group) {
            return refuse("it has groups that are none of bootstrappers");
        }
        groups.push(group.to_owned());
    }
    Ok(UserInfo { groups, ..UserInfo::authenticated(format!("system:bootstrap:{id}"), []) })
}

/// `system:bootstrappers:NAME`, with a name of lower-case letters, digits, colons and dashes.
fn is_group(group: &str) -> bool {
    group.strip_prefix("system:bootstrappers:").is_some_and(|name| {
        !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b':' | b'-'))
            && name.ends_with(|last: char| last.is_ascii_alphanumeric())
    })
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde_json::json;

    use super::*;

    fn stored(changes: &[(&str, &str)]) -> Secret {
        let mut data = serde_json::Map::new();
        let usual = [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
            ("auth-extra-groups", "system:bootstrappers:skep"),
        ];
        for (key, value) in usual.iter().chain(changes) {
            data.insert((*key).to_owned(), STANDARD.encode(value).into());
        }
        serde_json::from_value(json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": TYPE, "data": data}))
            .unwrap()
    }

    #[test]
    fn a_good_token_makes_a_bootstrapper() {
        let user = user(&stored(&[]), "abcdef", "0123456789abcdef", Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(user.groups, ["system:bootstrappers", "system:authenticated", "system:bootstrappers:skep"]);
    }

    #[test]
    fn whatever_is_wrong_with_it_makes_nobody() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for change in [
            ("token-id", "ghijkl"),
            ("token-secret", "0123456789abcdeg"),
            ("token-secret", ""),
            ("usage-bootstrap-authentication", "false"),
            ("auth-extra-groups", "system:masters"),
            ("auth-extra-groups", "system:bootstrappers:"),
            ("expiration", "2025-12-31T23:59:59Z"),
            ("expiration", "tomorrow"),
        ] {
            assert!(user(&stored(&[change]), "abcdef", "0123456789abcdef", now).is_err(), "{change:?}");
        }
        let later = ("expiration", "2026-01-01T00:00:01Z");
        assert!(user(&stored(&[later]), "abcdef", "0123456789abcdef", now).is_ok());
        let mut other = stored(&[]);
        other.type_ = Some("Opaque".to_owned());
        assert!(user(&other, "abcdef", "0123456789abcdef", now).is_err());
    }
}
