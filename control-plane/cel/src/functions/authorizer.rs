//! Asking the authorizer.

use std::rc::Rc;

use super::{Function, text};
use crate::{
    authorizer::{Check, Decision, Question},
    cost::Cost,
    error::Error,
    types::Opaque,
    value::Value,
};

/// A check may cost so much that an expression can do no more than two.
const CHECK: Cost = Cost::Fixed(350_000);
const STEP: Cost = Cost::Fixed(1);
const NARROW: &[&str] = &["resourcecheck, string -> resourcecheck"];

pub(super) static FUNCTIONS: &[Function] = &[
    Function::member("path", &["authorizer, string -> pathcheck"], STEP, |args, _| {
        let path = text(args, 1)?.to_owned();
        step(args, Opaque::PathCheck, |question| question.path = Some(path))
    }),
    Function::member("group", &["authorizer, string -> groupcheck"], STEP, |args, _| {
        let group = text(args, 1)?.to_owned();
        step(args, Opaque::GroupCheck, |question| question.group = group)
    }),
    Function::member("serviceAccount", &["authorizer, string, string -> authorizer"], STEP, |args, _| {
        let (namespace, name) = (text(args, 1)?, text(args, 2)?);
        if !skep_api::name::dns1123_label(namespace).is_empty() {
            return Err(Error::new(format!("Invalid service account namespace {namespace:?}")));
        }
        if !skep_api::name::dns1123_subdomain(name).is_empty() {
            return Err(Error::new(format!("Invalid service account name {name:?}")));
        }
        let account = (namespace.to_owned(), name.to_owned());
        step(args, Opaque::Authorizer, |question| question.service_account = Some(account))
    }),
    Function::member("resource", &["groupcheck, string -> resourcecheck"], STEP, |args, _| {
        let resource = text(args, 1)?.to_owned();
        step(args, Opaque::ResourceCheck, |question| question.resource = resource)
    }),
    Function::member("subresource", NARROW, STEP, |args, _| {
        let subresource = text(args, 1)?.to_owned();
        step(args, Opaque::ResourceCheck, |question| question.subresource = subresource)
    }),
    Function::member("namespace", NARROW, STEP, |args, _| {
        let namespace = text(args, 1)?.to_owned();
        step(args, Opaque::ResourceCheck, |question| question.namespace = namespace)
    }),
    Function::member("name", NARROW, STEP, |args, _| {
        let name = text(args, 1)?.to_owned();
        step(args, Opaque::ResourceCheck, |question| question.name = name)
    }),
    Function::member("fieldSelector", NARROW, STEP, |args, _| {
        let selector = text(args, 1)?.to_owned();
        step(args, Opaque::ResourceCheck, |question| question.field_selector = selector)
    }),
    Function::member("labelSelector", NARROW, STEP, |args, _| {
        let selector = text(args, 1)?.to_owned();
        step(args, Opaque::ResourceCheck, |question| question.label_selector = selector)
    }),
    Function::member(
        "check",
        &["pathcheck, string -> decision", "resourcecheck, string -> decision"],
        CHECK,
        |args, _| {
            let Some(Value::Check(check)) = args.first() else { return Err(Error::no_overload()) };
            let question = Question { verb: text(args, 1)?.to_owned(), ..check.question.clone() };
            Ok(Value::Decision(Rc::new(Decision(check.authorizer.authorize(&question)))))
        },
    ),
    Function::member("allowed", &["decision -> bool"], STEP, |args, _| Ok(Value::Bool(decision(args)?.0.allowed))),
    Function::member("reason", &["decision -> string"], STEP, |args, _| {
        Ok(Value::owned(decision(args)?.0.reason.as_str()))
    }),
    Function::member("errored", &["decision -> bool"], STEP, |args, _| {
        Ok(Value::Bool(decision(args)?.0.error.is_some()))
    }),
    Function::member("error", &["decision -> string"], STEP, |args, _| {
        Ok(Value::owned(decision(args)?.0.error.as_deref().unwrap_or_default()))
    }),
];

fn step<'a>(args: &[Value<'a>], stage: Opaque, change: impl FnOnce(&mut Question)) -> Result<Value<'a>, Error> {
    let Some(Value::Check(check)) = args.first() else { return Err(Error::no_overload()) };
    let check: &Check<'a> = check;
    Ok(Value::Check(check.with(stage, change)))
}

fn decision<'v>(args: &'v [Value<'_>]) -> Result<&'v Decision, Error> {
    match args {
        [Value::Decision(decision)] => Ok(decision),
        _ => Err(Error::no_overload()),
    }
}
