//! Verdicts on a kubelet's serving certificate and on its TLS. Pure.

use super::Seen;
use crate::audit::apiserver::{expiry, version};
use crate::audit::catalogue::kubelet::{EXPIRY, ISSUER, NAMES, ROTATION, VERSION};
use crate::audit::certificate::Shown;
use crate::audit::finding::Finding;

const REACH: &str = "see whether the kubelet runs and answers: journalctl -u kubelet";
const APPROVE: &str = "approve the kubelet's request: kubectl get csr, kubectl certificate approve NAME";
const GIVE_CA: &str = "--kubeconfig FILE, as for apivip run: it holds the cluster's CA";
const NEWER: &str = "tlsMinVersion: VersionTLS12 in the kubelet's configuration";
const PREFERRED: &str = "see --kubelet-preferred-address-types of kube-apiserver";

pub(super) fn findings(seen: &Seen, now: i64) -> Vec<Finding> {
    let mut all = match &seen.shown {
        Ok(shown) => vec![issuer(shown), names(shown, seen), expiry(&EXPIRY, shown, now)],
        Err(error) => {
            let (why, needed) = missing(error);
            [&ISSUER, &NAMES, &EXPIRY].map(|check| check.unknown(why.as_str(), needed)).to_vec()
        }
    };
    all.extend([rotation(seen), version(&VERSION, &seen.old, &seen.shown)]);
    all
}

/// A kubelet that waits for its first certificate ends each handshake with the alert `internal_error`.
fn missing(error: &str) -> (String, &'static str) {
    let plain = error.to_ascii_lowercase().replace([' ', '_'], "");
    if plain.contains("internalerror") {
        let why = "it shows no certificate (TLS alert internal_error), as a kubelet that waits for one to be approved";
        return (why.to_owned(), APPROVE);
    }
    if plain.contains("protocolversion") {
        return ("it shows no certificate: it speaks no TLS 1.2 or newer".to_owned(), NEWER);
    }
    (format!("it shows no certificate: {error}"), REACH)
}

/// Whether the kubelet made it: HOST@TIME, signed by a CA HOST-ca@TIME whose key is thrown away.
fn is_own(shown: &Shown) -> bool {
    let host = |name: &str| {
        let (host, time) = name.rsplit_once('@')?;
        (!time.is_empty() && time.bytes().all(|byte| byte.is_ascii_digit())).then(|| host.to_owned())
    };
    let (subject, issuer) = (host(&shown.subject), host(&shown.issuer));
    shown.trusted.is_err() && subject.zip(issuer).is_some_and(|(own, ca)| ca == format!("{own}-ca"))
}

fn issuer(shown: &Shown) -> Finding {
    match &shown.trusted {
        Ok(()) => ISSUER.pass(format!("the cluster's CA signed it: {}", shown.subject)),
        Err(_) if shown.self_signed || is_own(shown) => {
            ISSUER.fail(format!("self-signed: {}, signed by {}", shown.subject, shown.issuer))
        }
        Err(why) if why == "no CA is known" => ISSUER.unknown(why.as_str(), GIVE_CA),
        Err(why) => ISSUER.fail(format!("signed by {}: {why}", shown.issuer)),
    }
}

/// The apiserver verifies a kubelet by the address that it dials: the name or an address of the node.
fn names(shown: &Shown, seen: &Seen) -> Finding {
    let name = shown.is_for(&seen.name).then_some(seen.name.as_str());
    let addresses: Vec<String> =
        seen.addresses.iter().filter(|ip| shown.addresses.contains(ip)).map(ToString::to_string).collect();
    let all = shown.shown_names();
    match (name, addresses.as_slice()) {
        (Some(name), [_, ..]) => {
            NAMES.pass(format!("it is for {name} and for {} of this node", addresses.join(", ")))
        }
        (Some(name), []) => NAMES.unknown(
            format!(
                "it is for {name}, but for no address of this node: good where the apiserver dials Hostname first (its \
                 default), not where it dials InternalIP first (kubeadm's setting)"
            ),
            PREFERRED,
        ),
        (None, [_, ..]) => NAMES.unknown(
            format!(
                "it is for {} of this node, but not for {}: good where the apiserver dials InternalIP first (kubeadm's \
                 setting), not where it dials Hostname first (its default)",
                addresses.join(", "),
                seen.name
            ),
            PREFERRED,
        ),
        (None, []) if seen.addresses.is_empty() => NAMES.unknown(
            format!("it is for {all}, not for {}; no address of this node is seen", seen.name),
            "the host's network: hostNetwork: true in a Pod",
        ),
        (None, []) => {
            NAMES.fail(format!("it is for {all}, neither for {} nor for an address of this node", seen.name))
        }
    }
}

fn rotation(seen: &Seen) -> Finding {
    if seen.shown.as_ref().is_ok_and(is_own) {
        return ROTATION
            .fail("it made its certificate itself, once, and makes another only when the file is gone");
    }
    match seen.configuration.all() {
        Ok(set) if set.bootstrap => ROTATION.pass(format!("serverTLSBootstrap is on, by {}", set.source)),
        Ok(set) => match &set.certificate_file {
            Some(file) => ROTATION.unknown(
                format!(
                    "its certificate comes from {file}, by {}: another program has to renew it",
                    set.source
                ),
                format!("see what writes {file}"),
            ),
            None => ROTATION.fail(format!("serverTLSBootstrap is off, by {}", set.source)),
        },
        Err(lack) => {
            let said =
                |set: &super::configuration::Configuration| format!("serverTLSBootstrap: {}", set.bootstrap);
            ROTATION.unknown(seen.configuration.why(said), lack.needed.as_str())
        }
    }
}
