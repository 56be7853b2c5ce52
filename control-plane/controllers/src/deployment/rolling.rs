//! The arithmetic of rolling updates and proportional scaling. Pure functions. Sums saturate: the API lets each ReplicaSet ask
//! for as many replicas as an i32 holds.

use k8s_openapi::api::apps::v1::DeploymentSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// What the planner knows of a ReplicaSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) replicas: i32,
    pub(super) available: i32,
}

pub(super) fn is_rolling(spec: &DeploymentSpec) -> bool {
    spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()).unwrap_or("RollingUpdate") != "Recreate"
}

/// The deployment's replicas, 1 where the API server's default is missing.
pub(super) fn desired(spec: &DeploymentSpec) -> i32 {
    spec.replicas.unwrap_or(1).max(0)
}

/// The sum of numbers of pods.
pub(super) fn sum(numbers: impl IntoIterator<Item = i32>) -> i32 {
    numbers.into_iter().fold(0, i32::saturating_add)
}

/// A number or a percentage of `total`; something that is neither counts as zero.
fn scaled(value: &IntOrString, total: i32, round_up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let Some(percent) = text.strip_suffix('%').and_then(|number| number.parse::<i64>().ok()) else { return 0 };
            let hundredths = percent.saturating_mul(i64::from(total));
            let number =
                if round_up { hundredths.saturating_add(99).div_euclid(100) } else { hundredths.div_euclid(100) };
            i32::try_from(number).unwrap_or(i32::MAX)
        }
    }
}

/// maxSurge (rounded up) and maxUnavailable (rounded down); never both zero, or nothing could move.
fn fenceposts(spec: &DeploymentSpec) -> (i32, i32) {
    let parameters = spec.strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".to_owned());
    let of = |value: Option<&IntOrString>, up| scaled(value.unwrap_or(&quarter), desired(spec), up).max(0);
    let surge = of(parameters.and_then(|p| p.max_surge.as_ref()), true);
    let unavailable = of(parameters.and_then(|p| p.max_unavailable.as_ref()), false);
    (surge, if surge == 0 && unavailable == 0 { 1 } else { unavailable })
}

/// Pods above the desired number that may exist during the update.
pub(super) fn max_surge(spec: &DeploymentSpec) -> i32 {
    if is_rolling(spec) { fenceposts(spec).0 } else { 0 }
}

/// Pods below the desired number that may be unavailable during the update.
pub(super) fn max_unavailable(spec: &DeploymentSpec) -> i32 {
    if !is_rolling(spec) || desired(spec) == 0 { 0 } else { fenceposts(spec).1.min(desired(spec)) }
}

/// Replicas the new ReplicaSet may have now. `total` counts the replicas of all ReplicaSets, the new one included.
pub(super) fn new_set_replicas(spec: &DeploymentSpec, total: i32, new: i32) -> i32 {
    let desired = desired(spec);
    if !is_rolling(spec) {
        return desired;
    }
    let limit = desired.saturating_add(max_surge(spec));
    if total >= limit { new } else { new.saturating_add((limit - total.max(0)).min(desired - new.max(0))) }
}

/// New sizes of the old ReplicaSets (oldest first), such that enough pods stay available. First the pods that are not
/// available anyway go, then as many available ones as the new ReplicaSet makes up for.
pub(super) fn old_set_replicas(spec: &DeploymentSpec, new: Size, old: &[Size]) -> Vec<i32> {
    let mut sizes: Vec<i32> = old.iter().map(|set| set.replicas).collect();
    let min_available = desired(spec) - max_unavailable(spec);
    let total = sum(sizes.iter().copied().chain([new.replicas]));
    let new_unavailable = new.replicas.saturating_sub(new.available);
    let mut unhealthy_budget = total.saturating_sub(min_available).saturating_sub(new_unavailable);
    if unhealthy_budget <= 0 {
        return sizes;
    }
    for (size, set) in sizes.iter_mut().zip(old) {
        let unhealthy = size.saturating_sub(set.available).clamp(0, unhealthy_budget.max(0));
        *size -= unhealthy;
        unhealthy_budget -= unhealthy;
    }
    let available = sum(old.iter().map(|set| set.available).chain([new.available]));
    let mut budget = available.saturating_sub(min_available).max(0);
    for size in &mut sizes {
        let fewer = (*size).min(budget);
        *size -= fewer;
        budget -= fewer;
    }
    sizes
}

/// A ReplicaSet's share of a scaling, for [`proportional`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    pub(super) replicas: i32,
    /// desired + surge of the deployment when this ReplicaSet was last scaled (its max-replicas annotation).
    pub(super) max_before: i32,
}

/// New sizes of ReplicaSets (largest first) when a deployment is scaled in the middle of a rollout: each changes in
/// proportion to its size, the first takes what rounding leaves.
pub(super) fn proportional(spec: &DeploymentSpec, sets: &[Share]) -> Vec<i32> {
    let desired = desired(spec);
    let allowed = if desired > 0 { desired.saturating_add(max_surge(spec)) } else { 0 };
    let to_add = allowed.saturating_sub(sum(sets.iter().map(|set| set.replicas)));
    let mut added = 0_i32;
    let mut sizes: Vec<i32> = sets
        .iter()
        .map(|set| {
            let share = share(*set, desired, allowed, to_add, added);
            added = added.saturating_add(share);
            set.replicas.saturating_add(share).max(0)
        })
        .collect();
    if let Some(first) = sizes.first_mut()
        && to_add != 0
    {
        *first = first.saturating_add(to_add.saturating_sub(added)).max(0);
    }
    sizes
}

fn share(set: Share, desired: i32, allowed: i32, to_add: i32, added: i32) -> i32 {
    if set.replicas == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let fraction = if desired == 0 {
        set.replicas.saturating_neg()
    } else if set.max_before <= 0 {
        0
    } else {
        let size = f64::from(set.replicas) * f64::from(allowed) / f64::from(set.max_before);
        // Both factors are i32, so the rounded value fits unless the annotation is absurd; then it saturates.
        (size.round() as i32).saturating_sub(set.replicas)
    };
    let left = to_add.saturating_sub(added);
    if to_add > 0 { fraction.min(left) } else { fraction.max(left) }
}

#[cfg(test)]
#[path = "rolling_tests.rs"]
mod tests;
