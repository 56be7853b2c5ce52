//! What a request asks for, read once from its method and URI.

use std::borrow::Cow;
use std::fmt;

use http::{Method, Uri};

use crate::field::quote;
use crate::name;
use crate::selector::FieldSelector;
use crate::status::{GroupResource, StatusError};

/// What a client wants done. Requests outside the resource paths carry the lower-case HTTP method instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Read one object.
    Get,
    /// Read a collection.
    List,
    /// Follow a collection or an object.
    Watch,
    /// Make an object, or post to a subresource.
    Create,
    /// Replace an object.
    Update,
    /// Change an object in part.
    Patch,
    /// Remove an object.
    Delete,
    /// Remove a collection.
    DeleteCollection,
    /// The legacy `/proxy/` prefix.
    Proxy,
    /// POST outside resources.
    Post,
    /// PUT outside resources.
    Put,
    /// HEAD outside resources.
    Head,
    /// OPTIONS.
    Options,
    /// Any other method.
    Other,
}

impl Verb {
    /// The verb as authorizers and audit logs see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Proxy => "proxy",
            Verb::Post => "post",
            Verb::Put => "put",
            Verb::Head => "head",
            Verb::Options => "options",
            Verb::Other => "",
        }
    }

    /// Whether the verb changes nothing.
    pub fn is_read_only(self) -> bool {
        matches!(self, Verb::Get | Verb::List | Verb::Watch | Verb::Head | Verb::Options)
    }

    fn of_resource(method: &Method) -> Verb {
        match *method {
            Method::POST => Verb::Create,
            Method::GET | Method::HEAD => Verb::Get,
            Method::PUT => Verb::Update,
            Method::PATCH => Verb::Patch,
            Method::DELETE => Verb::Delete,
            Method::OPTIONS => Verb::Options,
            _ => Verb::Other,
        }
    }

    fn of_path(method: &Method) -> Verb {
        match *method {
            Method::POST => Verb::Post,
            Method::GET => Verb::Get,
            Method::HEAD => Verb::Head,
            Method::PUT => Verb::Put,
            Method::PATCH => Verb::Patch,
            Method::DELETE => Verb::Delete,
            Method::OPTIONS => Verb::Options,
            _ => Verb::Other,
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The decoded query of a request, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query string; bad percent-encoding is a 400.
    pub fn parse(query: &str) -> Result<Self, StatusError> {
        query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                Ok((decode(key, true)?.into_owned(), decode(value, true)?.into_owned()))
            })
            .collect::<Result<_, _>>()
            .map(Query)
    }

    /// The first value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// Whether `key` is there and true, in upstream's reading of booleans.
    pub fn is_set(&self, key: &str) -> bool {
        self.get(key).is_some_and(query_bool)
    }

    /// Every value of `key`.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Every pair, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestInfo {
    /// What is to be done.
    pub verb: Verb,
    /// The path as sent, still encoded.
    pub path: String,
    /// The decoded query.
    pub query: Query,
    /// Whether the path is below a versioned API and names a resource. Discovery paths do not.
    pub is_resource_request: bool,
    /// `api` or `apis`; empty elsewhere.
    pub api_prefix: &'static str,
    /// API group; empty for core and outside resources.
    pub group: String,
    /// API version; empty outside resources.
    pub version: String,
    /// Namespace of the request. A request for a namespace object has that namespace's name here.
    pub namespace: Option<String>,
    /// Plural name of the resource.
    pub resource: Option<String>,
    /// Subresource, such as `status`.
    pub subresource: Option<String>,
    /// Name of the object. A list or watch with the field selector `metadata.name=x` has `x` here, as authorizers want.
    pub name: Option<String>,
    /// What follows the subresource in the path, encoded as sent and without its leading slash: the target path of a proxy.
    pub trailing_path: String,
}

impl RequestInfo {
    /// Reads method, path and query. Bad percent-encoding and impossible names are a 400.
    pub fn parse(method: &Method, uri: &Uri) -> Result<Self, StatusError> {
        let path = uri.path();
        let mut info = RequestInfo {
            verb: Verb::of_path(method),
            path: path.to_owned(),
            query: Query::parse(uri.query().unwrap_or_default())?,
            is_resource_request: false,
            api_prefix: "",
            group: String::new(),
            version: String::new(),
            namespace: None,
            resource: None,
            subresource: None,
            name: None,
            trailing_path: String::new(),
        };
        let parts = segments(path)?;
        let skip;
        (info.api_prefix, skip) = match parts.first().map(|first| &*first.text) {
            Some("api") if parts.len() >= 3 => ("api", 2),
            Some("apis") if parts.len() >= 4 => ("apis", 3),
            _ => return Ok(info),
        };
        info.version.push_str(&parts[skip - 1].text);
        if skip == 3 {
            info.group.push_str(&parts[1].text);
        }
        info.is_resource_request = true;
        info.verb = Verb::of_resource(method);
        info.read_resource(method, &parts[skip..])?;
        Ok(info)
    }

