//! Verdicts on one address of the API: what it shows in TLS, and whom it lets in. Pure.
//!
//! In: a [`TlsProbe`] and an [`AccessProbe`]. Out: a finding for each check.

use std::net::SocketAddr;

use super::catalogue::AuditCheck;
use super::catalogue::apiserver::{CIPHERS, EXPIRY, FOREIGN, ISSUER, NAMES, TRUSTED, VERSION};
use super::catalogue::requests::{
    ANONYMOUS_DISCOVERY, ANONYMOUS_OBJECTS, BASIC, CREDENTIALS, DAMAGED_TOKEN, PLAIN_HTTP, STATIC_TOKENS,
};
use super::certificate::ServedCertificate;
use super::client_hello::{PROTOCOL_VERSION, Reply, TLS_1_1, suite_name, version_name};
use super::control_plane::{ControlPlane, NEED_FLAGS, NO_FLAGS};
use super::http::{HttpError, HttpErrorKind, HttpResponse};
use crate::check::report::{Finding, Severity};
use crate::status::duration;

/// What an offer by hand came to.
pub type HelloResult = Result<Option<Reply>, String>;

/// What an address showed in TLS.
#[derive(Clone, Debug)]
pub struct TlsProbe {
    /// Where it was asked.
    pub address: SocketAddr,
    /// Its certificate, or why there was none.
    pub shown: Result<ServedCertificate, String>,
    /// To TLS 1.1 and older.
    pub old: HelloResult,
    /// To TLS 1.2 with broken suites.
    pub broken: HelloResult,
    /// To TLS 1.2 without forward secrecy.
    pub fixed: HelloResult,
}

/// Who renews in time does so long before the last tenth of a lifetime, or the last two weeks.
const RENEWAL: i64 = 14 * 86_400;
const UNREACHABLE: &str =
    "run apivip check to find out whether the API server runs and whether this node can reach it";
const GIVE_CA: &str = "set --kubeconfig FILE as for apivip run";

/// All findings about it. `names` are those that clients dial, `now` is in seconds since 1970.
pub fn tls_findings(tls_probe: &TlsProbe, names: &[String], now: i64) -> Vec<Finding> {
    let mut all = match &tls_probe.shown {
        Ok(shown) => vec![issuer(shown), names_finding(shown, names), expiry(&EXPIRY, shown, now)],
        Err(error) => {
            [&ISSUER, &NAMES, &EXPIRY].map(|check| check.unknown(error.as_str(), UNREACHABLE)).to_vec()
        }
    };
    all.push(version(&VERSION, &tls_probe.old, &tls_probe.shown));
    all.push(ciphers(tls_probe));
    all.into_iter().map(|finding| finding.about(tls_probe.address)).collect()
}

fn issuer(shown: &ServedCertificate) -> Finding {
    match &shown.trusted {
        Ok(()) => ISSUER.pass("the cluster CA signed it"),
        Err(why) if why == "no CA is known" => ISSUER.unknown(why.as_str(), GIVE_CA),
        Err(why) if shown.self_signed => ISSUER.fail(format!("self-signed ({}): {why}", shown.subject)),
        Err(why) => ISSUER.fail(format!("signed by {}: {why}", shown.issuer)),
    }
}

fn names_finding(shown: &ServedCertificate, names: &[String]) -> Finding {
    let missing: Vec<&str> = names.iter().filter(|name| !shown.is_for(name)).map(String::as_str).collect();
    if missing.is_empty() {
        return NAMES.pass(format!("it is valid for {}", names.join(", ")));
    }
    NAMES.fail(format!("it lacks {}; it is valid for {}", missing.join(", "), shown.shown_names()))
}

/// Whether it is valid now, and for how long.
pub fn expiry(check: &AuditCheck, shown: &ServedCertificate, now: i64) -> Finding {
    let left = shown.end - now;
    if left < 0 {
        return check.fail(format!("expired {} ago", duration(left.unsigned_abs())));
    }
    if shown.begin > now {
        let ahead = duration((shown.begin - now).unsigned_abs());
        return check.fail(format!("not valid yet, for another {ahead}"));
    }
    let text = format!("valid for another {}", duration(left.unsigned_abs()));
    if left < ((shown.end - shown.begin) / 10).min(RENEWAL) {
        return check.fail(format!("{text}, and not renewed yet")).with_severity(Severity::Low);
    }
    check.pass(text)
}

