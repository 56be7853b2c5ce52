//! One source file of k8s-openapi.

use std::{collections::BTreeMap, iter::Peekable, str::Chars};

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};

/// What one file says about its type.
pub(crate) struct Source {
    /// Name of the definition, such as `io.k8s.api.core.v1.Pod`.
    pub(crate) name: String,
    /// Group, version and kind of a resource.
    pub(crate) kind: Option<(String, String, String)>,
    /// Kind of its list.
    pub(crate) list_kind: Option<String>,
    /// How lists and maps merge, by JSON name: `list=..` or `map=..`.
    pub(crate) merge: BTreeMap<String, String>,
    /// Its JSON schema; `$ref` is a definition's name.
    pub(crate) schema: Value,
}

pub(crate) fn read(text: &str) -> Result<Option<Source>> {
    let Some(name) = between(text, "// Generated from definition ", "\n") else { return Ok(None) };
    // The generic list has none.
    let Some(schema) = text.find("json_schema!(") else { return Ok(None) };
    let mut parser = Parser { chars: text[schema + "json_schema!(".len()..].chars().peekable() };
    let names: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| {
            let (json, rust) = line.trim().strip_prefix('"')?.split_once("\" => Field::Key_")?;
            Some((rust.trim_end_matches(','), json))
        })
        .collect();
    let constant = |name: &str| between(text, &format!("const {name}: &'static str = \""), "\"").map(str::to_owned);
    Ok(Some(Source {
        name: name.to_owned(),
        kind: constant("KIND")
            .map(|kind| (constant("GROUP").unwrap_or_default(), constant("VERSION").unwrap_or_default(), kind)),
        list_kind: constant("LIST_KIND"),
        merge: merges(text, &names)?,
        schema: parser.value()?,
    }))
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let rest = &text[text.find(start)? + start.len()..];
    Some(&rest[..rest.find(end)?])
}

/// The merge strategies of the fields of the `DeepMerge` implementation.
fn merges(text: &str, names: &BTreeMap<&str, &str>) -> Result<BTreeMap<String, String>> {
    let json_name = |rust: &str| {
        // The constants of the deserialiser have no `_` behind keywords, and `r#` is cut off.
        let plain = rust.trim_end_matches('_');
        names.get(rust).or_else(|| names.get(plain)).map(|name| (*name).to_owned())
    };
    let mut merges = BTreeMap::new();
    for call in text.split("crate::merge_strategies::").skip(1) {
        let Some((kind, rest)) = call.split_once('(') else { continue };
        let Some(rust) = rest.trim_start().strip_prefix("&mut self.") else { continue };
        let rust = rust.split(',').next().unwrap_or_default();
        let Some(name) = json_name(rust) else { bail!("{rust} has no JSON name") };
        let merge = match kind {
            "list::map" => {
                let comparators = between(rest, "&[", "]").unwrap_or_default();
                let mut keys = Vec::new();
                for comparator in comparators.split("lhs.").skip(1) {
                    keys.push(camel(comparator.split(' ').next().unwrap_or_default().trim_end_matches('_')));
                }
                // Two differ from their camel case.
                let keys: Vec<&str> = keys
                    .iter()
                    .map(|key| match key.as_str() {
                        "resourceId" => "resourceID",
                        "shareId" => "shareID",
                        key => key,
                    })
                    .collect();
                format!("list=map:{}", keys.join(","))
            }
            "list::set" => "list=set".to_owned(),
            "list::atomic" => "list=atomic".to_owned(),
            "map::atomic" => "map=atomic".to_owned(),
            "map::granular" => continue,
            other => bail!("unknown strategy {other}"),
        };
        merges.insert(name, merge);
    }
    Ok(merges)
}

fn camel(snake: &str) -> String {
    let mut out = String::new();
    let mut up = false;
    for c in snake.chars() {
        if c == '_' {
            up = true;
        } else {
            out.push(if up { c.to_ascii_uppercase() } else { c });
            up = false;
        }
    }
    out
}

/// Reads the body of `json_schema!`: JSON, with expressions that name other types.
struct Parser<'a> {
    chars: Peekable<Chars<'a>>,
}

impl Parser<'_> {
    fn value(&mut self) -> Result<Value> {
        self.space();
        match self.chars.peek().copied().context("the schema is cut short")? {
            '"' => Ok(Value::String(self.string()?)),
            '[' => {
                self.chars.next();
                let mut items = Vec::new();
                while !self.accept(']') {
                    items.push(self.value()?);
                    self.accept(',');
                }
                Ok(Value::Array(items))
            }
            '(' => {
                self.chars.next();
                let value = self.value()?;
                if !self.accept(')') {
                    bail!("no closing parenthesis");
                }
                Ok(value)
            }
            '{' => {
                self.chars.next();
                self.space();
                if self.chars.peek() == Some(&'l') { self.described() } else { self.object() }
            }
            '_' => {
                let expression = self.until(|c| c == ')');
                self.chars.next();
                reference(&expression)
            }
            _ => {
                let word: String = self.until(|c| matches!(c, ',' | '}' | ']' | '\n')).trim().to_owned();
                match word.as_str() {
                    "true" => Ok(Value::Bool(true)),
                    "false" => Ok(Value::Bool(false)),
                    word => bail!("unexpected {word:?}"),
                }
            }
        }
    }

    fn object(&mut self) -> Result<Value> {
        let mut members = Map::new();
        while !self.accept('}') {
            let name = self.string()?;
            if !self.accept(':') {
                bail!("no colon behind {name:?}");
            }
            members.insert(name, self.value()?);
            self.accept(',');
        }
        Ok(Value::Object(members))
    }

    /// `let mut schema_obj = ..subschema_for::<T>(); schema_obj.ensure_object().insert("description".into(), "..".into()); ..}`
    fn described(&mut self) -> Result<Value> {
        let mut value = reference(&self.until(|c| c == ';'))?;
        let _ = self.until(|c| c == '"');
        let name = self.string()?;
        let _ = self.until(|c| c == '"');
        value[name] = Value::String(self.string()?);
        let _ = self.until(|c| c == '}');
        self.chars.next();
        Ok(value)
    }

    fn string(&mut self) -> Result<String> {
        if !self.accept('"') {
            bail!("no string");
        }
        let mut text = String::new();
        loop {
            match self.chars.next().context("a string is cut short")? {
                '"' => return Ok(text),
                '\\' => text.push(match self.chars.next() {
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some('r') => '\r',
                    Some(c @ ('"' | '\\' | '\'')) => c,
                    other => bail!("unknown escape {other:?}"),
                }),
                c => text.push(c),
            }
        }
    }

    fn accept(&mut self, wanted: char) -> bool {
        self.space();
        self.chars.next_if_eq(&wanted).is_some()
    }

    fn space(&mut self) {
        while self.chars.next_if(|c| c.is_whitespace()).is_some() {}
    }

    fn until(&mut self, end: impl Fn(char) -> bool) -> String {
        std::iter::from_fn(|| self.chars.next_if(|c| !end(*c))).collect()
    }
}

/// The definition that `..subschema_for::<crate::path::Type>()..` names.
fn reference(expression: &str) -> Result<Value> {
    let path = between(expression, "subschema_for::<crate::", ">").with_context(|| format!("{expression:?}"))?;
    let name = match path.split_once("::").context("a path without modules")? {
        ("apiextensions_apiserver", rest) => format!("apiextensions-apiserver::{rest}"),
        ("kube_aggregator", rest) => format!("kube-aggregator::{rest}"),
        _ => path.to_owned(),
    };
    Ok(json!({"$ref": format!("io.k8s.{}", name.replace("::", "."))}))
}
