//! Calls.

use cel::{
    IdedExpr,
    common::ast::{CallExpr, Expr, operators},
};

use super::{Compiler, Part, dotted, size_of};
use crate::{
    cost::Range,
    functions::{Declared, Substitution, check_regex, find, fits, time},
    program::{Constant, Node},
    types::Type,
};

impl Compiler<'_> {
    pub(super) fn call(&mut self, id: u64, call: &CallExpr) -> Part {
        match (call.func_name.as_str(), call.args.as_slice()) {
            (operators::LOGICAL_AND, [a, b]) => self.logic(id, operators::LOGICAL_AND, a, b),
            (operators::LOGICAL_OR, [a, b]) => self.logic(id, operators::LOGICAL_OR, a, b),
            (operators::CONDITIONAL, [condition, yes, no]) => self.choice(id, condition, yes, no),
            (operators::INDEX, [operand, index]) => self.index(id, operand, index, false),
            (operators::OPT_INDEX, [operand, index]) => self.index(id, operand, index, true),
            (operators::OPT_SELECT, [operand, name]) => self.optional_select(id, operand, name),
            (name, args) => match &call.target {
                Some(target) => self.member(id, target, name, args),
                None => self.global(id, name.strip_prefix('.').unwrap_or(name), args),
            },
        }
    }

    fn logic(&mut self, id: u64, name: &str, a: &IdedExpr, b: &IdedExpr) -> Part {
        let (a, b) = (self.expression(a), self.expression(b));
        let is_bool = |ty: &Type| matches!(ty, Type::Bool | Type::Dyn);
        if !is_bool(&a.ty) || !is_bool(&b.ty) {
            return self
                .fault(id, format!("found no matching overload for '{name}' applied to '({}, {})'", a.ty, b.ty));
        }
        // The second side may not be looked at.
        let cost = Range { min: a.cost.min.min(b.cost.min), max: a.cost.max.saturating_add(b.cost.max) };
        let sides = Box::new([a.node, b.node]);
        let node = if name == operators::LOGICAL_AND { Node::And(sides) } else { Node::Or(sides) };
        Part::new(node, Type::Bool, cost)
    }

    fn choice(&mut self, id: u64, condition: &IdedExpr, yes: &IdedExpr, no: &IdedExpr) -> Part {
        let (condition, yes, no) = (self.expression(condition), self.expression(yes), self.expression(no));
        let mut known = Substitution::default();
        let agree = fits(&Type::Param('A'), &yes.ty, &mut known) && fits(&Type::Param('A'), &no.ty, &mut known);
        if !matches!(condition.ty, Type::Bool | Type::Dyn) || !agree {
            return self.fault(
                id,
                format!(
                    "found no matching overload for '_?_:_' applied to '({}, {}, {})'",
                    condition.ty, yes.ty, no.ty
                ),
            );
        }
        let ty = if no.ty.is_dyn() { Type::Dyn } else { known.apply(&Type::Param('A')) };
        let mut part = Part::new(
            Node::Choose(Box::new([condition.node, yes.node, no.node])),
            ty,
            condition.cost.plus(yes.cost.or(no.cost)),
        );
        part.size = yes.size.or(no.size);
        part
    }

    fn member(&mut self, id: u64, target: &IdedExpr, name: &str, args: &[IdedExpr]) -> Part {
        // `sets.contains(..)` is a function with a dot in its name.
        if let Some(prefix) = dotted(target) {
            let first = prefix.split('.').next().unwrap_or_default();
            let shadowed = self.scopes.iter().any(|(known, _)| known == first);
            let full = format!("{prefix}.{name}");
            if !shadowed && find(&full, false).is_some() {
                return self.global(id, &full, args);
            }
        }
        if let Some(part) = self.member_macro(id, target, name, args) {
            return part;
        }
        let mut parts = vec![self.expression(target)];
        self.mixed = name == "format" && matches!(args, [IdedExpr { expr: Expr::List(_), .. }]);
        parts.extend(args.iter().map(|arg| self.expression(arg)).collect::<Vec<_>>());
        match find(name, true) {
            Some(declared) => self.finish(id, declared, parts),
            None => self.fault(id, format!("undeclared reference to '{name}' (in container '')")),
        }
    }

    fn global(&mut self, id: u64, name: &str, args: &[IdedExpr]) -> Part {
        let parts: Vec<Part> = args.iter().map(|arg| self.expression(arg)).collect();
        let Some(declared) = find(name, false) else {
            return self.fault(id, format!("undeclared reference to '{name}' (in container '')"));
        };
        if let [arg] = args {
            self.literal(name, arg);
        }
        self.finish(id, declared, parts)
    }

    /// Constants that are read once the expression runs are read now, to find those that cannot be.
    fn literal(&mut self, name: &str, arg: &IdedExpr) {
        let Expr::Literal(cel::common::ast::LiteralValue::String(text)) = &arg.expr else { return };
        let fits = match name {
            "duration" => time::parse_duration(text.inner()).is_some(),
            "timestamp" => time::parse_timestamp(text.inner()).is_some(),
            _ => return,
        };
        if !fits {
            self.fault(arg.id, format!("invalid {name} argument"));
        }
    }

    /// Picks the overloads that fit.
    fn finish(&mut self, id: u64, declared: &'static Declared, parts: Vec<Part>) -> Part {
        let function = declared.function;
        let types: Vec<Type> = parts.iter().map(|part| part.ty.clone()).collect();
        let mut result: Option<Type> = None;
        let mut fitting = 0;
        for overload in declared.overloads.iter().filter(|it| it.arguments.len() == types.len()) {
            let mut known = Substitution::default();
            if overload.arguments.iter().zip(&types).all(|(wanted, actual)| fits(wanted, actual, &mut known)) {
                fitting += 1;
                let ty = known.apply(&overload.result);
                result = Some(match result {
                    Some(before) if before != ty => Type::Dyn,
                    _ => ty,
                });
            }
        }
        let Some(ty) = result else {
            let shown = signature(function.member, &types);
            let name = function.name;
            return self.fault(id, format!("found no matching overload for '{name}' applied to '{shown}'"));
        };
        if let ("matches" | "find" | "findAll", Some(Node::Constant(Constant::String(pattern)))) =
            (function.name, parts.get(1).map(|part| &part.node))
            && check_regex(pattern).is_err()
        {
            return self.fault(id, "invalid matches argument");
        }
        debug_assert!(fitting > 0);
        let sizes: Vec<Range> = parts.iter().map(|part| part.size).collect();
        let own = function.cost.estimate(&types, &sizes);
        let cost = parts.iter().fold(own, |sum, part| sum.plus(part.cost));
        let size = result_size(function.name, &ty, &sizes);
        let args = parts.into_iter().map(|part| part.node).collect();
        Part { node: Node::Call { function, args }, ty, cost, size }
    }
}