/// Whether it goes below TLS 1.2. A refusal counts only from a server that speaks newer TLS, or whose alert says that the
/// version is too old.
pub fn version(check: &AuditCheck, old: &HelloResult, shown: &Result<ServedCertificate, String>) -> Finding {
    match (old, shown) {
        (Ok(Some(Reply::Chosen { version, .. })), _) if *version <= TLS_1_1 => {
            check.fail(format!("it accepts {}", version_name(*version)))
        }
        (Ok(Some(Reply::Alert(PROTOCOL_VERSION))), _) | (Ok(_), Ok(_)) => {
            check.pass("it rejects TLS 1.1 and older")
        }
        (Ok(_), Err(error)) => {
            check.unknown(format!("it accepts neither old nor new TLS: {error}"), UNREACHABLE)
        }
        (Err(error), _) => check.unknown(error.as_str(), UNREACHABLE),
    }
}

fn ciphers(tls_probe: &TlsProbe) -> Finding {
    let chosen = |offered: &HelloResult| match offered {
        Ok(Some(Reply::Chosen { suite, .. })) => Some(suite_name(*suite)),
        _ => None,
    };
    if let Some(suite) = chosen(&tls_probe.broken) {
        return CIPHERS.fail(format!("it accepts {suite}"));
    }
    if let Some(suite) = chosen(&tls_probe.fixed) {
        return CIPHERS
            .fail(format!("it accepts {suite}, which has no forward secrecy"))
            .with_severity(Severity::Low);
    }
    // Whoever shakes no hand at all refuses these too.
    let deaf = tls_probe.shown.as_ref().err();
    match tls_probe.broken.as_ref().err().or(tls_probe.fixed.as_ref().err()).or(deaf) {
        Some(error) => CIPHERS.unknown(error.as_str(), UNREACHABLE),
        None => CIPHERS.pass("it accepts no weak cipher"),
    }
}

/// Whether this node's own CA bundle is the cluster's. `subjects` of its certificates; `public` those of them that the
/// host's system trusts too, `None` where that has no list.
pub fn trusted(subjects: &[String], public: Option<&[String]>) -> Finding {
    match (subjects, public) {
        ([], _) => TRUSTED.unknown("no CA is known", GIVE_CA),
        (_, Some([first, ..])) => {
            TRUSTED.fail(format!("the bundle contains {first}, a public CA of this host"))
        }
        ([one], _) => TRUSTED.pass(format!("one CA: {one}")),
        ([..], _) if subjects.len() <= 2 => {
            TRUSTED.pass(format!("two CAs, as during a CA rotation: {}", subjects.join(", ")))
        }
        _ => TRUSTED
            .fail(format!(
                "{} CAs, each of which can impersonate the API server: {}",
                subjects.len(),
                subjects.join(", ")
            ))
            .with_severity(Severity::Low),
    }
}

/// A path that no apiserver has. A 403 for it names the user; a user who may read any path gets a 404.
pub const NONEXISTENT_PATH: &str = "/apivip-audit";

/// The user as which an apiserver authenticated a request to [`NONEXISTENT_PATH`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// None: 401.
    Nobody,
    /// `system:anonymous`.
    Anonymous,
    /// This user, who may not read the path.
    User(String),
    /// A user who may read every path: 404.
    Allowed,
    /// The answer does not tell: this status.
    Unclear(u16),
}

impl Identity {
    /// Reads an answer to a GET of [`NONEXISTENT_PATH`].
    pub fn of(answer: &HttpResponse) -> Self {
        match answer.status {
            401 => Self::Nobody,
            403 => match user(answer.json()["message"].as_str().unwrap_or_default()) {
                Some("system:anonymous") => Self::Anonymous,
                Some(user) => Self::User(user.to_owned()),
                None => Self::Unclear(403),
            },
            200 | 404 => Self::Allowed,
            other => Self::Unclear(other),
        }
    }

    /// As a part of a sentence.
    pub fn taken_for(&self) -> String {
        match self {
            Self::Nobody => "rejected (401)".to_owned(),
            Self::Anonymous => "authenticated as system:anonymous".to_owned(),
            Self::User(user) => format!("authenticated as {user}"),
            Self::Allowed => "authenticated as a user who can read any path".to_owned(),
            Self::Unclear(status) => format!("answered with {status}"),
        }
    }
}

/// `forbidden: User "x" cannot get path "/y"`.
fn user(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("User \"")?;
    rest.split_once("\" cannot").map(|(user, _)| user)
}

/// Paths that everybody may read by default.
pub const PUBLIC_PATHS: [&str; 3] = ["/version", "/livez", "/readyz"];
/// Paths that reveal what is installed.
pub const DISCOVERY_PATHS: [&str; 4] = ["/api", "/apis", "/openapi/v2", "/metrics"];
/// One object of a kind at most. The Secrets are those of a namespace that does not exist.
pub const OBJECT_PATHS: [&str; 5] = [
    "/api/v1/namespaces?limit=1",
    "/api/v1/nodes?limit=1",
    "/api/v1/pods?limit=1",
    "/api/v1/configmaps?limit=1",
    "/api/v1/namespaces/apivip-audit/secrets?limit=1",
];

