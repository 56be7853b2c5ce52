//! The functions an expression may call: the language's own and those of the Kubernetes libraries. One file a library.

use std::{collections::HashMap, sync::LazyLock};

use crate::{budget::Budget, cost::Cost, error::Error, value::Value};

mod authorizer;
mod convert;
pub(crate) mod format;
mod ip;
mod lists;
mod operators;
mod optional;
mod print;
mod quantity;
mod regexes;
mod semvers;
mod sets;
mod signature;
mod standard;
mod strings;
pub(crate) mod time;
pub(crate) mod url;

pub(crate) use regexes::check as check_regex;
pub(crate) use signature::{Overload, Substitution, fits};

/// What runs a call. The arguments' types are what the checker let pass, or anything if it could not know.
type Native = for<'a> fn(&[Value<'a>], &mut Budget) -> Result<Value<'a>, Error>;

/// One function, of one name and style, with all its overloads.
pub(crate) struct Function {
    pub(crate) name: &'static str,
    /// `target.name(..)`; the target is the first argument.
    pub(crate) member: bool,
    /// `string, int -> string`
    overloads: &'static [&'static str],
    run: Native,
    pub(crate) cost: Cost,
}

impl Function {
    const fn global(name: &'static str, overloads: &'static [&'static str], cost: Cost, run: Native) -> Self {
        Self { name, member: false, overloads, run, cost }
    }

    const fn member(name: &'static str, overloads: &'static [&'static str], cost: Cost, run: Native) -> Self {
        Self { name, member: true, overloads, run, cost }
    }

    /// Charges for the call, and runs it.
    pub(crate) fn call<'a>(&self, args: &[Value<'a>], budget: &mut Budget) -> Result<Value<'a>, Error> {
        budget.charge(self.cost.actual(args))?;
        (self.run)(args, budget)
    }
}

/// A function with its signatures read.
pub(crate) struct Declared {
    pub(crate) function: &'static Function,
    pub(crate) overloads: Vec<Overload>,
}

/// By name, first the global function and then the member.
type Table = HashMap<&'static str, [Option<Declared>; 2]>;

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let libraries: [&'static [Function]; 15] = [
        operators::FUNCTIONS,
        convert::FUNCTIONS,
        standard::FUNCTIONS,
        time::FUNCTIONS,
        strings::FUNCTIONS,
        lists::FUNCTIONS,
        regexes::FUNCTIONS,
        url::FUNCTIONS,
        quantity::FUNCTIONS,
        ip::FUNCTIONS,
        format::FUNCTIONS,
        semvers::FUNCTIONS,
        sets::FUNCTIONS,
        optional::FUNCTIONS,
        authorizer::FUNCTIONS,
    ];
    let mut table = Table::new();
    for function in libraries.into_iter().flatten() {
        let overloads = function.overloads.iter().map(|text| Overload::read(text)).collect();
        let styles = table.entry(function.name).or_default();
        debug_assert!(styles[usize::from(function.member)].is_none(), "{} is declared twice", function.name);
        styles[usize::from(function.member)] = Some(Declared { function, overloads });
    }
    table
});

/// The function of a name and style.
pub(crate) fn find(name: &str, member: bool) -> Option<&'static Declared> {
    TABLE.get(name)?[usize::from(member)].as_ref()
}

/// The names of types, which are values too.
pub(crate) fn type_constant(name: &str) -> Option<&'static str> {
    Some(match name {
        "bool" => "bool",
        "int" => "int",
        "uint" => "uint",
        "double" => "double",
        "string" => "string",
        "bytes" => "bytes",
        "list" => "list",
        "map" => "map",
        "null_type" => "null_type",
        "type" => "type",
        "optional_type" => "optional_type",
        "google.protobuf.Duration" => "google.protobuf.Duration",
        "google.protobuf.Timestamp" => "google.protobuf.Timestamp",
        "net.IP" => "net.IP",
        "net.CIDR" => "net.CIDR",
        "kubernetes.Quantity" => "kubernetes.Quantity",
        "kubernetes.URL" => "kubernetes.URL",
        "kubernetes.Semver" => "kubernetes.Semver",
        _ => return None,
    })
}

/// The first argument as text, or no overload.
fn text<'v>(args: &'v [Value<'_>], index: usize) -> Result<&'v str, Error> {
    args.get(index).and_then(Value::as_str).ok_or_else(Error::no_overload)
}

fn int(args: &[Value<'_>], index: usize) -> Result<i64, Error> {
    match args.get(index) {
        Some(Value::Int(int)) => Ok(*int),
        _ => Err(Error::no_overload()),
    }
}
