//! Signatures: `list(A), A -> int`.

use std::sync::Arc;

use crate::types::{ListType, MapType, Opaque, Type};

/// One signature of a function.
#[derive(Debug)]
pub(crate) struct Overload {
    pub(crate) arguments: Vec<Type>,
    pub(crate) result: Type,
}

impl Overload {
    /// Reads a signature of the tables. A word nobody knows is a mistake in a table, and found by the tests.
    pub(super) fn read(text: &str) -> Self {
        let (arguments, result) = text.split_once("->").unwrap_or(("", text));
        let mut reader = Reader { rest: arguments.trim() };
        let mut out = Vec::new();
        while !reader.rest.is_empty() {
            out.push(reader.one());
            reader.rest = reader.rest.trim_start_matches([',', ' ']);
        }
        Self { arguments: out, result: Reader { rest: result.trim() }.one() }
    }
}

struct Reader<'t> {
    rest: &'t str,
}

impl Reader<'_> {
    fn one(&mut self) -> Type {
        let end = self.rest.find(['(', ')', ',', ' ']).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        let mut inner = || {
            self.rest = self.rest.trim_start_matches(['(', ',', ' ']);
            let ty = self.one();
            self.rest = self.rest.trim_start();
            ty
        };
        match word {
            "null" => Type::Null,
            "bool" => Type::Bool,
            "int" => Type::Int,
            "uint" => Type::Uint,
            "double" => Type::Double,
            "string" => Type::TEXT,
            "bytes" => Type::Bytes(None),
            "duration" => Type::Duration,
            "timestamp" => Type::Timestamp,
            "type" => Type::Type,
            "list" => {
                let element = inner();
                self.close();
                Type::list(element)
            }
            "optional" => {
                let element = inner();
                self.close();
                Type::optional(element)
            }
            "map" => {
                let key = inner();
                let value = inner();
                self.close();
                Type::map(key, value)
            }
            "quantity" => Type::Opaque(Opaque::Quantity),
            "url" => Type::Opaque(Opaque::Url),
            "ip" => Type::Opaque(Opaque::Ip),
            "cidr" => Type::Opaque(Opaque::Cidr),
            "semver" => Type::Opaque(Opaque::Semver),
            "format" => Type::Opaque(Opaque::Format),
            "authorizer" => Type::Opaque(Opaque::Authorizer),
            "pathcheck" => Type::Opaque(Opaque::PathCheck),
            "groupcheck" => Type::Opaque(Opaque::GroupCheck),
            "resourcecheck" => Type::Opaque(Opaque::ResourceCheck),
            "decision" => Type::Opaque(Opaque::Decision),
            "A" => Type::Param('A'),
            "B" => Type::Param('B'),
            _ => Type::Dyn,
        }
    }

    fn close(&mut self) {
        self.rest = self.rest.strip_prefix(')').unwrap_or(self.rest).trim_start();
    }
}

/// What the parameters of a signature stand for.
#[derive(Clone, Default)]
pub(crate) struct Substitution(Vec<(char, Type)>);

impl Substitution {
    /// A signature's type with its parameters replaced.
    pub(crate) fn apply(&self, ty: &Type) -> Type {
        match ty {
            Type::Param(name) => self.0.iter().find(|(known, _)| known == name).map_or(Type::Dyn, |(_, ty)| ty.clone()),
            Type::List(list) => {
                Type::List(Arc::new(ListType { element: self.apply(&list.element), ..(**list).clone() }))
            }
            Type::Map(map) => {
                Type::Map(Arc::new(MapType { key: self.apply(&map.key), value: self.apply(&map.value), max: map.max }))
            }
            Type::Optional(inner) => Type::optional(self.apply(inner)),
            other => other.clone(),
        }
    }
}

/// Whether a value of type `actual` may be given where `wanted` is asked for.
pub(crate) fn fits(wanted: &Type, actual: &Type, known: &mut Substitution) -> bool {
    match (wanted, actual) {
        (Type::Param(name), _) => match known.0.iter_mut().find(|(bound, _)| bound == name) {
            None => {
                known.0.push((*name, actual.clone()));
                true
            }
            Some((_, bound)) => {
                let before = bound.clone();
                if before.is_dyn() || matches!(before, Type::Null) && nullable(actual) {
                    *bound = actual.clone();
                    return true;
                }
                fits(&before, actual, known)
            }
        },
        (Type::Dyn, _) | (_, Type::Dyn) => true,
        (Type::String(_), Type::String(_)) | (Type::Bytes(_), Type::Bytes(_)) => true,
        (Type::List(a), Type::List(b)) => fits(&a.element, &b.element, known),
        (Type::Map(a), Type::Map(b)) => fits(&a.key, &b.key, known) && fits(&a.value, &b.value, known),
        // An object without a declared map's shape is still one when maps are asked for: schemas know no other objects.
        (Type::Object(a), Type::Object(b)) => a == b,
        (Type::Optional(a), Type::Optional(b)) => fits(a, b, known),
        (wanted, Type::Null) => nullable(wanted) || matches!(wanted, Type::Null),
        (Type::Null, actual) => nullable(actual),
        (a, b) => a == b,
    }
}

fn nullable(ty: &Type) -> bool {
    matches!(ty, Type::Null | Type::Object(_) | Type::Duration | Type::Timestamp | Type::Opaque(_) | Type::Optional(_))
}
