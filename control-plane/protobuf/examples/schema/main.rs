//! Prints the table of all messages, `schema.txt`, from three sources that each know a part of it:
//! the `k8s-pb` crate (field numbers, wire types), the `k8s-openapi` crate (JSON names) and a Go program that links
//! the upstream API types, such as kubectl (which fields are pointers, inlined or left out when empty).
//!
//! ```text
//! cargo run -p skep-protobuf --example schema -- \
//!     <k8s-pb>/src <k8s-openapi>/src/v1_35 $(which kubectl) > control-plane/protobuf/schema.txt
//! ```
//!
//! Take the newest Go program at hand (`schema.txt` was printed with kubectl 1.33): an older one knows fewer fields.
//! Where the sources contradict each other it says so on standard error. What the Go program does not know is decided
//! by [`POINTERS`] and [`VALUES`].

mod go;
mod openapi;
mod pb;

use std::{collections::BTreeSet, env, fs, path::Path};

use anyhow::{Context as _, Result, bail};

use self::{
    go::{GoField, GoTypes},
    openapi::{OpenApi, letters},
    pb::{Key, Messages, PbField, Shape},
};

/// Messages whose JSON is not an object with their fields.
const SPECIAL: &[(&str, &str)] = &[
    ("meta/v1.Time", "time"),
    ("meta/v1.MicroTime", "micro_time"),
    ("meta/v1.Duration", "duration"),
    ("meta/v1.FieldsV1", "raw"),
    ("meta/v1.Verbs", "items"),
    ("api/resource.Quantity", "quantity"),
    ("pkg/runtime.RawExtension", "raw"),
    ("util/intstr.IntOrString", "int_or_string"),
    ("apiextensions/v1.Json", "raw"),
    ("apiextensions/v1.JsonSchemaPropsOrBool", "or_bool"),
    ("apiextensions/v1.JsonSchemaPropsOrArray", "or_array"),
    ("apiextensions/v1.JsonSchemaPropsOrStringArray", "or_strings"),
];

/// Strings the Go program does not know (newer, or of groups it does not link) that are pointers upstream.
const POINTERS: &[&str] = &[
    "admissionregistration/v1beta1.MutatingAdmissionPolicySpec.failure_policy",
    "apiextensions/v1.CustomResourceDefinitionVersion.deprecation_warning",
    "apiextensions/v1.JsonSchemaProps.ref",
    "apiextensions/v1.JsonSchemaProps.x_kubernetes_list_type",
    "apiextensions/v1.JsonSchemaProps.x_kubernetes_map_type",
    "apiextensions/v1.ServiceReference.path",
    "apiextensions/v1.ValidationRule.reason",
    "apiextensions/v1.WebhookClientConfig.url",
    "core/v1.PodSpec.hostname_override",
    "resource/v1.AllocatedDeviceStatus.share_id",
    "resource/v1.Device.node_name",
    "resource/v1.DeviceAttribute.string",
    "resource/v1.DeviceAttribute.version",
    "resource/v1.DeviceClassSpec.extended_resource_name",
    "resource/v1.DeviceConstraint.distinct_attribute",
    "resource/v1.DeviceConstraint.match_attribute",
    "resource/v1.DeviceRequestAllocationResult.share_id",
    "resource/v1.ResourceSliceSpec.node_name",
    "resource/v1beta1.AllocatedDeviceStatus.share_id",
    "resource/v1beta1.DeviceClassSpec.extended_resource_name",
    "resource/v1beta1.DeviceConstraint.distinct_attribute",
    "resource/v1beta1.DeviceRequestAllocationResult.share_id",
    "resource/v1beta2.AllocatedDeviceStatus.share_id",
    "resource/v1beta2.DeviceClassSpec.extended_resource_name",
    "resource/v1beta2.DeviceConstraint.distinct_attribute",
    "resource/v1beta2.DeviceRequestAllocationResult.share_id",
];

