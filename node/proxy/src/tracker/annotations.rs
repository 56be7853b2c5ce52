//! What a Service asks of skep beyond the API's fields, in annotations.
//!
//! | annotation | value |
//! |---|---|
//! | `skep.dev/src-ranges-policy` | `allow` (the default) or `deny`: `loadBalancerSourceRanges` are the sources that are served, or those that are not. Cilium has the same as `service.cilium.io/src-ranges-policy` |
//! | `skep.dev/zone-weights` | `ZONE=WEIGHT,...`, see [`ZoneWeights`] |
//!
//! A value that cannot be read counts as absent, so the Service is served as upstream would.

use std::collections::BTreeMap;

use super::zones::ZoneWeights;

/// Are `loadBalancerSourceRanges` let in or kept out?
pub(super) const SRC_RANGES_POLICY: &str = "skep.dev/src-ranges-policy";
/// Shares of the zones.
pub(super) const ZONE_WEIGHTS: &str = "skep.dev/zone-weights";

/// What was asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    /// `loadBalancerSourceRanges` are kept out.
    pub(super) deny_ranges: bool,
    pub(super) zone_weights: ZoneWeights,
    /// What could not be read, for people.
    pub(super) problems: Vec<String>,
}

impl Wishes {
    pub(super) fn read(annotations: Option<&BTreeMap<String, String>>) -> Self {
        let mut wishes = Self::default();
        let value = |name: &str| annotations.and_then(|all| all.get(name)).map(|value| value.trim());
        match value(SRC_RANGES_POLICY) {
            None | Some("" | "allow") => {}
            Some("deny") => wishes.deny_ranges = true,
            Some(other) => {
                wishes.problems.push(format!("{SRC_RANGES_POLICY}: {other:?} is neither allow nor deny"));
            }
        }
        if let Some(text) = value(ZONE_WEIGHTS) {
            match text.parse() {
                Ok(weights) => wishes.zone_weights = weights,
                Err(problem) => wishes.problems.push(format!("{ZONE_WEIGHTS}: {problem}")),
            }
        }
        wishes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, value: &str) -> Wishes {
        Wishes::read(Some(&[(name.to_owned(), value.to_owned())].into()))
    }

    #[test]
    fn source_ranges_are_denied_only_by_the_very_word() {
        assert_eq!(Wishes::read(None), Wishes::default());
        assert!(read(SRC_RANGES_POLICY, " deny ").deny_ranges);
        assert_eq!(
            [read(SRC_RANGES_POLICY, "allow"), read(SRC_RANGES_POLICY, "")],
            [Wishes::default(), Wishes::default()]
        );
        let wrong = read(SRC_RANGES_POLICY, "Deny");
        assert!(!wrong.deny_ranges);
        assert_eq!(wrong.problems, ["skep.dev/src-ranges-policy: \"Deny\" is neither allow nor deny"]);
    }

    #[test]
    fn weights_that_cannot_be_read_count_as_none() {
        let wrong = read(ZONE_WEIGHTS, "a=1,b=x");
        assert_eq!(wrong.zone_weights, ZoneWeights::default());
        assert_eq!(wrong.problems, ["skep.dev/zone-weights: the weight of zone \"b\", \"x\", is not 0 to 1000"]);
        assert_ne!(read(ZONE_WEIGHTS, "a=1,b=2").zone_weights, ZoneWeights::default());
    }
}
