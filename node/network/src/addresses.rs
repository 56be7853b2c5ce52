//! The addresses of a pod.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::{Error, Result};

/// A pod's address, or its two in a cluster of two families; the cluster's primary family first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Addresses {
    primary: IpAddr,
    secondary: Option<IpAddr>,
}

impl Addresses {
    /// The first two of a list; `None` of an empty one.
    pub(crate) fn new(list: impl IntoIterator<Item = IpAddr>) -> Option<Self> {
        let mut list = list.into_iter();
        Some(Self { primary: list.next()?, secondary: list.next() })
    }

    /// The first.
    pub fn primary(&self) -> IpAddr {
        self.primary
    }

    /// All, the primary one first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        [self.primary].into_iter().chain(self.secondary)
    }

    /// Whether one of them is IPv6.
    pub(crate) fn has_v6(&self) -> bool {
        self.iter().any(|address| address.is_ipv6())
    }
}

/// `10.0.0.2`, or `10.0.0.2+fd00::2`.
impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.primary)?;
        self.secondary.map_or(Ok(()), |secondary| write!(f, "+{secondary}"))
    }
}

impl FromStr for Addresses {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::Config(format!("{text:?} is not an address, or two with a plus sign between"));
        let (primary, secondary) = text.split_once('+').map_or((text, None), |(first, second)| (first, Some(second)));
        let parse = |text: &str| text.parse().map_err(|_| wrong());
        Ok(Self { primary: parse(primary)?, secondary: secondary.map(parse).transpose()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_and_two_addresses_are_read_as_they_are_written() {
        for text in ["10.0.0.2", "fd00::2", "10.0.0.2+fd00::2", "fd00::2+10.0.0.2"] {
            assert_eq!(text.parse::<Addresses>().unwrap().to_string(), text);
        }
        for text in ["", "+", "10.0.0.2+", "10.0.0", "10.0.0.2+fd00::2+fd00::3"] {
            assert!(text.parse::<Addresses>().is_err(), "{text}");
        }
    }
}
