//! What an apiserver is shown to know this client, with what a credential plugin gives: for a session, and for single
//! requests.
//!
//! In: an [`Access`]. Out: `SessionCredentials` whose token is renewed, or [`ResolvedCredentials`], read once.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use rustls::ClientConfig;
use tokio::sync::Mutex;

use super::access::Access;
use super::certificates::validity;
use super::exec_plugin::{self, ExecPlugin, PluginCredentials, parse_exec_credential};
use super::{readyz, tls};
use crate::process::clock::unix_now;

/// How long before its token expires a plugin is asked for the next one, in seconds.
const RENEW_TOKEN_BEFORE: i64 = 60;

/// TLS and authentication of one session.
pub(crate) struct SessionCredentials {
    /// CA and client certificate.
    pub(crate) tls: ClientConfig,
    /// Token, password or plugin; none where the certificate is the credential or [`Access::token`] is.
    pub(crate) authorization: Option<Authorization>,
    /// The client certificate that is shown, in DER.
    pub(crate) certificate: Option<Vec<u8>>,
    /// When the certificate ends that a plugin gave, in seconds since 1970. Those in files are followed there.
    pub(crate) expires: Option<i64>,
}

/// The Authorization header of a session.
#[derive(Clone)]
pub(crate) enum Authorization {
    /// It never changes.
    Fixed(HeaderValue),
    /// A plugin's, until it expires.
    Plugin(Arc<PluginToken>),
}

/// What a plugin gave last.
pub(crate) struct PluginToken {
    plugin: ExecPlugin,
    last: Mutex<(HeaderValue, i64)>,
}

impl Authorization {
    /// As it is now. A plugin whose token ends is run for it, on a thread of its own, while others wait.
    pub(crate) async fn header(&self) -> Result<HeaderValue, String> {
        let renewed = match self {
            Self::Fixed(header) => return Ok(header.clone()),
            Self::Plugin(renewed) => renewed,
        };
        let mut last = renewed.last.lock().await;
        if last.1.saturating_sub(RENEW_TOKEN_BEFORE) <= unix_now().cast_signed() {
            let answer = exec_plugin::spawn(&renewed.plugin).await??;
            let token = answer.token.ok_or("the credential plugin returned no token this time")?;
            *last = (token, answer.expires.unwrap_or(i64::MAX));
        }
        Ok(last.0.clone())
    }
}

/// A plugin is run for the next certificate when a fifth of the remaining time is left, or a minute if that is less,
/// and not in a tight loop where it has no other one.
const RENEW_BEFORE_EXPIRY: Duration = Duration::from_secs(60);
const MIN_RENEW_INTERVAL: Duration = Duration::from_secs(5);

/// After how long to ask for another than the one that ends at `end`; `None` where it has ended by this node's clock: what
/// the apiserver says of it counts.
pub(crate) fn renew_after(end: i64, now: u64) -> Option<Duration> {
    let left = u64::try_from(end).ok()?.checked_sub(now).filter(|left| *left > 0)?;
    let left = Duration::from_secs(left);
    Some(left.saturating_sub(RENEW_BEFORE_EXPIRY.min(left / 5)).max(MIN_RENEW_INTERVAL))
}

/// Takes the credentials. A plugin is run once for all of them; what the kubeconfig holds itself comes first, as in
/// client-go.
pub(crate) async fn prepare(access: &Access) -> Result<SessionCredentials, String> {
    let answer = match &access.user.plugin {
        Some(plugin) => Some(exec_plugin::run(plugin, access.source()).await?),
        None => None,
    };
    with_plugin_output(access, answer)
}

