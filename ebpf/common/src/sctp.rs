//! SCTP (RFC 9260) as far as it is translated: what a packet's first chunk says of its association, and what a change of
//! ports does to its checksum.
//!
//! The checksum is a CRC32c over the packet, from the ports on; addresses are not in it. A CRC is linear: whatever the rest
//! of the packet holds, other ports change its CRC by what the difference of the ports alone would have, with as many zero
//! bytes behind it. That is the difference times a power of x, which takes two look-ups and not the packet's bytes.

use crate::packet::tcp_flags::{ACK, FIN, RST, SYN};

/// Length of the common header.
pub const HEADER: u32 = 12;
/// Where in it the checksum lies, little-endian.
pub const CHECKSUM: u32 = 8;

/// The type of a packet's first chunk, in flags of TCP that mean the same for the flow.
#[inline(always)]
pub const fn flags(chunk: u8) -> u8 {
    match chunk {
        // INIT, INIT ACK, ABORT.
        1 => SYN,
        2 => SYN | ACK,
        6 => RST,
        // SHUTDOWN, SHUTDOWN ACK, SHUTDOWN COMPLETE.
        7 | 8 | 14 => FIN | ACK,
        _ => ACK,
    }
}

/// CRC32c's polynomial, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// The polynomial one.
const ONE: u32 = 1 << 31;

/// What so many zero bytes multiply a CRC by: `[0]` has the powers for the lower byte of their number, `[1]` for the upper one.
static ZEROS: [[u32; 256]; 2] = [powers(ONE >> 8), powers(power(ONE >> 8, 256))];

/// The first powers of a polynomial.
const fn powers(of: u32) -> [u32; 256] {
    let mut powers = [ONE; 256];
    let mut i = 1;
    while i < powers.len() {
        powers[i] = multiply(powers[i - 1], of);
        i += 1;
    }
    powers
}

/// That power of a polynomial.
const fn power(of: u32, exponent: u32) -> u32 {
    let (mut power, mut i) = (ONE, 0);
    while i < exponent {
        power = multiply(power, of);
        i += 1;
    }
    power
}

/// By what the checksum changes (exclusive or, of the field read as a little-endian word) when the word of both ports changes
/// by `ports` (exclusive or, read likewise) in a packet of `length` bytes, of which 16 bits count.
#[inline(always)]
#[must_use]
pub fn change(ports: u32, length: u32) -> u32 {
    let [lower, upper, ..] = length.to_le_bytes();
    multiply(multiply(ports, ZEROS[0][usize::from(lower)]), ZEROS[1][usize::from(upper)])
}

/// The product of two polynomials modulo CRC32c's, all with their bits reversed. Without branches: a program is verified along
/// all of them.
#[inline(always)]
const fn multiply(a: u32, b: u32) -> u32 {
    let (mut product, mut shifted) = (0, b);
    let mut bit = 0;
    while bit < 32 {
        product ^= shifted & 0_u32.wrapping_sub((a >> (31 - bit)) & 1);
        shifted = (shifted >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(shifted & 1));
        bit += 1;
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CRC32c as a packet carries it, byte by byte.
    fn crc(bytes: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = (crc >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(crc & 1));
            }
        }
        !crc
    }

    #[test]
    fn other_ports_change_the_checksum_as_a_new_sum_would() {
        assert_eq!(crc(b"123456789"), 0xe306_9283, "the check value of CRC32c");
        for length in [12_usize, 13, 16, 255, 256, 1400, 9000, 65_515] {
            let mut packet: Vec<u8> = (0..length).map(|n| (n * 7 + n / 251) as u8).collect();
            packet[8..12].fill(0);
            let before = crc(&packet);
            let old = u32::from_le_bytes(packet[..4].try_into().unwrap());
            for ports in [[0x12, 0x34, 0xab, 0xcd], [0, 7, 14, 21], [0xff; 4], [0, 7, 14, 22]] {
                packet[..4].copy_from_slice(&ports);
                let ports = u32::from_le_bytes(ports);
                assert_eq!(crc(&packet), before ^ change(old ^ ports, length as u32), "{length} {ports:x}");
            }
        }
    }

    #[test]
    fn chunks_open_close_and_break_off_associations() {
        assert_eq!([1, 2, 6, 7, 8, 14].map(flags), [SYN, SYN | ACK, RST, FIN | ACK, FIN | ACK, FIN | ACK]);
        assert_eq!([0, 3, 4, 10, 11, 255].map(flags), [ACK; 6]);
    }
}
