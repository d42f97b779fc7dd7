//! How the API is reached: which server, which CA, which user; and what can be wrong with it.
//!
//! In: what [`load`](mod@super::load) read from a kubeconfig or from the environment of a Pod. Out: [`Access`], checked as far
//! as it can be without a connection. An [`AccessError`] is one line that says what, where, why and what to do:
//! everything wrong with the configuration is found before anything on the node was touched.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

use http::uri::{Authority, Uri};
use http::{HeaderMap, HeaderValue, Method, request};
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{DnsName, ServerName};

use super::authentication::Token;
use super::certificates::{self, ClientCertificate, Expiry, Validity};
use super::exec_plugin::ExecPlugin;
use super::tls;

/// The name that TLS verifies, whichever address is dialled. Every installer puts it into each apiserver's certificate,
/// because Pods reach the API by it; a node's address or a load balancer's name need not be there.
pub const TLS_NAME: &str = "kubernetes.default.svc";

/// Checked access to the API. The secrets in it are not shown by `Debug`.
#[derive(Clone, Debug)]
pub struct Access {
    /// The cluster's CA, in DER.
    pub(super) roots: Vec<Vec<u8>>,
    pub(super) user: User,
    pub(super) server: Server,
    /// The server as URLs have it.
    pub(super) authority: Authority,
    pub(super) tls_name: String,
    pub(super) server_name: ServerName<'static>,
    pub(super) token: Option<Arc<Token>>,
    pub(super) source: String,
    pub(super) ca: String,
    pub(super) origin: Origin,
    pub(super) expiry: Expiry,
    pub(super) warnings: Vec<Warning>,
}

/// What an operator should know of an access that can be used, each as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// A certificate is out of date, or this node's clock is wrong.
    Date(String),
    /// Something in the configuration is not used.
    Ignored(String),
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Date(text) | Self::Ignored(text) => f.write_str(text),
        }
    }
}

/// Where it came from, to be read again.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    Kubeconfig { path: PathBuf, context: Option<String> },
    Pod,
}

impl Access {
    /// The cluster's CA, in DER.
    pub fn roots(&self) -> &[Vec<u8>] {
        &self.roots
    }

    /// The server that is dialled before any endpoint is known.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The name that an apiserver's certificate must carry: the kubeconfig's `tls-server-name`, or [`TLS_NAME`].
    pub fn tls_name(&self) -> &str {
        &self.tls_name
    }

    /// The same as [`Self::tls_name`], as rustls takes it.
    pub fn server_name(&self) -> ServerName<'static> {
        self.server_name.clone()
    }

    /// What the credentials came from, for messages.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What the CA came from, for messages.
    pub fn ca(&self) -> &str {
        &self.ca
    }

    /// The command of the credential plugin, if there is one; its arguments may be secret.
    pub(crate) fn plugin(&self) -> Option<String> {
        Some(self.user.plugin.as_ref()?.command.display().to_string())
    }

    /// Whether the same apiservers are trusted.
    pub(crate) fn has_same_ca(&self, other: &Self) -> bool {
        self.roots == other.roots
    }

    /// Whether connections made with the other one are as good as its own. Tokens from files go with each request.
    pub(crate) fn has_same_connection(&self, other: &Self) -> bool {
        self.has_same_ca(other)
            && self.server == other.server
            && self.tls_name == other.tls_name
            && self.user == other.user
    }

    /// Whether expiry and warnings are the same.
    pub(crate) fn has_same_expiry_and_warnings(&self, other: &Self) -> bool {
        self.expiry == other.expiry && self.warnings == other.warnings
    }

    /// When what it holds expires, as it was read.
    pub fn expiry(&self) -> Expiry {
        self.expiry
    }

    /// What an operator should know of it, a line for each.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// From when to when each of its credentials is good, as far as that is known.
    pub fn validities(&self) -> Vec<(&'static str, Validity)> {
        certificates::validities(&self.roots, self.user.leaf(), self.expiry)
    }

    pub(super) fn warn(&self, known: &[Warning]) {
        for warning in self.warnings.iter().filter(|warning| !known.contains(warning)) {
            match warning {
                Warning::Date(detail) => tracing::warn!(
                    event = %"ca_certificate_not_valid", %detail,
                    "CA certificate is expired or not valid yet"
                ),
                Warning::Ignored(detail) => tracing::warn!(
                    event = %"kubeconfig_setting_ignored", %detail,
                    "Ignored a setting of the kubeconfig"
                ),
            }
        }
    }

    /// A request to the API, without the Authorization header.
    pub fn request(&self, method: Method, target: &str) -> request::Builder {
        let mut request = request::Builder::new().method(method);
        let uri =
            http::Uri::builder().scheme("https").authority(self.authority.clone()).path_and_query(target);
        // What does not parse is an error of the builder's.
        request = match uri.build() {
            Ok(uri) => request.uri(uri),
            Err(_) => request.uri(target),
        };
        if let Some(headers) = request.headers_mut() {
            headers.extend(self.user.headers.clone());
        }
        request
    }

    /// The TLS settings to verify an apiserver without showing credentials.
    ///
    /// # Errors
    /// One line that says what cannot be used.
    pub fn trust(&self) -> Result<rustls::ClientConfig, String> {
        tls::client_config(&self.roots, None)
    }

    /// Verifies the certificates of apiservers.
    ///
    /// # Errors
    /// As [`Self::trust`].
    pub(crate) fn verifier(&self) -> Result<impl ServerCertVerifier + use<>, String> {
        tls::verifier(&self.roots, tls::provider())
    }

    pub(crate) fn token(&self) -> Option<Arc<Token>> {
        self.token.clone()
    }
}

