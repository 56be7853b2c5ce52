//! Label selectors: `app=web,tier in (a, b),!canary,count gt 3`.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as metav1;

use self::lexer::{Lexer, Token};
use crate::field::{self, Path, quote};
use crate::name;
use crate::status::StatusError;

mod lexer;

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operator {
    /// `key=value`.
    Equals,
    /// `key==value`.
    DoubleEquals,
    /// `key!=value`; absent labels match.
    NotEquals,
    /// `key in (a,b)`.
    In,
    /// `key notin (a,b)`; absent labels match.
    NotIn,
    /// `key`.
    Exists,
    /// `!key`.
    DoesNotExist,
    /// `key gt 3`.
    GreaterThan,
    /// `key lt 3`.
    LessThan,
}

/// One condition of a label selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    key: String,
    operator: Operator,
    /// Sorted and without repetitions.
    values: Vec<String>,
}

/// A conjunction of [`Requirement`]s. The default selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl Requirement {
    /// Checks key and values as upstream does.
    pub fn new(key: &str, operator: Operator, mut values: Vec<String>) -> Result<Self, field::Errors> {
        let mut errors = field::Errors::new();
        let complaints = name::qualified_name(key);
        if !complaints.is_empty() {
            errors.push(field::Error::invalid(&Path::new("key"), key, complaints.join("; ")));
        }
        let path = Path::new("values");
        let problem = match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                Some("for 'in', 'notin' operators, values set can't be empty")
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                Some("exact-match compatibility requires one single value")
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                Some("values set must be empty for exists and does not exist")
            }
            Operator::GreaterThan | Operator::LessThan if values.len() != 1 => {
                Some("for 'Gt', 'Lt' operators, exactly one value is required")
            }
            _ => None,
        };
        if let Some(problem) = problem {
            errors.push(field::Error::invalid(&path, &values, problem));
        }
        for (i, value) in values.iter().enumerate() {
            let path = path.index(i);
            if matches!(operator, Operator::GreaterThan | Operator::LessThan) && value.parse::<i64>().is_err() {
                let why = "for 'Gt', 'Lt' operators, the value must be an integer";
                errors.push(field::Error::invalid(&path, value, why));
            }
            let complaints = name::label_value(value);
            if !complaints.is_empty() {
                errors.push(field::Error::invalid(&path.key(key), value, complaints.join("; ")));
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        values.sort();
        values.dedup();
        Ok(Requirement { key: key.to_owned(), operator, values })
    }

    /// The label it looks at.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// How it compares.
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// What it compares with, sorted.
    pub fn values(&self) -> &[String] {
        &self.values
    }

    fn matches(&self, value: Option<&str>) -> bool {
        let listed = |v: &str| self.values.iter().any(|have| have == v);
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => value.is_some_and(listed),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => self.compare(value, |label, bound| label > bound),
            Operator::LessThan => self.compare(value, |label, bound| label < bound),
        }
    }

    fn compare(&self, value: Option<&str>, holds: fn(i64, i64) -> bool) -> bool {
        let number = |text: Option<&str>| text.and_then(|t| t.parse::<i64>().ok());
        match (number(value), number(self.values.first().map(String::as_str))) {
            (Some(label), Some(bound)) => holds(label, bound),
            _ => false,
        }
    }
}

impl LabelSelector {
    /// Matches everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Matches nothing.
    pub fn nothing() -> Self {
        LabelSelector { requirements: vec![], nothing: true }
    }

    /// A selector of these requirements.
    pub fn new(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        LabelSelector { requirements, nothing: false }
    }

