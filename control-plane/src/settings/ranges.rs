//! Address ranges of Services and pods: one, or one of each family (KEP-563). The first is of the cluster's primary family.

use anyhow::ensure;
use ipnet::IpNet;

/// Most bits of a Service range that its addresses may differ in. Upstream's allocator of IPv6 addresses knows 64 as well.
const MOST_BITS_IPV4: u8 = 20;
const MOST_BITS_IPV6: u8 = 64;
/// Upstream's sizes of a node's share.
const NODE_MASK_IPV4: u8 = 24;
const NODE_MASK_IPV6: u8 = 64;
/// Most bits between a cluster CIDR and a node's share of it: one bit a node is kept.
const MOST_NODE_BITS: u8 = 16;

/// What a flag with one range or two says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ranges {
    pub(crate) primary: IpNet,
    /// Of the other family.
    pub(crate) secondary: Option<IpNet>,
}

/// Prefix lengths of a node's pod CIDRs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeMasks {
    pub(crate) ipv4: u8,
    pub(crate) ipv6: u8,
}

pub(super) fn is_ipv4(range: &IpNet) -> bool {
    matches!(range, IpNet::V4(_))
}

impl Ranges {
    /// The ranges a flag gives; `default` without them.
    ///
    /// # Errors
    /// None, more than two, or two of one family; the text names the flag.
    pub(super) fn new(flag: &str, given: Option<Vec<IpNet>>, default: IpNet) -> anyhow::Result<Self> {
        let given = given.unwrap_or_else(|| vec![default]);
        let (Some(first), second) = (given.first(), given.get(1)) else {
            anyhow::bail!("{flag} must contain at least one valid cidr");
        };
        ensure!(given.len() <= 2, "{flag} must not contain more than two entries");
        ensure!(
            second.is_none_or(|second| is_ipv4(first) != is_ipv4(second)),
            "{flag}[0] and {flag}[1] must be of different IP family"
        );
        Ok(Self { primary: first.trunc(), secondary: second.map(IpNet::trunc) })
    }

    /// The primary range first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = IpNet> + '_ {
        std::iter::once(self.primary).chain(self.secondary)
    }

    fn has_family_of(&self, range: &IpNet) -> bool {
        self.iter().any(|own| is_ipv4(&own) == is_ipv4(range))
    }
}

/// Refuses ranges of Services and pods that cannot work together.
pub(super) fn check(services: &Ranges, pods: &Ranges) -> anyhow::Result<()> {
    for range in services.iter() {
        let most = if is_ipv4(&range) { MOST_BITS_IPV4 } else { MOST_BITS_IPV6 };
        let bits = range.max_prefix_len() - range.prefix_len();
        ensure!(bits >= 3, "--service-cluster-ip-range {range} must have at least 8 addresses");
        ensure!(bits <= most, "--service-cluster-ip-range {range} must have at most {most} bits of addresses");
        for pods in pods.iter() {
            ensure!(
                !range.contains(&pods) && !pods.contains(&range),
                "--service-cluster-ip-range {range} and --cluster-cidr {pods} overlap"
            );
        }
    }
    let primary = services.primary;
    ensure!(
        pods.has_family_of(&primary),
        "--cluster-cidr must have a range of the family of --service-cluster-ip-range {primary}: no pod could be reached there"
    );
    Ok(())
}

