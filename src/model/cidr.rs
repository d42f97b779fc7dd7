//! An address range in CIDR notation, as `--cluster-cidr` and `--service-cidr` take it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::types::Family;

/// A range of addresses. The host bits of `address` are zero and the prefix is at least one bit long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix_len: u8,
}

/// Why a text is not a [`Cidr`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// Not `ADDRESS/LENGTH`.
    #[error("expected ADDRESS/LENGTH, such as 10.244.0.0/16 or fd00:10:244::/56")]
    Syntax,
    /// The prefix is too long for the family.
    #[error("a prefix of {0} bits does not fit the address family")]
    TooLong(u8),
    /// `/0` is every address, so that nothing would be outside.
    #[error("a prefix of 0 bits means every address")]
    Everything,
}

impl Cidr {
    /// The first address of the range.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The number of leading bits that all addresses of the range share: 1 to 32 or 1 to 128.
    pub fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    /// Whether the range is one address.
    pub fn is_single(&self) -> bool {
        self.prefix_len == if self.address.is_ipv4() { 32 } else { 128 }
    }

    /// The first address that a host can have: the one behind [`Self::address`]. `None` for a range of one address.
    pub fn first_host(&self) -> Option<IpAddr> {
        (!self.is_single()).then_some(match self.address {
            IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from(u32::from(ip) + 1)),
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from(u128::from(ip) + 1)),
        })
    }

    /// Whether an address lies in the range.
    pub fn contains(&self, ip: IpAddr) -> bool {
        Family::of(ip) == self.family() && masked(ip, self.prefix_len) == self.address
    }

    /// The range's address family.
    pub fn family(&self) -> Family {
        Family::of(self.address)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, len) = text.split_once('/').ok_or(CidrError::Syntax)?;
        let address: IpAddr = address.parse().map_err(|_| CidrError::Syntax)?;
        let prefix_len: u8 = len.parse().map_err(|_| CidrError::Syntax)?;
        let max = if address.is_ipv4() { 32 } else { 128 };
        if prefix_len > max {
            return Err(CidrError::TooLong(prefix_len));
        }
        if prefix_len == 0 {
            return Err(CidrError::Everything);
        }
        Ok(Self { address: masked(address, prefix_len), prefix_len })
    }
}

/// Clears the host bits. The prefix is at least one bit long and fits the family.
fn masked(address: IpAddr, prefix_len: u8) -> IpAddr {
    match address {
        IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from(u32::from(ip) & (u32::MAX << (32 - prefix_len)))),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from(u128::from(ip) & (u128::MAX << (128 - prefix_len)))),
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_are_cleared() {
        assert_eq!("10.244.7.9/14".parse::<Cidr>().unwrap().to_string(), "10.244.0.0/14");
        assert_eq!("fd00:10:245::5/47".parse::<Cidr>().unwrap().to_string(), "fd00:10:244::/47");
        assert_eq!("192.0.2.1/32".parse::<Cidr>().unwrap().to_string(), "192.0.2.1/32");
    }

    #[test]
    fn a_range_knows_its_first_host_and_what_lies_in_it() {
        let range: Cidr = "10.96.0.0/12".parse().unwrap();
        assert_eq!(range.first_host(), Some([10, 96, 0, 1].into()));
        assert!(range.contains([10, 111, 255, 255].into()) && !range.contains([10, 112, 0, 0].into()));
        let six: Cidr = "fd00:10:96::/108".parse().unwrap();
        assert_eq!(six.first_host(), Some("fd00:10:96::1".parse().unwrap()));
        assert!(!six.contains([10, 96, 0, 1].into()));
        assert_eq!("10.96.0.1/32".parse::<Cidr>().unwrap().first_host(), None);
    }

    #[test]
    fn bad_ranges_say_why() {
        assert_eq!("10.244.0.0".parse::<Cidr>(), Err(CidrError::Syntax));
        assert_eq!("10.244.0.0/33".parse::<Cidr>(), Err(CidrError::TooLong(33)));
        assert_eq!("::/129".parse::<Cidr>(), Err(CidrError::TooLong(129)));
        assert_eq!("0.0.0.0/0".parse::<Cidr>(), Err(CidrError::Everything));
        assert_eq!("10.244.0.0/-1".parse::<Cidr>(), Err(CidrError::Syntax));
    }
}
