//! Hard eviction thresholds: how little of a resource may be left before the node counts as being under pressure.
//!
//! Notation and defaults are upstream's (`--eviction-hard`, "Node-pressure Eviction" in the Kubernetes documentation).

use std::str::FromStr;

use skep_api::quantity::Quantity;

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// `memory.available`, in bytes.
    MemoryAvailable,
    /// `nodefs.available`, in bytes: the file system of the node's data.
    NodeFsAvailable,
    /// `nodefs.inodesFree`.
    NodeFsInodesFree,
    /// `imagefs.available`, in bytes: the file system of the container runtime.
    ImageFsAvailable,
    /// `imagefs.inodesFree`.
    ImageFsInodesFree,
    /// `pid.available`.
    PidAvailable,
}

const SIGNALS: [(&str, Signal); 6] = [
    ("memory.available", Signal::MemoryAvailable),
    ("nodefs.available", Signal::NodeFsAvailable),
    ("nodefs.inodesFree", Signal::NodeFsInodesFree),
    ("imagefs.available", Signal::ImageFsAvailable),
    ("imagefs.inodesFree", Signal::ImageFsInodesFree),
    ("pid.available", Signal::PidAvailable),
];

/// How much must be left.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Limit {
    Amount(i64),
    /// A share of the capacity, from 0 to 1.
    Share(f64),
}

/// Thresholds by signal. A signal without one is not watched.
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds(Vec<(Signal, Limit)>);

/// Why thresholds cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum ThresholdError {
    /// There is no `<` with something on both sides.
    #[error("invalid eviction threshold syntax {0:?}, expected <signal><<value>")]
    Syntax(String),
    /// There is no such signal.
    #[error("unsupported eviction signal {0:?}")]
    Signal(String),
    /// Neither a quantity nor a percentage, or one below zero.
    #[error("eviction threshold {0:?} must be a non-negative quantity or a percentage between 0% and 100%")]
    Value(String),
    /// Two values for one signal.
    #[error("eviction signal {0:?} is given twice")]
    Duplicate(String),
}

impl Default for Thresholds {
    fn default() -> Self {
        Self(vec![
            (Signal::MemoryAvailable, Limit::Amount(100 << 20)),
            (Signal::NodeFsAvailable, Limit::Share(0.10)),
            (Signal::NodeFsInodesFree, Limit::Share(0.05)),
            (Signal::ImageFsAvailable, Limit::Share(0.15)),
            (Signal::ImageFsInodesFree, Limit::Share(0.05)),
        ])
    }
}

impl FromStr for Thresholds {
    type Err = ThresholdError;

    /// `memory.available<100Mi,nodefs.available<10%`. Takes the place of all the defaults; `0%` watches nothing.
    fn from_str(text: &str) -> Result<Self, ThresholdError> {
        let mut all: Vec<(Signal, Limit)> = Vec::new();
        for statement in text.split(',').map(str::trim).filter(|statement| !statement.is_empty()) {
            let (name, value) =
                statement.split_once('<').ok_or_else(|| ThresholdError::Syntax(statement.to_owned()))?;
            let (name, value) = (name.trim(), value.trim());
            let (_, signal) = SIGNALS
                .into_iter()
                .find(|(known, _)| *known == name)
                .ok_or_else(|| ThresholdError::Signal(name.to_owned()))?;
            if all.iter().any(|(known, _)| *known == signal) {
                return Err(ThresholdError::Duplicate(name.to_owned()));
            }
            all.push((signal, limit(value).ok_or_else(|| ThresholdError::Value(value.to_owned()))?));
        }
        Ok(Self(all))
    }
}

fn limit(text: &str) -> Option<Limit> {
    match text.strip_suffix('%') {
        Some(percent) => {
            let percent: f64 = percent.parse().ok()?;
            (0.0..=100.0).contains(&percent).then_some(Limit::Share(percent / 100.0))
        }
        None => {
            let amount = text.parse::<Quantity>().ok()?.value();
            (amount >= 0).then_some(Limit::Amount(amount))
        }
    }
}

impl Thresholds {
    /// What must be left of `capacity`; zero if the signal is not watched.
    pub(crate) fn reserve(&self, signal: Signal, capacity: i64) -> i64 {
        let found = self.0.iter().find(|(known, _)| *known == signal);
        match found {
            Some((_, Limit::Amount(amount))) => *amount,
            // Rounding to a byte.
            #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a share of a capacity")]
            Some((_, Limit::Share(share))) => (capacity as f64 * share) as i64,
            None => 0,
        }
    }

    /// Whether less than the threshold is left.
    pub(crate) fn crossed(&self, signal: Signal, (capacity, available): (i64, i64)) -> bool {
        available < self.reserve(signal, capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_notation_is_read() {
        let thresholds: Thresholds = "memory.available<1Gi, nodefs.available<10%,imagefs.available<0%".parse().unwrap();
        assert!(thresholds.crossed(Signal::MemoryAvailable, (8 << 30, (1 << 30) - 1)));
        assert!(!thresholds.crossed(Signal::MemoryAvailable, (8 << 30, 1 << 30)));
        assert!(thresholds.crossed(Signal::NodeFsAvailable, (1000, 99)));
        assert!(!thresholds.crossed(Signal::NodeFsAvailable, (1000, 100)));
        assert!(!thresholds.crossed(Signal::ImageFsAvailable, (1000, 0)));
        // Not named: not watched, whatever the default was.
        assert!(!thresholds.crossed(Signal::NodeFsInodesFree, (1000, 0)));
        assert_eq!("".parse::<Thresholds>().unwrap(), Thresholds(Vec::new()));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, why) in [
            ("memory.available", "invalid eviction threshold syntax"),
            ("memory.available>1Gi", "invalid eviction threshold syntax"),
            ("memory.free<1Gi", "unsupported eviction signal \"memory.free\""),
            ("memory.available<much", "must be a non-negative quantity"),
            ("memory.available<-1", "must be a non-negative quantity"),
            ("nodefs.available<101%", "a percentage between"),
            ("nodefs.available<NaN%", "a percentage between"),
            ("pid.available<10,pid.available<20", "given twice"),
        ] {
            let error = text.parse::<Thresholds>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
