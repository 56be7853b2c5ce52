//! A container's environment: services, envFrom, env, in upstream's order of precedence.

use std::time::Instant;

use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, Pod};

use crate::Error;
use crate::context::Context;
use crate::downward::{self, Facts};
use crate::expansion::expand;
use crate::podext::PodExt;

/// Names and values in the order the container gets them; a later definition has replaced an earlier one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Environment(Vec<(String, String)>);

impl Environment {
    fn set(&mut self, name: String, value: String) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some(entry) => entry.1 = value,
            None => self.0.push((name, value)),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }

    pub(crate) fn into_pairs(self) -> Vec<(String, String)> {
        self.0
    }
}

/// Resolves the environment. A missing ConfigMap, Secret or key that is not optional is an error.
pub(crate) async fn resolve(
    context: &Context,
    pod: &Pod,
    container: &Container,
    facts: &Facts,
) -> Result<Environment, Error> {
    // Every object is read once, and after this moment.
    let now = Instant::now();
    let links = pod.pod_spec().enable_service_links.unwrap_or(true);
    let services = context.services.environment(pod.ns(), links);
    let mut environment = Environment::default();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(wanted) = &source.config_map_ref {
            let found = context.config_maps.get(pod.ns(), &wanted.name, now).await?;
            match found {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        environment.set(format!("{prefix}{key}"), value.clone());
                    }
                }
                None if wanted.optional == Some(true) => {}
                None => return Err(Error::pod(format!("configmap {:?} not found", wanted.name))),
            }
        } else if let Some(wanted) = &source.secret_ref {
            match context.secrets.get(pod.ns(), &wanted.name, now).await? {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        environment.set(format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned());
                    }
                }
                None if wanted.optional == Some(true) => {}
                None => return Err(Error::pod(format!("secret {:?} not found", wanted.name))),
            }
        }
    }
    let asker = Asker { context, pod, container, facts, now };
    for variable in container.env.iter().flatten() {
        if let Some(value) = value(&asker, variable, &environment, &services).await? {
            environment.set(variable.name.clone(), value);
        }
    }
    for (name, value) in services {
        if environment.get(&name).is_none() {
            environment.set(name, value);
        }
    }
    Ok(environment)
}

/// On whose behalf values are looked up.
struct Asker<'a> {
    context: &'a Context,
    pod: &'a Pod,
    container: &'a Container,
    facts: &'a Facts,
    now: Instant,
}

async fn value(
    asker: &Asker<'_>,
    variable: &EnvVar,
    environment: &Environment,
    services: &std::collections::BTreeMap<String, String>,
) -> Result<Option<String>, Error> {
    let literal = variable.value.as_deref().unwrap_or_default();
    if !literal.is_empty() {
        let lookup = |name: &str| environment.get(name).or_else(|| services.get(name).cloned());
        return Ok(Some(expand(literal, lookup)));
    }
    match &variable.value_from {
        Some(source) => from_source(asker, source).await,
        None => Ok(Some(String::new())),
    }
}

async fn from_source(asker: &Asker<'_>, source: &EnvVarSource) -> Result<Option<String>, Error> {
    let Asker { context, pod, container, facts, now } = *asker;
    if let Some(field) = &source.field_ref {
        return downward::field(pod, &field.field_path, facts).map(Some);
    }
    if let Some(selector) = &source.resource_field_ref {
        return downward::resource(pod, Some(container), selector, facts).map(Some);
    }
    if let Some(wanted) = &source.config_map_key_ref {
        let optional = wanted.optional == Some(true);
        let Some(map) = context.config_maps.get(pod.ns(), &wanted.name, now).await? else {
            return missing(optional, || format!("configmap {:?} not found", wanted.name));
        };
        return match map.data.as_ref().and_then(|data| data.get(&wanted.key)) {
            Some(value) => Ok(Some(value.clone())),
            None => missing(optional, || {
                format!("couldn't find key {} in ConfigMap {}/{}", wanted.key, pod.ns(), wanted.name)
            }),
        };
    }
    if let Some(wanted) = &source.secret_key_ref {
        let optional = wanted.optional == Some(true);
        let Some(secret) = context.secrets.get(pod.ns(), &wanted.name, now).await? else {
            return missing(optional, || format!("secret {:?} not found", wanted.name));
        };
        return match secret.data.as_ref().and_then(|data| data.get(&wanted.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None => {
                missing(optional, || format!("couldn't find key {} in Secret {}/{}", wanted.key, pod.ns(), wanted.name))
            }
        };
    }
    Ok(None)
}

fn missing(optional: bool, text: impl FnOnce() -> String) -> Result<Option<String>, Error> {
    if optional { Ok(None) } else { Err(Error::pod(text())) }
}