/// All that is asked for without credentials.
pub fn paths() -> impl Iterator<Item = &'static str> {
    PUBLIC_PATHS.into_iter().chain(DISCOVERY_PATHS).chain(OBJECT_PATHS)
}

/// The answer to a question, or why there is none.
pub type Answered<T> = Result<T, String>;

/// The answers of one address of the API. An address whose certificate is not verified is not asked.
#[derive(Clone, Debug)]
pub struct AccessProbe {
    /// Where it was asked.
    pub address: SocketAddr,
    /// The status of each path that was asked without credentials, up to the first that was not answered.
    pub open: Vec<(&'static str, Answered<u16>)>,
    /// The user of a client with a certificate of an unknown CA.
    pub untrusted_certificate: Answered<Identity>,
    /// The user of a token with a wrong signature.
    pub damaged_token: Answered<Identity>,
    /// The user of the node's own credentials; `None` if it has none.
    pub own_credentials: Option<Answered<Identity>>,
    /// Whether it asks for a password.
    pub basic_auth: Answered<bool>,
    /// What ports answer without TLS.
    pub plain_ports: Vec<(u16, Result<PlainResponse, HttpError>)>,
}

/// What a port without TLS answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlainResponse {
    /// It is an apiserver.
    Api,
    /// Something else, with this status.
    Other(u16),
}

const REACH: &str = "access to the named address; run apivip check for details";

/// All findings about it.
pub fn access_findings(access_probe: &AccessProbe) -> Vec<Finding> {
    let mut all = vec![untrusted_certificate(&access_probe.untrusted_certificate)];
    all.extend(anonymous_findings(access_probe));
    all.push(basic_auth(&access_probe.basic_auth));
    all.push(plain_ports(&access_probe.plain_ports));
    all.push(own_credentials(access_probe.own_credentials.as_ref()));
    all.push(damaged_token(&access_probe.damaged_token));
    all.into_iter().map(|finding| finding.about(access_probe.address)).collect()
}

fn untrusted_certificate(untrusted_certificate: &Answered<Identity>) -> Finding {
    match untrusted_certificate {
        Ok(identity @ (Identity::Nobody | Identity::Anonymous)) => FOREIGN
            .pass(format!("a certificate for system:masters of an unknown CA is {}", identity.taken_for())),
        Ok(identity @ (Identity::User(_) | Identity::Allowed)) => FOREIGN
            .fail(format!("a certificate for system:masters of an unknown CA is {}", identity.taken_for())),
        Ok(identity @ Identity::Unclear(_)) => FOREIGN.unknown(format!("it {}", identity.taken_for()), REACH),
        Err(error) => FOREIGN.unknown(error.as_str(), REACH),
    }
}

