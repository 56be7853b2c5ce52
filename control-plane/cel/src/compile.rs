//! From a syntax tree to a program: names, types and costs are settled here.

use cel::{
    IdedExpr,
    common::ast::{EntryExpr, Expr, LiteralValue, SourceInfo},
};

use crate::{
    cost::{self, Range},
    error::{CompileError, Fault},
    functions::type_constant,
    parse,
    program::{Constant, Node, Program, Variable},
    types::{ObjectType, Type},
};

mod calls;
mod macros;

/// The stack of the thread that compiles: parser and checker recurse as deep as the expression nests.
const STACK: usize = 64 << 20;

/// What an expression must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Anything.
    Any,
    /// A truth value.
    Bool,
    /// Text.
    String,
}

/// The variables an expression may mention, with their types. All functions of the Kubernetes libraries are there.
#[derive(Clone, Default)]
pub struct Environment {
    variables: Vec<(String, Type)>,
}

impl Environment {
    /// No variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more variable. A dotted name (`authorizer.requestResource`) is a variable of its own.
    #[must_use]
    pub fn with(mut self, name: &str, ty: Type) -> Self {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), ty));
        self
    }

    /// Compiles: finds syntax errors, undeclared names, fields that do not exist, calls that fit no function and results of
    /// the wrong type.
    pub fn compile(&self, source: &str, want: Want) -> Result<Program, CompileError> {
        // The parser recurses in frames of its own size; on a thread of its own neither depth nor a fault of the parser can
        // harm the caller.
        let compiled = std::thread::scope(|scope| {
            let builder = std::thread::Builder::new().name("cel".to_owned()).stack_size(STACK);
            match builder.spawn_scoped(scope, || self.compile_here(source, want)) {
                Ok(thread) => thread.join().ok(),
                Err(error) => Some(Err(CompileError::plain(format!("cannot compile: {error}")))),
            }
        });
        compiled.unwrap_or_else(|| {
            Err(CompileError::plain("ERROR: <input>:1:1: Syntax error: the expression cannot be read"))
        })
    }

    fn compile_here(&self, source: &str, want: Want) -> Result<Program, CompileError> {
        let (tree, info) = parse::parse(source)?;
        let variables = self
            .variables
            .iter()
            .map(|(name, ty)| Variable { name: name.clone(), ty: ty.clone(), used: false })
            .collect();
        let mut compiler = Compiler { source, info, variables, scopes: Vec::new(), faults: Vec::new(), mixed: false };
        let root = compiler.expression(&tree);
        if !compiler.faults.is_empty() {
            return Err(CompileError { faults: compiler.faults });
        }
        let wanted = match want {
            Want::Any => None,
            Want::Bool => Some(Type::Bool),
            Want::String => Some(Type::TEXT),
        };
        if let Some(wanted) = wanted
            && !root.ty.is_dyn()
            && std::mem::discriminant(&wanted) != std::mem::discriminant(&root.ty)
        {
            return Err(CompileError::plain(format!("must evaluate to {wanted}")));
        }
        Ok(Program {
            source: source.into(),
            root: root.node,
            result: root.ty,
            cost: root.cost,
            variables: compiler.variables,
        })
    }
}

/// A part of the program, and what is known of it.
pub(super) struct Part {
    node: Node,
    ty: Type,
    cost: Range,
    size: Range,
}

impl Part {
    fn new(node: Node, ty: Type, cost: Range) -> Self {
        let size = size_of(&ty);
        Self { node, ty, cost, size }
    }

    /// What stands in for a part that has a fault, so that the rest is checked too.
    fn faulty() -> Self {
        Self::new(Node::Constant(Constant::Null), Type::Dyn, Range::ZERO)
    }
}

fn size_of(ty: &Type) -> Range {
    match ty.max_size() {
        1 => Range::exactly(1),
        max => Range::up_to(max),
    }
}

