//! Turns `data/types.txt` into constant tables (no pointers, no parsing and no heap at run time) and its descriptions into
//! one compressed blob a package.

use std::{collections::BTreeMap, env, fmt::Write as _, fs, io::Write as _, path::Path};

use flate2::{Compression, write::ZlibEncoder};
use sha2::{Digest as _, Sha256};

/// Things that are kept once and named by their position.
#[derive(Default)]
struct Interned {
    known: BTreeMap<String, usize>,
    all: Vec<String>,
}

impl Interned {
    fn place(&mut self, text: String) -> usize {
        *self.known.entry(text.clone()).or_insert_with(|| {
            self.all.push(text);
            self.all.len() - 1
        })
    }
}

/// All names, each once, in one string.
#[derive(Default)]
struct Names {
    pool: String,
    known: BTreeMap<String, usize>,
}

impl Names {
    fn place(&mut self, name: &str) -> String {
        let at = *self.known.entry(name.to_owned()).or_insert_with(|| {
            self.pool.push_str(name);
            self.pool.len() - name.len()
        });
        format!("Name({at}, {})", name.len())
    }
}

struct Type<'a> {
    words: Vec<&'a str>,
    doc: &'a str,
    fields: Vec<(Vec<&'a str>, &'a str)>,
}

fn main() {
    for path in ["data/types.txt", "build.rs", "src"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let text = fs::read_to_string("data/types.txt").expect("data/types.txt is beside build.rs");
    let types = parse(&text);
    let index: BTreeMap<&str, usize> = types.iter().enumerate().map(|(at, t)| (t.words[0], at)).collect();

    let (mut names, mut shapes, mut marks) = (Names::default(), Interned::default(), Interned::default());
    let (mut type_rows, mut field_rows, mut package_rows) = (String::new(), String::new(), String::new());
    let (mut kinds, mut unions, mut packages) = (Vec::new(), String::new(), Vec::<(&str, Vec<u8>)>::new());
    let mut field_count = 0;
    for (at, entry) in types.iter().enumerate() {
        let package = entry.words[0].rsplit_once('.').map_or("", |(package, _)| package);
        if packages.last().is_none_or(|(last, _)| *last != package) {
            packages.push((package, Vec::new()));
        }
        let docs = &mut packages.last_mut().expect("one was pushed").1;
        for doc in std::iter::once(entry.doc).chain(entry.fields.iter().map(|(_, doc)| *doc)) {
            let doc: String = serde_json::from_str(doc).expect("a description is a JSON string");
            docs.extend_from_slice(doc.as_bytes());
            docs.push(0);
        }
        let first = field_count;
        for (words, _) in &entry.fields {
            field_count += 1;
            let shape = shape(words[1], &index, &mut shapes);
            let mark = marks.place(mark(&words[2..]));
            writeln!(field_rows, "FieldRow {{ name: {}, shape: {shape}, marks: {mark} }},", names.place(words[0]))
                .unwrap();
        }
        for word in &entry.words[2..] {
            if let Some(kind) = word.strip_prefix("kind=") {
                let parts: Vec<&str> = kind.split('/').collect();
                kinds.push((parts[0], parts[1], parts[2], at));
            } else if let Some(union) = word.strip_prefix("union=") {
                let (discriminator, fields) = union.split_once(',').expect("a union has fields");
                let fields: Vec<_> =
                    fields.split(',').map(|field| field.split_once(':').expect("FIELD:Name")).collect();
                writeln!(unions, "({at}, Union {{ discriminator: {discriminator:?}, fields: &{fields:?} }}),").unwrap();
            }
        }
        let shape = shape(entry.words[1], &index, &mut shapes);
        writeln!(
            type_rows,
            "TypeRow {{ name: {}, shape: {shape}, first: {first}, end: {field_count}, package: {}, atomic: {} }},",
            names.place(entry.words[0]),
            packages.len() - 1,
            entry.words.contains(&"map=atomic"),
        )
        .unwrap();
    }
    kinds.sort_unstable();
    let mut kind_rows = String::new();
    for (group, version, kind, at) in kinds {
        let (group, version, kind) = (names.place(group), names.place(version), names.place(kind));
        writeln!(kind_rows, "KindRow {{ group: {group}, version: {version}, kind: {kind}, of: {at} }},").unwrap();
    }

    let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    let out = Path::new(&out);
    for (at, (package, docs)) in packages.iter().enumerate() {
        let first =
            types.iter().position(|t| t.words[0].rsplit_once('.').is_some_and(|(p, _)| p == *package)).unwrap_or(0);
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(docs).expect("a vector takes all");
        fs::write(out.join(format!("{at}.z")), encoder.finish().expect("a vector takes all")).expect("OUT_DIR is ours");
        writeln!(
            package_rows,
            "PackageRow {{ first: {first}, size: {}, docs: include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{at}.z\")) }},",
            docs.len()
        )
        .unwrap();
    }
    assert!(names.pool.len() <= usize::from(u16::MAX), "names are placed by u16");
    let mut code = String::new();
    writeln!(code, "static NAMES: &str = {:?};", names.pool).unwrap();
    for (name, row, rows) in [
        ("TYPES", "TypeRow", &type_rows),
        ("FIELDS", "FieldRow", &field_rows),
        ("KINDS", "KindRow", &kind_rows),
        ("PACKAGES", "PackageRow", &package_rows),
        ("SHAPES", "Shape", &(shapes.all.join(",\n"))),
        ("MARKS", "Marks", &(marks.all.join(",\n"))),
        ("UNIONS", "(u16, Union)", &unions),
    ] {
        writeln!(code, "static {name}: &[{row}] = &[\n{rows}];").unwrap();
    }
    writeln!(
        code,
        "/// Changes with the data and the code that makes documents of it.\npub const DIGEST: &str = {:?};",
        digest(&text)
    )
    .unwrap();
    fs::write(out.join("tables.rs"), code).expect("OUT_DIR is ours");
}

fn parse(text: &str) -> Vec<Type<'_>> {
    let mut types: Vec<Type<'_>> = Vec::new();
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    while let Some(line) = lines.next() {
        let doc = lines.next().expect("every line has a description below it");
        if let Some(rest) = line.strip_prefix("type ") {
            types.push(Type { words: rest.split(' ').collect(), doc, fields: Vec::new() });
        } else {
            let fields = &mut types.last_mut().expect("fields are below their type").fields;
            fields.push((line.trim_start().split(' ').collect(), doc));
        }
    }
    types.sort_by_key(|t| (t.words[0].rsplit_once('.').map_or("", |(package, _)| package), t.words[0]));
    for t in &mut types {
        t.fields.sort_by_key(|(words, _)| words[0]);
    }
    types
}

