//! Reads the struct types out of a Go executable: their fields, struct tags and which fields are pointers.
//!
//! Go programs carry this for `reflect`, so any program that links the upstream API types (kubectl does) is an exact
//! source for what neither protobuf nor OpenAPI tells: whether a field's absence differs from its zero value.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context as _, Result};

const ARRAY: u8 = 17;
const MAP: u8 = 21;
const POINTER: u8 = 22;
const SLICE: u8 = 23;
const STRUCT: u8 = 25;
/// The size of the common head of a type descriptor.
const HEAD: u64 = 48;

/// One field of a Go struct.
#[derive(Debug, Default)]
pub(crate) struct GoField {
    /// The name in JSON; empty when the field is inlined.
    pub(crate) json: String,
    pub(crate) inline: bool,
    pub(crate) omit_empty: bool,
    pub(crate) pointer: bool,
    /// The field number in protobuf; none for fields that are not in it.
    pub(crate) number: Option<u32>,
}

/// The fields of the structs of a program, by package and lower-case name.
pub(crate) type GoTypes = BTreeMap<(String, String), Vec<GoField>>;

struct Program<'a> {
    data: &'a [u8],
    /// Address, offset and size of the read-only data, where the types begin.
    rodata: (u64, usize, usize),
}

/// All structs with struct tags that can be reached from the type links of the program.
pub(crate) fn read(data: &[u8]) -> Result<GoTypes> {
    let (rodata, links) = sections(data).context("not an ELF executable made by Go")?;
    let program = Program { data, rodata };
    let mut waiting: Vec<u64> = data
        .get(links.1..links.1 + links.2)
        .context("the type links are cut short")?
        .chunks_exact(4)
        .map(|bytes| rodata.0 + u64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])))
        .collect();
    let mut seen = HashSet::new();
    let mut types = GoTypes::new();
    while let Some(address) = waiting.pop() {
        if seen.insert(address) {
            // What cannot be read is no type of ours.
            let _ = program.visit(address, &mut waiting, &mut types);
        }
    }
    Ok(types)
}

type Section = (u64, usize, usize);

fn sections(data: &[u8]) -> Option<(Section, Section)> {
    let word = |at: usize| Some(u64::from_le_bytes(data.get(at..at + 8)?.try_into().ok()?));
    let half = |at: usize| Some(u16::from_le_bytes(data.get(at..at + 2)?.try_into().ok()?) as usize);
    let table = word(0x28)? as usize;
    let (size, count, names) = (half(0x3a)?, half(0x3c)?, half(0x3e)?);
    let names = word(table + names * size + 24)? as usize;
    let find = |wanted: &[u8]| {
        (0..count).find_map(|index| {
            let at = table + index * size;
            let name = names + u32::from_le_bytes(data.get(at..at + 4)?.try_into().ok()?) as usize;
            (data.get(name..name + wanted.len() + 1)? == [wanted, b"\0"].concat())
                .then(|| Some((word(at + 16)?, word(at + 24)? as usize, word(at + 32)? as usize)))?
        })
    };
    Some((find(b".rodata")?, find(b".typelink")?))
}

impl Program<'_> {
    fn bytes(&self, address: u64, len: usize) -> Option<&[u8]> {
        let at = usize::try_from(address.checked_sub(self.rodata.0)?).ok()?;
        if at + len > self.rodata.2 {
            return None;
        }
        self.data.get(self.rodata.1 + at..self.rodata.1 + at + len)
    }

    fn word(&self, address: u64) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(address, 8)?.try_into().ok()?))
    }

    fn byte(&self, address: u64) -> Option<u8> {
        Some(self.bytes(address, 1)?[0])
    }

    /// The name an offset from the start of the types stands for.
    fn name_offset(&self, address: u64) -> Option<u64> {
        let offset = u32::from_le_bytes(self.bytes(address, 4)?.try_into().ok()?);
        Some(self.rodata.0 + u64::from(offset))
    }

    fn length(&self, mut address: u64) -> Option<(usize, u64)> {
        let (mut value, mut shift) = (0usize, 0);
        loop {
            let byte = self.byte(address)?;
            address += 1;
            value |= usize::from(byte & 0x7f).checked_shl(shift)?;
            if byte < 0x80 {
                return Some((value, address));
            }
            shift += 7;
        }
    }

    /// A name and the struct tag beside it.
    fn name(&self, address: u64) -> Option<(String, String)> {
        let flags = self.byte(address)?;
        let (len, at) = self.length(address + 1)?;
        let name = String::from_utf8(self.bytes(at, len)?.to_vec()).ok()?;
        let mut tag = String::new();
        if flags & 2 != 0 {
            let (tag_len, tag_at) = self.length(at + len as u64)?;
            tag = String::from_utf8(self.bytes(tag_at, tag_len)?.to_vec()).ok()?;
        }
        Some((name, tag))
    }

    fn kind(&self, address: u64) -> Option<u8> {
        Some(self.byte(address + 23)? & 31)
    }

    fn visit(&self, address: u64, waiting: &mut Vec<u64>, types: &mut GoTypes) -> Option<()> {
        match self.kind(address)? {
            ARRAY | POINTER | SLICE => waiting.push(self.word(address + HEAD)?),
            MAP => waiting.extend([self.word(address + HEAD)?, self.word(address + HEAD + 8)?]),
            STRUCT => {
                let (first, count) = (self.word(address + HEAD + 8)?, self.word(address + HEAD + 16)?);
                let mut fields = Vec::new();
                for index in 0..count {
                    let at = first + index * 24;
                    let kind = self.word(at + 8)?;
                    waiting.push(kind);
                    let (name, tag) = self.name(self.word(at)?)?;
                    if let Some(json) = tag_value(&tag, "json") {
                        fields.push(field(&name, json, &tag, self.kind(kind)? == POINTER));
                    }
                }
                let flags = self.byte(address + 20)?;
                if flags & 1 == 0 {
                    return None;
                }
                let (name, _) = self.name(self.name_offset(address + 40)?)?;
                let (package, _) = self.name(self.name_offset(address + HEAD + 32)?)?;
                let name = name.rsplit('.').next()?.to_lowercase();
                types.insert((package, name), fields);
            }
            _ => {}
        }
        Some(())
    }
}

fn tag_value<'a>(tag: &'a str, key: &str) -> Option<&'a str> {
    let start = tag.find(&format!("{key}:\""))? + key.len() + 2;
    tag[start..].split('"').next()
}

fn field(name: &str, json: &str, tag: &str, pointer: bool) -> GoField {
    let (given, options) = json.split_once(',').unwrap_or((json, ""));
    let inline = options.split(',').any(|option| option == "inline");
    GoField {
        json: if given.is_empty() && !inline { name.to_owned() } else { given.to_owned() },
        inline,
        omit_empty: options.split(',').any(|option| option == "omitempty"),
        pointer,
        number: tag_value(tag, "protobuf").and_then(|proto| proto.split(',').nth(1)?.parse().ok()),
    }
}
