//! Keys and values of the maps that count open connections, for the choice of the less loaded backend.

use crate::Address;

/// Key of `LOADS` (value: open connections, `u64`) and value of `CONNECTED` (key: socket cookie): where a backend is. Not
/// its number: the same pod behind two Services has one load, and what comes back after it was gone has its own again.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LoadKey {
    /// Backend address.
    pub address: Address,
    /// Backend port, network order.
    pub port: u16,
    /// Zero.
    pub pad: u16,
}

impl LoadKey {
    /// From parts that are already in the maps' byte order.
    #[inline(always)]
    pub const fn new(address: Address, port: u16) -> Self {
        Self { address, port, pad: 0 }
    }
}

/// Two different places of a segment of `count` (at least two) places, from one random word: of their backends the one with
/// fewer connections is chosen ("the power of two choices").
#[inline(always)]
pub const fn two_places(hash: u32, count: u32) -> [u32; 2] {
    let first = ((hash as u64 * count as u64) >> 32) as u32;
    // The bits that decided less so far.
    let other = hash.wrapping_mul(0x9e37_79b1).rotate_left(16);
    let step = 1 + ((other as u64 * (count as u64 - 1)) >> 32) as u32;
    // As many before the end as there are, the others from the beginning.
    let left = count - first;
    [first, if step >= left { step - left } else { first + step }]
}

/// How a count reads: one that fell below zero for a moment, because a correction met a change, is none.
#[inline(always)]
pub const fn open(count: u64) -> u64 {
    if (count as i64) < 0 { 0 } else { count }
}

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), made of integers only, and its padding is spelled out (see the size test), so every byte is
    // initialised and any bit pattern is a value.
    unsafe impl aya::Pod for super::LoadKey {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_has_no_hidden_padding() {
        assert_eq!(size_of::<LoadKey>(), 16 + 2 + 2);
    }

    #[test]
    fn places_differ_lie_in_the_segment_and_are_all_met() {
        for count in 2..40_u32 {
            let mut met = vec![[0_u32; 2]; count as usize];
            for n in 0..20_000_u32 {
                let [a, b] = two_places(crate::seal([n]), count);
                assert!(a != b && a < count && b < count, "{a} {b} of {count}");
                met[a as usize][0] += 1;
                met[b as usize][1] += 1;
            }
            let share = 20_000 / count;
            assert!(met.iter().flatten().all(|times| (share / 2..share * 2).contains(times)), "{count}: {met:?}");
        }
        let [a, b] = two_places(u32::MAX, u32::MAX);
        assert!(a != b && a < u32::MAX && b < u32::MAX, "no overflow");
    }

    #[test]
    fn a_count_below_zero_is_none() {
        assert_eq!([open(0), open(7), open(u64::MAX), open(0_u64.wrapping_sub(5))], [0, 7, 0, 0]);
    }
}
