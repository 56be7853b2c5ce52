//! Macros: comprehensions over lists and maps, and over values that may be absent.
//!
//! The parser expands the standard ones into folds; what was written is recognised from the fold's shape (nobody can write
//! its accumulator), and evaluated as what it is. The ones of the Kubernetes environment arrive as calls.

use cel::{
    IdedExpr,
    common::ast::{ComprehensionExpr, Expr, LiteralValue, operators},
};

use super::{Compiler, Part};
use crate::{
    cost::{self, Range},
    program::{Loop, LoopKind, Node},
    types::Type,
};

/// A macro, taken apart.
struct Written<'t> {
    kind: LoopKind,
    range: &'t IdedExpr,
    variables: Vec<&'t str>,
    test: Option<&'t IdedExpr>,
    make: Option<&'t IdedExpr>,
}

impl Compiler<'_> {
    pub(super) fn comprehension(&mut self, id: u64, it: &ComprehensionExpr) -> Part {
        match recognised(it) {
            Some(written) => self.repeat(id, &written),
            None => self.fault(id, "unsupported comprehension"),
        }
    }

    /// Macros that arrive as calls. None if it is no macro.
    pub(super) fn member_macro(&mut self, id: u64, target: &IdedExpr, name: &str, args: &[IdedExpr]) -> Option<Part> {
        let (kind, test, make) = match (name, args) {
            ("optMap" | "optFlatMap", [variable, body]) => {
                return Some(self.optional_map(id, target, variable, body, name == "optFlatMap"));
            }
            ("all", [_, _, test]) => (LoopKind::All, Some(test), None),
            ("exists", [_, _, test]) => (LoopKind::Exists, Some(test), None),
            ("existsOne" | "exists_one", [_, _, test]) => (LoopKind::ExistsOne, Some(test), None),
            ("transformList", [_, _, make]) => (LoopKind::List, None, Some(make)),
            ("transformList", [_, _, test, make]) => (LoopKind::List, Some(test), Some(make)),
            ("transformMap", [_, _, make]) => (LoopKind::Map, None, Some(make)),
            ("transformMap", [_, _, test, make]) => (LoopKind::Map, Some(test), Some(make)),
            ("transformMapEntry", [_, _, make]) => (LoopKind::Entries, None, Some(make)),
            ("transformMapEntry", [_, _, test, make]) => (LoopKind::Entries, Some(test), Some(make)),
            _ => return None,
        };
        let mut variables = Vec::with_capacity(2);
        for arg in &args[..2] {
            match &arg.expr {
                Expr::Ident(name) => variables.push(name.as_str()),
                _ => return Some(self.fault(arg.id, "argument must be a simple name")),
            }
        }
        if variables[0] == variables[1] {
            let message = format!("duplicate variable name: {}", variables[0]);
            return Some(self.fault(args[1].id, message));
        }
        Some(self.repeat(id, &Written { kind, range: target, variables, test, make }))
    }

    fn optional_map(&mut self, id: u64, target: &IdedExpr, variable: &IdedExpr, body: &IdedExpr, flat: bool) -> Part {
        let Expr::Ident(name) = &variable.expr else {
            return self.fault(variable.id, "optMap() variable name must be a simple identifier");
        };
        let target = self.expression(target);
        let inner = match &target.ty {
            Type::Optional(inner) => (**inner).clone(),
            Type::Dyn => Type::Dyn,
            other => {
                let message = format!("found no matching overload for 'hasValue' applied to '{other}.()'");
                return self.fault(id, message);
            }
        };
        let local = self.scopes.len();
        self.scopes.push((name.clone(), inner));
        let made = self.expression(body);
        self.scopes.truncate(local);
        let ty = match (flat, made.ty) {
            (true, ty @ (Type::Optional(_) | Type::Dyn)) => ty,
            (true, other) => return self.fault(id, format!("expected an optional but found '{other}'")),
            (false, ty) => Type::optional(ty),
        };
        let cost = target.cost.plus(Range { min: 0, max: made.cost.max }).plus(Range::exactly(cost::READ));
        let node = Node::OptionalMap { target: Box::new(target.node), body: Box::new(made.node), local, flat };
        Part::new(node, ty, cost)
    }

    fn repeat(&mut self, id: u64, it: &Written<'_>) -> Part {
        let range = self.expression(it.range);
        let two = it.variables.len() == 2;
        let types = match &range.ty {
            Type::Dyn => vec![Type::Dyn; 2],
            Type::List(list) => vec![Type::Int, list.element.clone()],
            Type::Map(map) if two => vec![map.key.clone(), map.value.clone()],
            Type::Map(map) => vec![Type::Int, map.key.clone()],
            Type::Object(_) if two => vec![Type::TEXT, Type::Dyn],
            Type::Object(_) => vec![Type::Int, Type::TEXT],
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                return self.fault(it.range.id, message);
            }
        };
        let local = self.scopes.len();
        let skipped = 2 - it.variables.len();
        for (name, ty) in it.variables.iter().zip(&types[skipped..]) {
            self.scopes.push(((*name).to_owned(), ty.clone()));
        }
        let test = it.test.map(|test| (test.id, self.expression(test)));
        let make = it.make.map(|make| self.expression(make));
        self.scopes.truncate(local);
        if let Some((test_id, test)) = &test
            && !matches!(test.ty, Type::Bool | Type::Dyn)
        {
            let message = format!("expected type 'bool' but found '{}'", test.ty);
            return self.fault(*test_id, message);
        }
        let made = make.as_ref().map_or(Type::Dyn, |make| make.ty.clone());
        let ty = match it.kind {
            LoopKind::All | LoopKind::Exists | LoopKind::ExistsOne => Type::Bool,
            LoopKind::List => Type::list(made),
            LoopKind::Map => Type::map(if two { types[0].clone() } else { types[1].clone() }, made),
            LoopKind::Entries => match made {
                map @ Type::Map(_) => map,
                Type::Dyn => Type::map(Type::Dyn, Type::Dyn),
                other => return self.fault(id, format!("expected a map but found '{other}'")),
            },
        };
        let bookkeeping = match it.kind {
            LoopKind::All => 3,
            LoopKind::Exists => 4,
            LoopKind::ExistsOne => 1,
            LoopKind::List => cost::NEW_LIST + 2,
            LoopKind::Map | LoopKind::Entries => cost::NEW_MAP + 2,
        };
        let mut round = Range::exactly(bookkeeping);
        for part in test.iter().map(|(_, part)| part).chain(&make) {
            round = round.plus(part.cost);
        }
        let all = range.cost.plus(range.size.times(round)).plus(Range::exactly(1));
        let size = Range::up_to(range.size.max);
        let node = Node::Loop(Box::new(Loop {
            kind: it.kind,
            range: range.node,
            local,
            two,
            test: test.map(|(_, part)| part.node),
            make: make.map(|part| part.node),
        }));
        let mut part = Part::new(node, ty, all);
        if !matches!(it.kind, LoopKind::All | LoopKind::Exists | LoopKind::ExistsOne) {
            part.size = size;
        }
        part
    }
}

