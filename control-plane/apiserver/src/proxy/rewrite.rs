//! Addresses in answers: a server behind `/proxy` does not know where its clients see it.

use http::{HeaderMap, HeaderValue, header};
use skep_api::status::StatusError;

use super::{
    html::{Coding, Html},
    path::clean,
};

/// Rewrites the addresses in answers of a server that clients see below a prefix.
pub(crate) struct Rewrite {
    /// What the client's address has before the path the server is asked for, such as
    /// `/api/v1/namespaces/default/services/web/proxy`.
    prefix: String,
}

/// The same, knowing what the server and the client call the server.
pub(super) struct Located {
    prefix: String,
    hosts: [String; 2],
}

impl Rewrite {
    /// For a client's address and the path the server is asked for, both with or without encoding.
    pub(crate) fn new(client_path: &str, target_path: &str) -> Self {
        let prefix = client_path.strip_suffix(target_path).unwrap_or(client_path);
        Self { prefix: prefix.to_owned() }
    }

    /// The path where the client sees `path`.
    pub(super) fn forwarded_uri(&self, path: &str) -> Result<HeaderValue, StatusError> {
        let mut uri = clean(&format!("{}/{path}", self.prefix));
        if path.ends_with('/') {
            uri.push('/');
        }
        HeaderValue::try_from(uri).map_err(StatusError::internal_error)
    }

    pub(super) fn from(self, server: &str, asked: &HeaderValue) -> Located {
        let asked = asked.to_str().unwrap_or_default().to_owned();
        Located { prefix: self.prefix, hosts: [server.to_owned(), asked] }
    }
}

impl Located {
    /// Rewrites a redirection; what there is to do to the body, if anything.
    pub(super) fn of_answer(self, headers: &mut HeaderMap) -> Result<Option<Html>, StatusError> {
        if let Some(location) = headers.get(header::LOCATION).filter(|value| !value.is_empty()) {
            let location = location
                .to_str()
                .map_err(|error| StatusError::internal_error(format!("failed to parse Location header: {error}")))?;
            let location = HeaderValue::try_from(self.url(location)).map_err(StatusError::internal_error)?;
            headers.insert(header::LOCATION, location);
            return Ok(None);
        }
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if content_type.split(';').next().unwrap_or_default().trim() != "text/html" {
            return Ok(None);
        }
        let coding = match headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
            None | Some(b"") => Coding::Identity,
            Some(b"gzip") => Coding::Gzip,
            Some(b"deflate") => Coding::Deflate,
            // Not understood, so not touched.
            Some(_) => return Ok(None),
        };
        headers.remove(header::CONTENT_LENGTH);
        Ok(Some(Html::new(self, coding)))
    }

    /// An address as the client must see it. Other hosts and relative addresses stay as they are.
    pub(super) fn url(&self, url: &str) -> String {
        let parts = Parts::of(url);
        let [server, asked] = &self.hosts;
        let host = parts.authority.unwrap_or_default();
        let elsewhere = !host.is_empty() && host != server && host != asked;
        if elsewhere || !parts.path.starts_with('/') {
            return url.to_owned();
        }
        let origin = match parts.scheme {
            Some(scheme) if !host.is_empty() && host == asked => format!("{scheme}://{host}"),
            None if !host.is_empty() && host == asked => format!("//{host}"),
            _ => String::new(),
        };
        if parts.path.starts_with(&self.prefix) {
            return format!("{origin}{}{}", parts.path, parts.tail);
        }
        let mut path = clean(&format!("{}/{}", self.prefix, parts.path));
        if parts.path.ends_with('/') && !path.ends_with('/') {
            path.push('/');
        }
        format!("{origin}{path}{}", parts.tail)
    }
}

/// The parts of an address (RFC 3986, appendix B).
struct Parts<'a> {
    scheme: Option<&'a str>,
    authority: Option<&'a str>,
    path: &'a str,
    /// Query and fragment.
    tail: &'a str,
}

impl<'a> Parts<'a> {
    fn of(url: &'a str) -> Self {
        let (head, tail) = url.split_at(url.find(['?', '#']).unwrap_or(url.len()));
        let is_scheme = |text: &str| {
            text.starts_with(|c: char| c.is_ascii_alphabetic())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        };
        let (scheme, rest) = match head.split_once(':') {
            Some((scheme, rest)) if is_scheme(scheme) => (Some(scheme), rest),
            _ => (None, head),
        };
        let (authority, path) = match rest.strip_prefix("//") {
            Some(rest) => {
                let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                (Some(authority), path)
            }
            None => (None, rest),
        };
        Self { scheme, authority, path, tail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn located() -> Located {
        let client = "/api/v1/namespaces/n/services/web/proxy/app/";
        Rewrite::new(client, "/app/").from("10.0.0.7:80", &HeaderValue::from_static("api.example:6443"))
    }

    #[test]
    fn addresses_of_the_server_get_the_prefix() {
        let located = located();
        let prefix = "/api/v1/namespaces/n/services/web/proxy";
        for (from, to) in [
            ("/login?next=%2F#x", format!("{prefix}/login?next=%2F#x")),
            ("/a/", format!("{prefix}/a/")),
            ("http://10.0.0.7:80/a", format!("{prefix}/a")),
            ("http://api.example:6443/a", format!("http://api.example:6443{prefix}/a")),
            ("http://elsewhere.example/a", "http://elsewhere.example/a".to_owned()),
            ("relative/a", "relative/a".to_owned()),
            ("#here", "#here".to_owned()),
            ("mailto:a@b.example", "mailto:a@b.example".to_owned()),
            (&format!("{prefix}/a"), format!("{prefix}/a")),
        ] {
            assert_eq!(located.url(from), to, "{from}");
        }
    }

    #[test]
    fn the_server_is_told_where_the_client_sees_it() {
        let rewrite = Rewrite::new("/api/v1/nodes/n/proxy/a/", "/a/");
        assert_eq!(rewrite.forwarded_uri("/a/").unwrap(), "/api/v1/nodes/n/proxy/a/");
    }
}
