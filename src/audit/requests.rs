//! Verdicts on whom one address of the API lets in. Pure.

use std::net::SocketAddr;

use super::ask::{Reason, Unanswered};
use super::catalogue::apiserver::FOREIGN;
use super::catalogue::requests::{
    ANONYMOUS_DISCOVERY, ANONYMOUS_OBJECTS, BASIC, CREDENTIALS, DAMAGED_TOKEN, PLAIN_HTTP, STATIC_TOKENS,
};
use super::control::{Control, NEED_FLAGS, NO_FLAGS};
use super::finding::{Finding, Severity};
use super::who::Who;

/// What everybody may see by default.
pub const PUBLIC: [&str; 3] = ["/version", "/livez", "/readyz"];
/// What tells what is installed.
pub const DISCOVERY: [&str; 4] = ["/api", "/apis", "/openapi/v2", "/metrics"];
/// One object of a kind at most. The Secrets are those of a namespace that does not exist.
pub const OBJECTS: [&str; 5] = [
    "/api/v1/namespaces?limit=1",
    "/api/v1/nodes?limit=1",
    "/api/v1/pods?limit=1",
    "/api/v1/configmaps?limit=1",
    "/api/v1/namespaces/apivip-audit/secrets?limit=1",
];

/// All that is asked for without credentials.
pub fn paths() -> impl Iterator<Item = &'static str> {
    PUBLIC.into_iter().chain(DISCOVERY).chain(OBJECTS)
}

/// Something that was asked: the answer, or why there is none.
pub type Asked<T> = Result<T, String>;

/// What an address said. Nothing is asked of one whose certificate is not verified.
#[derive(Clone, Debug)]
pub struct Door {
    /// Where it was asked.
    pub address: SocketAddr,
    /// The status of each path that was asked without credentials, up to the first that was not answered.
    pub open: Vec<(&'static str, Asked<u16>)>,
    /// For whom a client with a certificate of a foreign CA is taken.
    pub foreign: Asked<Who>,
    /// For whom a token with a wrong signature is taken.
    pub damaged: Asked<Who>,
    /// For whom the node's own credentials are taken; `None` if it has none.
    pub own: Option<Asked<Who>>,
    /// Whether it asks for a password.
    pub basic: Asked<bool>,
    /// What ports answer without TLS.
    pub plain: Vec<(u16, Result<Plain, Unanswered>)>,
}

/// What a port without TLS answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plain {
    /// It is an apiserver.
    Api,
    /// Something else, with this status.
    Other(u16),
}

const REACH: &str = "what the line names; apivip check tells more";

/// All findings about it.
pub fn findings(door: &Door) -> Vec<Finding> {
    let mut all = vec![foreign(&door.foreign)];
    all.extend(anonymous(door));
    all.push(basic(&door.basic));
    all.push(plain(&door.plain));
    all.push(own(door.own.as_ref()));
    all.push(damaged(&door.damaged));
    all.into_iter().map(|finding| finding.about(door.address)).collect()
}

fn foreign(foreign: &Asked<Who>) -> Finding {
    match foreign {
        Ok(who @ (Who::Nobody | Who::Anonymous)) => {
            FOREIGN.pass(format!("a certificate for system:masters of an unknown CA is {}", who.taken_for()))
        }
        Ok(who @ (Who::User(_) | Who::Allowed)) => {
            FOREIGN.fail(format!("a certificate for system:masters of an unknown CA is {}", who.taken_for()))
        }
        Ok(who @ Who::Unclear(_)) => FOREIGN.unknown(format!("it {}", who.taken_for()), REACH),
        Err(error) => FOREIGN.unknown(error.as_str(), REACH),
    }
}