/// `(int, string)`, or `list(int).(string)` for a member.
fn signature(member: bool, types: &[Type]) -> String {
    let join = |types: &[Type]| types.iter().map(Type::to_string).collect::<Vec<_>>().join(", ");
    match types {
        [target, rest @ ..] if member => format!("{target}.({})", join(rest)),
        types => format!("({})", join(types)),
    }
}

/// How large what a function makes can be.
fn result_size(name: &str, ty: &Type, sizes: &[Range]) -> Range {
    let of = |index: usize| sizes.get(index).copied().unwrap_or(Range::up_to(u64::MAX));
    match name {
        "_+_" if matches!(ty, Type::String(_) | Type::Bytes(_) | Type::List(_) | Type::Dyn) => of(0).plus(of(1)),
        "lowerAscii" | "upperAscii" | "trim" | "bytes" | "dyn" => of(0),
        "string" if of(0).max > 1 => of(0),
        "string" => Range::up_to(64),
        "substring" | "charAt" | "split" | "find" | "findAll" | "unwrapOpt" | "optional.unwrap" => {
            Range::up_to(of(0).max)
        }
        "replace" => Range::up_to(of(0).plus(of(0).plus(Range::exactly(1)).times(of(2))).max),
        "join" => Range::up_to(u64::MAX),
        "optional.of" | "optional.ofNonZeroValue" | "value" => of(0),
        "or" | "orValue" => of(0).or(of(1)),
        _ => size_of(ty),
    }
}