fn shape(text: &str, index: &BTreeMap<&str, usize>, shapes: &mut Interned) -> usize {
    let code = if let Some(name) = text.strip_prefix('@') {
        format!("Shape::Ref(Type({}))", index.get(name).unwrap_or_else(|| panic!("no type {name}")))
    } else if let Some(element) = text.strip_prefix('[') {
        format!("Shape::List(Element({}))", shape(element, index, shapes))
    } else if let Some(element) = text.strip_prefix('{') {
        format!("Shape::Map(Element({}))", shape(element, index, shapes))
    } else {
        match text {
            "string" => "Shape::String(\"\")".to_owned(),
            "string/byte" => "Shape::String(\"byte\")".to_owned(),
            "string/date-time" => "Shape::String(\"date-time\")".to_owned(),
            "integer/int32" => "Shape::Integer(\"int32\")".to_owned(),
            "integer/int64" => "Shape::Integer(\"int64\")".to_owned(),
            "number/double" => "Shape::Number(\"double\")".to_owned(),
            "boolean" => "Shape::Boolean".to_owned(),
            "object" => "Shape::Object".to_owned(),
            "any" => "Shape::Any".to_owned(),
            "int-or-string" => "Shape::IntOrString".to_owned(),
            "quantity" => "Shape::Quantity".to_owned(),
            "struct" => "Shape::Struct".to_owned(),
            other => panic!("unknown shape {other}"),
        }
    };
    shapes.place(code)
}

fn mark(words: &[&str]) -> String {
    let (mut required, mut list, mut atomic) = (false, "None".to_owned(), false);
    let (mut patch, mut key, mut default) = (String::new(), None, None);
    for word in words {
        match word.split_once('=') {
            None if *word == "required" => required = true,
            Some(("list", "atomic")) => list = "Some(ListType::Atomic)".to_owned(),
            Some(("list", "set")) => list = "Some(ListType::Set)".to_owned(),
            Some(("list", map)) => {
                let keys: Vec<&str> = map.strip_prefix("map:").expect("list=map:KEYS").split(',').collect();
                list = format!("Some(ListType::Map(&{keys:?}))");
            }
            Some(("map", "atomic")) => atomic = true,
            Some(("patch", rule)) => {
                let (strategy, by) = rule.split_once(':').map_or((rule, None), |(strategy, key)| (strategy, Some(key)));
                (patch, key) = (strategy.to_owned(), by);
            }
            Some(("default", json)) => default = Some(json),
            _ => panic!("unknown mark {word}"),
        }
    }
    format!(
        "Marks {{ required: {required}, list: {list}, atomic: {atomic}, patch: {patch:?}, merge_key: {key:?}, default: {default:?} }}"
    )
}

/// Of the data and of everything that shapes a document.
fn digest(data: &str) -> String {
    let mut digest = Sha256::new();
    digest.update(data);
    let mut folders = vec![Path::new("src").to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("src can be read").flatten() {
            let path = entry.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    for file in files {
        digest.update(fs::read(file).unwrap_or_default());
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
