//! What one session needs of [`Access`], with what a credential plugin gives.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use rustls::ClientConfig;
use tokio::sync::Mutex;

use super::plugin::{Answer, Plugin};
use super::{Access, lifetime, trust};
use crate::process::clock::unix_now;

/// After how long a credential plugin that has not answered is mentioned in the log.
const SLOW_PLUGIN: Duration = Duration::from_secs(30);

/// So long before its token ends a plugin is asked for the next one.
const EARLY: i64 = 60;

/// TLS and authentication of one session.
pub(crate) struct Prepared {
    /// CA and client certificate.
    pub(crate) tls: ClientConfig,
    /// Token, password or plugin; none where the certificate is the credential or [`Access::token`] is.
    pub(crate) authorization: Option<Authorization>,
    /// The client certificate that is shown, in DER.
    pub(crate) certificate: Option<Vec<u8>>,
    /// When the certificate ends that a plugin gave, in seconds since 1970. Those in files are followed there.
    pub(crate) end: Option<i64>,
}

/// The Authorization header of a session.
#[derive(Clone)]
pub(crate) enum Authorization {
    /// The same for ever.
    Fixed(HeaderValue),
    /// A plugin's, until that ends.
    Renewed(Arc<Renewed>),
}

/// What a plugin gave last.
pub(crate) struct Renewed {
    plugin: Plugin,
    last: Mutex<(HeaderValue, i64)>,
}

impl Authorization {
    /// As it is now. A plugin whose token ends is run for it, on a thread of its own, while others wait.
    pub(crate) async fn header(&self) -> Result<HeaderValue, String> {
        let renewed = match self {
            Self::Fixed(header) => return Ok(header.clone()),
            Self::Renewed(renewed) => renewed,
        };
        let mut last = renewed.last.lock().await;
        if last.1.saturating_sub(EARLY) <= unix_now().cast_signed() {
            let answer = run(&renewed.plugin).await??;
            let token = answer.token.ok_or("the credential plugin gave no token this time")?;
            *last = (token, answer.end.unwrap_or(i64::MAX));
        }
        Ok(last.0.clone())
    }
}

/// A plugin is asked for another certificate when a fifth of what is left is left, a minute at the most, and not in haste
/// where it has no other one.
const LEFT: Duration = Duration::from_secs(60);
const HASTE: Duration = Duration::from_secs(5);

/// After how long to ask for another than the one that ends at `end`; `None` where it has ended by this node's clock: what
/// the apiserver says of it counts.
pub(crate) fn changes_after(end: i64, now: u64) -> Option<Duration> {
    let left = u64::try_from(end).ok()?.checked_sub(now).filter(|left| *left > 0)?;
    let left = Duration::from_secs(left);
    Some(left.saturating_sub(LEFT.min(left / 5)).max(HASTE))
}

/// Takes the credentials. A plugin is run once for all of them; what the kubeconfig holds itself comes first, as in
/// client-go.
pub(crate) async fn prepare(access: &Access) -> Result<Prepared, String> {
    let answer = match &access.user.plugin {
        Some(plugin) => Some(ask(plugin, access.source()).await?),
        None => None,
    };
    with(access, answer)
}

/// What follows from what a plugin gave, or from none.
pub(crate) fn with(access: &Access, answer: Option<Answer>) -> Result<Prepared, String> {
    let user = &access.user;
    let (issued, token, ends) = match answer {
        Some(Answer { token, identity, end }) => (identity, token, end),
        None => (None, None, None),
    };
    let end = issued.as_ref().filter(|_| user.identity.is_none());
    let end = end.and_then(|issued| Some(lifetime(issued.leaf()?)?.end));
    let identity = user.identity.as_ref().or(issued.as_ref());
    let authorization = match (&user.authorization, token, ends, &user.plugin) {
        (Some(own), ..) => Some(Authorization::Fixed(own.clone())),
        (None, Some(token), Some(ends), Some(plugin)) => {
            let last = Mutex::new((token, ends));
            Some(Authorization::Renewed(Arc::new(Renewed { plugin: plugin.clone(), last })))
        }
        (None, Some(token), ..) => Some(Authorization::Fixed(token)),
        (None, None, ..) => None,
    };
    Ok(Prepared {
        tls: trust::client_config(&access.roots, identity.map(|identity| identity.certified()))?,
        authorization,
        certificate: identity.and_then(|identity| identity.leaf()).map(<[u8]>::to_vec),
        end,
    })
}

/// A plugin runs on a thread of its own: it may take seconds, and the daemon has one thread.
fn run(plugin: &Plugin) -> impl Future<Output = Result<Result<Answer, String>, String>> + use<> {
    let plugin = plugin.clone();
    let running = tokio::task::spawn_blocking(move || plugin.run());
    async { running.await.map_err(|error| format!("run the credential plugin: {error}")) }
}

async fn ask(plugin: &Plugin, source: &str) -> Result<Answer, String> {
    let mut running = Box::pin(run(plugin));
    loop {
        match tokio::time::timeout(SLOW_PLUGIN, &mut running).await {
            Ok(answer) => return answer?,
            Err(_) => tracing::warn!(source, "the credential plugin has not answered yet"),
        }
    }
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
