//! The basic types of the model: which Service, which virtual IP, which backend.
//! Owns nothing but names and their text forms.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::Serialize;

/// Namespace and name of a Service. Written `NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ServiceKey {
    /// The namespace, a DNS label (RFC 1123).
    pub namespace: String,
    /// The name, a DNS label (RFC 1035).
    pub name: String,
}

/// Why a text is not a [`ServiceKey`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected NAMESPACE/NAME, two DNS labels such as default/kubernetes")]
pub struct ServiceKeyError;

/// The Service of the API itself.
impl Default for ServiceKey {
    fn default() -> Self {
        Self { namespace: "default".to_owned(), name: "kubernetes".to_owned() }
    }
}

impl FromStr for ServiceKey {
    type Err = ServiceKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (namespace, name) = text.split_once('/').ok_or(ServiceKeyError)?;
        if !is_dns_label(namespace) || !is_dns_label(name) {
            return Err(ServiceKeyError);
        }
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// RFC 1123: at most 63 of a-z, 0-9 and '-', with neither end a '-'.
fn is_dns_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Family {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

impl Family {
    /// The family that an address belongs to.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// One virtual IP and TCP port of the Service, the address that clients dial.
pub type Vip = SocketAddr;

/// One apiserver: the address and TCP port where it serves HTTPS.
pub type Backend = SocketAddr;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_key_round_trips() {
        let key: ServiceKey = "default/kubernetes".parse().unwrap();
        assert_eq!(key.to_string(), "default/kubernetes");
    }

    #[test]
    fn service_key_rejects_what_the_api_would() {
        for bad in
            ["", "kubernetes", "/kubernetes", "default/", "Default/kubernetes", "a/b/c", "-a/b", "a/b-"]
        {
            assert_eq!(bad.parse::<ServiceKey>(), Err(ServiceKeyError), "{bad:?}");
        }
    }
}
