//! How the API is reached: which server, which CA, which credentials.
//!
//! In: a kubeconfig, or the environment of a Pod. Out: [`Access`], checked as far as it can be without a connection,
//! or an [`AccessError`] that is the operator's to correct. Everything wrong with the configuration is found here,
//! before anything on the node was touched.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::uri::Authority;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::ServerName;

mod algorithms;
mod certificates;
mod credentials;
mod discreet;
mod error;
mod expiry;
mod file;
mod identity;
mod incluster;
mod kubeconfig;
mod plugin;
mod prepare;
mod server;
mod token;
mod trust;
mod user;

pub(crate) use algorithms::USABLE;
pub use credentials::Credentials;
pub use error::AccessError;
pub(crate) use expiry::lifetime;
pub use expiry::{Expiry, Lifetime};
pub(crate) use prepare::{Authorization, changes_after, prepare};
pub use server::Server;
pub(crate) use token::Token;
pub(crate) use trust::Unverifiable;
use user::User;

/// The name that TLS verifies, whichever address is dialled. Every installer puts it into each apiserver's certificate,
/// because Pods reach the API by it; a node's address or a load balancer's name need not be there.
pub const TLS_NAME: &str = "kubernetes.default.svc";

/// Checked access to the API. The secrets in it are not shown by `Debug`.
#[derive(Clone, Debug)]
pub struct Access {
    /// The cluster's CA, in DER.
    roots: Vec<Vec<u8>>,
    user: User,
    server: Server,
    /// The server as URLs have it.
    authority: Authority,
    tls_name: String,
    server_name: ServerName<'static>,
    token: Option<Arc<Token>>,
    source: String,
    ca: String,
    origin: Origin,
    expiry: Expiry,
    warnings: Vec<Warning>,
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
enum Origin {
    Kubeconfig { path: PathBuf, context: Option<String> },
    Pod,
}

impl Origin {
    /// `kept` is the token that was read before.
    fn read(&self, kept: Option<&Arc<Token>>) -> Result<Access, AccessError> {
        match self {
            Self::Kubeconfig { path, context } => kubeconfig::load(path, context.as_deref(), kept),
            Self::Pod => {
                incluster::load(|name| std::env::var(name).ok(), Path::new(incluster::SERVICE_ACCOUNT), kept)
            }
        }
    }
}

/// Loads and checks the access to the API from `kubeconfig` (with `context`, or its current-context), or, if there is
/// none, from what a Pod has.
///
/// # Errors
/// Whatever is wrong with the configuration, as one line. Nothing is dialled and no credential plugin is run.
pub fn load(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Access, AccessError> {
    install_provider();
    let origin = match kubeconfig {
        Some(path) => Origin::Kubeconfig { path: path.to_owned(), context: context.map(str::to_owned) },
        None => Origin::Pod,
    };
    let access = origin.read(None)?;
    access.warn(&[]);
    Ok(access)
}

/// Reads a kubeconfig whose text is `bytes`, and the files that it names, as if it stood at `path`.
///
/// # Errors
/// As [`load`].
pub fn of_kubeconfig(path: &Path, bytes: &[u8], context: Option<&str>) -> Result<Access, AccessError> {
    kubeconfig::parse(path, bytes, context, None)
}

impl Access {
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

    /// Reads and checks everything again from where it came from.
    ///
    /// # Errors
    /// As [`load`]; a renewal that is half written is one.
    pub(crate) fn reload(&self) -> Result<Self, AccessError> {
        let renewed = self.origin.read(self.token.as_ref())?;
        renewed.warn(&self.warnings);
        Ok(renewed)
    }

    /// Whether the same apiservers are trusted.
    pub(crate) fn trusts_like(&self, other: &Self) -> bool {
        self.roots == other.roots
    }

    /// Whether connections made with the other one are as good as its own. Tokens from files go with each request.
    pub(crate) fn connects_like(&self, other: &Self) -> bool {
        self.trusts_like(other)
            && self.server == other.server
            && self.tls_name == other.tls_name
            && self.user == other.user
    }

    /// Whether there is nothing new to say of it.
    pub(crate) fn says_like(&self, other: &Self) -> bool {
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
    pub fn lifetimes(&self) -> Vec<(&'static str, Lifetime)> {
        expiry::lifetimes(&self.roots, self.user.leaf(), self.expiry)
    }

    fn warn(&self, known: &[Warning]) {
        for warning in self.warnings.iter().filter(|warning| !known.contains(warning)) {
            tracing::warn!("{warning}");
        }
    }

    /// The TLS settings to verify an apiserver without showing credentials.
    ///
    /// # Errors
    /// One line that says what cannot be used.
    pub fn trust(&self) -> Result<rustls::ClientConfig, String> {
        trust::client_config(&self.roots, None)
    }

    /// What believes an apiserver or does not.
    ///
    /// # Errors
    /// As [`Self::trust`].
    pub(crate) fn verifier(&self) -> Result<impl ServerCertVerifier + use<>, String> {
        trust::verifier(&self.roots, trust::provider())
    }

    pub(crate) fn token(&self) -> Option<Arc<Token>> {
        self.token.clone()
    }

    /// The TLS settings for a connection to an apiserver.
    ///
    /// # Errors
    /// One line that says what cannot be used. A credential plugin is run if there is one, which can take
    /// seconds.
    pub async fn tls_config(&self) -> Result<rustls::ClientConfig, String> {
        prepare(self).await.map(|prepared| prepared.tls)
    }
}

/// Chooses rustls's cryptography, once per process: which one is the default would be ambiguous if another crate's
/// features ever named a second.
fn install_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Fails only if another thread installed one meanwhile, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

#[cfg(test)]
mod tests;