/// What a fold was before the parser expanded it.
fn recognised(it: &ComprehensionExpr) -> Option<Written<'_>> {
    let variables: Vec<&str> = std::iter::once(it.iter_var.as_str()).chain(it.iter_var2.as_deref()).collect();
    let Expr::Call(step) = &it.loop_step.expr else { return None };
    let (kind, test, make) = match (&it.accu_init.expr, step.func_name.as_str(), step.args.as_slice()) {
        (Expr::Literal(LiteralValue::Boolean(start)), operators::LOGICAL_OR, [_, test]) if !*start.inner() => {
            (LoopKind::Exists, Some(test), None)
        }
        (Expr::Literal(LiteralValue::Boolean(_)), operators::LOGICAL_AND, [_, test]) => {
            (LoopKind::All, Some(test), None)
        }
        (Expr::Literal(LiteralValue::Int(_)), operators::CONDITIONAL, [test, ..]) => {
            (LoopKind::ExistsOne, Some(test), None)
        }
        (Expr::List(_), operators::ADD, [_, made]) => (LoopKind::List, None, Some(only(made)?)),
        (Expr::List(_), operators::CONDITIONAL, [test, appended, _]) => {
            let Expr::Call(appended) = &appended.expr else { return None };
            (LoopKind::List, Some(test), Some(only(appended.args.get(1)?)?))
        }
        _ => return None,
    };
    Some(Written { kind, range: &it.iter_range, variables, test, make })
}

/// The one element of a list.
fn only(list: &IdedExpr) -> Option<&IdedExpr> {
    match &list.expr {
        Expr::List(list) => list.elements.first(),
        _ => None,
    }
}
