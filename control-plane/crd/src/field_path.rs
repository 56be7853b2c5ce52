//! `fieldPath` of a rule: a JSON path of names, relative to the value the rule is about.

use crate::schema::Schema;

/// The path as errors show it (`.a.b[key]`), if the schema knows the field it names. It is written `.a.b['key']`.
pub(crate) fn resolve(path: &str, schema: &Schema) -> Option<String> {
    let (mut rest, mut at, mut shown) = (path.trim(), schema, String::new());
    while !rest.is_empty() {
        let name;
        (name, rest) = step(rest)?;
        if at.properties.is_empty() {
            at = at.additional_schema()?;
            shown.push_str(&format!("[{name}]"));
        } else {
            at = at.properties.get(&name)?;
            shown.push_str(&format!(".{name}"));
        }
    }
    (!shown.is_empty()).then_some(shown)
}

/// The first name of a path, and what follows it.
fn step(path: &str) -> Option<(String, &str)> {
    if let Some(path) = path.strip_prefix('.') {
        let end = path.find(['.', '[', ']']).unwrap_or(path.len());
        let (name, rest) = path.split_at(end);
        return (!name.is_empty()).then(|| (name.to_owned(), rest));
    }
    let mut letters = path.strip_prefix("['")?.char_indices();
    let quoted = &path["['".len()..];
    let mut name = String::new();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\'' => return quoted[at + 1..].strip_prefix(']').map(|rest| (name, rest)),
            '\\' => name.push(letters.next()?.1),
            letter => name.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::tests::schema;

    #[test]
    fn only_paths_the_schema_knows_are_paths() {
        let schema = schema(json!({"type": "object", "properties": {
            "a": {"type": "object", "properties": {"b-c": {"type": "string"}}},
            "map": {"type": "object", "additionalProperties": {"type": "string"}},
            "list": {"type": "array", "items": {"type": "string"}},
        }}));
        for (path, shown) in [
            (".a", Some(".a")),
            (".a['b-c']", Some(".a.b-c")),
            (".map['k']", Some(".map[k]")),
            (".map.k", Some(".map[k]")),
            (r".map['it\'s']", Some(".map[it's]")),
            (".none", None),
            ("a", None),
            (".list[0]", None),
            (".a['b-c'", None),
            (".a['", None),
            (".a.", None),
            ("", None),
        ] {
            assert_eq!(resolve(path, &schema).as_deref(), shown, "{path}");
        }
    }
}