fn anonymous_findings(access_probe: &AccessProbe) -> [Finding; 2] {
    let read = |paths: &[&'static str]| -> Vec<&'static str> {
        let served =
            access_probe.open.iter().filter(|(path, status)| paths.contains(path) && *status == Ok(200));
        served.map(|(path, _)| path.split('?').next().unwrap_or(path)).collect()
    };
    // What is neither served nor refused is not known.
    let doubt = |paths: &[&'static str]| -> Option<String> {
        paths.iter().find_map(|wanted| {
            match access_probe.open.iter().find(|(path, _)| path == wanted).map(|(_, status)| status) {
                Some(Ok(200 | 401 | 403 | 404)) => None,
                Some(Ok(other)) => Some(format!("the answer to {wanted} is {other}")),
                Some(Err(error)) => Some(error.clone()),
                None => Some(format!("{wanted} was not requested")),
            }
        })
    };
    let public = read(&PUBLIC_PATHS);
    let public = if public.is_empty() { "nothing".to_owned() } else { public.join(", ") };
    let discovery = match (read(&DISCOVERY_PATHS).as_slice(), doubt(&DISCOVERY_PATHS)) {
        ([], None) => ANONYMOUS_DISCOVERY.pass(format!("they can read {public}, but no discovery")),
        ([], Some(doubt)) => ANONYMOUS_DISCOVERY.unknown(doubt, REACH),
        (read, _) => ANONYMOUS_DISCOVERY.fail(format!("they can read {public}, and {}", read.join(", "))),
    };
    let objects = match (read(&OBJECT_PATHS).as_slice(), doubt(&OBJECT_PATHS)) {
        ([], None) => {
            ANONYMOUS_OBJECTS.pass("they can read no Namespaces, Nodes, Pods, ConfigMaps or Secrets")
        }
        ([], Some(doubt)) => ANONYMOUS_OBJECTS.unknown(doubt, REACH),
        (read, _) => ANONYMOUS_OBJECTS.fail(format!("they can read {}", read.join(", "))),
    };
    [discovery, objects]
}

fn basic_auth(answer: &Answered<bool>) -> Finding {
    match answer {
        Ok(false) => BASIC.pass("it requests no password, and rejects an invented one"),
        Ok(true) => BASIC.fail("it requests a password (WWW-Authenticate: Basic), or accepts any"),
        Err(error) => BASIC.unknown(error.as_str(), REACH),
    }
}

fn plain_ports(ports: &[(u16, Result<PlainResponse, HttpError>)]) -> Finding {
    let open: Vec<String> = ports
        .iter()
        .filter(|(_, answer)| *answer == Ok(PlainResponse::Api))
        .map(|(port, _)| format!("port {port}"))
        .collect();
    if !open.is_empty() {
        return PLAIN_HTTP.fail(format!("{} serves the API without TLS", open.join(", ")));
    }
    let said = |(port, answer): &(u16, Result<PlainResponse, HttpError>)| match answer {
        Ok(PlainResponse::Other(status)) => format!("{port} answers {status} and is not an API server"),
        Ok(PlainResponse::Api) => format!("{port} serves the API"),
        Err(error) => match error.reason {
            HttpErrorKind::Refused => format!("{port} is closed"),
            HttpErrorKind::Silent => format!("{port} does not answer"),
            HttpErrorKind::Tls | HttpErrorKind::Broken => format!("{port} does not speak HTTP"),
        },
    };
    let all = ports.iter().map(said).collect::<Vec<_>>().join(", ");
    let silent = |(_, answer): &(u16, Result<PlainResponse, HttpError>)| {
        answer.as_ref().is_err_and(|error| error.reason == HttpErrorKind::Silent)
    };
    if ports.is_empty() || ports.iter().any(silent) {
        return PLAIN_HTTP.unknown(
            format!("{all}: a packet filter may block only this node"),
            "run apivip-audit on the node of the API server",
        );
    }
    PLAIN_HTTP.pass(all)
}

fn own_credentials(answer: Option<&Answered<Identity>>) -> Finding {
    match answer {
        None => {
            CREDENTIALS.unknown("no credentials are configured", "set --kubeconfig FILE as for apivip run")
        }
        Some(Err(error)) => CREDENTIALS.unknown(error.as_str(), REACH),
        Some(Ok(identity @ (Identity::User(_) | Identity::Allowed))) => {
            CREDENTIALS.pass(format!("they are {}", identity.taken_for()))
        }
        Some(Ok(identity @ (Identity::Nobody | Identity::Anonymous))) => {
            CREDENTIALS.fail(format!("they are {}", identity.taken_for()))
        }
        Some(Ok(identity @ Identity::Unclear(_))) => {
            CREDENTIALS.unknown(format!("it {}", identity.taken_for()), REACH)
        }
    }
}

fn damaged_token(answer: &Answered<Identity>) -> Finding {
    match answer {
        Ok(identity @ Identity::Nobody) => DAMAGED_TOKEN.pass(identity.taken_for()),
        Ok(identity @ Identity::Anonymous) => {
            DAMAGED_TOKEN.pass(format!("{}: the authenticator ignores the signature", identity.taken_for()))
        }
        Ok(identity @ (Identity::User(_) | Identity::Allowed)) => DAMAGED_TOKEN.fail(identity.taken_for()),
        Ok(identity @ Identity::Unclear(_)) => {
            DAMAGED_TOKEN.unknown(format!("it {}", identity.taken_for()), REACH)
        }
        Err(error) => DAMAGED_TOKEN.unknown(error.as_str(), REACH),
    }
}

/// Tokens from a file. `opaque` is whether this node's own token is one that no apiserver signed.
pub fn static_tokens(control: &ControlPlane, opaque: Option<bool>) -> Finding {
    let apiservers = control.apiservers.as_slice();
    let given = apiservers.iter().find_map(|one| Some((&one.place, one.flags.get("token-auth-file")?)));
    match (given, apiservers, opaque) {
        (Some((place, file)), _, _) => STATIC_TOKENS.fail(format!("{place}: --token-auth-file={file}")),
        (None, _, Some(true)) => STATIC_TOKENS
            .fail("the token of this node is not signed: it comes from such a file")
            .with_severity(Severity::Medium),
        (None, [], _) => STATIC_TOKENS.unknown(NO_FLAGS, NEED_FLAGS),
        (None, [one, ..], _) => {
            control.complete(&STATIC_TOKENS, format!("{}: no --token-auth-file", one.place))
        }
    }
}

#[cfg(test)]
mod tests;
