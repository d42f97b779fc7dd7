//! One address of the API: what it shows, and whom it lets in. Nothing is asked of one whose certificate is not verified,
//! and no more than two dozen questions of any.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::header::WWW_AUTHENTICATE;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::time::timeout;

use super::stranger::stranger;
use crate::audit::apiserver::Face;
use crate::audit::ask::{Answer, Question, Reason, Server, Unanswered, ask, get, status};
use crate::audit::certificate::Shown;
use crate::audit::hello::{BROKEN, OLD, STATIC, TLS_1_1, TLS_1_2};
use crate::audit::look;
use crate::audit::requests::{Asked, Door, Plain, paths};
use crate::audit::token;
use crate::audit::who::{NOWHERE, Who};
use crate::transport::ResolvedCredentials;

/// All questions to one address, beyond handshakes.
const LIMIT: Duration = Duration::from_secs(15);
/// Where an API without TLS is looked for, besides the port of HTTPS.
const PLAIN_PORTS: [u16; 2] = [8080, 8001];

/// Whom to ask, and as whom.
pub(super) struct Asking<'a> {
    /// The name that certificates are verified by.
    pub name: &'a str,
    /// The cluster's CA, in DER.
    pub roots: &'a [Vec<u8>],
    /// TLS settings without a client certificate, or why there are none.
    pub trust: Result<ClientConfig, String>,
    /// The node's own, or why there are none.
    pub credentials: Result<&'a ResolvedCredentials, String>,
    /// Seconds since 1970.
    pub now: i64,
}

/// What the address shows.
pub(super) async fn face(address: SocketAddr, asking: &Asking<'_>) -> Face {
    let offer = |version, suites| look::offer(address, asking.name, version, suites);
    let (certificates, old, broken, fixed) = tokio::join!(
        look::certificates(address, asking.name),
        offer(TLS_1_1, OLD),
        offer(TLS_1_2, BROKEN),
        offer(TLS_1_2, STATIC),
    );
    let shown = certificates.and_then(|chain| Shown::read(&chain, asking.roots, asking.now));
    Face { address, shown, old, broken, fixed }
}

/// The name by which the address can be verified.
pub(super) fn verifiable(face: &Face, asking: &Asking<'_>) -> Result<ServerName<'static>, String> {
    let shown = face.shown.as_ref().map_err(Clone::clone)?;
    shown.trusted.as_ref().map_err(|_| "its certificate is not verified, so nothing is asked".to_owned())?;
    if !(shown.begin..=shown.end).contains(&asking.now) {
        return Err("its certificate is not valid now, so nothing is asked".to_owned());
    }
    let ip = face.address.ip().to_string();
    let name = [asking.name, &ip].into_iter().find(|name| shown.is_for(name));
    let name =
        name.ok_or_else(|| "its certificate has no name to verify it by, so nothing is asked".to_owned())?;
    ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())
}

/// Whom the address lets in; `virtual_ip`: of its other ports nothing is known, and nothing is asked.
pub(super) async fn door(face: &Face, asking: &Asking<'_>, virtual_ip: bool) -> Door {
    let plain = plain(face.address, virtual_ip);
    let secured = async {
        let name = verifiable(face, asking)?;
        let trust = asking.trust.clone()?;
        let asked = secured(face.address, name, trust, asking);
        let late = || format!("it did not answer all within {:.0} s", LIMIT.as_secs_f32());
        timeout(LIMIT, asked).await.map_err(|_| late())?
    };
    let (plain, secured) = tokio::join!(plain, secured);
    let none = |error: String| Door {
        address: face.address,
        open: paths().map(|path| (path, Err(error.clone()))).collect(),
        foreign: Err(error.clone()),
        damaged: Err(error.clone()),
        own: asking.credentials.is_ok().then(|| Err(error.clone())),
        basic: Err(error),
        plain: Vec::new(),
    };
    Door { plain, ..secured.unwrap_or_else(none) }
}