    /// Resource and group, for errors.
    pub fn group_resource(&self) -> GroupResource<'_> {
        GroupResource { group: &self.group, resource: self.resource.as_deref().unwrap_or_default() }
    }

    /// Whether the request is a legacy `/watch/` or a list with `watch=true`.
    pub fn is_watch(&self) -> bool {
        self.verb == Verb::Watch
    }

    /// `parts` are the segments behind the version; there is one at least.
    fn read_resource(&mut self, method: &Method, mut parts: &[Segment<'_>]) -> Result<(), StatusError> {
        let special = match &*parts[0].text {
            "watch" => Some(Verb::Watch),
            "proxy" => Some(Verb::Proxy),
            _ => None,
        };
        if let Some(verb) = special {
            if parts.len() < 2 {
                return Err(StatusError::bad_request(format!(
                    "unable to determine kind and namespace from url, {}",
                    quote(&self.path)
                )));
            }
            self.verb = verb;
            parts = &parts[1..];
        }
        if parts[0].text == "namespaces" && parts.len() > 1 {
            self.namespace = Some(checked("Namespace", &parts[1].text)?);
            // `status` and `finalize` belong to the namespace object; anything else is a resource inside it.
            if parts.len() > 2 && !matches!(&*parts[2].text, "status" | "finalize") {
                parts = &parts[2..];
            }
        }
        self.resource = Some(parts[0].text.to_string());
        if let Some(name) = parts.get(1) {
            self.name = Some(checked("Name", &name.text)?);
        }
        let mut used = 2;
        if special.is_none()
            && let Some(subresource) = parts.get(2)
        {
            self.subresource = Some(subresource.text.to_string());
            used = 3;
        }
        for (index, part) in parts.iter().skip(used).enumerate() {
            if index > 0 {
                self.trailing_path.push('/');
            }
            self.trailing_path.push_str(part.raw);
        }
        if !self.trailing_path.is_empty() && self.path.ends_with('/') {
            self.trailing_path.push('/');
        }
        if self.name.is_none() {
            self.read_collection_verb(method);
        }
        Ok(())
    }

    fn read_collection_verb(&mut self, method: &Method) {
        let following = self.query.get("watch").is_some_and(query_bool);
        self.verb = match self.verb {
            Verb::Get if following => Verb::Watch,
            Verb::Get => Verb::List,
            Verb::Delete if *method == Method::DELETE => Verb::DeleteCollection,
            verb => verb,
        };
        if matches!(self.verb, Verb::List | Verb::Watch | Verb::DeleteCollection)
            && let Some(Ok(selector)) = self.query.get("fieldSelector").map(FieldSelector::parse)
            && let Some(name) = selector.exact("metadata.name")
            && name::path_segment_name(name).is_empty()
        {
            self.name = Some(name.to_owned());
        }
    }
}

/// Upstream's reading of a boolean in a query: everything but `false` and `0` is true, an empty value too.
pub(crate) fn query_bool(value: &str) -> bool {
    !(value.eq_ignore_ascii_case("false") || value == "0")
}

fn checked(what: &str, segment: &str) -> Result<String, StatusError> {
    let complaints = name::path_segment_name(segment);
    if complaints.is_empty() && !segment.contains('\0') {
        return Ok(segment.to_owned());
    }
    let why = if complaints.is_empty() { "may not contain a NUL byte".to_owned() } else { complaints.join("; ") };
    Err(StatusError::bad_request(format!("{what} parameter invalid: {}: {why}", quote(segment))))
}

/// One segment of a path.
struct Segment<'a> {
    /// As sent.
    raw: &'a str,
    /// Decoded.
    text: Cow<'a, str>,
}

fn segments(path: &str) -> Result<Vec<Segment<'_>>, StatusError> {
    let trimmed = path.trim_matches('/');
    if trimmed.is_empty() {
        return Ok(Vec::new());
    }
    // `/apis/GROUP/VERSION/namespaces/NAMESPACE/RESOURCE/NAME/SUBRESOURCE`
    let mut segments = Vec::with_capacity(8);
    for raw in trimmed.split('/') {
        segments.push(Segment { raw, text: decode(raw, false)? });
    }
    Ok(segments)
}

/// Percent-decodes; in queries a plus is a space.
fn decode(text: &str, plus_is_space: bool) -> Result<Cow<'_, str>, StatusError> {
    if !text.bytes().any(|b| b == b'%' || (plus_is_space && b == b'+')) {
        return Ok(Cow::Borrowed(text));
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'%' => {
                let digits = (rest.first().copied().and_then(hex), rest.get(1).copied().and_then(hex));
                let (Some(high), Some(low)) = digits else {
                    let shown: String = String::from_utf8_lossy(&rest[..rest.len().min(2)]).into_owned();
                    let escape = quote(&format!("%{shown}"));
                    return Err(StatusError::bad_request(format!("invalid URL escape {escape}")));
                };
                out.push(high << 4 | low);
                rest = &rest[2..];
            }
            b'+' if plus_is_space => out.push(b' '),
            byte => out.push(byte),
        }
    }
    String::from_utf8(out)
        .map(Cow::Owned)
        .map_err(|_| StatusError::bad_request(format!("invalid URL escape: {} is not UTF-8 when decoded", quote(text))))
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

#[cfg(test)]
mod tests;
