//! Loads the [`Access`] to the API, and follows the CA and the credentials as their files change.
//!
//! In: a kubeconfig, or the environment of a Pod. Out: an [`Access`], and a new one whenever a renewal is complete.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use x509_parser::time::ASN1Time;

use super::access::{Access, AccessError, Origin, Server, TLS_NAME, User};
use super::authentication::{Token, read_file};
use super::certificates::Expiry;
use super::kubeconfig::{self, check_ca, read_ca, server_name};
use super::readyz::Identity;
use super::tls::install_provider;

/// Where the kubelet mounts the service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A CA that was renewed must be known before the first apiserver shows a certificate of it, and tools that rotate both
/// wait for no node. One poll takes well under a millisecond.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

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
    /// Reads and checks everything again from where it came from.
    ///
    /// # Errors
    /// As [`load`]; a renewal that is half written is one.
    pub(crate) fn reload(&self) -> Result<Self, AccessError> {
        let renewed = self.origin.read(self.token.as_ref())?;
        renewed.warn(&self.warnings);
        Ok(renewed)
    }
}

impl Origin {
    /// `kept` is the token that was read before.
    fn read(&self, kept: Option<&Arc<Token>>) -> Result<Access, AccessError> {
        match self {
            Self::Kubeconfig { path, context } => kubeconfig::load(path, context.as_deref(), kept),
            Self::Pod => load_in_cluster(|name| std::env::var(name).ok(), Path::new(SERVICE_ACCOUNT), kept),
        }
    }
}

/// Loads the access that a Pod has: two environment variables and the files of its service account. `variable` reads
/// the environment, `folder` holds the files: arguments, so that tests need neither. `kept` is the token that was
/// read before.
pub(super) fn load_in_cluster(
    variable: impl Fn(&str) -> Option<String>,
    folder: &Path,
    kept: Option<&Arc<Token>>,
) -> Result<Access, AccessError> {
    let absent = |problem: String| AccessError::NotInCluster { problem };
    let variable = |name: &str| {
        variable(name)
            .filter(|value| !value.is_empty())
            .ok_or_else(|| absent(format!("the environment variable {name} is not set")))
    };
    let host = variable("KUBERNETES_SERVICE_HOST")?;
    let port = variable("KUBERNETES_SERVICE_PORT")?;
    let server = Server::of_pod(&host, &port).map_err(absent)?;
    let authority = server.authority().map_err(absent)?;

    let ca = folder.join("ca.crt");
    let place = format!("the CA of the service account {}", ca.display());
    let pem = read_file(&ca).map_err(|cause| absent(format!("read {place}: {cause}")))?;
    let roots = read_ca(&pem, &place)?;
    let warnings = check_ca(&roots, &place, ASN1Time::now())?;

    let token = folder.join("token");
    let token = Token::open(&token, kept).map_err(|cause| {
        absent(format!("read the token of the service account {}: {cause}", token.display()))
    })?;

    let expiry = Expiry::of(&roots, None, Some(&token));
    Ok(Access {
        roots,
        user: User::default(),
        server,
        authority,
        tls_name: TLS_NAME.to_owned(),
        server_name: server_name(TLS_NAME).map_err(absent)?,
        token: Some(token),
        source: format!("the service account of the Pod in {}", folder.display()),
        ca: place,
        origin: Origin::Pod,
        expiry,
        warnings,
    })
}

/// Polls the files of the CA and of the credentials until the receiver is dropped. A new [`Access`] is sent when a
/// renewal is complete: all of it parses, and key and certificate match. Until then the last good one is used.
/// `identity` gets the CA; the credentials in it are the session's to give.
pub async fn watch_files(access: watch::Sender<Arc<Access>>, identity: Arc<watch::Sender<Identity>>) {
    watch_files_every(POLL_INTERVAL, &access, &identity).await;
}

pub(crate) async fn watch_files_every(
    period: Duration,
    access: &watch::Sender<Arc<Access>>,
    identity: &watch::Sender<Identity>,
) {
    let mut failing = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(period) => {}
            () = access.closed() => return,
        }
        match reload_if_changed(access, identity).await {
            Ok(()) => {
                if failing.take().is_some() {
                    tracing::info!(
                        event = %"credentials_reload_recovered", source = access.borrow().source(),
                        "Credentials can be read again"
                    );
                }
            }
            Err(error) => {
                if failing.as_ref() != Some(&error) {
                    let source = access.borrow().source().to_owned();
                    tracing::warn!(
                        event = %"credentials_reload_failed", source, error,
                        "Failed to read renewed credentials, using the last ones"
                    );
                }
                failing = Some(error);
            }
        }
    }
}

async fn reload_if_changed(
    access: &watch::Sender<Arc<Access>>,
    identity: &watch::Sender<Identity>,
) -> Result<(), String> {
    let current = Arc::clone(&access.borrow());
    let renewed = current.reload().map_err(|error| error.to_string())?;
    if !renewed.has_same_ca(&current) {
        let trust = Arc::new(renewed.trust()?);
        identity.send_modify(|identity| identity.trust = trust);
        tracing::info!(event = %"ca_renewed", ca = renewed.ca(), "Cluster CA was renewed");
    }
    if !renewed.has_same_connection(&current) {
        tracing::info!(
            event = %"credentials_renewed", source = renewed.source(),
            "Credentials were renewed"
        );
    } else if renewed.has_same_expiry_and_warnings(&current) {
        return Ok(());
    }
    access.send_replace(Arc::new(renewed));
    Ok(())
}
