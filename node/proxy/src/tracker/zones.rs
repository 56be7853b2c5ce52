//! Shares of traffic by zone, as places: a backend that shall get twice as much stands in twice as many slots, so the kernel
//! knows nothing of weights.

use std::{collections::BTreeMap, str::FromStr};

/// Largest weight of a zone.
const MAX_WEIGHT: u32 = 1000;
/// Most zones that are named.
const MAX_ZONES: usize = 64;
/// How many places shares may take up where exact ones would take more, and how many for each backend where that is more.
const PLACES: usize = 1024;
const PLACES_EACH: usize = 4;

/// `ZONE=WEIGHT,...`, weights from 0 to 1000: of the traffic a zone gets its weight's part of the sum of those zones that
/// have a backend, and divides it evenly among its own, however many these are. A zone that is not named, and backends
/// without a zone (together), have the weight 1. Zones of weight 0 are used only while no other has a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ZoneWeights(BTreeMap<String, u32>);

impl FromStr for ZoneWeights {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut weights = BTreeMap::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (zone, weight) = part.split_once('=').ok_or_else(|| format!("{part:?} is not ZONE=WEIGHT"))?;
            let (zone, weight) = (zone.trim(), weight.trim());
            if zone.is_empty() {
                return Err(format!("{part:?} names no zone"));
            }
            let number = weight.parse().ok().filter(|weight| *weight <= MAX_WEIGHT);
            let number =
                number.ok_or_else(|| format!("the weight of zone {zone:?}, {weight:?}, is not 0 to {MAX_WEIGHT}"))?;
            if weights.insert(zone.to_owned(), number).is_some() {
                return Err(format!("zone {zone:?} is named twice"));
            }
            if weights.len() > MAX_ZONES {
                return Err(format!("more than {MAX_ZONES} zones are named"));
            }
        }
        Ok(Self(weights))
    }
}

impl ZoneWeights {
    /// How many places each backend gets, by the zone it is in. Empty where each gets one. A backend with none is not used.
    pub(super) fn places(&self, backends: &[Option<&str>]) -> Vec<u32> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let mut members: BTreeMap<Option<&str>, u64> = BTreeMap::new();
        backends.iter().for_each(|zone| *members.entry(*zone).or_default() += 1);
        let weight = |zone: Option<&str>| u64::from(zone.and_then(|zone| self.0.get(zone)).copied().unwrap_or(1));
        // Zone, members, weight.
        let shares: Vec<Share<'_>> =
            members.into_iter().map(|(zone, members)| (zone, members, weight(zone))).filter(|(.., w)| *w > 0).collect();
        if shares.is_empty() {
            return Vec::new();
        }
        let limit = PLACES.max(backends.len() * PLACES_EACH) as u64;
        let mut places = exact(&shares, limit).unwrap_or_else(|| nearly(&shares, limit));
        let each: Vec<u32> = backends
            .iter()
            .map(|zone| {
                let Some((places, members)) = places.get_mut(zone) else { return 0 };
                let own = places.div_ceil(*members);
                (*places, *members) = (*places - own, *members - 1);
                u32::try_from(own).unwrap_or(u32::MAX)
            })
            .collect();
        if each.iter().all(|own| Some(own) == each.first()) { Vec::new() } else { each }
    }
}

type Share<'a> = (Option<&'a str>, u64, u64);

/// Zone -> its places, and the backends among which they are still to be divided.
type Divided<'a> = BTreeMap<Option<&'a str>, (u64, u64)>;

/// The fewest places with exactly these shares, the same for all backends of a zone.
fn exact<'a>(shares: &[Share<'a>], limit: u64) -> Option<Divided<'a>> {
    // Weight / members, brought to whole numbers without a common divisor.
    let mut scale = 1_u64;
    for (_, members, weight) in shares {
        let part = members / gcd(*members, *weight);
        scale = (scale / gcd(scale, part)).checked_mul(part)?;
    }
    let each: Vec<u64> =
        shares.iter().map(|(_, members, weight)| Some(scale.checked_mul(*weight)? / members)).collect::<Option<_>>()?;
    let common = each.iter().copied().fold(0, gcd).max(1);
    let divided: Divided<'a> = shares
        .iter()
        .zip(each)
        .map(|((zone, members, _), each)| Some((*zone, ((each / common).checked_mul(*members)?, *members))))
        .collect::<Option<_>>()?;
    let total = divided.values().try_fold(0_u64, |sum, (places, _)| sum.checked_add(*places))?;
    (total <= limit).then_some(divided)
}

