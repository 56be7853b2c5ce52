//! Shuffle sharding: which few of many queues a flow may use.

use std::hash::{Hash as _, Hasher as _};

use smallvec::SmallVec;

/// What tells a flow apart within its level: the schema that matched, and the user or namespace.
pub(crate) fn flow(schema: &str, distinguisher: &str) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    schema.hash(&mut hasher);
    distinguisher.hash(&mut hasher);
    hasher.finish()
}

/// `hand` different cards of a deck of `deck`, the same for the same flow.
pub(crate) fn deal(mut flow: u64, deck: usize, hand: usize) -> SmallVec<[usize; 8]> {
    let mut dealt: SmallVec<[usize; 8]> = SmallVec::new();
    for left in (1..=deck).rev().take(hand) {
        let pick = (flow % left as u64) as usize;
        flow /= left as u64;
        // `pick` counts the cards still in the deck: skip those that are gone, lowest first.
        let mut sorted = dealt.clone();
        sorted.sort_unstable();
        let card = sorted.into_iter().fold(pick, |card, gone| if gone <= card { card + 1 } else { card });
        dealt.push(card);
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hands_have_no_card_twice_and_differ_by_flow() {
        let mut used = [0_usize; 128];
        for user in 0..2000 {
            let hand = deal(flow("global-default", &format!("user-{user}")), 128, 6);
            let mut sorted = hand.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!((hand.len(), sorted.len()), (6, 6));
            sorted.iter().for_each(|card| used[*card] += 1);
        }
        let (least, most) = (used.iter().min().unwrap(), used.iter().max().unwrap());
        assert!(*most < *least * 3, "cards are dealt evenly: {least} to {most}");
        assert_eq!(deal(7, 3, 8).len(), 3, "a deck has no more than it has");
        assert!(deal(7, 0, 8).is_empty());
    }
}