/// Numbers and booleans the Go program does not know that are optional and yet no pointers upstream.
const VALUES: &[&str] = &[
    "apiextensions/v1.CustomResourceColumnDefinition.priority",
    "apiextensions/v1.CustomResourceDefinitionCondition.observed_generation",
    "apiextensions/v1.CustomResourceDefinitionSpec.preserve_unknown_fields",
    "apiextensions/v1.CustomResourceDefinitionStatus.observed_generation",
    "apiextensions/v1.CustomResourceDefinitionVersion.deprecated",
    "apiextensions/v1.JsonSchemaProps.exclusive_maximum",
    "apiextensions/v1.JsonSchemaProps.exclusive_minimum",
    "apiextensions/v1.JsonSchemaProps.nullable",
    "apiextensions/v1.JsonSchemaProps.unique_items",
    "apiextensions/v1.JsonSchemaProps.x_kubernetes_embedded_resource",
    "apiextensions/v1.JsonSchemaProps.x_kubernetes_int_or_string",
    "apiregistration/v1.APIServiceSpec.insecure_skip_tls_verify",
    "resource/v1.DeviceSubRequest.count",
    "resource/v1.ExactDeviceRequest.count",
];

const META: &str = "apimachinery/pkg/apis/meta/v1";

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [pb, openapi, go] = arguments.as_slice() else {
        bail!("usage: schema K8S_PB_SOURCE K8S_OPENAPI_SOURCE GO_PROGRAM");
    };
    let messages = pb::read(Path::new(pb))?;
    let openapi = openapi::read(Path::new(openapi))?;
    let go = go::read(&fs::read(go).context(go.clone())?)?;
    let table = Table { messages, openapi, go };
    print!("{}", table.print()?);
    Ok(())
}

struct Table {
    messages: Messages,
    openapi: OpenApi,
    go: GoTypes,
}

impl Table {
    fn print(&self) -> Result<String> {
        let mut waiting: Vec<&Key> = self
            .messages
            .keys()
            .filter(|(module, _)| module == META || self.openapi.versions.contains_key(module))
            .collect();
        let mut reached = BTreeSet::new();
        while let Some(key) = waiting.pop() {
            let fields = self.messages.get(key).with_context(|| format!("no message {key:?}"))?;
            if reached.insert(key) && special(key).is_none() {
                waiting.extend(fields.iter().filter_map(|field| field.message.as_ref()));
            }
        }
        let mut out = String::from(
            "# The messages of the Kubernetes API: printed by the example `schema`, do not edit.\n\
             # message NAME [SPECIAL], then its fields: NUMBER JSON_NAME [repeated|map] TYPE [?|-]\n\
             # `?` a pointer upstream: zero values say something; `-` left out when empty; name `.` inlined.\n\
             # kind API_VERSION KIND MESSAGE; API_VERSION `*` for kinds that every version has.\n",
        );
        for key in &reached {
            out.push_str(&format!("message {}", short(key)));
            if let Some(special) = special(key) {
                out.push_str(&format!(" {special}\n"));
                continue;
            }
            out.push('\n');
            let mut fields: Vec<&PbField> = self.messages[*key].iter().collect();
            fields.sort_by_key(|field| field.number);
            for field in fields {
                out.push_str(&self.line(key, field));
            }
        }
        for (version, kind, message) in self.kinds(&reached) {
            out.push_str(&format!("kind {version} {kind} {message}\n"));
        }
        Ok(out)
    }

    fn line(&self, key: &Key, field: &PbField) -> String {
        let id = (key.0.clone(), letters(&key.1));
        let found = self.openapi.types.get(&id);
        let known = found.and_then(|found| found.names.get(&letters(&field.name)));
        let go_struct = self.go.get(&(package(&key.0), key.1.to_lowercase()));
        let go = go_struct.and_then(|fields| fields.iter().find(|go| go.number == Some(field.number)));
        let (mut name, inline) = match (known, go) {
            (_, Some(go)) if go.inline => (".".to_owned(), true),
            (Some(known), Some(go)) if *known != go.json => {
                eprintln!("{}.{}: {known} in OpenAPI, {} in Go", short(key), field.name, go.json);
                (known.clone(), false)
            }
            (Some(known), _) => (known.clone(), false),
            (None, Some(go)) => (go.json.clone(), false),
            (None, None) if found.is_some() && field.message.is_some() => (".".to_owned(), true),
            (None, None) => (camel(&field.name), false),
        };
        if name.is_empty() {
            name = camel(&field.name);
        }
        let kind = field.message.as_ref().map_or(field.scalar.clone(), short);
        let shape = match field.shape {
            Shape::One => "",
            Shape::Many => "repeated ",
            Shape::Map => "map ",
        };
        let flag = if field.shape == Shape::One && !inline { self.flag(key, field, go) } else { "" };
        format!("{} {name} {shape}{kind}{flag}\n", field.number)
    }