/// About `limit` places with nearly these shares; at least one for each backend.
fn nearly<'a>(shares: &[Share<'a>], limit: u64) -> Divided<'a> {
    let sum: u64 = shares.iter().map(|(.., weight)| weight).sum();
    let places = |weight: u64| (limit * weight + sum / 2) / sum.max(1);
    shares.iter().map(|(zone, members, weight)| (*zone, (places(*weight).max(*members), *members))).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn places(weights: &str, backends: &[Option<&str>]) -> Vec<u32> {
        weights.parse::<ZoneWeights>().unwrap().places(backends)
    }

    #[test]
    fn a_zone_gets_its_share_however_many_backends_it_has() {
        let (a, b) = (Some("a"), Some("b"));
        assert_eq!(places("a=3,b=1", &[a, b]), [3, 1]);
        assert_eq!(places("a=3,b=1", &[a, a, a, b, b]), [2, 2, 2, 1, 1]);
        assert_eq!(places("a=3", &[a, b, None]), [3, 1, 1], "zones that are not named, and none, have one");
        assert_eq!(places("a=2,b=4", &[a, b, b]), [0; 0], "each backend has the same");
        assert_eq!(places("", &[a, b, b]), [0; 0]);
        assert_eq!(places("c=9", &[a, a]), [0; 0], "nobody is in that zone");
        assert_eq!(places("a=3", &[]), [0; 0]);
    }

    #[test]
    fn a_zone_without_weight_is_used_only_when_there_is_no_other() {
        let (a, b) = (Some("a"), Some("b"));
        assert_eq!(places("a=0", &[a, b, b]), [0, 1, 1]);
        assert_eq!(places("a=0", &[a, a]), [0; 0]);
        assert_eq!(places("a=0,b=0", &[a, b]), [0; 0]);
    }

    #[test]
    fn what_is_no_list_of_weights_is_refused() {
        for (text, problem) in [
            ("a", "\"a\" is not ZONE=WEIGHT"),
            ("=1", "\"=1\" names no zone"),
            ("a=1001", "the weight of zone \"a\", \"1001\", is not 0 to 1000"),
            ("a=-1", "the weight of zone \"a\", \"-1\", is not 0 to 1000"),
            ("a=1, a=2", "zone \"a\" is named twice"),
        ] {
            assert_eq!(text.parse::<ZoneWeights>(), Err(problem.to_owned()), "{text}");
        }
        let many: Vec<String> = (0..65).map(|n| format!("z{n}=1")).collect();
        assert_eq!(many.join(",").parse::<ZoneWeights>(), Err("more than 64 zones are named".to_owned()));
        assert_eq!(" a = 1 ,, b=2,".parse::<ZoneWeights>(), "a=1,b=2".parse());
    }

    proptest! {
        #[test]
        fn shares_are_kept_within_a_part_of_a_hundred_or_by_the_least_number_of_places(
            zones in prop::collection::vec((0_u32..=1000, 1_usize..40), 1..5),
        ) {
            let names: Vec<String> = (0..zones.len()).map(|n| format!("z{n}")).collect();
            let weights: Vec<String> = names.iter().zip(&zones).map(|(name, (weight, _))| format!("{name}={weight}")).collect();
            let backends: Vec<Option<&str>> = names
                .iter()
                .zip(&zones)
                .flat_map(|(name, (_, members))| std::iter::repeat_n(Some(name.as_str()), *members))
                .collect();
            let mut found = places(&weights.join(","), &backends);
            if found.is_empty() {
                found = vec![1; backends.len()];
            }
            prop_assert_eq!(found.len(), backends.len());
            let total: u32 = found.iter().sum();
            let sum: u32 = zones.iter().map(|(weight, _)| weight).sum();
            prop_assert!(total as usize <= PLACES.max(backends.len() * PLACES_EACH) + backends.len() + zones.len());
            for (name, (weight, members)) in names.iter().zip(&zones) {
                let of = |zone: &Option<&str>| *zone == Some(name.as_str());
                let own: Vec<u32> = backends.iter().zip(&found).filter(|(zone, _)| of(zone)).map(|(_, n)| *n).collect();
                let (least, most) = (own.iter().min().unwrap(), own.iter().max().unwrap());
                prop_assert!(most - least <= 1, "backends of one zone: {:?}", own);
                if sum == 0 {
                    prop_assert_eq!(*least, 1);
                    continue;
                }
                prop_assert_eq!(*weight == 0, *most == 0);
                let share = f64::from(own.iter().sum::<u32>()) / f64::from(total);
                let wanted = f64::from(*weight) / f64::from(sum);
                // A zone of many backends and next to no weight has one place for each, at the cost of the others.
                let forced: usize = zones.iter().filter(|(weight, members)| {
                    *weight > 0 && (*members as f64) > PLACES as f64 * f64::from(*weight) / f64::from(sum)
                }).map(|(_, members)| members).sum();
                let tolerance = 0.01 + forced as f64 / PLACES as f64;
                prop_assert!((share - wanted).abs() <= tolerance, "zone {} of {} members: {} for {}", name, members, share, wanted);
            }
        }
    }
}
