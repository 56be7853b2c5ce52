//! `variables`: computed when an expression asks for them, once for each decision.

use std::{
    cell::RefCell,
    rc::{Rc, Weak},
};

use skep_cel::{Budget, Error, Fields, Inputs, Value};

use super::policy::Compiled;

/// The variables of a policy for one request.
pub(super) struct Variables<'a> {
    programs: &'a [(String, Compiled)],
    inputs: Inputs<'a>,
    known: RefCell<Vec<Option<Result<Value<'a>, Error>>>>,
    own: Weak<Self>,
}

impl<'a> Variables<'a> {
    pub(super) fn new(programs: &'a [(String, Compiled)], inputs: Inputs<'a>) -> Rc<Self> {
        let known = RefCell::new(vec![None; programs.len()]);
        Rc::new_cyclic(|own| Self { programs, inputs, known, own: own.clone() })
    }
}

impl<'a> Fields<'a> for Variables<'a> {
    fn field(&self, name: &str, budget: &mut Budget) -> Option<Result<Value<'a>, Error>> {
        let place = self.programs.iter().position(|(known, _)| known == name)?;
        if let Some(known) = self.known.borrow()[place].clone() {
            return Some(known);
        }
        let value = match &self.programs[place].1 {
            // A variable can mention only those before it, so this ends.
            Ok(program) => {
                let own: Rc<dyn Fields<'a> + 'a> = self.own.upgrade()?;
                program.evaluate(&self.inputs.clone().fields("variables", own), budget)
            }
            Err(error) => Err(Error::new(error.clone())),
        };
        let value = value.map_err(|error| {
            if error.is_out_of_budget() {
                return error;
            }
            Error::new(format!("composited variable \"{name}\" fails to evaluate: {error}"))
        });
        self.known.borrow_mut()[place] = Some(value.clone());
        Some(value)
    }
}
