//! Verdicts on this node's kubelet: its certificate, whom it lets in, its read-only port. Pure.
//!
//! In: [`KubeletProbe`]. Out: a finding for each check. What it does counts more than what it is configured to do.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::apiserver::{expiry, version};
use super::catalogue::kubelet::{
    ANONYMOUS, AUTHORIZATION, EXPIRY, ISSUER, NAMES, READ_ONLY, ROTATION, VERSION,
};
use super::certificate::ServedCertificate;
use super::client_hello::Reply;
use super::http::{HttpError, HttpErrorKind};
use super::kubelet_config::{KnownConfiguration, KubeletConfiguration};
use crate::check::report::{Finding, Severity};

/// The HTTP status of an answer, or why there was none.
pub type StatusResult = Result<u16, HttpError>;

/// The port that kubelets serve without TLS.
pub const READ_ONLY_PORT: u16 = 10_255;

/// What was observed of the kubelet.
#[derive(Clone, Debug)]
pub struct KubeletProbe {
    /// Where it was asked.
    pub address: SocketAddr,
    /// Its certificate, or why there was none.
    pub served: Result<ServedCertificate, String>,
    /// What it said to TLS 1.1 and older.
    pub old: Result<Option<Reply>, String>,
    /// What it answered to requests without credentials, by their path.
    pub anonymous: Vec<(&'static str, StatusResult)>,
    /// What it answered to GET /pods with credentials, or why it was not asked.
    pub credentialed: Result<StatusResult, String>,
    /// What the read-only port answered, at each address.
    pub read_only: Vec<(SocketAddr, StatusResult)>,
    /// What it is configured to do.
    pub configuration: KnownConfiguration,
    /// The name of the Node object.
    pub name: String,
    /// The node's addresses, without loopback. None is known if it is empty.
    pub addresses: BTreeSet<IpAddr>,
}

impl KubeletProbe {
    /// Whether nothing listens where it was asked.
    fn is_absent(&self) -> bool {
        let refused =
            |asked: &StatusResult| asked.as_ref().is_err_and(|error| error.reason == HttpErrorKind::Refused);
        !self.anonymous.is_empty() && self.anonymous.iter().all(|(_, asked)| refused(asked))
    }
}

/// A finding for each check, at `now` (seconds since 1970).
pub fn findings(probe: &KubeletProbe, now: i64) -> Vec<Finding> {
    let mut all = if probe.is_absent() {
        let why = format!("no kubelet listens on {}", probe.address);
        let needed = "--kubelet ADDR:PORT with its address; in a Pod hostNetwork: true";
        let checks = [&ISSUER, &NAMES, &EXPIRY, &ROTATION, &VERSION, &ANONYMOUS, &AUTHORIZATION];
        checks.map(|check| check.unknown(why.as_str(), needed)).to_vec()
    } else {
        let mut all = certificate_findings(probe, now);
        all.extend([anonymous(probe), authorization(probe)]);
        all
    };
    all.push(read_only(probe));
    all
}

const REACH: &str = "check that the kubelet runs and answers: journalctl -u kubelet";
const APPROVE: &str = "approve the request of the kubelet: kubectl get csr, kubectl certificate approve NAME";
const GIVE_CA: &str = "--kubeconfig FILE as for apivip run, which contains the cluster CA";
const NEWER: &str = "tlsMinVersion: VersionTLS12 in the kubelet configuration";
const PREFERRED: &str = "check --kubelet-preferred-address-types of kube-apiserver";

fn certificate_findings(probe: &KubeletProbe, now: i64) -> Vec<Finding> {
    let mut all = match &probe.served {
        Ok(served) => vec![issuer(served), names_finding(served, probe), expiry(&EXPIRY, served, now)],
        Err(error) => {
            let (why, needed) = no_certificate(error);
            [&ISSUER, &NAMES, &EXPIRY].map(|check| check.unknown(why.as_str(), needed)).to_vec()
        }
    };
    all.extend([rotation(probe), version(&VERSION, &probe.old, &probe.served)]);
    all
}

/// A kubelet that waits for its first certificate ends each handshake with the alert `internal_error`.
fn no_certificate(error: &str) -> (String, &'static str) {
    let plain = error.to_ascii_lowercase().replace([' ', '_'], "");
    if plain.contains("internalerror") {
        let why = "it presents no certificate (TLS alert internal_error), as a kubelet does whose request is not approved yet";
        return (why.to_owned(), APPROVE);
    }
    if plain.contains("protocolversion") {
        return ("it presents no certificate: it does not support TLS 1.2 or newer".to_owned(), NEWER);
    }
    (format!("it presents no certificate: {error}"), REACH)
}

/// Whether the kubelet signed it itself: HOST@TIME, signed by a CA HOST-ca@TIME whose key is thrown away.
fn is_own(served: &ServedCertificate) -> bool {
    let host = |name: &str| {
        let (host, time) = name.rsplit_once('@')?;
        (!time.is_empty() && time.bytes().all(|byte| byte.is_ascii_digit())).then(|| host.to_owned())
    };
    let (subject, issuer) = (host(&served.subject), host(&served.issuer));
    served.trusted.is_err() && subject.zip(issuer).is_some_and(|(own, ca)| ca == format!("{own}-ca"))
}

fn issuer(served: &ServedCertificate) -> Finding {
    match &served.trusted {
        Ok(()) => ISSUER.pass(format!("the cluster CA signed it: {}", served.subject)),
        Err(_) if served.self_signed || is_own(served) => {
            ISSUER.fail(format!("self-signed: {}, signed by {}", served.subject, served.issuer))
        }
        Err(why) if why == "no CA is known" => ISSUER.unknown(why.as_str(), GIVE_CA),
        Err(why) => ISSUER.fail(format!("signed by {}: {why}", served.issuer)),
    }
}

/// The apiserver verifies a kubelet by the address that it dials: the name or an address of the node.
fn names_finding(served: &ServedCertificate, probe: &KubeletProbe) -> Finding {
    let name = served.is_for(&probe.name).then_some(probe.name.as_str());
    let addresses: Vec<String> =
        probe.addresses.iter().filter(|ip| served.addresses.contains(ip)).map(ToString::to_string).collect();
    let all = served.shown_names();
    match (name, addresses.as_slice()) {
        (Some(name), [_, ..]) => {
            NAMES.pass(format!("it is valid for {name} and for {} of this node", addresses.join(", ")))
        }
        (Some(name), []) => NAMES.unknown(
            format!(
                "it is valid for {name}, but for no address of this node: correct if the API server dials Hostname first (the \
                 default), wrong if it dials InternalIP first (as kubeadm sets it)"
            ),
            PREFERRED,
        ),
        (None, [_, ..]) => NAMES.unknown(
            format!(
                "it is valid for {} of this node, but not for {}: correct if the API server dials InternalIP first (as kubeadm \
                 sets it), wrong if it dials Hostname first (the default)",
                addresses.join(", "),
                probe.name
            ),
            PREFERRED,
        ),
        (None, []) if probe.addresses.is_empty() => NAMES.unknown(
            format!("it is valid for {all}, not for {}; no address of this node is visible", probe.name),
            "the network of the host: hostNetwork: true in a Pod",
        ),
        (None, []) => {
            NAMES.fail(format!("it is valid for {all}, neither for {} nor for an address of this node", probe.name))
        }
    }
}

fn rotation(probe: &KubeletProbe) -> Finding {
    if probe.served.as_ref().is_ok_and(is_own) {
        return ROTATION
            .fail("it created its certificate itself, and creates another only if the file does not exist");
    }
    match probe.configuration.all() {
        Ok(set) if set.bootstrap => ROTATION.pass(format!("serverTLSBootstrap is on, set by {}", set.source)),
        Ok(set) => match &set.certificate_file {
            Some(file) => ROTATION.unknown(
                format!(
                    "its certificate comes from {file}, set by {}: another program must renew it",
                    set.source
                ),
                format!("find the program that writes {file}"),
            ),
            None => ROTATION.fail(format!("serverTLSBootstrap is off, set by {}", set.source)),
        },
        Err(missing) => {
            let said = |set: &KubeletConfiguration| format!("serverTLSBootstrap: {}", set.bootstrap);
            ROTATION.unknown(probe.configuration.why(said), missing.needed.as_str())
        }
    }
}

const ALWAYS_ALLOW: &str = "AlwaysAllow";
const FORBIDDEN: u16 = 403;
const UNAUTHORIZED: u16 = 401;

fn is_success(result: &StatusResult) -> bool {
    result.as_ref().is_ok_and(|status| (200..300).contains(status))
}

fn answer_text(result: &StatusResult) -> String {
    match result {
        Ok(status) => status.to_string(),
        Err(error) => error.text.clone(),
    }
}

fn anonymous_get(path: &str, result: &StatusResult) -> String {
    format!("GET {path} without credentials: {}", answer_text(result))
}

fn anonymous(probe: &KubeletProbe) -> Finding {
    let all = &probe.anonymous;
    if let Some((path, answer)) = all.iter().find(|(_, answer)| is_success(answer)) {
        return ANONYMOUS.fail(anonymous_get(path, answer));
    }
    if let Some((path, answer)) = all.iter().find(|(_, answer)| *answer == Ok(FORBIDDEN)) {
        let text = format!(
            "{}: it authenticates anonymous requests, and only authorization rejects them",
            anonymous_get(path, answer)
        );
        return ANONYMOUS.fail(text).with_severity(Severity::Low);
    }
    let odd = all.iter().find(|(_, answer)| *answer != Ok(UNAUTHORIZED));
    let Some((path, answer)) = odd else {
        return ANONYMOUS.pass("requests without credentials: 401");
    };
    let seen_so = anonymous_get(path, answer);
    match probe.configuration.all() {
        Ok(set) if !set.anonymous => ANONYMOUS
            .pass(format!("authentication.anonymous.enabled is false, set by {}; {seen_so}", set.source)),
        Ok(set) => {
            let severity = if set.mode == ALWAYS_ALLOW { Severity::High } else { Severity::Low };
            let text = format!("authentication.anonymous.enabled is true, set by {}; {seen_so}", set.source);
            ANONYMOUS.fail(text).with_severity(severity)
        }
        Err(missing) => {
            let setting =
                |set: &KubeletConfiguration| format!("authentication.anonymous.enabled: {}", set.anonymous);
            ANONYMOUS
                .unknown(format!("{seen_so}; {}", probe.configuration.why(setting)), missing.needed.as_str())
        }
    }
}

/// The configuration decides. Otherwise the refusal of an authenticated client shows that there is an authorizer.
fn authorization(probe: &KubeletProbe) -> Finding {
    match probe.configuration.all() {
        Ok(set) if set.mode == ALWAYS_ALLOW => {
            return AUTHORIZATION.fail(format!("authorization.mode is AlwaysAllow, set by {}", set.source));
        }
        Ok(set) if set.mode == "Webhook" => {
            let tokens = if set.webhook {
                ""
            } else {
                "; it accepts no tokens (authentication.webhook.enabled: false)"
            };
            return AUTHORIZATION
                .pass(format!("authorization.mode is Webhook, set by {}{tokens}", set.source));
        }
        _ => {}
    }
    if let Some((path, answer)) = probe.anonymous.iter().find(|(_, answer)| *answer == Ok(FORBIDDEN)) {
        return AUTHORIZATION.pass(format!("{}: an authorizer decides", anonymous_get(path, answer)));
    }
    let with = "GET /pods with the credentials of this node";
    let behaviour = match &probe.credentialed {
        Ok(Ok(FORBIDDEN)) => return AUTHORIZATION.pass(format!("{with}: 403: an authorizer decides")),
        Ok(Ok(UNAUTHORIZED)) => {
            format!("{with}: 401: it rejects them, as with authentication.webhook.enabled: false")
        }
        Ok(answer) if is_success(answer) => {
            format!("{with}: {}, which RBAC may allow", answer_text(answer))
        }
        Ok(answer) => format!("{with}: {}", answer_text(answer)),
        Err(why) => format!("the audit sent it no credentials: {why}"),
    };
    match probe.configuration.all() {
        Ok(set) => AUTHORIZATION.unknown(
            format!("authorization.mode is {}, set by {}; {behaviour}", set.mode, set.source),
            "check what that mode does",
        ),
        Err(missing) => {
            let setting = |set: &KubeletConfiguration| format!("authorization.mode: {}", set.mode);
            let why = format!("{}; {behaviour}", probe.configuration.why(setting));
            AUTHORIZATION.unknown(why, missing.needed.as_str())
        }
    }
}

fn read_only(probe: &KubeletProbe) -> Finding {
    let all = &probe.read_only;
    let list = |wanted: &dyn Fn(&StatusResult) -> bool| {
        let at = all.iter().filter(|(_, answer)| wanted(answer)).map(|(address, _)| address.to_string());
        at.collect::<Vec<_>>().join(", ")
    };
    let open = list(&is_success);
    if !open.is_empty() {
        return READ_ONLY.fail(format!("it answers unauthenticated requests over plain HTTP at {open}"));
    }
    let set = probe.configuration.all();
    if let Ok(set) = set
        && set.read_only_port != 0
    {
        let port = set.read_only_port;
        let text = format!("readOnlyPort is {port}, set by {}, although it did not answer there", set.source);
        return READ_ONLY.fail(text).with_severity(Severity::Medium);
    }
    let is_refused =
        |answer: &StatusResult| answer.as_ref().is_err_and(|error| error.reason == HttpErrorKind::Refused);
    let odd = all.iter().find(|(_, answer)| !is_refused(answer));
    match (odd, set) {
        (None, _) if all.is_empty() => {
            READ_ONLY.unknown("it was not queried", format!("curl http://ADDRESS:{READ_ONLY_PORT}/healthz"))
        }
        // That of a Pod with a network of its own is closed too.
        (None, Err(missing)) if probe.is_absent() => READ_ONLY.unknown(
            format!(
                "nothing listens on {}, but no kubelet listens on {} either",
                list(&is_refused),
                probe.address
            ),
            missing.needed.as_str(),
        ),
        (None, _) => READ_ONLY.pass(format!("nothing listens on {}", list(&is_refused))),
        (Some((address, answer)), Ok(set)) => READ_ONLY.pass(format!(
            "readOnlyPort is 0, set by {}; {address} answered: {}",
            set.source,
            answer_text(answer)
        )),
        (Some((address, answer)), Err(missing)) => {
            let port = |set: &KubeletConfiguration| format!("readOnlyPort: {}", set.read_only_port);
            let why = format!("{address}: {}; {}", answer_text(answer), probe.configuration.why(port));
            READ_ONLY.unknown(why, missing.needed.as_str())
        }
    }
}

#[cfg(test)]
mod tests;