/// What follows from what a plugin gave, or from none.
pub(crate) fn with_plugin_output(
    access: &Access,
    answer: Option<PluginCredentials>,
) -> Result<SessionCredentials, String> {
    let user = &access.user;
    let (issued, token, ends) = match answer {
        Some(PluginCredentials { token, certificate, expires }) => (certificate, token, expires),
        None => (None, None, None),
    };
    let end = issued.as_ref().filter(|_| user.certificate.is_none());
    let end = end.and_then(|issued| Some(validity(issued.leaf()?)?.end));
    let identity = user.certificate.as_ref().or(issued.as_ref());
    let authorization = match (&user.authorization, token, ends, &user.plugin) {
        (Some(own), ..) => Some(Authorization::Fixed(own.clone())),
        (None, Some(token), Some(ends), Some(plugin)) => {
            let last = Mutex::new((token, ends));
            Some(Authorization::Plugin(Arc::new(PluginToken { plugin: plugin.clone(), last })))
        }
        (None, Some(token), ..) => Some(Authorization::Fixed(token)),
        (None, None, ..) => None,
    };
    Ok(SessionCredentials {
        tls: tls::client_config(&access.roots, identity.map(|identity| identity.certified()))?,
        authorization,
        certificate: identity.and_then(|identity| identity.leaf()).map(<[u8]>::to_vec),
        expires: end,
    })
}

/// Read once; secrets are not shown by `Debug`.
#[derive(Clone, Debug)]
pub struct ResolvedCredentials {
    /// The CA, and certificate and key of the client if it has them.
    pub tls: ClientConfig,
    /// The Authorization header, if there is one. It is marked as sensitive.
    pub authorization: Option<HeaderValue>,
    /// The client certificate, in DER.
    pub certificate: Option<Vec<u8>>,
}

impl ResolvedCredentials {
    /// The bearer token.
    pub fn token(&self) -> Option<&str> {
        self.authorization.as_ref()?.to_str().ok()?.strip_prefix("Bearer ")
    }
}

impl Access {
    /// Reads the credentials. A plugin is run if there is one, which can take seconds.
    ///
    /// # Errors
    /// One line that says what cannot be read.
    pub async fn credentials(&self) -> Result<ResolvedCredentials, String> {
        self.resolve(prepare(self).await?).await
    }

    /// The credentials as they are where a plugin wrote this. Nothing is run, unless that has ended already.
    ///
    /// # Errors
    /// One line that says what is wrong with it.
    pub async fn credentials_of(&self, written: &[u8]) -> Result<ResolvedCredentials, String> {
        self.resolve(with_plugin_output(self, Some(parse_exec_credential(written)?))?).await
    }

    async fn resolve(&self, prepared: SessionCredentials) -> Result<ResolvedCredentials, String> {
        let authorization = match (&self.token, prepared.authorization) {
            (Some(token), _) => Some(token.header()),
            (None, Some(authorization)) => Some(authorization.header().await?),
            (None, None) => None,
        };
        Ok(ResolvedCredentials { tls: prepared.tls, authorization, certificate: prepared.certificate })
    }

    /// The TLS settings for a connection to an apiserver.
    ///
    /// # Errors
    /// One line that says what cannot be used. A credential plugin is run if there is one, which can take
    /// seconds.
    pub async fn tls_config(&self) -> Result<rustls::ClientConfig, String> {
        prepare(self).await.map(|prepared| prepared.tls)
    }

    /// The identity of probes before the first session. A plugin is not run for it: that is left to the
    /// session, which waits for it without holding up anybody else.
    pub async fn identity(&self) -> Result<readyz::Identity, String> {
        let trust = self.trust()?.into();
        let credentials = match self.plugin() {
            Some(_) => None,
            None => {
                let ResolvedCredentials { tls, authorization, .. } = self.credentials().await?;
                readyz::Credentials::new(Some(tls.client_auth_cert_resolver), authorization)
            }
        };
        Ok(readyz::Identity { trust, credentials })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_is_renewed_before_expiry_but_not_in_a_tight_loop() {
        let after = |left: i64| renew_after(1000 + left, 1000).map(|after| after.as_secs());
        assert_eq!(after(3600), Some(3540));
        assert_eq!(after(300), Some(240));
        assert_eq!(after(50), Some(40));
        assert_eq!((after(5), after(1)), (Some(5), Some(5)));
        assert_eq!((after(0), after(-86_400), renew_after(-1, 1000)), (None, None, None));
    }
}
