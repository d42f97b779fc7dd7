//! What everything that talks to an apiserver shares: access and credentials, TLS, the dialer, the HTTP client, and
//! what an answer to `/readyz` means.
//!
//! [`mod@load`] reads an [`Access`] from a kubeconfig or a Pod's environment; [`credentials`] makes of it what a session
//! shows; `http_client` sends requests with it over `connections` of `dialer`. [`readyz`] asks without a session.
//! `text` and `failure` make one line of whatever goes wrong.

pub mod access;
mod authentication;
pub mod certificates;
mod connections;
pub mod credentials;
pub(crate) mod dialer;
mod exec_plugin;
pub(crate) mod failure;
pub(crate) mod http_client;
mod kubeconfig;
pub mod load;
#[cfg(test)]
pub(crate) mod pki;
pub mod readyz;
pub mod text;
mod tls;

pub use access::{Access, AccessError, TLS_NAME, Warning};
pub use certificates::{Expiry, Validity};
pub use credentials::ResolvedCredentials;
pub use load::load;

/// What apivip calls itself in requests.
pub(crate) const AGENT: &str = concat!("apivip/", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
mod tests;
