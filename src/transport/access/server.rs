//! The server that is dialled before any endpoint is known, and what its URL may be.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::uri::{Authority, Uri};
use rustls::pki_types::DnsName;

/// The port of `https://` (RFC 9110, section 4.2.2).
const HTTPS: u16 = 443;

/// The server that is dialled before any endpoint is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// A DNS name, or an IP address without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Server {
    /// Reads the `server` of a kubeconfig. Whatever is wrong with it is an error, and nothing is left out silently.
    pub(crate) fn of_url(url: &str) -> Result<Self, String> {
        if url.contains('@') {
            return Err(
                "its server holds a name or a password; only those of the user entry are used".to_owned()
            );
        }
        let wrong = |why: &str| format!("its server {url:?} is not a URL of the form https://HOST:PORT{why}");
        let uri: Uri = url.parse().map_err(|_| wrong(""))?;
        match uri.scheme_str() {
            Some("https") => {}
            Some("http") => {
                return Err(format!("its server {url} is plain http://; only https:// is accepted"));
            }
            _ => return Err(wrong("")),
        }
        if uri.path() != "/" {
            return Err(format!(
                "its server {url} has a path, so it is a proxy; name an apiserver itself, as endpoints are dialled \
                 directly"
            ));
        }
        if url.contains(['?', '#']) {
            return Err(wrong(": remove what follows the port"));
        }
        let authority = uri.authority().map(Authority::as_str).unwrap_or_default();
        let (host, port) = split(authority);
        let port = match port {
            None | Some("") => HTTPS,
            Some(port) => port_of(port)
                .ok_or_else(|| wrong(&format!(": {port} is not a port, which is from 1 to 65535")))?,
        };
        if !is_host(host) {
            return Err(wrong(": the host is neither a DNS name nor an IP address"));
        }
        Ok(Self { host: unbracketed(host).to_owned(), port })
    }

    /// Reads the two variables that a Pod has.
    pub(crate) fn of_pod(host: &str, port: &str) -> Result<Self, String> {
        let bare = unbracketed(host);
        let is_address = bare.parse::<IpAddr>().is_ok();
        if !is_address && !is_host(host) {
            return Err(format!(
                "the environment variable KUBERNETES_SERVICE_HOST is {host:?}, neither a DNS name nor an IP address"
            ));
        }
        let port = port_of(port).ok_or_else(|| {
            format!("the environment variable KUBERNETES_SERVICE_PORT is {port:?}, not a port")
        })?;
        Ok(Self { host: bare.to_owned(), port })
    }

    /// As a URL has it.
    pub(crate) fn authority(&self) -> Result<Authority, String> {
        self.to_string().parse().map_err(|_| format!("{self} is not a host and a port"))
    }
}

/// Host, with its brackets, and port.
fn split(authority: &str) -> (&str, Option<&str>) {
    let end = authority.rfind(']').map_or(0, |end| end + 1);
    match authority[end..].find(':') {
        Some(colon) => (&authority[..end + colon], Some(&authority[end + colon + 1..])),
        None => (authority, None),
    }
}

fn port_of(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

fn unbracketed(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// An address of version 6 in brackets, one of version 4, or a DNS name, which does not end in a number.
fn is_host(host: &str) -> bool {
    if let Some(inner) = host.strip_prefix('[') {
        return inner.strip_suffix(']').is_some_and(|inner| inner.parse::<Ipv6Addr>().is_ok());
    }
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let is_number = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
    host.parse::<Ipv4Addr>().is_ok() || (!is_number && DnsName::try_from(host).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_one_server() {
        for (url, server) in [
            ("https://192.0.2.11:6443", "192.0.2.11:6443"),
            ("https://[2001:db8::1]:6443/", "[2001:db8::1]:6443"),
            ("https://[2001:db8::1]", "[2001:db8::1]:443"),
            ("https://api.example", "api.example:443"),
            ("https://api.example:/", "api.example:443"),
            ("HTTPS://api_1.example:65535", "api_1.example:65535"),
        ] {
            assert_eq!(Server::of_url(url).unwrap().to_string(), server, "{url}");
        }
    }

    #[test]
    fn whatever_is_wrong_in_a_url_is_an_error() {
        for (url, says) in [
            ("https://192.0.2.11:66443", "66443 is not a port"),
            ("https://192.0.2.11:0", "0 is not a port"),
            ("https://192.0.2.11:+443", "https://HOST:PORT"),
            ("https://192.0.2.11:64x3", "https://HOST:PORT"),
            ("https://192.0.2.11:6443?x=1", "remove what follows the port"),
            ("https://192.0.2.11:6443/#x", "remove what follows the port"),
            ("https://192.0.2.311:6443", "neither a DNS name nor an IP address"),
            ("https://[192.0.2.11]:6443", "https://HOST:PORT"),
            ("https://[2001:db8::1:6443", "https://HOST:PORT"),
            ("https://[2001:db8::1]x:6443", "https://HOST:PORT"),
            ("https://[fe80::1%25eth0]:6443", "https://HOST:PORT"),
            ("https://2001:db8::1:6443", "https://HOST:PORT"),
            ("https://-api.example", "neither a DNS name nor an IP address"),
            ("https://:6443", "https://HOST:PORT"),
            ("https://", "https://HOST:PORT"),
            ("https:192.0.2.11", "https://HOST:PORT"),
            (" https://192.0.2.11", "https://HOST:PORT"),
            ("ftp://192.0.2.11", "https://HOST:PORT"),
        ] {
            let error = Server::of_url(url).map(|server| server.to_string()).expect_err(url);
            assert!(error.contains(says), "{url}: {error}");
        }
    }

    #[test]
    fn the_variables_of_a_pod_are_held_to_the_same() {
        assert_eq!(Server::of_pod("2001:db8::1", "443").unwrap().to_string(), "[2001:db8::1]:443");
        assert_eq!(Server::of_pod("[2001:db8::1]", "443").unwrap().to_string(), "[2001:db8::1]:443");
        for (host, port, says) in [
            ("10.96.0.1", "0", "_PORT is \"0\""),
            ("10.96.0.1", "70000", "_PORT is \"70000\""),
            ("10.96.0.1/x", "443", "_HOST is \"10.96.0.1/x\""),
            ("a b", "443", "_HOST is \"a b\""),
        ] {
            let error = Server::of_pod(host, port).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