fn anonymous(door: &Door) -> [Finding; 2] {
    let read = |paths: &[&'static str]| -> Vec<&'static str> {
        let served = door.open.iter().filter(|(path, status)| paths.contains(path) && *status == Ok(200));
        served.map(|(path, _)| path.split('?').next().unwrap_or(path)).collect()
    };
    // What is neither served nor refused is not known.
    let doubt = |paths: &[&'static str]| -> Option<String> {
        paths.iter().find_map(|wanted| {
            match door.open.iter().find(|(path, _)| path == wanted).map(|(_, status)| status) {
                Some(Ok(200 | 401 | 403 | 404)) => None,
                Some(Ok(other)) => Some(format!("{wanted} is answered with {other}")),
                Some(Err(error)) => Some(error.clone()),
                None => Some(format!("{wanted} was not asked for")),
            }
        })
    };
    let public = read(&PUBLIC);
    let public = if public.is_empty() { "nothing".to_owned() } else { public.join(", ") };
    let discovery = match (read(&DISCOVERY).as_slice(), doubt(&DISCOVERY)) {
        ([], None) => ANONYMOUS_DISCOVERY.pass(format!("they read {public}, no discovery")),
        ([], Some(doubt)) => ANONYMOUS_DISCOVERY.unknown(doubt, REACH),
        (read, _) => ANONYMOUS_DISCOVERY.fail(format!("they read {public}, and {}", read.join(", "))),
    };
    let objects = match (read(&OBJECTS).as_slice(), doubt(&OBJECTS)) {
        ([], None) => ANONYMOUS_OBJECTS.pass("they read no Namespaces, Nodes, Pods, ConfigMaps or Secrets"),
        ([], Some(doubt)) => ANONYMOUS_OBJECTS.unknown(doubt, REACH),
        (read, _) => ANONYMOUS_OBJECTS.fail(format!("they read {}", read.join(", "))),
    };
    [discovery, objects]
}

fn basic(basic: &Asked<bool>) -> Finding {
    match basic {
        Ok(false) => BASIC.pass("it does not ask for one, and refuses a made-up one"),
        Ok(true) => BASIC.fail("it asks for a password (WWW-Authenticate: Basic), or takes any"),
        Err(error) => BASIC.unknown(error.as_str(), REACH),
    }
}

fn plain(ports: &[(u16, Result<Plain, Unanswered>)]) -> Finding {
    let open: Vec<String> = ports
        .iter()
        .filter(|(_, answer)| *answer == Ok(Plain::Api))
        .map(|(port, _)| format!("port {port}"))
        .collect();
    if !open.is_empty() {
        return PLAIN_HTTP.fail(format!("{} serves the API without TLS", open.join(", ")));
    }
    let said = |(port, answer): &(u16, Result<Plain, Unanswered>)| match answer {
        Ok(Plain::Other(status)) => format!("{port} answers {status} and is no apiserver"),
        Ok(Plain::Api) => format!("{port} serves the API"),
        Err(unanswered) => match unanswered.reason {
            Reason::Refused => format!("{port} is closed"),
            Reason::Silent => format!("{port} does not answer"),
            Reason::Tls | Reason::Broken => format!("{port} speaks no HTTP"),
        },
    };
    let all = ports.iter().map(said).collect::<Vec<_>>().join(", ");
    let silent = |(_, answer): &(u16, Result<Plain, Unanswered>)| {
        answer.as_ref().is_err_and(|unanswered| unanswered.reason == Reason::Silent)
    };
    if ports.is_empty() || ports.iter().any(silent) {
        return PLAIN_HTTP.unknown(
            format!("{all}: a packet filter may keep this node alone away"),
            "run apivip audit on the apiserver's own node",
        );
    }
    PLAIN_HTTP.pass(all)
}

fn own(own: Option<&Asked<Who>>) -> Finding {
    match own {
        None => CREDENTIALS.unknown("there are none", "give --kubeconfig FILE as for apivip run"),
        Some(Err(error)) => CREDENTIALS.unknown(error.as_str(), REACH),
        Some(Ok(who @ (Who::User(_) | Who::Allowed))) => {
            CREDENTIALS.pass(format!("they are {}", who.taken_for()))
        }
        Some(Ok(who @ (Who::Nobody | Who::Anonymous))) => {
            CREDENTIALS.fail(format!("they are {}", who.taken_for()))
        }
        Some(Ok(who @ Who::Unclear(_))) => CREDENTIALS.unknown(format!("it {}", who.taken_for()), REACH),
    }
}

fn damaged(damaged: &Asked<Who>) -> Finding {
    match damaged {
        Ok(who @ Who::Nobody) => DAMAGED_TOKEN.pass(who.taken_for()),
        Ok(who @ Who::Anonymous) => {
            DAMAGED_TOKEN.pass(format!("{}: whoever authenticates takes no notice of it", who.taken_for()))
        }
        Ok(who @ (Who::User(_) | Who::Allowed)) => DAMAGED_TOKEN.fail(who.taken_for()),
        Ok(who @ Who::Unclear(_)) => DAMAGED_TOKEN.unknown(format!("it {}", who.taken_for()), REACH),
        Err(error) => DAMAGED_TOKEN.unknown(error.as_str(), REACH),
    }
}

/// Tokens from a file. `opaque` is whether this node's own token is one that no apiserver signed.
pub fn static_tokens(control: &Control, opaque: Option<bool>) -> Finding {
    let started = control.started.as_slice();
    let given = started.iter().find_map(|one| Some((&one.place, one.flags.get("token-auth-file")?)));
    match (given, started, opaque) {
        (Some((place, file)), _, _) => STATIC_TOKENS.fail(format!("{place}: --token-auth-file={file}")),
        (None, _, Some(true)) => STATIC_TOKENS
            .fail("this node's own token is not signed: it comes from such a file")
            .of(Severity::Medium),
        (None, [], _) => STATIC_TOKENS.unknown(NO_FLAGS, NEED_FLAGS),
        (None, [one, ..], _) => {
            control.complete(&STATIC_TOKENS, format!("{}: no --token-auth-file", one.place))
        }
    }
}

#[cfg(test)]
mod tests;
