//! Divides seats among claims: each gets the same fraction of what it would like, within its own bounds.
//!
//! KEP-1040, "Dispatching": the fraction is the one at which the parts add up to the whole.

/// What one level would like, and what it must and may get at least and at most, in seats. `0 <= lower <= upper`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Claim {
    pub(super) target: f64,
    pub(super) lower: f64,
    pub(super) upper: f64,
}

/// A target that counts as none: who asks for nothing still gets part of what nobody needs.
const LEAST_TARGET: f64 = 0.001;

impl Claim {
    fn target(&self) -> f64 {
        self.target.max(LEAST_TARGET)
    }

    /// What it gets of a fraction.
    fn part(&self, fraction: f64) -> f64 {
        (fraction * self.target()).clamp(self.lower, self.upper)
    }
}

/// The fraction, and what each claim gets. The parts add up to `whole`, unless all lower bounds are more or all upper bounds
/// less than that; then everybody gets their bound.
pub(super) fn divide(whole: f64, claims: &[Claim]) -> (f64, Vec<f64>) {
    let fraction = fraction(whole, claims);
    (fraction, claims.iter().map(|claim| claim.part(fraction)).collect())
}

/// The sum of the parts grows with the fraction, and is a straight line between two fractions at which some claim meets a
/// bound: the answer lies on the line that passes `whole`.
fn fraction(whole: f64, claims: &[Claim]) -> f64 {
    let sum = |fraction: f64| claims.iter().map(|claim| claim.part(fraction)).sum::<f64>();
    let mut corners: Vec<f64> =
        claims.iter().flat_map(|claim| [claim.lower / claim.target(), claim.upper / claim.target()]).collect();
    corners.sort_by(f64::total_cmp);
    let above = corners.partition_point(|corner| sum(*corner) < whole);
    match (above.checked_sub(1).map(|below| corners[below]), corners.get(above)) {
        (Some(low), Some(high)) => low + (whole - sum(low)) * (high - low) / (sum(*high) - sum(low)),
        // All lower bounds are the whole or more.
        (None, Some(lowest)) => *lowest,
        // All upper bounds are less than the whole.
        (Some(highest), None) => highest,
        (None, None) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claim(lower: f64, target: f64, upper: f64) -> Claim {
        Claim { target, lower, upper }
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-6 * (1.0 + a.abs())
    }

    fn check(whole: f64, claims: &[Claim], fraction: f64, parts: &[f64]) {
        let (own, own_parts) = divide(whole, claims);
        assert!(close(own, fraction), "{own} instead of {fraction}");
        assert!(own_parts.iter().zip(parts).all(|(a, b)| close(*a, *b)), "{own_parts:?} instead of {parts:?}");
    }

    #[test]
    fn without_bounds_in_the_way_all_get_the_same_fraction() {
        check(60.0, &[claim(0.0, 10.0, 100.0), claim(5.0, 20.0, 100.0)], 2.0, &[20.0, 40.0]);
        check(15.0, &[claim(0.0, 10.0, 100.0), claim(5.0, 20.0, 100.0)], 0.5, &[5.0, 10.0]);
    }

    #[test]
    fn who_meets_a_bound_leaves_the_rest_to_the_others() {
        // The first stops at 10; 50 are left for targets of 20 and 5.
        let claims = [claim(0.0, 10.0, 10.0), claim(0.0, 20.0, 100.0), claim(0.0, 5.0, 100.0)];
        check(60.0, &claims, 2.0, &[10.0, 40.0, 10.0]);
        // The first keeps 8 of its 10; 12 are left for 20 and 4.
        let claims = [claim(8.0, 10.0, 10.0), claim(0.0, 20.0, 100.0), claim(0.0, 4.0, 100.0)];
        check(20.0, &claims, 0.5, &[8.0, 10.0, 2.0]);
    }

    #[test]
    fn who_wants_nothing_gets_what_nobody_needs() {
        check(10.0, &[claim(2.0, 4.0, 4.0), claim(0.0, 0.0, 100.0)], 6000.0, &[4.0, 6.0]);
    }

    #[test]
    fn an_impossible_whole_gives_everybody_their_bound() {
        let claims = [claim(3.0, 6.0, 8.0), claim(2.0, 8.0, 9.0)];
        assert_eq!(divide(1.0, &claims).1, [3.0, 2.0]);
        assert_eq!(divide(100.0, &claims).1, [8.0, 9.0]);
        assert_eq!(divide(10.0, &[]), (0.0, vec![]));
    }

    proptest! {
        #[test]
        fn parts_add_up_and_keep_their_bounds_and_the_fraction(
            claims in prop::collection::vec((0.0..100.0, 0.0..200.0, 0.0..300.0), 1..12),
            at in 0.0..1.0,
        ) {
            let claims: Vec<Claim> = claims
                .into_iter()
                .map(|(lower, more, room): (f64, f64, f64)| claim(lower, lower + more, lower + room))
                .collect();
            let (least, most) = claims.iter().fold((0.0, 0.0), |(l, u), claim| (l + claim.lower, u + claim.upper));
            let whole = least + at * (most - least);
            let (fraction, parts) = divide(whole, &claims);
            prop_assert!(close(parts.iter().sum(), whole), "{:?} is not {whole}", parts);
            for (claim, part) in claims.iter().zip(parts) {
                prop_assert!(claim.lower <= part && part <= claim.upper);
                let fair = fraction * claim.target();
                prop_assert!(
                    close(part, fair) || (part == claim.lower && part > fair) || (part == claim.upper && part < fair)
                );
            }
        }
    }
}
