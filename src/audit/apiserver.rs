//! Verdicts on what one address of the API shows in TLS. Pure.

use std::net::SocketAddr;

use super::catalogue::apiserver::{CIPHERS, EXPIRY, ISSUER, NAMES, TRUSTED, VERSION};
use super::certificate::Shown;
use super::finding::{Check, Finding, Severity};
use super::hello::{PROTOCOL_VERSION, Reply, TLS_1_1, suite_name, version_name};
use crate::status::duration;

/// What an offer by hand came to.
pub type Offered = Result<Option<Reply>, String>;

/// What an address showed.
#[derive(Clone, Debug)]
pub struct Face {
    /// Where it was asked.
    pub address: SocketAddr,
    /// Its certificate, or why there was none.
    pub shown: Result<Shown, String>,
    /// To TLS 1.1 and older.
    pub old: Offered,
    /// To TLS 1.2 with broken suites.
    pub broken: Offered,
    /// To TLS 1.2 without forward secrecy.
    pub fixed: Offered,
}

/// Who renews in time does so long before the last tenth of a lifetime, or the last two weeks.
const RENEWAL: i64 = 14 * 86_400;
const REACH: &str = "see whether the apiserver runs, and whether this node may reach it: apivip check";
const GIVE_CA: &str = "give --kubeconfig FILE as for apivip run";

/// All findings about it. `names` are those that clients dial, `now` is in seconds since 1970.
pub fn findings(face: &Face, names: &[String], now: i64) -> Vec<Finding> {
    let mut all = match &face.shown {
        Ok(shown) => vec![issuer(shown), named(shown, names), expiry(&EXPIRY, shown, now)],
        Err(error) => [&ISSUER, &NAMES, &EXPIRY].map(|check| check.unknown(error.as_str(), REACH)).to_vec(),
    };
    all.push(version(&VERSION, &face.old, &face.shown));
    all.push(ciphers(face));
    all.into_iter().map(|finding| finding.about(face.address)).collect()
}

fn issuer(shown: &Shown) -> Finding {
    match &shown.trusted {
        Ok(()) => ISSUER.pass("the cluster's CA signed it"),
        Err(why) if why == "no CA is known" => ISSUER.unknown(why.as_str(), GIVE_CA),
        Err(why) if shown.self_signed => ISSUER.fail(format!("self-signed ({}): {why}", shown.subject)),
        Err(why) => ISSUER.fail(format!("signed by {}: {why}", shown.issuer)),
    }
}

fn named(shown: &Shown, names: &[String]) -> Finding {
    let missing: Vec<&str> = names.iter().filter(|name| !shown.is_for(name)).map(String::as_str).collect();
    if missing.is_empty() {
        return NAMES.pass(format!("it is for {}", names.join(", ")));
    }
    NAMES.fail(format!("it lacks {}; it is for {}", missing.join(", "), shown.shown_names()))
}

/// Whether it is valid now, and for how long.
pub fn expiry(check: &Check, shown: &Shown, now: i64) -> Finding {
    let left = shown.end - now;
    if left < 0 {
        return check.fail(format!("expired {} ago", duration(left.unsigned_abs())));
    }
    if shown.begin > now {
        let ahead = duration((shown.begin - now).unsigned_abs());
        return check.fail(format!("not valid for another {ahead}"));
    }
    let text = format!("good for another {}", duration(left.unsigned_abs()));
    if left < ((shown.end - shown.begin) / 10).min(RENEWAL) {
        return check.fail(format!("{text}, and not renewed yet")).of(Severity::Low);
    }
    check.pass(text)
}

/// Whether it goes below TLS 1.2. A refusal counts only from somebody who speaks newer TLS, or says that this one is too
/// old.
pub fn version(check: &Check, old: &Offered, shown: &Result<Shown, String>) -> Finding {
    match (old, shown) {
        (Ok(Some(Reply::Chosen { version, .. })), _) if *version <= TLS_1_1 => {
            check.fail(format!("it takes {}", version_name(*version)))
        }
        (Ok(Some(Reply::Alert(PROTOCOL_VERSION))), _) | (Ok(_), Ok(_)) => {
            check.pass("it refuses TLS 1.1 and older")
        }
        (Ok(_), Err(error)) => check.unknown(format!("it takes neither old nor new TLS: {error}"), REACH),
        (Err(error), _) => check.unknown(error.as_str(), REACH),
    }
}

fn ciphers(face: &Face) -> Finding {
    let chosen = |offered: &Offered| match offered {
        Ok(Some(Reply::Chosen { suite, .. })) => Some(suite_name(*suite)),
        _ => None,
    };
    if let Some(suite) = chosen(&face.broken) {
        return CIPHERS.fail(format!("it takes {suite}"));
    }
    if let Some(suite) = chosen(&face.fixed) {
        return CIPHERS.fail(format!("it takes {suite}, which has no forward secrecy")).of(Severity::Low);
    }
    // Whoever shakes no hand at all refuses these too.
    let deaf = face.shown.as_ref().err();
    match face.broken.as_ref().err().or(face.fixed.as_ref().err()).or(deaf) {
        Some(error) => CIPHERS.unknown(error.as_str(), REACH),
        None => CIPHERS.pass("it takes none of those that are weak"),
    }
}

/// Whether this node's own CA bundle is the cluster's. `subjects` of its certificates; `public` those of them that the
/// host's system trusts too, `None` where that has no list.
pub fn trusted(subjects: &[String], public: Option<&[String]>) -> Finding {
    match (subjects, public) {
        ([], _) => TRUSTED.unknown("no CA is known", GIVE_CA),
        (_, Some([first, ..])) => {
            TRUSTED.fail(format!("the bundle holds {first}, a public CA of this host's system"))
        }
        ([one], _) => TRUSTED.pass(format!("one CA: {one}")),
        ([..], _) if subjects.len() <= 2 => {
            TRUSTED.pass(format!("two CAs, as while one replaces the other: {}", subjects.join(", ")))
        }
        _ => TRUSTED
            .fail(format!(
                "{} CAs, each of which can be the apiserver: {}",
                subjects.len(),
                subjects.join(", ")
            ))
            .of(Severity::Low),
    }
}

#[cfg(test)]
mod tests;
