//! The names that chains and counters of one address have, and the address that such a name stands for. Pure.
//!
//! In: an address, or a name that the kernel lists. Out: the other one. Whoever changes a name here strands what a
//! daemon of before has left in the kernel: its counters begin anew.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::model::types::{Backend, Vip};

const BACKEND: &str = "backend";
const VIP: &str = "vip";
const DEAD: &str = "dead";
const RESET: &str = "reset";
const CAME: &str = "came";
const WENT: &str = "went";

/// The name of a backend's chain and counter.
pub fn backend_name(backend: Backend) -> String {
    name(BACKEND, backend)
}

/// The name of the chain that chooses among the backends of a virtual IP.
pub(super) fn frontend_name(vip: Vip) -> String {
    name(VIP, vip)
}

/// The name of the chain that ends the flows of a virtual IP to dead backends, and of the set of those.
pub(super) fn dead_name(vip: Vip) -> String {
    name(DEAD, vip)
}

/// The name of the counter of resets sent to clients of a virtual IP in place of dead backends.
pub fn reset_name(vip: Vip) -> String {
    name(RESET, vip)
}

/// The name of the counter of connections of others than this node that come to a virtual IP.
pub fn received_name(vip: Vip) -> String {
    name(CAME, vip)
}

/// The name of the counter of those that go on to an apiserver.
pub fn forwarded_name(vip: Vip) -> String {
    name(WENT, vip)
}

/// The name of the chain for what goes to a virtual IP and not to a port of the Service.
pub(super) fn others_name(ip: IpAddr) -> String {
    format!("others-{}", ip.to_string().replace(':', "_"))
}

/// Whose chain and counter this is, if it is a backend's.
pub fn backend(name: &str) -> Option<Backend> {
    address(BACKEND, name)
}

/// Whose chain this is, if it is that of a virtual IP.
pub fn frontend(name: &str) -> Option<Vip> {
    address(VIP, name)
}

/// To clients of which virtual IP the resets went that are counted under this name.
pub fn reset(name: &str) -> Option<Vip> {
    address(RESET, name)
}

/// Of which virtual IP this is the set of dead backends.
pub fn dead(name: &str) -> Option<Vip> {
    address(DEAD, name)
}

/// nft names hold letters, digits, '.', '-' and '_', so an IPv6 address has '_' for ':'.
fn name(prefix: &str, address: SocketAddr) -> String {
    format!("{prefix}-{}-{}", address.ip().to_string().replace(':', "_"), address.port())
}

/// The reverse of [`name`]; only what that writes is understood.
fn address(prefix: &str, named: &str) -> Option<SocketAddr> {
    let (ip, port) = named.strip_prefix(prefix)?.strip_prefix('-')?.rsplit_once('-')?;
    let ip: IpAddr = match ip.contains('_') {
        true => ip.replace('_', ":").parse::<Ipv6Addr>().ok()?.into(),
        false => ip.parse::<Ipv4Addr>().ok()?.into(),
    };
    let address = SocketAddr::new(ip, port.parse().ok()?);
    (name(prefix, address) == named).then_some(address)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_parse_to_addresses() {
        for (named, written) in [
            ("vip-10.96.0.1-443", "10.96.0.1:443"),
            ("vip-fd00_10_96__1-443", "[fd00:10:96::1]:443"),
            ("vip-__ffff_192.0.2.1-443", "[::ffff:192.0.2.1]:443"),
        ] {
            assert_eq!(frontend(named).map(|vip| vip.to_string()).as_deref(), Some(written), "{named}");
        }
    }

    #[test]
    fn foreign_names_do_not_parse() {
        for named in [
            "",
            "backend",
            "backend-",
            "backend-192.0.2.11",
            "backend-192.0.2.11-",
            "backend-192.0.2.11-06443",
        ] {
            assert_eq!(backend(named), None, "{named}");
        }
        for named in
            ["backend-fd00:10:96::1-443", "backend-fd00_0_0_0_0_0_0_1-443", "backend-a-192.0.2.11-443"]
        {
            assert_eq!(backend(named), None, "{named}");
        }
        assert_eq!(frontend("nat-prerouting"), None);
    }

    proptest! {
        #[test]
        fn name_parses_to_its_own_address_only(ip: IpAddr, port: u16) {
            let address = SocketAddr::new(ip, port);
            prop_assert_eq!(backend(&backend_name(address)), Some(address));
            prop_assert_eq!(frontend(&frontend_name(address)), Some(address));
            prop_assert_eq!(reset(&reset_name(address)), Some(address));
            prop_assert_eq!(dead(&dead_name(address)), Some(address));
            for other in [frontend_name(address), dead_name(address), reset_name(address), received_name(address), forwarded_name(address)] {
                prop_assert_eq!(backend(&other), None);
            }
        }

        #[test]
        fn arbitrary_text_does_not_panic(text: String) {
            for prefix in [BACKEND, VIP, DEAD, RESET] {
                let _ = address(prefix, &text);
                let _ = address(prefix, &format!("{prefix}-{text}"));
            }
        }
    }
}
