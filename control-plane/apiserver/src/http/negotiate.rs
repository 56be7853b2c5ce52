//! Media types: what a client sends, and what it takes.

use http::{HeaderMap, header};
use skep_api::status::StatusError;

/// The media types of bodies, both ways.
pub(crate) const MEDIA_TYPES: &[&str] = &["application/json", "application/yaml", skep_protobuf::MEDIA_TYPE];

/// How a response is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Yaml,
    /// Only for those who take nothing else: objects are held as JSON.
    Protobuf,
}

/// What a response shows of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// The object itself.
    Whole,
    /// A `meta.k8s.io` Table of this version.
    Table(&'static str),
    /// `meta.k8s.io` PartialObjectMetadata of this version.
    Metadata(&'static str),
}

/// What was agreed on for a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) format: Format,
    pub(crate) view: View,
}

impl Accepted {
    /// Plain JSON.
    #[cfg(test)]
    pub(crate) const JSON: Self = Self { format: Format::Json, view: View::Whole };

    /// The value of `Content-Type`.
    pub(crate) fn content_type(&self) -> &'static str {
        match self.format {
            Format::Json => "application/json",
            Format::Yaml => "application/yaml",
            Format::Protobuf => skep_protobuf::MEDIA_TYPE,
        }
    }
}

/// One alternative of an `Accept` header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Alternative<'a> {
    pub(crate) media_type: &'a str,
    parameters: &'a str,
    quality: f32,
}

impl<'a> Alternative<'a> {
    fn parse(text: &'a str) -> Self {
        let (media_type, parameters) = text.split_once(';').unwrap_or((text, ""));
        let mut alternative = Self { media_type: media_type.trim(), parameters, quality: 1.0 };
        if let Some(quality) = alternative.parameter("q") {
            alternative.quality = quality.parse().unwrap_or(1.0);
        }
        alternative
    }

    /// The value of a parameter such as `as`.
    pub(crate) fn parameter(&self, name: &str) -> Option<&'a str> {
        self.parameters
            .split(';')
            .filter_map(|pair| pair.split_once('='))
            .find_map(|(key, value)| key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"')))
    }

    /// The format this alternative asks for, if it is one of ours.
    pub(crate) fn format(&self) -> Option<Format> {
        match self.media_type {
            "application/json" | "*/*" | "application/*" => Some(Format::Json),
            "application/yaml" => Some(Format::Yaml),
            skep_protobuf::MEDIA_TYPE => Some(Format::Protobuf),
            _ => None,
        }
    }

    fn view(&self) -> Option<View> {
        let Some(kind) = self.parameter("as") else { return Some(View::Whole) };
        if self.parameter("g") != Some("meta.k8s.io") {
            return None;
        }
        let version = match self.parameter("v")? {
            "v1" => "v1",
            "v1beta1" => "v1beta1",
            _ => return None,
        };
        match kind {
            "Table" => Some(View::Table(version)),
            "PartialObjectMetadata" | "PartialObjectMetadataList" => Some(View::Metadata(version)),
            _ => None,
        }
    }
}

/// The alternatives of the request, best first.
pub(crate) fn alternatives(headers: &HeaderMap) -> Vec<Alternative<'_>> {
    let mut alternatives: Vec<Alternative<'_>> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter(|text| !text.trim().is_empty())
        .map(Alternative::parse)
        .collect();
    if alternatives.is_empty() {
        alternatives.push(Alternative::parse("*/*"));
    }
    alternatives.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    alternatives
}

/// Agrees on the encoding of objects, or answers 406.
pub(crate) fn accept(headers: &HeaderMap) -> Result<Accepted, StatusError> {
    if !headers.contains_key(header::ACCEPT) {
        return Ok(Accepted { format: Format::Json, view: View::Whole });
    }
    let found = alternatives(headers);
    let found = found.iter().filter_map(|alternative| {
        let accepted = Accepted { format: alternative.format()?, view: alternative.view()? };
        // Upstream's protobuf has no tables.
        let writable = accepted.format != Format::Protobuf || !matches!(accepted.view, View::Table(_));
        writable.then_some(accepted)
    });
    choose(found)
}

/// Agrees on the encoding of what has no other views (discovery, version), or answers 406.
pub(crate) fn accept_plain(headers: &HeaderMap) -> Result<Accepted, StatusError> {
    let found = alternatives(headers);
    let plain = found.iter().filter(|alternative| alternative.parameter("as").is_none());
    choose(plain.filter_map(Alternative::format).map(|format| Accepted { format, view: View::Whole }))
}

/// The first of what a client takes; JSON of the same view in place of protobuf wherever that will do, for it is at hand.
fn choose(mut found: impl Iterator<Item = Accepted>) -> Result<Accepted, StatusError> {
    let first = found.next().ok_or_else(|| StatusError::not_acceptable(MEDIA_TYPES))?;
    if first.format != Format::Protobuf {
        return Ok(first);
    }
    Ok(found.find(|other| other.format == Format::Json && other.view == first.view).unwrap_or(first))
}

/// The media type of the request's body without parameters; none if it does not say.
pub(crate) fn content_type(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let media_type = value.split(';').next().unwrap_or_default().trim();
    (!media_type.is_empty()).then_some(media_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepting(value: &'static str) -> Result<Accepted, StatusError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, value.parse().unwrap());
        accept(&headers)
    }

    #[test]
    fn kubectl_gets_a_table() {
        let accepted = accepting(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
        );
        assert_eq!(accepted.unwrap(), Accepted { format: Format::Json, view: View::Table("v1") });
    }

    #[test]
    fn unknown_alternatives_are_passed_over() {
        let accepted =
            accepting("application/vnd.kubernetes.protobuf, application/json;as=Magic;g=meta.k8s.io;v=v1, */*");
        assert_eq!(accepted.unwrap(), Accepted::JSON);
        let accepted = accepting("application/json;q=0.5, application/yaml");
        assert_eq!(accepted.unwrap().format, Format::Yaml);
    }

    #[test]
    fn protobuf_is_written_for_those_who_take_nothing_else() {
        let view = || View::Metadata("v1");
        let protobuf = "application/vnd.kubernetes.protobuf";
        assert_eq!(accepting(protobuf).unwrap(), Accepted { format: Format::Protobuf, view: View::Whole });
        assert_eq!(accepting("application/vnd.kubernetes.protobuf,application/json").unwrap(), Accepted::JSON);
        let metadata =
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
        assert_eq!(accepting(metadata).unwrap(), Accepted { format: Format::Protobuf, view: view() });
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,\
                        application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        assert_eq!(accepting(metadata).unwrap(), Accepted { format: Format::Json, view: view() });
        let table = "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1";
        assert_eq!(accepting(table).unwrap_err().code(), 406);
        assert_eq!(accepting("text/html").unwrap_err().code(), 406);
        assert_eq!(accept(&HeaderMap::new()).unwrap(), Accepted::JSON);
    }
}
