//! Maglev's lookup table: every node computes the same one from the same backends, and a backend that comes or goes moves
//! few places besides its own share.

use std::net::SocketAddr;

use skep_ebpf_common::seal;

use crate::service::{Backend, to_map};

/// Table sizes that may be configured: primes, as the algorithm needs them.
pub const SIZES: [u32; 9] = [251, 509, 1021, 2039, 4093, 8191, 16_381, 32_749, 65_521];

/// For each of `size` places (a prime) the index of a backend. `weights` say how much each gets of it; empty: the same.
/// Empty without backends.
pub(crate) fn table(backends: &[Backend], weights: &[u32], size: u32) -> Vec<u32> {
    const FREE: u32 = u32::MAX;
    if backends.is_empty() || size < 2 {
        return Vec::new();
    }
    let size64 = u64::from(size);
    // Where each backend begins, and how far it steps, through all places.
    let mut walks: Vec<(u64, u64)> = backends
        .iter()
        .map(|backend| {
            let (offset, step) = (hash(backend.address, 1), hash(backend.address, 2));
            (u64::from(offset) % size64, u64::from(step) % (size64 - 1) + 1)
        })
        .collect();
    // Who has the most takes a place in every round, the others as their weights add up.
    let most = weights.iter().copied().max().unwrap_or(1).max(1);
    let weight = |index: usize| weights.get(index).copied().unwrap_or(most);
    let mut saved = vec![0_u32; backends.len()];
    let mut table = vec![FREE; size as usize];
    let mut left = size;
    while left > 0 {
        for (index, (place, step)) in walks.iter_mut().enumerate() {
            saved[index] += weight(index);
            if saved[index] < most {
                continue;
            }
            saved[index] -= most;
            while table[*place as usize] != FREE {
                *place = (*place + *step) % size64;
            }
            table[*place as usize] = index as u32;
            left -= 1;
            if left == 0 {
                break;
            }
        }
    }
    table
}

/// The same on every node and in every version: part of what nodes agree on.
fn hash(at: SocketAddr, seed: u32) -> u32 {
    let [a, b, c, d] = to_map(at.ip());
    seal([seed, a, b, c, d, u32::from(at.port())])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backends(numbers: impl IntoIterator<Item = u8>) -> Vec<Backend> {
        numbers
            .into_iter()
            .map(|n| Backend { address: SocketAddr::from(([10, 0, 0, n], 80)), local: n % 2 == 0 })
            .collect()
    }

    #[test]
    fn every_backend_gets_an_equal_share() {
        for size in SIZES {
            let backends = backends(0..7);
            let table = table(&backends, &[], size);
            let share = |index: u32| table.iter().filter(|place| **place == index).count();
            let shares: Vec<usize> = (0..7).map(share).collect();
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            assert!(most - least <= 1, "{shares:?}");
            assert_eq!(shares.iter().sum::<usize>(), size as usize);
        }
        assert_eq!(table(&[], &[], 251), [0; 0]);
    }

    #[test]
    fn shares_follow_the_weights() {
        let table = table(&backends(0..4), &[4, 1, 2, 1], 4093);
        let share = |index: u32| table.iter().filter(|place| **place == index).count();
        for (index, wanted) in [(0, 2046), (1, 511), (2, 1023), (3, 511)] {
            assert!(share(index).abs_diff(wanted) <= 2, "{index}: {}", share(index));
        }
    }

    #[test]
    fn a_backend_that_goes_moves_little_else() {
        let (before, after) = (backends(0..10), backends((0..10).filter(|n| *n != 4)));
        let addresses = |all: &[Backend]| -> Vec<SocketAddr> {
            table(all, &[], 16_381).into_iter().map(|place| all[place as usize].address).collect()
        };
        let gone = before[4].address;
        let moved = addresses(&before).into_iter().zip(addresses(&after)).filter(|(a, b)| *a != gone && a != b).count();
        assert!(moved < 16_381 / 10, "{moved} of 16381 places moved that had another backend");
    }
}
