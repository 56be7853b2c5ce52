//! Follows the objects, and says of each schema whether the level it names exists.

use std::sync::{Arc, Weak};

use jiff::Timestamp;
use k8s_openapi::api::flowcontrol::v1::{
    FlowSchema, FlowSchemaCondition, FlowSchemaStatus, PriorityLevelConfiguration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::de::DeserializeOwned;
use skep_api::StatusError;
use skep_storage::Resource;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::levels::PERIOD;
use crate::{
    dispatch::Registries,
    registry::{
        erased::UpdateKind,
        flowcontrol::GROUP,
        generic::{Scope, update::Mutation},
        object::Object,
    },
    service::Shared,
    user::UserInfo,
};

const SCHEMAS: &str = "flowschemas";
const LEVELS: &str = "prioritylevelconfigurations";

/// Applies the objects as they are now.
pub(crate) fn load(shared: &Shared) {
    let Some((schemas, levels)) = resources(&shared.registries) else { return };
    shared.flow.apply(read(&schemas), read(&levels));
}

/// Applies the objects whenever they change and adjusts the levels' seats, until `stop` or the server is gone.
pub(crate) fn keep(shared: &Arc<Shared>, stop: CancellationToken) {
    load(shared);
    let shared = Arc::downgrade(shared);
    tokio::spawn(async move {
        stop.run_until_cancelled(async { tokio::join!(follow(shared.clone()), adjust(shared)) }).await
    });
}

async fn adjust(shared: Weak<Shared>) {
    let mut ticks = tokio::time::interval_at(Instant::now() + PERIOD, PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(now) = shared.upgrade() else { return };
        now.flow.adjust();
    }
}

async fn follow(shared: Weak<Shared>) {
    loop {
        let Some(now) = shared.upgrade() else { return };
        let Some((schemas, levels)) = resources(&now.registries) else { return };
        let (_, mut schemas_watch) = schemas.snapshot_and_watch(&schemas.schema().prefix);
        let (_, mut levels_watch) = levels.snapshot_and_watch(&levels.schema().prefix);
        load(&now);
        tell(&now.registries, read(&schemas), &read(&levels)).await;
        drop(now);
        // Whatever ends a watch is found out anew with the next.
        let ended = tokio::select! {
            event = schemas_watch.next() => event.is_err(),
            event = levels_watch.next() => event.is_err(),
        };
        if ended {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    }
}

fn resources(registries: &Registries) -> Option<(Resource, Resource)> {
    let cache = |plural| Some(registries.get(GROUP, "v1", plural)?.cache.clone());
    Some((cache(SCHEMAS)?, cache(LEVELS)?))
}

fn read<T: DeserializeOwned>(resource: &Resource) -> Vec<T> {
    let parse = |object: &Arc<skep_storage::Object>| match serde_json::from_slice(object.json()) {
        Ok(parsed) => Some(parsed),
        Err(error) => {
            tracing::warn!(key = %object.key(), %error, "an object of priority and fairness cannot be read");
            None
        }
    };
    resource.snapshot().iter().filter_map(parse).collect()
}

/// Brings the condition `Dangling` of every schema up to date.
async fn tell(registries: &Registries, schemas: Vec<FlowSchema>, levels: &[PriorityLevelConfiguration]) {
    for schema in schemas {
        let name = schema.metadata.name.clone().unwrap_or_default();
        let level = schema.spec.as_ref().map_or("", |spec| spec.priority_level_configuration.name.as_str());
        let exists = levels.iter().any(|own| own.metadata.name.as_deref() == Some(level));
        let condition = condition(level, exists);
        if current(schema.status.as_ref()).is_some_and(|own| is_same(own, &condition)) {
            continue;
        }
        if let Err(error) = write(registries, &name, condition).await {
            tracing::debug!(flow_schema = %name, %error, "the status of a flow schema was not written");
        }
    }
}

fn condition(level: &str, exists: bool) -> FlowSchemaCondition {
    let (status, reason, there) = match exists {
        true => ("False", "Found", "it exists"),
        false => ("True", "NotFound", "there is no such object"),
    };
    let message =
        format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} and {there}");
    let message = if exists { message } else { message.replace(" and there", " but there") };
    FlowSchemaCondition {
        type_: Some("Dangling".to_owned()),
        status: Some(status.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: Some(Time(Timestamp::now())),
    }
}

fn current(status: Option<&FlowSchemaStatus>) -> Option<&FlowSchemaCondition> {
    status?.conditions.iter().flatten().find(|own| own.type_.as_deref() == Some("Dangling"))
}

fn is_same(own: &FlowSchemaCondition, new: &FlowSchemaCondition) -> bool {
    (&own.status, &own.reason, &own.message) == (&new.status, &new.reason, &new.message)
}

async fn write(registries: &Registries, name: &str, condition: FlowSchemaCondition) -> Result<(), StatusError> {
    let registry = registries.get(GROUP, "v1", SCHEMAS).ok_or_else(StatusError::generic_not_found)?;
    let user = UserInfo::master("system:apiserver");
    let scope = Scope::internal(&user, None, Timestamp::now());
    let mut source = Mutation(|object: &mut dyn Object| {
        let Some(schema) = object.as_any_mut().downcast_mut::<FlowSchema>() else {
            return Err(StatusError::internal_error("a flow schema that is none"));
        };
        let conditions = schema.status.get_or_insert_default().conditions.get_or_insert_default();
        let mut condition = condition.clone();
        match conditions.iter_mut().find(|own| own.type_ == condition.type_) {
            Some(own) => {
                if own.status == condition.status {
                    condition.last_transition_time.clone_from(&own.last_transition_time);
                }
                *own = condition;
            }
            None => conditions.push(condition),
        }
        Ok(())
    });
    registry.update(&scope, name, UpdateKind::Status, &mut source).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_told_whether_its_level_exists() {
        let found = condition("a", true);
        assert_eq!(
            found.message.as_deref(),
            Some("This FlowSchema references the PriorityLevelConfiguration object named \"a\" and it exists")
        );
        let missing = condition("b", false);
        assert_eq!((missing.status.as_deref(), missing.reason.as_deref()), (Some("True"), Some("NotFound")));
        assert_eq!(
            missing.message.as_deref(),
            Some(
                "This FlowSchema references the PriorityLevelConfiguration object named \"b\" but there is no such object"
            )
        );
    }
}
