//! Token buckets: rate limits of a link's outgoing packets.

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};

use super::Netlink;
use crate::{Error, Result};

/// Numbers of `linux/pkt_sched.h`.
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TC_LINKLAYER_ETHERNET: u8 = 1;
/// How long a packet waits before it is dropped; upstream's bandwidth plugin has the same.
const LATENCY_MS: u64 = 25;

impl Netlink {
    /// Limits what a link sends to `rate` bytes a second, in bursts of at most `burst` bytes.
    pub(crate) fn limit_rate(&mut self, index: u32, rate: u64, burst: u32) -> Result<()> {
        let waiting = rate.saturating_mul(LATENCY_MS) / 1000;
        let limit = u32::try_from(waiting.saturating_add(burst.into())).unwrap_or(u32::MAX);
        // struct tc_tbf_qopt: rate, peak rate, limit, buffer, mtu. With a link layer, the kernel needs no table of rates;
        // with TCA_TBF_BURST, no buffer in ticks.
        let mut parameters = vec![0, TC_LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0];
        parameters.extend(u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes());
        parameters.extend([0; 12]);
        parameters.extend(limit.to_ne_bytes());
        parameters.extend([0; 8]);
        let mut options = vec![
            TcOption::Other(DefaultNla::new(TCA_TBF_PARMS, parameters)),
            TcOption::Other(DefaultNla::new(TCA_TBF_BURST, burst.to_ne_bytes().to_vec())),
        ];
        if rate > u32::MAX.into() {
            options.push(TcOption::Other(DefaultNla::new(TCA_TBF_RATE64, rate.to_ne_bytes().to_vec())));
        }
        let mut message = root_qdisc(index)?;
        message.attributes = vec![TcAttribute::Kind("tbf".to_owned()), TcAttribute::Options(options)];
        self.change(RouteNetlinkMessage::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_REPLACE, || {
            format!("limit the rate of link {index} to {rate} bytes a second")
        })
    }
}

fn root_qdisc(index: u32) -> Result<TcMessage> {
    let index = i32::try_from(index).map_err(|_| Error::Broken(format!("link {index} has an odd number")))?;
    let mut message = TcMessage::with_index(index);
    message.header.parent = TcHandle::ROOT;
    Ok(message)
}
