//! What one session needs of [`Access`], read anew from disk.

use std::time::Duration;

use kube::Config;
use kube::client::ConfigExt;
use kube::client::middleware::{AuthLayer, ExtraHeadersLayer};
use rustls::{ClientConfig, SignatureScheme};

use super::{Access, discreet, lifetime};

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
    /// When the certificate ends that a plugin gave, in seconds since 1970. Those in files are followed there.
    pub(in crate::apiserver) end: Option<i64>,
}

/// A plugin is asked for another certificate when a fifth of what is left is left, a minute at the most, and not in haste
/// where it has no other one.
const LEFT: Duration = Duration::from_secs(60);
const HASTE: Duration = Duration::from_secs(5);

/// After how long to ask for another than the one that ends at `end`; `None` where it has ended by this node's clock: what
/// the apiserver says of it counts.
pub(in crate::apiserver) fn changes_after(end: i64, now: u64) -> Option<Duration> {
    let left = u64::try_from(end).ok()?.checked_sub(now).filter(|left| *left > 0)?;
    let left = Duration::from_secs(left);
    Some(left.saturating_sub(LEFT.min(left / 5)).max(HASTE))
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
    let end = config.auth_info.exec.as_ref().and_then(|_| end(&tls));
    Ok(Prepared { tls, auth, headers, end })
}

/// When the certificate ends that is shown to whoever asks.
fn end(tls: &ClientConfig) -> Option<i64> {
    let shown = tls.client_auth_cert_resolver.resolve(&[], &[SignatureScheme::ECDSA_NISTP256_SHA256])?;
    Some(lifetime(shown.cert.first()?)?.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_changed_before_it_ends_and_never_in_haste() {
        let after = |left: i64| changes_after(1000 + left, 1000).map(|after| after.as_secs());
        assert_eq!(after(3600), Some(3540));
        assert_eq!(after(300), Some(240));
        assert_eq!(after(50), Some(40));
        assert_eq!((after(5), after(1)), (Some(5), Some(5)));
        assert_eq!((after(0), after(-86_400), changes_after(-1, 1000)), (None, None, None));
    }
}