struct Compiler<'s> {
    source: &'s str,
    info: SourceInfo,
    variables: Vec<Variable>,
    /// The variables of macros, innermost last. Their places are those on the evaluation's stack.
    scopes: Vec<(String, Type)>,
    faults: Vec<Fault>,
    /// Literals may mix types: the arguments of `format` are of all kinds.
    mixed: bool,
}

impl Compiler<'_> {
    fn fault(&mut self, id: u64, message: impl Into<String>) -> Part {
        let offset = self.info.offset_for(id).map_or(0, |(start, _)| start as usize);
        // The parser counts characters.
        let offset = self.source.char_indices().map(|(at, _)| at).nth(offset).unwrap_or(self.source.len());
        let fault = Fault::at(self.source, offset, message);
        if self.faults.len() < 100 && !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
        Part::faulty()
    }

    fn expression(&mut self, tree: &IdedExpr) -> Part {
        match &tree.expr {
            Expr::Unspecified => self.fault(tree.id, "Syntax error: unspecified expression"),
            Expr::Literal(literal) => constant(literal),
            Expr::Ident(name) => self.identifier(tree.id, name),
            Expr::Select(select) => {
                if !select.test
                    && let Some(name) = dotted(tree)
                    && let Some(part) = self.qualified(&name)
                {
                    return part;
                }
                self.select(tree.id, &select.operand, &select.field, select.test)
            }
            Expr::Call(call) => self.call(tree.id, call),
            Expr::List(list) => self.list(list),
            Expr::Map(map) => {
                let mut entries = Vec::with_capacity(map.entries.len());
                for entry in &map.entries {
                    match &entry.expr {
                        EntryExpr::MapEntry(it) => entries.push((entry.id, &it.key, &it.value, it.optional)),
                        EntryExpr::StructField(_) => return self.fault(entry.id, "unexpected field in a map"),
                    }
                }
                self.map(&entries)
            }
            Expr::Struct(it) => {
                let name = &it.type_name;
                self.fault(tree.id, format!("undeclared reference to '{name}' (in container '')"))
            }
            Expr::Comprehension(it) => self.comprehension(tree.id, it),
        }
    }

    // --- names ---

    fn identifier(&mut self, id: u64, name: &str) -> Part {
        let bare = name.strip_prefix('.').unwrap_or(name);
        if bare == name
            && let Some(place) = self.scopes.iter().rposition(|(known, _)| known == name)
        {
            let ty = self.scopes[place].1.clone();
            return Part::new(Node::Local(place), ty, Range::exactly(cost::READ));
        }
        match self.qualified(bare) {
            Some(part) => part,
            None => self.fault(id, format!("undeclared reference to '{bare}' (in container '')")),
        }
    }

    /// A declared variable or the name of a type; dots may be part of either.
    fn qualified(&mut self, name: &str) -> Option<Part> {
        if let Some(first) = name.split('.').next()
            && first != name
            && self.scopes.iter().any(|(known, _)| known == first)
        {
            return None;
        }
        if let Some(slot) = self.variables.iter().position(|variable| variable.name == name) {
            let variable = &mut self.variables[slot];
            variable.used = true;
            return Some(Part::new(Node::Variable(slot), variable.ty.clone(), Range::exactly(cost::READ)));
        }
        let constant = Constant::Type(type_constant(name)?);
        Some(Part::new(Node::Constant(constant), Type::Type, Range::ZERO))
    }

    // --- parts of values ---

    fn select(&mut self, id: u64, operand: &IdedExpr, name: &str, test: bool) -> Part {
        let operand = self.expression(operand);
        let Some(ty) = self.field_type(id, &operand.ty, name) else { return Part::faulty() };
        let (own, inner) = (Range::exactly(cost::READ), Box::new(operand.node));
        if test {
            // Upstream charges nothing for the test itself.
            return Part::new(Node::Has { operand: inner, name: name.into() }, Type::Bool, operand.cost);
        }
        let node = Node::Field { operand: inner, name: name.into(), optional: false };
        Part::new(node, ty, operand.cost.plus(own))
    }

    /// The type of a field, of a type that may have some.
    fn field_type(&mut self, id: u64, ty: &Type, name: &str) -> Option<Type> {
        match ty {
            Type::Dyn => Some(Type::Dyn),
            Type::Map(map) => Some(map.value.clone()),
            Type::Object(object) => self.declared_field(id, object, name),
            Type::Optional(inner) => self.field_type(id, inner, name).map(|inner| match inner {
                optional @ Type::Optional(_) => optional,
                plain => Type::optional(plain),
            }),
            other => {
                self.fault(id, format!("type '{other}' does not support field selection"));
                None
            }
        }
    }

    fn declared_field(&mut self, id: u64, object: &ObjectType, name: &str) -> Option<Type> {
        match object.fields.get(name) {
            Some(field) => Some(field.ty.clone()),
            None => {
                self.fault(id, format!("undefined field '{name}'"));
                None
            }
        }
    }

    fn optional_select(&mut self, id: u64, operand: &IdedExpr, name: &IdedExpr) -> Part {
        let Expr::Literal(LiteralValue::String(name)) = &name.expr else {
            return self.fault(id, "unsupported optional field selection");
        };
        let name = name.inner().to_owned();
        let operand = self.expression(operand);
        let Some(ty) = self.field_type(id, &operand.ty, &name) else { return Part::faulty() };
        let ty = match ty {
            optional @ Type::Optional(_) => optional,
            plain => Type::optional(plain),
        };
        let node = Node::Field { operand: Box::new(operand.node), name: name.into(), optional: true };
        Part::new(node, ty, operand.cost.plus(Range::exactly(cost::READ)))
    }

    fn index(&mut self, id: u64, operand: &IdedExpr, index: &IdedExpr, optional: bool) -> Part {
        let operand = self.expression(operand);
        let index = self.expression(index);
        let Some(ty) = element_type(&operand.ty, &index.ty) else {
            let name = if optional { "_[?_]" } else { "_[_]" };
            return self.fault(
                id,
                format!("found no matching overload for '{name}' applied to '({}, {})'", operand.ty, index.ty),
            );
        };
        let ty = match ty {
            optional @ Type::Optional(_) => optional,
            plain if optional => Type::optional(plain),
            plain => plain,
        };
        let cost = operand.cost.plus(index.cost).plus(Range::exactly(cost::READ));
        let node = Node::Index { operand: Box::new(operand.node), index: Box::new(index.node), optional };
        Part::new(node, ty, cost)
    }

    // --- literals of several parts ---

    fn list(&mut self, list: &cel::common::ast::ListExpr) -> Part {
        let mut cost = Range::exactly(cost::NEW_LIST);
        let mut element: Option<Type> = None;
        let mut nodes = Vec::with_capacity(list.elements.len());
        let mixed = std::mem::take(&mut self.mixed);
        for (place, tree) in list.elements.iter().enumerate() {
            let part = self.expression(tree);
            let optional = list.optional_indices.contains(&place);
            let ty = match (optional, &part.ty) {
                (true, Type::Optional(inner)) => (**inner).clone(),
                _ => part.ty.clone(),
            };
            cost = cost.plus(part.cost);
            element = Some(if mixed { Type::Dyn } else { self.joined(tree.id, element, ty) });
            nodes.push((part.node, optional));
        }
        let count = nodes.len() as u64;
        let mut part = Part::new(Node::List(nodes.into()), Type::list(element.unwrap_or(Type::Dyn)), cost);
        part.size = Range { min: count.saturating_sub(list.optional_indices.len() as u64), max: count };
        part
    }

    fn map(&mut self, entries: &[(u64, &IdedExpr, &IdedExpr, bool)]) -> Part {
        let mut cost = Range::exactly(cost::NEW_MAP);
        let (mut key_type, mut value_type) = (None, None);
        let mut nodes = Vec::with_capacity(entries.len());
        for (_, key, value, optional) in entries {
            let key_part = self.expression(key);
            let value_part = self.expression(value);
            cost = cost.plus(key_part.cost).plus(value_part.cost);
            key_type = Some(self.joined(key.id, key_type, key_part.ty.clone()));
            let ty = match (*optional, &value_part.ty) {
                (true, Type::Optional(inner)) => (**inner).clone(),
                _ => value_part.ty.clone(),
            };
            value_type = Some(self.joined(value.id, value_type, ty));
            nodes.push((key_part.node, value_part.node, *optional));
        }
        let count = nodes.len() as u64;
        let ty = Type::map(key_type.unwrap_or(Type::Dyn), value_type.unwrap_or(Type::Dyn));
        let mut part = Part::new(Node::Map(nodes.into()), ty, cost);
        part.size = Range { min: 0, max: count };
        part
    }

    /// One type for all elements of a literal.
    fn joined(&mut self, id: u64, before: Option<Type>, ty: Type) -> Type {
        let Some(before) = before else { return ty };
        if crate::functions::fits(&before, &ty, &mut crate::functions::Substitution::default()) {
            // The more telling, and the longer, of two types that fit.
            return match (&before, &ty) {
                (Type::Null, _) => ty,
                (_, Type::Dyn) => Type::Dyn,
                (Type::String(a), Type::String(b)) => Type::String(a.zip(*b).map(|(a, b)| a.max(b))),
                _ => before,
            };
        }
        self.fault(id, format!("expected type '{before}' but found '{ty}'"));
        Type::Dyn
    }
}

