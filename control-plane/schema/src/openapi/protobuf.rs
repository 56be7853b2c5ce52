//! OpenAPI 2.0 as gnostic's protobuf messages (package `openapi.v2`), made of the JSON of one path or definition at a time.
//!
//! Only fields that our documents, or those of other API servers, have are written. Numbers are those of gnostic's `openapiv2/OpenAPIv2.proto`.

use serde_json::Value;

/// A message that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, number: u32, bytes: &[u8]) {
        self.varint(u64::from(number) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, number: u32, message: Message) {
        self.bytes(number, &message.0);
    }

    /// A string member of `from`, if it has one.
    fn string(&mut self, number: u32, from: &Value, name: &str) {
        if let Some(text) = from.get(name).and_then(Value::as_str) {
            self.bytes(number, text.as_bytes());
        }
    }

    fn strings(&mut self, number: u32, from: &Value, name: &str) {
        for text in items(from, name).filter_map(Value::as_str) {
            self.bytes(number, text.as_bytes());
        }
    }

    fn bool(&mut self, number: u32, from: &Value, name: &str) {
        if from.get(name).and_then(Value::as_bool) == Some(true) {
            self.varint(u64::from(number) << 3);
            self.0.push(1);
        }
    }

    /// A count.
    fn count(&mut self, number: u32, from: &Value, name: &str) {
        if let Some(value) = from.get(name).and_then(Value::as_u64) {
            self.varint(u64::from(number) << 3);
            self.varint(value);
        }
    }

    fn double(&mut self, number: u32, from: &Value, name: &str) {
        if let Some(value) = from.get(name).and_then(Value::as_f64) {
            self.varint(u64::from(number) << 3 | 1);
            self.0.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// Any value: YAML, of which JSON is a part.
    fn any(&mut self, number: u32, value: &Value) {
        let mut any = Message::default();
        any.bytes(2, format!("{value}\n").as_bytes());
        self.message(number, any);
    }

    /// Extensions: a name and a value in YAML, of which JSON is a part.
    fn extensions(&mut self, number: u32, from: &Value) {
        for (name, value) in members(from).filter(|(name, _)| name.starts_with("x-")) {
            let mut any = Message::default();
            any.bytes(2, format!("{value}\n").as_bytes());
            self.named(number, name, any);
        }
    }

    /// `{name: 1, value: 2}`, which is how gnostic writes maps.
    fn named(&mut self, number: u32, name: &str, value: Message) {
        let mut named = Message::default();
        named.bytes(1, name.as_bytes());
        named.message(2, value);
        self.message(number, named);
    }
}

fn items<'a>(from: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    from.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn members(from: &Value) -> impl Iterator<Item = (&String, &Value)> {
    from.as_object().into_iter().flatten()
}

fn wrap(number: u32, inner: Message) -> Message {
    let mut outer = Message::default();
    outer.message(number, inner);
    outer
}

/// A `Document` that is being written, in the order paths, definitions, rest.
pub(super) struct Document {
    out: Message,
    paths: Message,
    definitions: Message,
}

impl Document {
    pub(super) fn new(info: &Value) -> Self {
        let mut out = Message::default();
        out.bytes(1, b"2.0");
        let mut message = Message::default();
        message.string(1, info, "title");
        message.string(2, info, "version");
        out.message(2, message);
        Self { out, paths: Message::default(), definitions: Message::default() }
    }

    pub(super) fn path(&mut self, path: &str, item: &Value) {
        self.paths.named(2, path, path_item(item));
    }

    pub(super) fn end_paths(&mut self) {
        self.out.message(8, std::mem::take(&mut self.paths));
    }

    pub(super) fn definition(&mut self, name: &str, value: &Value) {
        self.definitions.named(1, name, schema(value));
    }

    pub(super) fn finish(self) -> Vec<u8> {
        let mut out = self.out;
        out.message(9, self.definitions);
        // security: [{BearerToken: []}], and its definition.
        let mut requirement = Message::default();
        requirement.named(1, "BearerToken", Message::default());
        out.message(12, requirement);
        let mut key = Message::default();
        key.bytes(1, b"apiKey");
        key.bytes(2, b"authorization");
        key.bytes(3, b"header");
        key.bytes(4, b"Bearer Token authentication");
        let mut definitions = Message::default();
        // SecurityDefinitionsItem.api_key_security
        definitions.named(1, "BearerToken", wrap(2, key));
        out.message(13, definitions);
        out.0
    }
}