/// What one user entry gives. Its secrets are not shown by `Debug`.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct User {
    /// A token or a password that never changes. It is marked as sensitive.
    pub(crate) authorization: Option<HeaderValue>,
    /// Certificate and key.
    pub(crate) certificate: Option<ClientCertificate>,
    /// Impersonation headers.
    pub(crate) headers: HeaderMap,
    /// The plugin that gives token or certificate.
    pub(crate) plugin: Option<ExecPlugin>,
}

impl User {
    /// The client's own certificate, in DER.
    pub(crate) fn leaf(&self) -> Option<&[u8]> {
        self.certificate.as_ref()?.leaf()
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").finish_non_exhaustive()
    }
}

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
            return Err("its server contains a user name or a password; set them in the user entry instead"
                .to_owned());
        }
        let wrong = |why: &str| format!("its server {url:?} is not a URL of the form https://HOST:PORT{why}");
        let uri: Uri = url.parse().map_err(|_| wrong(""))?;
        match uri.scheme_str() {
            Some("https") => {}
            Some("http") => {
                return Err(format!("its server {url} uses http://; only https:// is accepted"));
            }
            _ => return Err(wrong("")),
        }
        if uri.path() != "/" {
            return Err(format!(
                "its server {url} has a path, so it is a proxy; set the address of an API server, because apivip dials \
                 endpoints directly"
            ));
        }
        if url.contains(['?', '#']) {
            return Err(wrong(": remove everything after the port"));
        }
        let authority = uri.authority().map(Authority::as_str).unwrap_or_default();
        let (host, port) = split(authority);
        let port = match port {
            None | Some("") => HTTPS,
            Some(port) => {
                port_of(port).ok_or_else(|| wrong(&format!(": {port} is not a port from 1 to 65535")))?
            }
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
                "the environment variable KUBERNETES_SERVICE_HOST is {host:?}, which is neither a DNS name nor an IP address"
            ));
        }
        let port = port_of(port).ok_or_else(|| {
            format!("the environment variable KUBERNETES_SERVICE_PORT is {port:?}, which is not a port")
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

/// The access to the API is not configured in a usable way.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A file that is absent, forbidden or a directory.
    #[error("read {what} {}: {cause}", path.display())]
    Unreadable {
        /// What the file is for.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why it cannot be read.
        cause: String,
    },
    /// A kubeconfig that is no YAML, or YAML that is no kubeconfig.
    #[error("kubeconfig {} is not a kubeconfig in YAML: {cause}", path.display())]
    NotAKubeconfig {
        /// The kubeconfig.
        path: PathBuf,
        /// What the parser says.
        cause: String,
    },
    /// A kubeconfig without content.
    #[error("kubeconfig {} is empty; create it again, for example with kubeadm or kubectl config", path.display())]
    Empty {
        /// The kubeconfig.
        path: PathBuf,
    },
    /// A kubeconfig that leaves the context open.
    #[error("kubeconfig {} has no current-context; choose one of: {known}", path.display())]
    NoContext {
        /// The kubeconfig.
        path: PathBuf,
        /// The contexts that it has.
        known: String,
    },
    /// A name without an entry.
    #[error("kubeconfig {} has no {kind} named {name:?}; it has: {known}", path.display())]
    Unknown {
        /// The kubeconfig.
        path: PathBuf,
        /// `context`, `cluster` or `user`.
        kind: &'static str,
        /// The name that was looked for.
        name: String,
        /// The names that it has.
        known: String,
    },
    /// A cluster or user entry that cannot be used.
    #[error("kubeconfig {}, {entry}: {problem}", path.display())]
    Entry {
        /// The kubeconfig.
        path: PathBuf,
        /// Which entry.
        entry: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A CA bundle that holds no certificate, or a broken one.
    #[error("{place}: {problem}")]
    Certificates {
        /// Where the certificates are.
        place: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// Not in a Pod, or in one without a service account.
    #[error("not running in a Pod with a service account: {problem}; set --kubeconfig FILE")]
    NotInCluster {
        /// What is absent.
        problem: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_url_is_split_into_host_and_port() {
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
    fn invalid_server_url_is_refused_with_a_reason() {
        for (url, says) in [
            ("https://192.0.2.11:66443", "66443 is not a port"),
            ("https://192.0.2.11:0", "0 is not a port"),
            ("https://192.0.2.11:+443", "https://HOST:PORT"),
            ("https://192.0.2.11:64x3", "https://HOST:PORT"),
            ("https://192.0.2.11:6443?x=1", "remove everything after the port"),
            ("https://192.0.2.11:6443/#x", "remove everything after the port"),
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
    fn pod_variables_are_checked_like_a_url() {
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
