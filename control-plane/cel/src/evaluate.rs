//! Running a program.

use std::{collections::BTreeMap, rc::Rc};

use serde_json::Value as Json;

use crate::{
    authorizer::{Authorizer, Check, Question},
    budget::Budget,
    cost,
    error::Error,
    program::{Loop, LoopKind, Node, Program},
    value::{Fields, Key, List, Map, Value},
};

/// What the variables of an expression stand for.
#[derive(Clone, Default)]
pub struct Inputs<'a> {
    bound: Vec<(&'a str, Input<'a>)>,
}

#[derive(Clone)]
enum Input<'a> {
    Json(&'a Json),
    Value(Value<'a>),
}

impl<'a> Inputs<'a> {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// A JSON value; it is seen as the type the variable was declared with.
    #[must_use]
    pub fn json(mut self, name: &'a str, json: &'a Json) -> Self {
        self.bound.push((name, Input::Json(json)));
        self
    }

    /// A value.
    #[must_use]
    pub fn value(mut self, name: &'a str, value: Value<'a>) -> Self {
        self.bound.push((name, Input::Value(value)));
        self
    }

    /// An object whose fields are computed when they are asked for.
    #[must_use]
    pub fn fields(self, name: &'a str, fields: Rc<dyn Fields<'a> + 'a>) -> Self {
        self.value(name, Value::Map(Map::Fields(fields)))
    }

    /// `authorizer`, and if the request is about a resource `authorizer.requestResource`.
    #[must_use]
    pub fn authorizer(self, authorizer: &'a dyn Authorizer, request: Option<Question>) -> Self {
        let inputs = self.value("authorizer", Value::Check(Rc::new(Check::new(authorizer))));
        match request {
            Some(question) => {
                inputs.value("authorizer.requestResource", Value::Check(Rc::new(Check::about(authorizer, question))))
            }
            None => inputs,
        }
    }
}

type Outcome<'a> = Result<Value<'a>, Error>;

pub(crate) fn run<'a>(program: &'a Program, inputs: &Inputs<'a>, budget: &mut Budget) -> Outcome<'a> {
    let around = budget.start();
    let mut frame = Frame { program, inputs, budget, locals: Vec::new() };
    let value = frame.value(&program.root);
    budget.resume(around);
    value
}

struct Frame<'f, 'a> {
    program: &'a Program,
    inputs: &'f Inputs<'a>,
    budget: &'f mut Budget,
    /// The variables of the macros around the current node.
    locals: Vec<Value<'a>>,
}

impl<'a> Frame<'_, 'a> {
    /// The value of a node. Each kind of node has its own function, so that nested nodes take little stack.
    fn value(&mut self, node: &'a Node) -> Outcome<'a> {
        match node {
            Node::Constant(constant) => Ok(constant.to_value()),
            Node::Variable(slot) => self.variable(*slot),
            Node::Local(place) => self.local(*place),
            Node::Field { operand, name, optional } => self.field(operand, name, *optional),
            Node::Has { operand, name } => self.has(operand, name),
            Node::Index { operand, index, optional } => self.index(operand, index, *optional),
            Node::And(sides) => self.logic(sides, false),
            Node::Or(sides) => self.logic(sides, true),
            Node::Choose(parts) => self.choose(parts),
            Node::Call { function, args } => self.call(function, args),
            Node::List(elements) => self.list(elements),
            Node::Map(entries) => self.map(entries),
            Node::Loop(it) => self.repeat(it),
            Node::OptionalMap { target, body, local, flat } => self.optional_map(target, body, *local, *flat),
        }
    }

    #[inline(never)]
    fn variable(&mut self, slot: usize) -> Outcome<'a> {
        self.budget.charge(cost::READ)?;
        let program = self.program;
        let Some(variable) = program.variables.get(slot) else { return Err(Error::new("no such variable")) };
        match self.inputs.bound.iter().find(|(name, _)| *name == variable.name) {
            Some((_, Input::Json(json))) => Ok(Value::typed(json, &variable.ty)),
            Some((_, Input::Value(value))) => Ok(value.clone()),
            None => Err(Error::new(format!("no such attribute(s): {}", variable.name))),
        }
    }

    fn local(&mut self, place: usize) -> Outcome<'a> {
        self.budget.charge(cost::READ)?;
        self.locals.get(place).cloned().ok_or_else(|| Error::new("no such variable"))
    }

    #[inline(never)]
    fn field(&mut self, operand: &'a Node, name: &'a str, optional: bool) -> Outcome<'a> {
        let operand = self.value(operand)?;
        self.budget.charge(cost::READ)?;
        match operand {
            Value::Optional(None) => Ok(Value::NONE),
            Value::Optional(Some(inner)) => Ok(match self.look_up(&inner, name)? {
                Some(value) => Value::some(value),
                None => Value::NONE,
            }),
            operand => match (self.look_up(&operand, name)?, optional) {
                (Some(value), true) => Ok(Value::some(value)),
                (Some(value), false) => Ok(value),
                (None, true) => Ok(Value::NONE),
                (None, false) => Err(Error::no_such_key(name)),
            },
        }
    }

    fn look_up(&mut self, operand: &Value<'a>, name: &str) -> Result<Option<Value<'a>>, Error> {
        match operand {
            Value::Map(map) => map.field(name, self.budget).transpose(),
            _ => Ok(None),
        }
    }

    #[inline(never)]
    fn has(&mut self, operand: &'a Node, name: &'a str) -> Outcome<'a> {
        let operand = self.value(operand)?;
        let operand = match &operand {
            Value::Optional(Some(inner)) => inner,
            other => other,
        };
        // A field that is computed counts as there even if computing it fails.
        let found = match operand {
            Value::Map(map) => map.field(name, self.budget).is_some(),
            _ => false,
        };
        Ok(Value::Bool(found))
    }

    #[inline(never)]
    fn index(&mut self, operand: &'a Node, index: &'a Node, optional: bool) -> Outcome<'a> {
        let operand = self.value(operand)?;
        let index = self.value(index)?;
        self.budget.charge(cost::READ)?;
        let (operand, optional) = match operand {
            Value::Optional(None) => return Ok(Value::NONE),
            Value::Optional(Some(inner)) => ((*inner).clone(), true),
            operand => (operand, optional),
        };
        let found = match &operand {
            Value::List(list) => element(list, &index),
            Value::Map(map) => match Key::of(&index) {
                Some(key) => match map.get(&key, self.budget).transpose()? {
                    Some(value) => Ok(value),
                    None => Err(Error::no_such_key(key)),
                },
                None => Err(Error::new(format!("unsupported key type: {}", index.type_name()))),
            },
            _ => return Err(Error::no_overload()),
        };
        match (found, optional) {
            (found, false) => found,
            (Ok(value), true) => Ok(Value::some(value)),
            (Err(_), true) => Ok(Value::NONE),
        }
    }

    /// `&&` and `||`: a side that decides makes the other's error unimportant.
    #[inline(never)]
    fn logic(&mut self, sides: &'a [Node; 2], decisive: bool) -> Outcome<'a> {
        let left = self.truth(&sides[0]);
        match &left {
            Ok(left) if *left == decisive => return Ok(Value::Bool(decisive)),
            Err(error) if error.is_out_of_budget() => return Err(error.clone()),
            _ => {}
        }
        let right = self.truth(&sides[1]);
        match (left, right) {
            (_, Ok(right)) if right == decisive => Ok(Value::Bool(decisive)),
            (_, Err(error)) if error.is_out_of_budget() => Err(error),
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            (Ok(_), Ok(_)) => Ok(Value::Bool(!decisive)),
        }
    }

    fn truth(&mut self, node: &'a Node) -> Result<bool, Error> {
        self.value(node)?.as_bool().ok_or_else(Error::no_overload)
    }

    #[inline(never)]
    fn choose(&mut self, parts: &'a [Node; 3]) -> Outcome<'a> {
        let [condition, yes, no] = parts;
        if self.truth(condition)? { self.value(yes) } else { self.value(no) }
    }

    #[inline(never)]
    fn call(&mut self, function: &'static crate::functions::Function, args: &'a [Node]) -> Outcome<'a> {
        let mut values = Vec::with_capacity(args.len());
        for arg in args {
            values.push(self.value(arg)?);
        }
        function.call(&values, self.budget)
    }

    #[inline(never)]
    fn list(&mut self, elements: &'a [(Node, bool)]) -> Outcome<'a> {
        self.budget.charge(cost::NEW_LIST)?;
        let mut out = Vec::with_capacity(elements.len());
        for (element, optional) in elements {
            match (self.value(element)?, optional) {
                (Value::Optional(Some(value)), true) => out.push((*value).clone()),
                (Value::Optional(None), true) => {}
                (_, true) => return Err(Error::no_overload()),
                (value, false) => out.push(value),
            }
        }
        Ok(Value::list(out))
    }

    #[inline(never)]
    fn map(&mut self, entries: &'a [(Node, Node, bool)]) -> Outcome<'a> {
        self.budget.charge(cost::NEW_MAP)?;
        let mut out = BTreeMap::new();
        for (key, value, optional) in entries {
            let key = self.value(key)?;
            let value = match (self.value(value)?, optional) {
                (Value::Optional(Some(value)), true) => (*value).clone(),
                (Value::Optional(None), true) => continue,
                (_, true) => return Err(Error::no_overload()),
                (value, false) => value,
            };
            insert(&mut out, &key, value)?;
        }
        Ok(Value::Map(Map::Made(Rc::new(out))))
    }

    #[inline(never)]
    fn optional_map(&mut self, target: &'a Node, body: &'a Node, local: usize, flat: bool) -> Outcome<'a> {
        let inner = match self.value(target)? {
            Value::Optional(Some(inner)) => (*inner).clone(),
            Value::Optional(None) => return Ok(Value::NONE),
            _ => return Err(Error::no_overload()),
        };
        self.locals.truncate(local);
        self.locals.push(inner);
        let made = self.value(body);
        self.locals.truncate(local);
        match made? {
            made @ Value::Optional(_) if flat => Ok(made),
            _ if flat => Err(Error::no_overload()),
            made => Ok(Value::some(made)),
        }
    }

    #[inline(never)]
    fn repeat(&mut self, it: &'a Loop) -> Outcome<'a> {
        let range = self.value(&it.range)?;
        let mut fold = Fold::new(it.kind);
        match range {
            Value::List(list) => {
                for index in 0..list.len() {
                    let Some(element) = list.get(index) else { break };
                    let place = it.two.then(|| Value::Int(i64::try_from(index).unwrap_or(i64::MAX)));
                    if self.iteration(it, place, element, &mut fold)? {
                        break;
                    }
                }
            }
            Value::Map(map) => {
                for key in map.keys() {
                    let (first, second) = if it.two {
                        let found = Key::of(&key).and_then(|key| map.get(&key, self.budget)).transpose()?;
                        (Some(key), found.unwrap_or(Value::Null))
                    } else {
                        (None, key)
                    };
                    if self.iteration(it, first, second, &mut fold)? {
                        break;
                    }
                }
            }
            _ => return Err(Error::no_overload()),
        }
        fold.finish()
    }

    /// One round. True if the outcome is certain.
    fn iteration(
        &mut self,
        it: &'a Loop,
        first: Option<Value<'a>>,
        last: Value<'a>,
        fold: &mut Fold<'a>,
    ) -> Result<bool, Error> {
        // What upstream's expansion of the macros spends on its bookkeeping.
        self.budget.charge(fold.overhead())?;
        self.locals.truncate(it.local);
        let key = match (it.kind, &first) {
            (LoopKind::Map, Some(key)) => Some(key.clone()),
            _ => None,
        };
        self.locals.extend(first);
        self.locals.push(last);
        let test = it.test.as_ref().map(|test| self.truth(test));
        let done = match it.kind {
            LoopKind::All | LoopKind::Exists | LoopKind::ExistsOne => fold.judge(test.unwrap_or(Ok(true))),
            LoopKind::List | LoopKind::Map | LoopKind::Entries => match test {
                Some(Err(error)) => Err(error),
                Some(Ok(false)) => Ok(false),
                Some(Ok(true)) | None => {
                    let made = it.make.as_ref().map(|make| self.value(make));
                    match made {
                        Some(Ok(made)) => fold.take(key.as_ref(), made).map(|()| false),
                        Some(Err(error)) => Err(error),
                        None => Err(Error::no_overload()),
                    }
                }
            },
        };
        self.locals.truncate(it.local);
        done
    }
}

/// What a comprehension has found so far.
struct Fold<'a> {
    kind: LoopKind,
    decided: bool,
    found: u64,
    error: Option<Error>,
    list: Vec<Value<'a>>,
    map: BTreeMap<Key, Value<'a>>,
}

impl<'a> Fold<'a> {
    fn new(kind: LoopKind) -> Self {
        Self { kind, decided: false, found: 0, error: None, list: Vec::new(), map: BTreeMap::new() }
    }

    fn overhead(&self) -> u64 {
        match self.kind {
            LoopKind::All => 3,
            LoopKind::Exists => 4,
            LoopKind::ExistsOne => 1,
            LoopKind::List => cost::NEW_LIST + 2,
            LoopKind::Map | LoopKind::Entries => cost::NEW_MAP + 2,
        }
    }

    fn judge(&mut self, test: Result<bool, Error>) -> Result<bool, Error> {
        match (test, self.kind) {
            (Err(error), _) if error.is_out_of_budget() => return Err(error),
            // Counting needs every answer.
            (Err(error), LoopKind::ExistsOne) => return Err(error),
            (Err(error), _) => _ = self.error.get_or_insert(error),
            (Ok(true), LoopKind::ExistsOne) => self.found += 1,
            (Ok(false), LoopKind::All) | (Ok(true), LoopKind::Exists) => self.decided = true,
            (Ok(_), _) => {}
        }
        Ok(self.decided)
    }

    fn take(&mut self, key: Option<&Value<'a>>, made: Value<'a>) -> Result<(), Error> {
        match (self.kind, key) {
            (LoopKind::Map, Some(key)) => insert(&mut self.map, key, made),
            (LoopKind::Entries, _) => {
                let Value::Map(Map::Made(entries)) = made else { return Err(Error::no_overload()) };
                for (key, value) in entries.iter() {
                    insert(&mut self.map, &key.to_value(), value.clone())?;
                }
                Ok(())
            }
            _ => {
                self.list.push(made);
                Ok(())
            }
        }
    }

    fn finish(self) -> Outcome<'a> {
        match (self.kind, self.decided, self.error) {
            (LoopKind::All, true, _) => Ok(Value::Bool(false)),
            (LoopKind::Exists, true, _) => Ok(Value::Bool(true)),
            (_, false, Some(error)) => Err(error),
            (LoopKind::All, ..) => Ok(Value::Bool(true)),
            (LoopKind::Exists, ..) => Ok(Value::Bool(false)),
            (LoopKind::ExistsOne, ..) => Ok(Value::Bool(self.found == 1)),
            (LoopKind::List, ..) => Ok(Value::list(self.list)),
            (LoopKind::Map | LoopKind::Entries, ..) => Ok(Value::Map(Map::Made(Rc::new(self.map)))),
        }
    }
}

fn insert<'a>(map: &mut BTreeMap<Key, Value<'a>>, key: &Value<'_>, value: Value<'a>) -> Result<(), Error> {
    let Some(key) = Key::of(key) else {
        return Err(Error::new(format!("unsupported key type: {}", key.type_name())));
    };
    if map.contains_key(&key) {
        return Err(Error::new(format!("insert failed: key {key} already exists")));
    }
    map.insert(key, value);
    Ok(())
}

fn element<'a>(list: &List<'a>, index: &Value<'a>) -> Outcome<'a> {
    let Some(Key::Int(index)) = Key::of(index).filter(|_| index.is_number()) else {
        return Err(Error::new(format!("unsupported index type '{}' in list", index.type_name())));
    };
    let found = usize::try_from(index).ok().and_then(|index| list.get(index));
    found.ok_or_else(|| Error::new(format!("index out of bounds: {index}")))
}
