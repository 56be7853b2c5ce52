use super::*;
use k8s_openapi::api::apps::v1::{DeploymentStrategy, RollingUpdateDeployment};
use proptest::prelude::*;

fn spec(replicas: i32, surge: IntOrString, unavailable: IntOrString) -> DeploymentSpec {
    DeploymentSpec {
        replicas: Some(replicas),
        strategy: Some(DeploymentStrategy {
            type_: Some("RollingUpdate".into()),
            rolling_update: Some(RollingUpdateDeployment {
                max_surge: Some(surge),
                max_unavailable: Some(unavailable),
            }),
        }),
        ..Default::default()
    }
}

fn percent(value: i32) -> IntOrString {
    IntOrString::String(format!("{value}%"))
}

#[test]
fn surge_rounds_up_and_unavailable_rounds_down() {
    let spec = spec(10, percent(25), percent(25));
    assert_eq!((max_surge(&spec), max_unavailable(&spec)), (3, 2));
}

#[test]
fn when_both_round_to_zero_one_pod_may_be_unavailable() {
    let spec = spec(1, IntOrString::Int(0), percent(1));
    assert_eq!((max_surge(&spec), max_unavailable(&spec)), (0, 1));
}

#[test]
fn a_rolling_update_starts_with_the_surge() {
    let spec = spec(10, percent(25), percent(25));
    assert_eq!(new_set_replicas(&spec, 10, 0), 3);
    let old = old_set_replicas(&spec, Size { replicas: 3, available: 0 }, &[Size { replicas: 10, available: 10 }]);
    assert_eq!(old, [8]);
}

#[test]
fn unhealthy_old_pods_go_first_and_do_not_cost_availability() {
    let spec = spec(10, IntOrString::Int(0), IntOrString::Int(2));
    let old = [Size { replicas: 4, available: 4 }, Size { replicas: 6, available: 4 }];
    assert_eq!(old_set_replicas(&spec, Size { replicas: 0, available: 0 }, &old), [4, 4]);
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_proportional() {
    // Upstream's documented example: 10 replicas, surge 3, unavailable 2, sets of 8 and 5, scaled to 15.
    let spec = spec(15, IntOrString::Int(3), IntOrString::Int(2));
    let sets = [Share { replicas: 8, max_before: 13 }, Share { replicas: 5, max_before: 13 }];
    assert_eq!(proportional(&spec, &sets), [11, 7]);
}

#[test]
fn scaling_to_zero_empties_every_set() {
    let spec = spec(0, IntOrString::Int(3), IntOrString::Int(2));
    let sets = [Share { replicas: 8, max_before: 13 }, Share { replicas: 5, max_before: 13 }];
    assert_eq!(proportional(&spec, &sets), [0, 0]);
}

#[test]
fn the_largest_numbers_the_api_takes_do_not_overflow() {
    let spec = spec(i32::MAX, percent(100), percent(0));
    let full = Size { replicas: i32::MAX, available: 0 };
    assert_eq!(new_set_replicas(&spec, sum([i32::MAX, i32::MAX]), 5), 5);
    assert_eq!(old_set_replicas(&spec, full, &[full, full]), [i32::MAX, i32::MAX], "too few are available");
    let shares = [Share { replicas: i32::MAX, max_before: 1 }, Share { replicas: i32::MAX, max_before: i32::MAX }];
    assert!(proportional(&spec, &shares).iter().all(|size| *size >= 0));
}

proptest! {
    #[test]
    fn a_rollout_ends_and_never_breaks_its_bounds(
        replicas in 1i32..40, surge in 0i32..100, unavailable in 0i32..100, ready_each_step in 1i32..5,
    ) {
        let spec = spec(replicas, percent(surge), percent(unavailable));
        let (max_total, min_available) = (replicas + max_surge(&spec), replicas - max_unavailable(&spec));
        let mut new = Size { replicas: 0, available: 0 };
        let mut old = Size { replicas, available: replicas };
        for _ in 0..10_000 {
            if new.available == replicas && old.replicas == 0 {
                break;
            }
            let bigger = new_set_replicas(&spec, new.replicas + old.replicas, new.replicas);
            if bigger != new.replicas {
                new.replicas = bigger;
            } else {
                old.replicas = old_set_replicas(&spec, new, &[old])[0];
                old.available = old.available.min(old.replicas);
            }
            prop_assert!(new.replicas + old.replicas <= max_total);
            prop_assert!(new.available + old.available >= min_available);
            new.available = (new.available + ready_each_step).min(new.replicas);
        }
        prop_assert_eq!(new, Size { replicas, available: replicas });
        prop_assert_eq!(old.replicas, 0);
    }

    #[test]
    fn proportional_scaling_reaches_exactly_the_allowed_size(
        replicas in 1i32..200, surge in 0i32..20, sizes in proptest::collection::vec(1i32..100, 1..6), before in 1i32..400,
    ) {
        let spec = spec(replicas, IntOrString::Int(surge), IntOrString::Int(1));
        let mut sizes = sizes;
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        let shares: Vec<_> = sizes.iter().map(|s| Share { replicas: *s, max_before: before }).collect();
        let result = proportional(&spec, &shares);
        prop_assert!(result.iter().all(|size| *size >= 0));
        let total: i32 = result.iter().sum();
        // Rounding that would make the first set negative is cut at zero.
        prop_assert!(total == replicas + surge || result[0] == 0);
    }
}