    /// Equality with every label of the map, without checking them: the selector of a Service.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let requirement = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: vec![value.clone()],
        };
        Self::new(labels.into_iter().map(requirement).collect())
    }

    /// Reads the text form; errors are a 400 with upstream's text.
    pub fn parse(text: &str) -> Result<Self, StatusError> {
        Parser { tokens: Lexer::new(text).collect(), at: 0 }.parse().map(Self::new).map_err(StatusError::bad_request)
    }

    /// Whether every requirement holds for the labels, given as a lookup.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(label(&r.key)))
    }

    /// Whether everything matches.
    pub fn is_empty(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// The requirements, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

impl TryFrom<&metav1::LabelSelector> for LabelSelector {
    type Error = StatusError;

    /// An empty selector matches everything. (A missing one matches nothing: see [`LabelSelector::from_optional`].)
    fn try_from(selector: &metav1::LabelSelector) -> Result<Self, StatusError> {
        let mut requirements = Vec::new();
        let mut add = |key: &str, operator, values| match Requirement::new(key, operator, values) {
            Ok(requirement) => {
                requirements.push(requirement);
                Ok(())
            }
            Err(errors) => Err(StatusError::bad_request(field::aggregate(&errors))),
        };
        for (key, value) in selector.match_labels.iter().flatten() {
            add(key, Operator::Equals, vec![value.clone()])?;
        }
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    let message = format!("{} is not a valid label selector operator", quote(other));
                    return Err(StatusError::bad_request(message));
                }
            };
            add(&expression.key, operator, expression.values.clone().unwrap_or_default())?;
        }
        Ok(Self::new(requirements))
    }
}

impl LabelSelector {
    /// The selector of an API object; a missing one matches nothing.
    pub fn from_optional(selector: Option<&metav1::LabelSelector>) -> Result<Self, StatusError> {
        selector.map_or_else(|| Ok(Self::nothing()), Self::try_from)
    }
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
}

const BINARY_OPERATORS: &str = "in, notin, =, ==, !=, gt, lt";

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.tokens.get(self.at).copied().unwrap_or(Token::End)
    }

    fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn parse(mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                Token::End => return Ok(requirements),
                Token::Word(_) | Token::Not => {
                    let requirement = self.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?;
                    requirements.push(requirement);
                    match self.next() {
                        Token::End => return Ok(requirements),
                        Token::Comma => match self.peek() {
                            Token::Word(_) | Token::Not => {}
                            other => return Err(format!("found '{other}', expected: identifier after ','")),
                        },
                        other => return Err(format!("found '{other}', expected: ',' or 'end of string'")),
                    }
                }
                other => return Err(format!("found '{other}', expected: !, identifier, or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let negated = matches!(self.peek(), Token::Not);
        if negated {
            self.next();
        }
        let key = match self.next() {
            Token::Word(key) => key,
            other => return Err(format!("found '{other}', expected: identifier")),
        };
        let build = |operator, values| Requirement::new(key, operator, values).map_err(|e| field::aggregate(&e));
        if negated {
            return build(Operator::DoesNotExist, vec![]);
        }
        if matches!(self.peek(), Token::End | Token::Comma) {
            return build(Operator::Exists, vec![]);
        }
        let operator = match self.next() {
            Token::Equals => Operator::Equals,
            Token::DoubleEquals => Operator::DoubleEquals,
            Token::NotEquals => Operator::NotEquals,
            Token::Word("in") => Operator::In,
            Token::Word("notin") => Operator::NotIn,
            Token::Word("gt") | Token::Greater => Operator::GreaterThan,
            Token::Word("lt") | Token::Less => Operator::LessThan,
            other => return Err(format!("found '{other}', expected: {BINARY_OPERATORS}")),
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        build(operator, values)
    }

    /// One value, which may be missing (`key=`).
    fn exact_value(&mut self) -> Result<String, String> {
        match self.peek() {
            Token::End | Token::Comma => Ok(String::new()),
            Token::Word(word) => {
                self.next();
                Ok(word.to_owned())
            }
            other => Err(format!("found '{other}', expected: identifier")),
        }
    }

    /// `(a, b)`; empty places are empty values.
    fn values(&mut self) -> Result<Vec<String>, String> {
        match self.next() {
            Token::Open => {}
            other => return Err(format!("found '{other}' expected: '('")),
        }
        let mut values = Vec::new();
        let mut expect_value = true;
        loop {
            match self.next() {
                Token::Word(word) if expect_value => {
                    values.push(word.to_owned());
                    expect_value = false;
                }
                Token::Comma => {
                    if expect_value {
                        values.push(String::new());
                    }
                    expect_value = true;
                }
                Token::Close => {
                    if expect_value {
                        values.push(String::new());
                    }
                    return Ok(values);
                }
                other if expect_value => return Err(format!("found '{other}', expected: ',', ')' or identifier")),
                other => return Err(format!("found '{other}', expected: ',' or ')'")),
            }
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