    /// Whether zero values of the field say something.
    fn flag(&self, key: &Key, field: &PbField, go: Option<&GoField>) -> &'static str {
        match go {
            Some(go) if go.pointer => " ?",
            Some(go) if go.omit_empty => " -",
            Some(_) => "",
            None => {
                let name = format!("{}.{}", short(key), field.name);
                let id = (key.0.clone(), letters(&key.1));
                let optional =
                    self.openapi.types.get(&id).is_some_and(|found| found.optional.contains(&letters(&field.name)));
                let text = matches!(field.scalar.as_str(), "string" | "bytes");
                if POINTERS.contains(&name.as_str()) {
                    " ?"
                } else if !optional {
                    ""
                } else if text || field.message.is_some() || VALUES.contains(&name.as_str()) {
                    " -"
                } else {
                    // Most are pointers; where one is not, its zero does no harm.
                    " ?"
                }
            }
        }
    }

    fn kinds(&self, reached: &BTreeSet<&Key>) -> Vec<(String, String, String)> {
        let mut kinds = Vec::new();
        for (module, name) in reached.iter().map(|key| (&key.0, &key.1)) {
            let version = if module == META {
                "*"
            } else if let Some(version) = self.openapi.versions.get(module) {
                version
            } else {
                continue;
            };
            let fields = &self.messages[&(module.clone(), name.clone())];
            let go = self.go.get(&(package(module), name.to_lowercase()));
            let first = fields.iter().find(|field| field.number == 1 && field.name == "metadata");
            let meta = first.and_then(|field| field.message.as_ref()).map(|(_, name)| name.as_str());
            let is_kind = match go {
                // Kinds embed TypeMeta, which protobuf carries in the envelope.
                Some(go) => go.iter().any(|field| field.inline && field.number.is_none()),
                None if meta == Some("ListMeta") => true,
                None => {
                    meta == Some("ObjectMeta") && self.messages.contains_key(&(module.clone(), format!("{name}List")))
                }
            };
            let special_meta = module == META
                && ["WatchEvent", "PartialObjectMetadata", "PartialObjectMetadataList"].contains(&name.as_str());
            if is_kind || special_meta {
                kinds.push((version.to_owned(), name.clone(), short(&(module.clone(), name.clone()))));
            }
        }
        kinds
    }
}

/// The Go package of a module.
fn package(module: &str) -> String {
    match module.split_once('/') {
        Some((first @ ("apiextensions_apiserver" | "kube_aggregator"), rest)) => {
            format!("k8s.io/{}/{rest}", first.replace('_', "-"))
        }
        _ => format!("k8s.io/{module}"),
    }
}

/// `core/v1.Pod`
fn short(key: &Key) -> String {
    let parts: Vec<&str> = key.0.rsplitn(3, '/').take(2).collect();
    format!("{}.{}", parts.iter().rev().copied().collect::<Vec<_>>().join("/"), key.1)
}

fn special(key: &Key) -> Option<&'static str> {
    let name = short(key);
    if key.1 == "ExtraValue" {
        return Some("items");
    }
    SPECIAL.iter().find(|(special, _)| *special == name).map(|(_, how)| *how)
}

fn camel(snake: &str) -> String {
    let mut out = String::new();
    for (index, part) in snake.split('_').enumerate() {
        let mut chars = part.chars();
        match chars.next() {
            Some(first) if index > 0 => out.extend(first.to_uppercase()),
            Some(first) => out.push(first),
            None => {}
        }
        out.extend(chars);
    }
    out
}
