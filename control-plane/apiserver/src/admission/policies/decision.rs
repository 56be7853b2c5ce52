//! What a policy says about one request with one parameter.

use skep_cel::{Budget, Inputs, Value};

use super::{
    policy::{Policy, Validation},
    variables::Variables,
};

/// The longest message an expression may make.
const MAX_MESSAGE: usize = 5 * 1024;
const NO_BUDGET: &str = "validation failed due to running out of cost budget, no further validation rules will be run";

/// One thing that does not hold.
#[derive(Debug)]
pub(super) struct Decision {
    pub(super) message: String,
    pub(super) reason: String,
}

/// Everything that does not hold.
pub(super) fn decide<'a>(policy: &'a Policy, inputs: Inputs<'a>) -> Vec<Decision> {
    let mut budget = Budget::new(Budget::PER_REQUEST);
    let variables = Variables::new(&policy.variables, inputs.clone());
    let inputs = inputs.fields("variables", variables);
    let mut out = Vec::new();
    let failed = |message: String, out: &mut Vec<Decision>| {
        if policy.fails {
            out.push(Decision { message, reason: String::new() });
        }
    };
    for validation in &policy.validations {
        let outcome = match &validation.program {
            Ok(program) => program
                .evaluate_bool(&inputs, &mut budget)
                .map_err(|error| format!("expression '{}' resulted in error: {error}", validation.expression)),
            Err(error) => Err(error.clone()),
        };
        if budget.is_exhausted() {
            failed(NO_BUDGET.to_owned(), &mut out);
            return out;
        }
        match outcome {
            Ok(true) => {}
            Ok(false) => {
                let message = message(validation, &inputs, &mut budget);
                out.push(Decision { message, reason: validation.reason.clone() });
            }
            Err(why) => failed(why, &mut out),
        }
    }
    for annotation in &policy.annotations {
        let outcome = match annotation {
            Ok(program) => match program.evaluate(&inputs, &mut budget) {
                Ok(Value::String(_) | Value::Null) => Ok(()),
                Ok(other) => Err(format!(
                    "valueExpression '{}' resulted in unsupported return type: {}. Return type must be either string or null.",
                    program.source(),
                    other.type_name()
                )),
                Err(error) => Err(format!("valueExpression '{}' resulted in error: {error}", program.source())),
            },
            Err(error) => Err(error.clone()),
        };
        if let Err(why) = outcome {
            failed(why, &mut out);
        }
    }
    out
}

/// What is said of a demand that is not met: what its expression makes, what is written, or the demand itself.
fn message<'a>(validation: &'a Validation, inputs: &Inputs<'a>, budget: &mut Budget) -> String {
    let made = validation.message_program.as_ref().and_then(|program| program.as_ref().ok()).and_then(|program| {
        let made = program.evaluate_string(inputs, budget);
        made.inspect_err(|error| tracing::debug!(%error, "a message expression failed")).ok()
    });
    let fits = |made: &String| {
        let made = made.trim();
        !made.is_empty() && !made.contains('\n') && made.len() <= MAX_MESSAGE
    };
    match (made.filter(fits), &validation.message) {
        (Some(made), _) => made.trim().to_owned(),
        (None, Some(written)) => written.trim().to_owned(),
        (None, None) => format!("failed expression: {}", validation.expression.trim()),
    }
}
