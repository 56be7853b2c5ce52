//! What upstream says about who answers for a Service, compared with a real cluster: each state of the endpoints, from every
//! kind of client, to every kind of address, under both policies, over TCP and UDP.
#![allow(clippy::disallowed_methods, reason = "these tests have no runtime: they may sleep")]

mod balancers;
mod case;
mod prober;
mod table;
mod world;

use anyhow::{Context as _, Result, ensure};

use case::{Case, Place, TARGETS, rows};
use prober::Prober;
use table::{Origin, Policy, STATES, State, Target, WAYS};
use world::{IP4, IP6, Net, World};

/// How often addresses are asked anew until every backend that may answer has answered.
const ROUNDS: usize = 8;

/// Of so many combinations one may lose a connection, see [`Case::lost`].
const ONE_LOST_OF: usize = 200;

const ORIGINS: [Origin; 5] = [Origin::Pod, Origin::Endpoint, Origin::HostNetwork, Origin::Process, Origin::Outside];

/// Who asks, where.
struct Asker {
    place: Place,
    prober: Prober,
}

#[test]
fn every_client_meets_the_endpoints_that_upstream_says() -> Result<()> {
    compare(&IP4, 0)
}

#[test]
fn every_client_meets_the_same_endpoints_over_ipv6() -> Result<()> {
    compare(&IP6, 1)
}

/// Compares every second state of endpoints, from the `first`: the rules know no family, so each state is compared in one.
fn compare(net: &'static Net, first: usize) -> Result<()> {
    let world = World::start(net)?;
    let mut askers = Vec::new();
    for origin in ORIGINS {
        for node in 0..net.nodes.len() {
            let prober = world.prober(origin, node)?;
            askers.push(Asker { place: Place { origin, node }, prober });
        }
    }
    let mut cases = Vec::new();
    for state in STATES.iter().skip(first).step_by(2) {
        world.set(state).with_context(|| state.name)?;
        // The client outside has one way to the ClusterIPs at a time.
        for by in 0..net.nodes.len() {
            world.lead_outside(by)?;
            let now = |place: Place| if place.origin == Origin::Outside { place.node == by } else { by == 0 };
            let some = askers.iter_mut().filter(|asker| now(asker.place));
            cases.extend(check(&world, state, some.collect())?);
        }
    }
    let lost = cases.iter().filter(|case| case.lost).count();
    println!("{} combinations were checked, {lost} lost a connection", cases.len());
    let wrong: Vec<String> = cases.iter().filter_map(Case::verdict).collect();
    ensure!(
        wrong.is_empty(),
        "{} of {} combinations are not as upstream says:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    ensure!(lost * ONE_LOST_OF <= cases.len(), "{lost} of {} combinations lost a connection", cases.len());
    Ok(())
}

/// Asks from all these places at once, again and again until each case is settled.
fn check(world: &World, state: &State, mut askers: Vec<&mut Asker>) -> Result<Vec<Case>> {
    let mut all: Vec<Vec<Case>> = askers.iter().map(|asker| Case::all(world, state, asker.place)).collect();
    for _ in 0..ROUNDS {
        for (asker, cases) in askers.iter_mut().zip(&all) {
            asker.prober.ask(&cases.iter().map(|case| case.question.clone()).collect::<Vec<_>>())?;
        }
        let mut settled = true;
        for (asker, cases) in askers.iter_mut().zip(&mut all) {
            let met = asker.prober.hear(cases.len())?;
            for (case, met) in cases.iter_mut().zip(met) {
                settled &= case.note(met);
            }
        }
        if settled {
            break;
        }
    }
    Ok(all.into_iter().flatten().collect())
}

#[test]
fn every_combination_has_one_row_and_every_row_a_source() -> Result<()> {
    for origin in ORIGINS {
        for target in TARGETS {
            for policy in [Policy::Cluster, Policy::Local] {
                // Outside, a node is no nearer than the other.
                let asked = origin != Origin::Outside || target != Target::NodePortElsewhere;
                let rows = rows(origin, target, policy).count();
                ensure!(rows == usize::from(asked), "{origin:?} to {target:?} under {policy:?}: {rows} rows");
            }
        }
    }
    ensure!(WAYS.iter().all(|way| !way.source.is_empty()) && STATES.iter().all(|state| !state.source.is_empty()));
    Ok(())
}
