//! Descriptions, expanded for as long as a document is made.

use std::{collections::HashMap, io::Read as _};

use flate2::read::ZlibDecoder;

use super::{Field, PACKAGES, TYPES, Type};
use crate::Error;

/// The expanded descriptions of the packages asked for so far.
#[derive(Default)]
pub(crate) struct Descriptions {
    packages: HashMap<u8, Package>,
}

struct Package {
    text: String,
    /// Where each description ends, in the order type, its fields, next type.
    ends: Vec<u32>,
}

impl Descriptions {
    /// The description of a type.
    pub(crate) fn of(&mut self, of: Type) -> Result<&str, Error> {
        let at = usize::from(of.0 - PACKAGES[usize::from(of.row().package)].first);
        let before = of.row().first - first_type(of).first;
        Ok(self.package(of)?.get(at + usize::from(before)))
    }

    /// The description of a field of `of`.
    pub(crate) fn of_field(&mut self, of: Type, field: Field) -> Result<&str, Error> {
        let at = usize::from(of.0 - PACKAGES[usize::from(of.row().package)].first);
        let before = field.0 - first_type(of).first;
        Ok(self.package(of)?.get(at + usize::from(before) + 1))
    }

    fn package(&mut self, of: Type) -> Result<&Package, Error> {
        use std::collections::hash_map::Entry;
        Ok(match self.packages.entry(of.row().package) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Package::expand(of.row().package)?),
        })
    }
}

/// The first type of the package.
fn first_type(of: Type) -> &'static super::TypeRow {
    &TYPES[usize::from(PACKAGES[usize::from(of.row().package)].first)]
}

impl Package {
    fn expand(package: u8) -> Result<Self, Error> {
        let row = &PACKAGES[usize::from(package)];
        let mut text = String::with_capacity(row.size as usize);
        ZlibDecoder::new(row.docs).read_to_string(&mut text)?;
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == 0).map(|(at, _)| at as u32).collect();
        Ok(Self { text, ends })
    }

    fn get(&self, at: usize) -> &str {
        let start = at.checked_sub(1).and_then(|at| self.ends.get(at)).map_or(0, |end| *end as usize + 1);
        self.ends.get(at).and_then(|end| self.text.get(start..*end as usize)).unwrap_or_default()
    }
}
