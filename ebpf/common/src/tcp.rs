//! Values of the maps of the program that watches TCP connections to Services while somebody looks.

/// Value of `TCP_TOTALS`, per CPU, keyed by service id: what the connections of this node's sockets to it came to since the
/// program was attached.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpTotals {
    /// Connections established.
    pub opened: u64,
    /// Connections that have ended.
    pub closed: u64,
    /// Bytes that backends have acknowledged (a FIN counts as one).
    pub sent: u64,
    /// Bytes from backends (a FIN counts as one).
    pub received: u64,
    /// Segments sent again.
    pub retransmits: u64,
    /// Sum of the smoothed round trip times seen, microseconds.
    pub rtt_sum: u64,
    /// How many were seen.
    pub rtts: u64,
}

/// Value of `TCP_SOCKETS`, keyed by socket cookie: what has been counted of a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpSocket {
    /// As in [`TcpTotals::sent`].
    pub sent: u64,
    /// As in [`TcpTotals::received`].
    pub received: u64,
    /// As in [`TcpTotals::retransmits`].
    pub retransmits: u32,
    /// Key of `SERVICES`.
    pub service: u32,
}

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), made of integers only and without padding (see the size test): any bit pattern is a value.
    unsafe impl aya::Pod for super::TcpTotals {}
}

#[cfg(test)]
mod tests {
    use core::mem::size_of;

    use super::*;

    #[test]
    fn there_is_no_hidden_padding() {
        assert_eq!(size_of::<TcpTotals>(), 7 * 8);
        assert_eq!(size_of::<TcpSocket>(), 2 * 8 + 2 * 4);
    }
}
