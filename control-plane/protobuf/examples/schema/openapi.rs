//! Reads the source of the `k8s-openapi` crate: exact JSON names, and the apiVersion of each module.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};

/// What OpenAPI tells of one type.
#[derive(Debug, Default)]
pub(crate) struct OpenApiType {
    /// JSON names by their letters in lower case.
    pub(crate) names: BTreeMap<String, String>,
    /// Field names, in lower case, of fields that are not required.
    pub(crate) optional: Vec<String>,
}

#[derive(Debug, Default)]
pub(crate) struct OpenApi {
    /// Types by module and lower-case name.
    pub(crate) types: BTreeMap<(String, String), OpenApiType>,
    /// The apiVersion of modules that hold resources.
    pub(crate) versions: BTreeMap<String, String>,
}

/// Lower-case letters and digits only.
pub(crate) fn letters(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

pub(crate) fn read(source: &Path) -> Result<OpenApi> {
    let mut api = OpenApi::default();
    walk(source, source, &mut api)?;
    Ok(api)
}

fn walk(root: &Path, dir: &Path, api: &mut OpenApi) -> Result<()> {
    let module = dir.strip_prefix(root)?.to_string_lossy().into_owned();
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            walk(root, &path, api)?;
        } else {
            parse(&module, &fs::read_to_string(&path)?, api);
        }
    }
    Ok(())
}

fn parse(module: &str, text: &str, api: &mut OpenApi) {
    let mut name = None;
    let mut found = OpenApiType::default();
    let mut body = false;
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("pub struct ") {
            body = name.is_none();
            name.get_or_insert_with(|| letters(rest.split(['<', ' ', '(']).next().unwrap_or_default()));
        } else if line == "}" {
            body = false;
        } else if body && line.starts_with("pub ") && line.contains(": Option<") {
            let field = line[4..].split(':').next().unwrap_or_default();
            found.optional.push(letters(field.trim_start_matches("r#")));
        } else if let Some((json, _)) = line.split_once("\" => Field::") {
            let json = json.trim_start_matches('"');
            found.names.insert(letters(json), json.to_owned());
        } else if let Some(rest) = line.strip_prefix("const API_VERSION: &'static str = \"") {
            api.versions.insert(module.to_owned(), rest.trim_end_matches("\";").to_owned());
        }
    }
    if let Some(name) = name {
        api.types.insert((module.to_owned(), name), found);
    }
}