/// What an index finds, or None where none may be used.
fn element_type(operand: &Type, index: &Type) -> Option<Type> {
    let fits = |wanted: &Type| {
        crate::functions::fits(wanted, index, &mut crate::functions::Substitution::default())
            || (matches!(wanted, Type::Int) && matches!(index, Type::Uint | Type::Double))
    };
    match operand {
        Type::Dyn => Some(Type::Dyn),
        Type::List(list) => fits(&Type::Int).then(|| list.element.clone()),
        Type::Map(map) => fits(&map.key).then(|| map.value.clone()),
        Type::Optional(inner) => element_type(inner, index).map(|ty| match ty {
            optional @ Type::Optional(_) => optional,
            plain => Type::optional(plain),
        }),
        _ => None,
    }
}

fn constant(literal: &LiteralValue) -> Part {
    let (constant, ty) = match literal {
        LiteralValue::Null => (Constant::Null, Type::Null),
        LiteralValue::Boolean(it) => (Constant::Bool(*it.inner()), Type::Bool),
        LiteralValue::Int(it) => (Constant::Int(*it.inner()), Type::Int),
        LiteralValue::UInt(it) => (Constant::Uint(*it.inner()), Type::Uint),
        LiteralValue::Double(it) => (Constant::Double(*it.inner()), Type::Double),
        LiteralValue::String(it) => {
            let text = it.inner();
            (Constant::String(text.into()), Type::String(Some(text.len() as u64)))
        }
        LiteralValue::Bytes(it) => {
            let bytes = it.inner();
            (Constant::Bytes(bytes.into()), Type::Bytes(Some(bytes.len() as u64)))
        }
    };
    let size = Range::exactly(ty.max_size());
    // A literal's length is not the length of other values of its type.
    let ty = match ty {
        Type::String(_) => Type::TEXT,
        Type::Bytes(_) => Type::Bytes(None),
        other => other,
    };
    Part { node: Node::Constant(constant), ty, cost: Range::ZERO, size }
}

/// `a.b.c`, if the tree spells a name.
fn dotted(tree: &IdedExpr) -> Option<String> {
    match &tree.expr {
        Expr::Ident(name) => Some(name.strip_prefix('.').unwrap_or(name).to_owned()),
        Expr::Select(select) if !select.test => Some(format!("{}.{}", dotted(&select.operand)?, select.field)),
        _ => None,
    }
}
