//! What one session needs of [`Access`], read anew from disk.

use std::time::Duration;

use kube::Config;
use kube::client::ConfigExt;
use kube::client::middleware::{AuthLayer, ExtraHeadersLayer};
use rustls::ClientConfig;

use super::{Access, discreet};

/// After how long a credential plugin that has not answered is mentioned in the log.
const SLOW_PLUGIN: Duration = Duration::from_secs(30);

/// TLS and authentication of one session.
pub(in crate::apiserver) struct Prepared {
    /// CA and client certificate.
    pub(in crate::apiserver) tls: ClientConfig,
    /// Token, password or plugin; none where the certificate is the credential or [`Access::token`] is.
    pub(in crate::apiserver) auth: Option<AuthLayer>,
    /// Impersonation.
    pub(in crate::apiserver) headers: ExtraHeadersLayer,
}

/// Reads the credentials. A plugin runs on a thread of its own: it may take seconds, and the daemon has one thread.
pub(in crate::apiserver) async fn prepare(access: &Access) -> Result<Prepared, String> {
    if access.config.auth_info.exec.is_none() {
        return read(&access.config);
    }
    let config = access.config.clone();
    let mut plugin = tokio::task::spawn_blocking(move || read(&config));
    loop {
        match tokio::time::timeout(SLOW_PLUGIN, &mut plugin).await {
            Ok(Ok(prepared)) => return prepared,
            Ok(Err(error)) => return Err(format!("run the credential plugin: {error}")),
            Err(_) => tracing::warn!(source = access.source, "the credential plugin has not answered yet"),
        }
    }
}

fn read(config: &Config) -> Result<Prepared, String> {
    let line = |error: kube::Error| discreet::of_kube(&error);
    // The plugin runs for each: its failure is reported by the first only.
    let auth = config.auth_layer().map_err(line)?;
    let tls = config.rustls_client_config().map_err(line)?;
    let headers = config.extra_headers_layer().map_err(line)?;
    Ok(Prepared { tls, auth, headers })
}
