//! One `--seed`: where an apiserver may be found before anything else is known. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// An address, or a DNS name that stands for addresses, and a TCP port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seed {
    host: String,
    port: u16,
}

/// A text that is not a [`Seed`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected ADDRESS:PORT or NAME:PORT, such as 192.0.2.11:6443, [2001:db8::11]:6443 or api.example.com:6443"
)]
pub struct SeedError;

impl Seed {
    /// The DNS name, or the address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address, unless it is a name.
    pub fn address(&self) -> Option<SocketAddr> {
        self.host.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, self.port))
    }
}

impl FromStr for Seed {
    type Err = SeedError;

    fn from_str(text: &str) -> Result<Self, SeedError> {
        let (host, port) = text.rsplit_once(':').ok_or(SeedError)?;
        let port: u16 = port.parse().ok().filter(|port| *port > 0).ok_or(SeedError)?;
        let host = match host.strip_prefix('[').map(|host| host.strip_suffix(']')) {
            Some(inner) => inner.and_then(|ip| ip.parse::<Ipv6Addr>().ok()).map(|ip| ip.to_string()),
            None => is_ipv4_or_name(host).then(|| host.to_ascii_lowercase()),
        };
        Ok(Self { host: host.ok_or(SeedError)?, port })
    }
}

/// RFC 1123. A last label of digits would be taken for a part of an IPv4 address by the resolver.
fn is_ipv4_or_name(text: &str) -> bool {
    if text.parse::<std::net::Ipv4Addr>().is_ok() {
        return true;
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let numeric = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    name.len() <= 253 && name.split('.').all(is_label) && !numeric
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address() {
            Some(address) => address.fmt(f),
            None => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_seeds() {
        for text in
            ["192.0.2.11:6443", "[2001:db8::11]:6443", "api.example.com:443", "localhost:1", "a-b_c:65535"]
        {
            let seed: Seed = text.parse().unwrap();
            assert_eq!(seed.to_string(), text);
            assert_eq!(seed.address().is_some(), text.starts_with(['1', '[']), "{text}");
        }
        assert_eq!("API.Example.com.:443".parse::<Seed>().unwrap().to_string(), "api.example.com.:443");
    }

    #[test]
    fn what_cannot_be_dialled_is_no_seed() {
        let long = format!("{}:443", "a.".repeat(127) + "abcd");
        for bad in [
            "",
            "192.0.2.11",
            "api.example.com",
            "192.0.2.11:0",
            "192.0.2.11:65536",
            "192.0.2.11:x",
            ":6443",
            "2001:db8::11:6443",
            "[192.0.2.11]:6443",
            "[2001:db8::11:6443",
            "192.0.2:6443",
            "256.1.1.1:1",
            "a..b:1",
            "-a:1",
            "a b:1",
            "https://a:1",
            &long,
        ] {
            assert_eq!(bad.parse::<Seed>(), Err(SeedError), "{bad:?}");
        }
    }
}