fn path_item(item: &Value) -> Message {
    let mut message = Message::default();
    for (method, number) in [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("patch", 8)] {
        if let Some(value) = item.get(method) {
            message.message(number, operation(value));
        }
    }
    for value in items(item, "parameters") {
        message.message(9, wrap(1, parameter(value)));
    }
    message
}

fn operation(value: &Value) -> Message {
    let mut message = Message::default();
    message.strings(1, value, "tags");
    message.string(3, value, "description");
    message.string(5, value, "operationId");
    message.strings(6, value, "produces");
    message.strings(7, value, "consumes");
    for value in items(value, "parameters") {
        message.message(8, wrap(1, parameter(value)));
    }
    let mut responses = Message::default();
    for (code, value) in value.get("responses").into_iter().flat_map(members) {
        let mut response = Message::default();
        response.string(1, value, "description");
        if let Some(value) = value.get("schema") {
            response.message(2, wrap(1, schema(value)));
        }
        responses.named(1, code, wrap(1, response));
    }
    message.message(9, responses);
    message.strings(10, value, "schemes");
    message.bool(11, value, "deprecated");
    message.extensions(13, value);
    message
}

/// A `Parameter`.
fn parameter(value: &Value) -> Message {
    let mut message = Message::default();
    let kind = value.get("in").and_then(Value::as_str);
    if kind == Some("body") {
        message.string(1, value, "description");
        message.string(2, value, "name");
        message.string(3, value, "in");
        message.bool(4, value, "required");
        if let Some(value) = value.get("schema") {
            message.message(5, schema(value));
        }
        return wrap(1, message);
    }
    message.bool(1, value, "required");
    message.string(2, value, "in");
    message.string(3, value, "description");
    message.string(4, value, "name");
    if let Some(kind @ ("path" | "header")) = kind {
        message.string(5, value, "type");
        message.bool(19, value, "uniqueItems");
        return wrap(2, wrap(if kind == "path" { 4 } else { 1 }, message));
    }
    message.string(6, value, "type");
    message.bool(20, value, "uniqueItems");
    wrap(2, wrap(3, message))
}

fn schema(value: &Value) -> Message {
    let mut message = Message::default();
    message.string(1, value, "$ref");
    message.string(2, value, "format");
    message.string(3, value, "title");
    message.string(4, value, "description");
    if let Some(default) = value.get("default") {
        message.any(5, default);
    }
    limits(&mut message, value);
    message.strings(19, value, "required");
    for value in items(value, "enum") {
        message.any(20, value);
    }
    match value.get("additionalProperties") {
        None => {}
        Some(Value::Bool(open)) => {
            let mut flag = Message::default();
            flag.varint(2 << 3);
            flag.0.push(u8::from(*open));
            message.message(21, flag);
        }
        Some(value) => message.message(21, wrap(1, schema(value))),
    }
    if value.get("type").is_some() {
        let mut kind = Message::default();
        kind.string(1, value, "type");
        message.message(22, kind);
    }
    if let Some(value) = value.get("items") {
        message.message(23, wrap(1, schema(value)));
    }
    for value in items(value, "allOf") {
        message.message(24, schema(value));
    }
    if let Some(value) = value.get("properties") {
        let mut properties = Message::default();
        for (name, value) in members(value) {
            properties.named(1, name, schema(value));
        }
        message.message(25, properties);
    }
    message.bool(27, value, "readOnly");
    if let Some(example) = value.get("example") {
        message.any(30, example);
    }
    message.extensions(31, value);
    message
}

/// What a schema demands of numbers, texts and lists.
fn limits(message: &mut Message, value: &Value) {
    message.double(6, value, "multipleOf");
    message.double(7, value, "maximum");
    message.bool(8, value, "exclusiveMaximum");
    message.double(9, value, "minimum");
    message.bool(10, value, "exclusiveMinimum");
    message.count(11, value, "maxLength");
    message.count(12, value, "minLength");
    message.string(13, value, "pattern");
    message.count(14, value, "maxItems");
    message.count(15, value, "minItems");
    message.bool(16, value, "uniqueItems");
    message.count(17, value, "maxProperties");
    message.count(18, value, "minProperties");
}