async fn secured(
    address: SocketAddr,
    name: ServerName<'static>,
    trust: ClientConfig,
    asking: &Asking<'_>,
) -> Asked<Door> {
    let with = |config: ClientConfig| Server { address, tls: Some((Arc::new(config), name.clone())) };
    let anonymous = with(trust.clone());
    // Whoever does not answer this one is asked no further.
    let nameless = Who::of(&get(&anonymous, NOWHERE).await.map_err(|unanswered| unanswered.text)?);
    let mut open = Vec::new();
    for path in paths() {
        let asked = status(&anonymous, path).await.map_err(|unanswered| unanswered.text);
        let is_end = asked.is_err();
        open.push((path, asked));
        if is_end {
            break;
        }
    }
    // Where requests without credentials are allowed everything, such an answer tells nothing of those with them.
    let who = |answer: &Answer| match Who::of(answer) {
        Who::Allowed if nameless == Who::Allowed => Who::Unclear(answer.status),
        who => who,
    };
    let foreign = match stranger(&trust) {
        Ok(config) => match get(&with(config), NOWHERE).await {
            Ok(answer) => Ok(who(&answer)),
            // What differs from the request that was answered is the certificate: the handshake refused it.
            Err(Unanswered { reason: Reason::Tls, .. }) => Ok(Who::Nobody),
            Err(unanswered) => Err(unanswered.text),
        },
        Err(error) => Err(error),
    };
    let token = asking.credentials.as_ref().ok().and_then(|credentials| credentials.token());
    let damaged = token.map_or_else(token::made_up, token::damaged);
    let damaged = shown(&anonymous, &format!("Bearer {damaged}")).await.map(|answer| who(&answer));
    let basic = shown(&anonymous, "Basic YXBpdmlwLWF1ZGl0OmFwaXZpcC1hdWRpdA==").await.map(|answer| {
        let asks = answer.headers.get_all(WWW_AUTHENTICATE).iter();
        let asks = asks.filter_map(|value| value.to_str().ok()).any(|value| value.starts_with("Basic"));
        let who = who(&answer);
        asks || (matches!(who, Who::User(_) | Who::Allowed) && who != nameless)
    });
    let own = match &asking.credentials {
        Err(_) => None,
        Ok(credentials) => {
            let question = Question {
                path: NOWHERE,
                authorization: credentials.authorization.as_ref(),
                ..Question::default()
            };
            let answer = ask(&with(credentials.tls.clone()), question).await;
            Some(answer.map(|answer| who(&answer)).map_err(|unanswered| unanswered.text))
        }
    };
    Ok(Door { address, open, foreign, damaged, own, basic, plain: Vec::new() })
}

async fn shown(server: &Server, authorization: &str) -> Asked<Answer> {
    let mut value = HeaderValue::from_str(authorization).map_err(|error| error.to_string())?;
    value.set_sensitive(true);
    let question = Question { path: NOWHERE, authorization: Some(&value), ..Question::default() };
    ask(server, question).await.map_err(|unanswered| unanswered.text)
}

async fn plain(address: SocketAddr, virtual_ip: bool) -> Vec<(u16, Result<Plain, Unanswered>)> {
    let mut ports = vec![address.port()];
    if !virtual_ip {
        ports.extend(PLAIN_PORTS.into_iter().filter(|port| *port != address.port()));
    }
    let asked = ports.into_iter().map(|port| async move {
        let server = Server { address: SocketAddr::new(address.ip(), port), tls: None };
        let answer = get(&server, "/version").await;
        (port, answer.map(|answer| if is_api(&answer) { Plain::Api } else { Plain::Other(answer.status) }))
    });
    futures_util::future::join_all(asked).await
}

/// An apiserver says its version, or refuses with a `Status`.
fn is_api(answer: &Answer) -> bool {
    let body = answer.json();
    body["gitVersion"].is_string() || body["kind"] == "Status"
}
