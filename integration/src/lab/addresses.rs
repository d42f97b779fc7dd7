//! Who has which address in a lab. Pure names for numbers: 192.0.2.0/24 and 2001:db8::/64 are the node's network,
//! 198.51.100.0/24 and 2001:db8:1::/64 the optional second one, 10.244.0.0/24 and fd00:10:244::/64 the pods'.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use apivip::model::types::Family;

/// The IPv4 virtual IP of the `kubernetes` Service.
pub const VIP_V4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The IPv6 virtual IP of the `kubernetes` Service.
pub const VIP_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 1);
/// The IPv4 range of the pods, as `--cluster-cidr` takes it.
pub const POD_RANGE_V4: &str = "10.244.0.0/24";
/// The IPv6 range of the pods.
pub const POD_RANGE_V6: &str = "fd00:10:244::/64";

/// The virtual IP.
pub fn vip(family: Family) -> IpAddr {
    match family {
        Family::V4 => VIP_V4.into(),
        Family::V6 => VIP_V6.into(),
    }
}

/// An address as it stands before a port.
pub fn before_port(address: IpAddr) -> String {
    if address.is_ipv6() { format!("[{address}]") } else { address.to_string() }
}

/// The range of the pods.
pub fn pod_range(family: Family) -> &'static str {
    match family {
        Family::V4 => POD_RANGE_V4,
        Family::V6 => POD_RANGE_V6,
    }
}

/// The node's address on its network.
pub fn node(family: Family) -> IpAddr {
    host(family, 1)
}

/// The router of the node's network.
pub fn router(family: Family) -> IpAddr {
    host(family, 254)
}

/// Apiserver number `i`, from 1, where it has a namespace of its own.
pub fn apiserver(i: u8, family: Family) -> IpAddr {
    host(family, 10 + i)
}

/// The node's address on the second network.
pub fn node_second(family: Family) -> IpAddr {
    second(family, 1)
}

/// The router of the second network.
pub fn router_second(family: Family) -> IpAddr {
    second(family, 254)
}

/// Pod number `i`, from 1.
pub fn pod(i: u8, family: Family) -> IpAddr {
    pod_host(family, 10 + i)
}

/// The node's address on the bridge of bridged pods, their gateway.
pub fn pod_bridge(family: Family) -> IpAddr {
    pod_host(family, 1)
}

/// The length of a subnet's prefix: 24 or 64.
pub(super) fn subnet(family: Family) -> u8 {
    match family {
        Family::V4 => 24,
        Family::V6 => 64,
    }
}

fn host(family: Family, last: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, last).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, decimal(last)).into(),
    }
}

fn second(family: Family, last: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(198, 51, 100, last).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, decimal(last)).into(),
    }
}

fn pod_host(family: Family, last: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 244, 0, last).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, decimal(last)).into(),
    }
}

/// The group of an IPv6 address that reads like the decimal number: 11 becomes 0x11.
fn decimal(number: u8) -> u16 {
    let number = u16::from(number);
    (number / 100) * 0x100 + (number / 10 % 10) * 0x10 + number % 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_read_alike() {
        assert_eq!(pod(2, Family::V4).to_string(), "10.244.0.12");
        assert_eq!(pod(2, Family::V6).to_string(), "fd00:10:244::12");
        assert_eq!(router(Family::V6).to_string(), "2001:db8::254");
    }
}
