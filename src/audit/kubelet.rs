//! Verdicts on this node's kubelet. Pure.
//!
//! In: what was seen of it. Out: a finding for each check. What it does counts more than what it is configured to do.

pub mod access;
pub mod certificate;
pub mod configuration;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::ask::{Reason, Unanswered};
use super::catalogue::kubelet::{ANONYMOUS, AUTHORIZATION, EXPIRY, ISSUER, NAMES, ROTATION, VERSION};
use super::certificate::Shown;
use super::finding::Finding;
use super::hello::Reply;
use configuration::Known;

/// The HTTP status of an answer, or why there was none.
pub type Asked = Result<u16, Unanswered>;

/// The port that kubelets serve without TLS.
pub const READ_ONLY_PORT: u16 = 10_255;

/// What was seen.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Where it was asked.
    pub address: SocketAddr,
    /// Its certificate, or why there was none.
    pub shown: Result<Shown, String>,
    /// What it said to TLS 1.1 and older.
    pub old: Result<Option<Reply>, String>,
    /// What it answered to requests without credentials, by their path.
    pub anonymous: Vec<(&'static str, Asked)>,
    /// What it answered to GET /pods with credentials, or why it was not asked.
    pub credentialed: Result<Asked, String>,
    /// What the read-only port answered, at each address.
    pub read_only: Vec<(SocketAddr, Asked)>,
    /// What it is configured to do.
    pub configuration: Known,
    /// The name of the Node object.
    pub name: String,
    /// The node's addresses, without loopback. None is known if it is empty.
    pub addresses: BTreeSet<IpAddr>,
}

impl Seen {
    /// Whether nothing listens where it was asked.
    fn nobody(&self) -> bool {
        let refused =
            |asked: &Asked| asked.as_ref().is_err_and(|unanswered| unanswered.reason == Reason::Refused);
        !self.anonymous.is_empty() && self.anonymous.iter().all(|(_, asked)| refused(asked))
    }
}

/// A finding for each check, at `now` (seconds since 1970).
pub fn findings(seen: &Seen, now: i64) -> Vec<Finding> {
    let mut all = if seen.nobody() {
        let why = format!("no kubelet listens on {}", seen.address);
        let needed = "--kubelet ADDR:PORT where it listens; in a Pod hostNetwork: true";
        let checks = [&ISSUER, &NAMES, &EXPIRY, &ROTATION, &VERSION, &ANONYMOUS, &AUTHORIZATION];
        checks.map(|check| check.unknown(why.as_str(), needed)).to_vec()
    } else {
        let mut all = certificate::findings(seen, now);
        all.extend([access::anonymous(seen), access::authorization(seen)]);
        all
    };
    all.push(access::read_only(seen));
    all
}

#[cfg(test)]
mod tests;
