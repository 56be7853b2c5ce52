//! The JSON paths of definitions: simple ones (scale, selectable fields) and those of printer columns.

use serde_json::Value;

/// One step of a path.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Name(String),
    /// Counted from the end when negative.
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    All,
    Deep(String),
    /// `?(@.path op value)`; without operator: the path leads somewhere.
    Filter(Vec<Step>, Option<(String, Value)>),
}

/// A path such as `.status.conditions[?(@.type=="Ready")].status`, in the dialect of kubectl.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

impl JsonPath {
    /// Reads a path; none if it makes no sense.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text);
        let text = text.strip_prefix(['$', '@']).unwrap_or(text);
        steps(text).map(Self)
    }

    /// Everything it leads to.
    pub fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        walk(&self.0, value)
    }
}

fn steps(text: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("..") {
            let (name, after) = take_name(after)?;
            steps.push(Step::Deep(name));
            rest = after;
        } else if let Some(after) = rest.strip_prefix('.') {
            if after.is_empty() || after.starts_with('[') {
                rest = after;
                continue;
            }
            if let Some(after) = after.strip_prefix('*') {
                steps.push(Step::All);
                rest = after;
                continue;
            }
            let (name, after) = take_name(after)?;
            steps.push(Step::Name(name));
            rest = after;
        } else if let Some(after) = rest.strip_prefix('[') {
            let end = bracket_end(after)?;
            steps.push(bracket(after[..end].trim())?);
            rest = &after[end + 1..];
        } else if steps.is_empty() {
            let (name, after) = take_name(rest)?;
            steps.push(Step::Name(name));
            rest = after;
        } else {
            return None;
        }
    }
    Some(steps)
}

/// A name up to the next dot or bracket; a backslash takes the next character as it is.
fn take_name(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.push(chars.next()?.1),
            '.' | '[' => return (!name.is_empty()).then_some((name, &text[at..])),
            c => name.push(c),
        }
    }
    (!name.is_empty()).then_some((name, ""))
}

/// Where the bracket that was opened before `text` is closed.
fn bracket_end(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn bracket(text: &str) -> Option<Step> {
    if text == "*" {
        return Some(Step::All);
    }
    if let Some(name) = unquote(text) {
        return Some(Step::Name(name));
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|text| text.strip_suffix(')')) {
        for operator in ["==", "!=", "<=", ">=", "<", ">"] {
            if let Some((left, right)) = filter.split_once(operator) {
                let left = steps(left.trim().strip_prefix('@')?)?;
                let right = right.trim();
                let right = match unquote(right) {
                    Some(text) => Value::String(text),
                    None => serde_json::from_str(right).ok()?,
                };
                return Some(Step::Filter(left, Some((operator.to_owned(), right))));
            }
        }
        return Some(Step::Filter(steps(filter.trim().strip_prefix('@')?)?, None));
    }
    if let Some((from, to)) = text.split_once(':') {
        let number = |text: &str| if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) };
        return Some(Step::Slice(number(from.trim())?, number(to.trim())?));
    }
    text.parse().ok().map(Step::Index)
}

fn unquote(text: &str) -> Option<String> {
    let inner = ['\'', '"'].iter().find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote))?;
    Some(inner.to_owned())
}

fn walk<'v>(steps: &[Step], value: &'v Value) -> Vec<&'v Value> {
    let Some((step, rest)) = steps.split_first() else { return vec![value] };
    let next: Vec<&Value> = match (step, value) {
        (Step::Name(name), Value::Object(map)) => map.get(name).into_iter().collect(),
        (Step::Index(index), Value::Array(items)) => at(items, *index).into_iter().collect(),
        (Step::Slice(from, to), Value::Array(items)) => slice(items, *from, *to),
        (Step::All, Value::Array(items)) => items.iter().collect(),
        (Step::All, Value::Object(map)) => map.values().collect(),
        (Step::Filter(path, test), Value::Array(items)) => {
            items.iter().filter(|item| passes(walk(path, item).first().copied(), test.as_ref())).collect()
        }
        (Step::Deep(name), value) => {
            let mut found = Vec::new();
            deep(name, value, &mut found);
            found
        }
        _ => Vec::new(),
    };
    next.into_iter().flat_map(|value| walk(rest, value)).collect()
}