impl NodeMasks {
    /// The sizes given, or upstream's.
    ///
    /// # Errors
    /// A size of a family the pods do not have, or one that `pods` cannot be cut into.
    pub(super) fn new(ipv4: Option<u8>, ipv6: Option<u8>, pods: &Ranges) -> anyhow::Result<Self> {
        if pods.secondary.is_none() {
            let only = is_ipv4(&pods.primary);
            ensure!(
                ipv4.is_none() || only,
                "usage of --node-cidr-mask-size-ipv4 is not allowed for a single-stack IPv6 cluster"
            );
            ensure!(
                ipv6.is_none() || !only,
                "usage of --node-cidr-mask-size-ipv6 is not allowed for a single-stack IPv4 cluster"
            );
        }
        let masks = Self { ipv4: ipv4.unwrap_or(NODE_MASK_IPV4), ipv6: ipv6.unwrap_or(NODE_MASK_IPV6) };
        for range in pods.iter() {
            let (family, mask) = if is_ipv4(&range) { ("ipv4", masks.ipv4) } else { ("ipv6", masks.ipv6) };
            let (shortest, longest) = (range.prefix_len(), range.max_prefix_len());
            let longest = longest.min(shortest.saturating_add(MOST_NODE_BITS));
            ensure!(
                (shortest..=longest).contains(&mask),
                "--node-cidr-mask-size-{family} {mask} does not fit --cluster-cidr {range}: it may be from {shortest} to {longest}"
            );
        }
        Ok(masks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ranges(texts: &[&str]) -> anyhow::Result<Ranges> {
        Ranges::new("--cluster-cidr", Some(texts.iter().map(|text| net(text)).collect()), net("10.0.0.0/8"))
    }

    #[test]
    fn one_range_or_one_of_each_family_in_any_order() {
        let both = ranges(&["fd00::1/56", "10.244.0.1/16"]).unwrap();
        assert_eq!(both.iter().collect::<Vec<_>>(), [net("fd00::/56"), net("10.244.0.0/16")]);
        assert_eq!(ranges(&["fd00::/56"]).unwrap().secondary, None);
        let unset = Ranges::new("--cluster-cidr", None, net("10.0.0.0/8")).unwrap();
        assert_eq!(unset, Ranges { primary: net("10.0.0.0/8"), secondary: None });
    }

    #[test]
    fn any_other_number_or_mixture_is_refused() {
        for (given, why) in [
            (&[][..], "--cluster-cidr must contain at least one valid cidr"),
            (&["10.0.0.0/16", "fd00::/64", "10.1.0.0/16"], "--cluster-cidr must not contain more than two entries"),
            (&["10.0.0.0/16", "10.1.0.0/16"], "--cluster-cidr[0] and --cluster-cidr[1] must be of different IP family"),
            (&["fd00::/64", "fd01::/64"], "--cluster-cidr[0] and --cluster-cidr[1] must be of different IP family"),
        ] {
            assert_eq!(ranges(given).unwrap_err().to_string(), why);
        }
    }

    #[test]
    fn services_and_pods_share_the_primary_family_and_no_address() {
        let judge = |services: &[&str], pods: &[&str]| {
            check(&ranges(services).unwrap(), &ranges(pods).unwrap()).map_err(|error| error.to_string())
        };
        assert_eq!(judge(&["10.96.0.0/16"], &["10.244.0.0/16", "fd00::/56"]), Ok(()));
        assert_eq!(judge(&["fd00:1::/108", "10.96.0.0/16"], &["fd00:2::/56", "10.244.0.0/16"]), Ok(()));
        assert_eq!(judge(&["fd00:1::/64"], &["fd00:2::/56"]), Ok(()));
        for (services, pods, why) in [
            (&["10.96.0.0/16", "fd00::/112"][..], &["10.244.0.0/16", "fd00::/56"][..], "overlap"),
            (&["10.96.0.0/16", "fd00::/126"], &["10.244.0.0/16"], "at least 8 addresses"),
            (&["10.96.0.0/16", "fd00::/63"], &["10.244.0.0/16"], "at most 64 bits"),
            (&["fd00::/112"], &["10.244.0.0/16"], "must have a range of the family"),
        ] {
            let error = judge(services, pods).unwrap_err();
            assert!(error.contains(why), "{services:?}, {pods:?}: {error}");
        }
    }

    #[test]
    fn a_nodes_share_has_upstreams_size_unless_told_otherwise() {
        let both = ranges(&["10.244.0.0/16", "fd00::/56"]).unwrap();
        assert_eq!(NodeMasks::new(None, None, &both).unwrap(), NodeMasks { ipv4: 24, ipv6: 64 });
        assert_eq!(NodeMasks::new(Some(26), Some(72), &both).unwrap(), NodeMasks { ipv4: 26, ipv6: 72 });
        let (v4, v6) = (ranges(&["10.244.0.0/16"]).unwrap(), ranges(&["fd00::/56"]).unwrap());
        for (masks, pods, why) in [
            ((Some(26), None), &v6, "--node-cidr-mask-size-ipv4 is not allowed for a single-stack IPv6 cluster"),
            ((None, Some(72)), &v4, "--node-cidr-mask-size-ipv6 is not allowed for a single-stack IPv4 cluster"),
            ((Some(8), None), &both, "it may be from 16 to 32"),
            ((None, Some(73)), &both, "it may be from 56 to 72"),
            ((Some(200), None), &both, "it may be from 16 to 32"),
        ] {
            let error = NodeMasks::new(masks.0, masks.1, pods).unwrap_err().to_string();
            assert!(error.contains(why), "{masks:?}: {error}");
        }
    }
}
