//! A front proxy that has authenticated the client says who it is, in headers (`--requestheader-*`).

use http::{HeaderMap, HeaderName};

use super::certificate::Presented;
use crate::{config, user::UserInfo};

const USER: HeaderName = HeaderName::from_static("x-remote-user");
const UID: HeaderName = HeaderName::from_static("x-remote-uid");
const GROUP: HeaderName = HeaderName::from_static("x-remote-group");
const EXTRA: &str = "x-remote-extra-";

/// Who front proxies are.
pub(super) struct FrontProxy {
    ca: String,
    name: String,
}

impl FrontProxy {
    pub(super) fn new(config: &config::FrontProxy) -> Self {
        Self { ca: config.ca.clone(), name: config.name.clone() }
    }

    /// The authority of their certificates.
    pub(super) fn ca(&self) -> &str {
        &self.ca
    }

    /// The user the headers name. They are taken away either way.
    pub(super) fn user(&self, presented: &Presented, headers: &mut HeaderMap) -> Option<UserInfo> {
        let all = |headers: &HeaderMap, name: &HeaderName| -> Vec<String> {
            headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
        };
        let name = all(headers, &USER).into_iter().find(|name| !name.is_empty());
        let uid = all(headers, &UID).into_iter().next().unwrap_or_default();
        let groups = all(headers, &GROUP);
        let mut extra = std::collections::BTreeMap::<String, Vec<String>>::new();
        let keys: Vec<HeaderName> = headers.keys().filter(|key| key.as_str().starts_with(EXTRA)).cloned().collect();
        for key in keys {
            let name = super::impersonation::unescape(&key.as_str()[EXTRA.len()..]);
            extra.entry(name).or_default().extend(all(headers, &key));
            headers.remove(&key);
        }
        for key in [&USER, &UID, &GROUP] {
            headers.remove(key);
        }
        if presented.common_name != self.name {
            return None;
        }
        Some(UserInfo { uid, extra, ..UserInfo::authenticated(name?, groups) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_named_proxies_speak_for_others() {
        let headers = || -> HeaderMap {
            let pairs = [
                ("x-remote-user", "jane"),
                ("x-remote-group", "a"),
                ("x-remote-group", "b"),
                ("x-remote-extra-k%2fl", "v"),
            ];
            pairs
                .into_iter()
                .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
                .collect()
        };
        let proxy = FrontProxy { ca: String::new(), name: "front".to_owned() };
        let presented = |name: &str| Presented { common_name: name.to_owned(), ..Presented::default() };
        let mut given = headers();
        let user = proxy.user(&presented("front"), &mut given).unwrap();
        assert_eq!(user.name, "jane");
        assert_eq!(user.groups, ["a", "b", "system:authenticated"]);
        assert_eq!(user.extra["k/l"], ["v"]);
        assert!(given.is_empty());
        assert!(proxy.user(&presented("other"), &mut headers()).is_none());
        assert!(proxy.user(&presented("front"), &mut HeaderMap::new()).is_none());
    }
}
