use futures::FutureExt;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::flowcontrol::level::{Ticket, Work};
use crate::registry::flowcontrol::bootstrap;

fn object(name: &str, shares: i32, lendable: i32, borrowing: Option<i32>) -> PriorityLevelConfiguration {
    let mut limited = json!({
        "nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": {"type": "Reject"},
    });
    if let Some(percent) = borrowing {
        limited["borrowingLimitPercent"] = percent.into();
    }
    let level = json!({"metadata": {"name": name}, "spec": {"type": "Limited", "limited": limited}});
    serde_json::from_value(level).unwrap()
}

fn exempt(shares: i32, lendable: i32) -> PriorityLevelConfiguration {
    let spec = json!({
        "type": "Exempt", "exempt": {"nominalConcurrencyShares": shares, "lendablePercent": lendable},
    });
    serde_json::from_value(json!({"metadata": {"name": "exempt"}, "spec": spec})).unwrap()
}

fn share(levels: &Levels, name: &str) -> Share {
    levels.all[name].share
}

fn current(levels: &Levels, name: &str) -> usize {
    share(levels, name).current
}

/// As many requests of one seat as get in at once.
fn fill(levels: &Levels, name: &str, most: usize) -> Vec<Ticket> {
    let level = &levels.all[name].level;
    let enter = || level.enter(Work::ONE, || 1, Duration::ZERO).now_or_never()?.ok();
    std::iter::from_fn(enter).take(most).collect()
}

#[test]
fn upstreams_levels_have_upstreams_bounds() {
    let objects: Vec<_> = bootstrap::priority_levels()
        .into_iter()
        .map(|(_, value)| serde_json::from_value::<PriorityLevelConfiguration>(value).unwrap())
        .collect();
    let mut levels = Levels::new(600);
    levels.configure(&objects);
    for (name, nominal, lower) in [
        ("catch-all", 13, 13),
        ("exempt", 0, 0),
        ("global-default", 49, 24),
        ("leader-election", 25, 25),
        ("node-high", 98, 73),
        ("system", 74, 50),
        ("workload-high", 98, 49),
        ("workload-low", 245, 24),
    ] {
        assert_eq!(share(&levels, name).bounds, Bounds { nominal, lower, upper: nominal + 600 }, "{name}");
    }
    // Nobody asks for anything: all 602 are divided as the seats that are not lent, which are 258 (and a thousandth of
    // one, which is what no demand counts as).
    assert!((levels.fraction - 602.0 / 258.001).abs() < 1e-9, "{}", levels.fraction);
    assert_eq!((current(&levels, "catch-all"), current(&levels, "system")), (30, 117));
}

#[test]
fn who_may_not_borrow_or_lend_keeps_its_seats() {
    let mut levels = Levels::new(100);
    levels.configure(&[object("a", 10, 0, Some(0)), object("b", 30, 50, Some(20)), exempt(10, 50)]);
    assert_eq!(share(&levels, "a").bounds, Bounds { nominal: 20, lower: 20, upper: 20 });
    assert_eq!(share(&levels, "b").bounds, Bounds { nominal: 60, lower: 30, upper: 72 });
    assert_eq!(share(&levels, "exempt").bounds, Bounds { nominal: 20, lower: 10, upper: 120 });
    assert_eq!(current(&levels, "a"), 20);
}

#[test]
fn a_level_that_is_wanted_borrows_and_gives_back_when_the_lender_wants() {
    let mut levels = Levels::new(100);
    levels.configure(&[object("busy", 50, 50, None), object("idle", 50, 80, None)]);
    // Nothing is asked: 25 and 10 stay at home, the rest is divided in that proportion.
    assert_eq!((current(&levels, "busy"), current(&levels, "idle")), (71, 29));
    let mut busy = fill(&levels, "busy", 100);
    assert_eq!(busy.len(), 71);
    levels.adjust();
    let lent = current(&levels, "busy");
    // It is sure of its own 50, and gets more of what the other lends; the other keeps its 10.
    assert!((71..=90).contains(&lent), "{lent}");
    busy.extend(fill(&levels, "busy", 100));
    let idle = fill(&levels, "idle", 100);
    assert_eq!((busy.len(), idle.len()), (lent, 100 - lent));
    levels.adjust();
    // Both are full: who lends is sure of what it used of its own.
    assert!(current(&levels, "idle") >= idle.len());
    drop(busy);
    drop(idle);
    let busy = fill(&levels, "busy", 20);
    let idle = fill(&levels, "idle", 100);
    assert_eq!(busy.len(), 20);
    levels.adjust();
    drop((busy, idle));
    assert_eq!(current(&levels, "busy") + current(&levels, "idle"), 100);
}

#[tokio::test]
async fn requests_of_the_exempt_level_take_seats_from_the_others() {
    let mut levels = Levels::new(100);
    levels.configure(&[object("a", 50, 90, None), exempt(0, 0)]);
    assert_eq!(current(&levels, "a"), 100);
    let held = fill(&levels, "exempt", 60);
    tokio::time::sleep(Duration::from_millis(5)).await;
    levels.adjust();
    assert!(share(&levels, "exempt").target > 0.0);
    assert!(current(&levels, "a") < 100, "{:?}", share(&levels, "a"));
    assert!(current(&levels, "a") >= 10, "what it does not lend it keeps");
    drop(held);
}

#[test]
fn a_level_that_lends_everything_still_lets_the_first_in() {
    let mut levels = Levels::new(10);
    levels.configure(&[object("a", 50, 100, None), object("b", 50, 0, None), object("jail", 0, 0, Some(0))]);
    levels.adjust();
    assert_eq!(fill(&levels, "a", 1).len(), 1);
    assert!(fill(&levels, "jail", 1).is_empty(), "no seats, no requests");
}

proptest! {
    #[test]
    fn seats_stay_within_bounds_and_add_up(
        total in 1_usize..1000,
        configured in prop::collection::vec((0..100, 0..=100, prop::option::of(0..200), 0_usize..50), 1..8),
    ) {
        let mut levels = Levels::new(total);
        let objects: Vec<_> = configured
            .iter()
            .enumerate()
            .map(|(at, (shares, lendable, borrowing, _))| object(&at.to_string(), *shares, *lendable, *borrowing))
            .chain([exempt(5, 50)])
            .collect();
        levels.configure(&objects);
        let mut held = fill(&levels, "exempt", total / 10);
        for _ in 0..3 {
            for (at, (.., requests)) in configured.iter().enumerate() {
                held.extend(fill(&levels, &at.to_string(), *requests));
            }
            levels.adjust();
            let shares: Vec<Share> = levels.all.values().map(|entry| entry.share).collect();
            let nominal: usize = shares.iter().map(|share| share.bounds.nominal).sum();
            let current: usize = shares.iter().map(|share| share.current).sum();
            prop_assert!(nominal >= total.min(nominal) && nominal <= total + shares.len());
            prop_assert!(current.abs_diff(nominal) <= shares.len().div_ceil(2), "{current} of {nominal}");
            for share in shares {
                prop_assert!(share.bounds.lower <= share.current && share.current <= share.bounds.upper, "{share:?}");
            }
        }
    }
}
