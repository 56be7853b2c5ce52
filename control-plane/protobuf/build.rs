//! Turns `schema.txt` into constant tables: no pointers, no parsing and no heap at run time.

use std::{collections::BTreeMap, env, fmt::Write as _, fs, path::Path};

/// All names, each once.
#[derive(Default)]
struct Names {
    pool: String,
    known: BTreeMap<String, u16>,
}

impl Names {
    fn place(&mut self, name: &str) -> String {
        let at = *self.known.entry(name.to_owned()).or_insert_with(|| {
            let at = u16::try_from(self.pool.len()).expect("the names fit in 64 KiB");
            self.pool.push_str(name);
            at
        });
        format!("Name({at}, {})", u8::try_from(name.len()).expect("names are short"))
    }
}

fn main() {
    println!("cargo::rerun-if-changed=schema.txt");
    println!("cargo::rerun-if-changed=build.rs");
    let text = fs::read_to_string("schema.txt").expect("schema.txt is beside build.rs");
    let index: BTreeMap<&str, usize> = text
        .lines()
        .filter_map(|line| line.strip_prefix("message "))
        .enumerate()
        .map(|(index, rest)| (rest.split(' ').next().unwrap_or_default(), index))
        .collect();

    let mut names = Names::default();
    let (mut fields, mut messages, mut kinds) = (String::new(), String::new(), Vec::new());
    let (mut field_count, mut first) = (0, 0);
    let mut special: Option<&str> = None;
    let mut close = |special: Option<&str>, first: usize, end: usize| {
        if let Some(special) = special {
            let special: String = special.split('_').map(capital).collect();
            writeln!(messages, "Message {{ first: {first}, end: {end}, special: Special::{special} }},").unwrap();
        }
    };
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[0] {
            "message" => {
                close(special, first, field_count);
                first = field_count;
                special = Some(words.get(2).copied().unwrap_or("none"));
            }
            "kind" => kinds.push((words[2], words[1], index[words[3]])),
            number => {
                field_count += 1;
                let _: u8 = number.parse().expect("field numbers are small");
                fields.push_str(&field(number, &words[1..], &index, &mut names));
            }
        }
    }
    close(special, first, field_count);
    kinds.sort_unstable();
    let mut kind_rows = String::new();
    for (kind, version, message) in &kinds {
        let (kind, version) = (names.place(kind), names.place(version));
        writeln!(kind_rows, "Kind {{ kind: {kind}, version: {version}, message: {message} }},").unwrap();
    }
    let out = format!(
        "static NAMES: &str = {:?};\n\
         static FIELDS: [Field; {field_count}] = [\n{fields}];\n\
         static MESSAGES: [Message; {}] = [\n{messages}];\n\
         static KINDS: [Kind; {}] = [\n{kind_rows}];\n\
         pub(crate) const JSON_SCHEMA_PROPS: u16 = {};\n",
        names.pool,
        index.len(),
        kinds.len(),
        index["apiextensions/v1.JsonSchemaProps"],
    );
    let dir = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::write(Path::new(&dir).join("tables.rs"), out).expect("OUT_DIR can be written");
}

/// One row of the fields, from the words after its number.
fn field(number: &str, words: &[&str], index: &BTreeMap<&str, usize>, names: &mut Names) -> String {
    let name = names.place(words[0]);
    let mut rest = &words[1..];
    let shape = match rest[0] {
        "repeated" => "Many",
        "map" => "Map",
        _ => "One",
    };
    if shape != "One" {
        rest = &rest[1..];
    }
    let (kind, message) = match rest[0] {
        scalar @ ("string" | "bool" | "int32" | "int64" | "double" | "bytes") => (capital(scalar), 0),
        message => ("Message".to_owned(), index[message]),
    };
    let drops_zero = rest.get(1) == Some(&"-");
    format!(
        "Field {{ name: {name}, number: {number}, kind: Type::{kind}, shape: Shape::{shape}, \
         drops_zero: {drops_zero}, message: {message} }},\n"
    )
}

fn capital(word: &str) -> String {
    let (first, rest) = word.split_at(1);
    first.to_uppercase() + rest
}