fn at(items: &[Value], index: i64) -> Option<&Value> {
    let index = if index < 0 { index.checked_add(i64::try_from(items.len()).ok()?)? } else { index };
    items.get(usize::try_from(index).ok()?)
}

fn slice(items: &[Value], from: Option<i64>, to: Option<i64>) -> Vec<&Value> {
    let place = |index: i64| {
        let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
        let index = if index < 0 { index.saturating_add(length) } else { index };
        usize::try_from(index.clamp(0, length)).unwrap_or(0)
    };
    let (from, to) = (from.map_or(0, place), to.map_or(items.len(), place));
    items.get(from..to.max(from)).unwrap_or_default().iter().collect()
}

fn passes(found: Option<&Value>, test: Option<&(String, Value)>) -> bool {
    let (Some(found), Some((operator, want))) = (found, test) else { return found.is_some() && test.is_none() };
    let order = match (found, want) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (a, b) => (a == b).then_some(std::cmp::Ordering::Equal),
    };
    match operator.as_str() {
        "==" => order.is_some_and(std::cmp::Ordering::is_eq),
        "!=" => order.is_none_or(std::cmp::Ordering::is_ne),
        "<=" => order.is_some_and(std::cmp::Ordering::is_le),
        ">=" => order.is_some_and(std::cmp::Ordering::is_ge),
        "<" => order.is_some_and(std::cmp::Ordering::is_lt),
        _ => order.is_some_and(std::cmp::Ordering::is_gt),
    }
}

fn deep<'v>(name: &str, value: &'v Value, found: &mut Vec<&'v Value>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if key == name {
                    found.push(value);
                }
                deep(name, value, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| deep(name, item, found)),
        _ => {}
    }
}

/// What a simple path such as `.spec.replicas` leads to.
pub fn simple_get<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    path.strip_prefix('.')?.split('.').try_fold(value, |value, name| value.get(name))
}

/// Sets what a simple path leads to; objects on the way are made. False if something else is in the way.
pub fn simple_set(value: &mut Value, path: &str, new: Value) -> bool {
    let Some(path) = path.strip_prefix('.') else { return false };
    let mut at = value;
    for name in path.split('.') {
        let Value::Object(map) = at else { return false };
        at = map.entry(name).or_insert_with(|| Value::Object(serde_json::Map::new()));
    }
    *at = new;
    true
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_where_kubectl_finds_them_to_lead() {
        let object = json!({
            "metadata": {"annotations": {"a.b/c": "x"}},
            "spec": {"replicas": 3, "list": [{"n": 1, "t": "a"}, {"n": 2, "t": "b"}]},
        });
        for (path, want) in [
            (".spec.replicas", vec![json!(3)]),
            ("{.spec.replicas}", vec![json!(3)]),
            (r".metadata.annotations.a\.b/c", vec![json!("x")]),
            (".metadata.annotations['a.b/c']", vec![json!("x")]),
            (".spec.list[0].n", vec![json!(1)]),
            (".spec.list[-1].n", vec![json!(2)]),
            (".spec.list[*].n", vec![json!(1), json!(2)]),
            (".spec.list[0:1].n", vec![json!(1)]),
            (".spec.list[?(@.t==\"b\")].n", vec![json!(2)]),
            (".spec.list[?(@.n>1)].t", vec![json!("b")]),
            ("..n", vec![json!(1), json!(2)]),
            (".nothing.here", vec![]),
        ] {
            let found = JsonPath::parse(path).unwrap();
            assert_eq!(found.find(&object), want.iter().collect::<Vec<_>>(), "{path}");
        }
        for wrong in [".a[", ".a[x", "a]b[", ".a[?(b)]"] {
            assert_eq!(JsonPath::parse(wrong).filter(|path| path.0.len() > 1), None, "{wrong}");
        }
    }

    #[test]
    fn simple_paths_are_read_and_written() {
        let mut object = json!({"spec": {"a": 1}});
        assert_eq!(simple_get(&object, ".spec.a"), Some(&json!(1)));
        assert!(simple_set(&mut object, ".spec.b.c", json!(2)));
        assert_eq!(object, json!({"spec": {"a": 1, "b": {"c": 2}}}));
        assert!(!simple_set(&mut object, ".spec.a.x", json!(2)));
    }
}
