//! What a chain of certificates says, and whether it leads to a CA. Nothing is read or sent.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, RootCertStore};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::columns::few;

/// A server's certificate, and where its chain leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Whose it is, as the certificate says.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// It is signed with its own key, as far as its names tell.
    pub self_signed: bool,
    /// The DNS names that it is for.
    pub names: BTreeSet<String>,
    /// The addresses that it is for.
    pub addresses: BTreeSet<IpAddr>,
    /// Seconds since 1970.
    pub begin: i64,
    /// Seconds since 1970.
    pub end: i64,
    /// Whether it leads to the cluster's CA, whatever its names and dates; or why not.
    pub trusted: Result<(), String>,
}

impl Shown {
    /// Reads what a server showed, its own certificate first, at `now` (seconds since 1970). `roots` are the cluster's CA
    /// in DER.
    ///
    /// # Errors
    /// One line: the certificate cannot be read.
    pub fn read(chain: &[Vec<u8>], roots: &[Vec<u8>], now: i64) -> Result<Self, String> {
        let own = chain.first().ok_or("it shows no certificate")?;
        let (_, parsed) =
            X509Certificate::from_der(own).map_err(|error| format!("its certificate: {error}"))?;
        let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        let alternative = parsed.subject_alternative_name().ok().flatten();
        for name in alternative.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::DNSName(name) => drop(names.insert(name.to_ascii_lowercase())),
                GeneralName::IPAddress(bytes) => addresses.extend(address(bytes)),
                _ => {}
            }
        }
        let validity = parsed.validity();
        let (begin, end) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        Ok(Self {
            subject: plain(&parsed.subject().to_string()),
            issuer: plain(&parsed.issuer().to_string()),
            self_signed: parsed.subject() == parsed.issuer(),
            trusted: leads(
                chain,
                roots,
                if (begin..=end).contains(&now) { now } else { begin.midpoint(end) },
            ),
            names,
            addresses,
            begin,
            end,
        })
    }

    /// Whether it is for this DNS name or address.
    pub fn is_for(&self, name: &str) -> bool {
        match name.parse::<IpAddr>() {
            Ok(ip) => self.addresses.contains(&ip),
            Err(_) => self.names.iter().any(|held| covers(held, &name.to_ascii_lowercase())),
        }
    }

    /// All that it is for, the first few.
    pub fn shown_names(&self) -> String {
        let all: Vec<String> =
            self.names.iter().cloned().chain(self.addresses.iter().map(IpAddr::to_string)).collect();
        if all.is_empty() { "no name at all".to_owned() } else { few(&all) }
    }
}

/// A name with a star covers one label (RFC 6125, section 6.4.3).
fn covers(held: &str, name: &str) -> bool {
    match held.strip_prefix("*.") {
        Some(rest) => name.split_once('.').is_some_and(|(_, parent)| parent == rest),
        None => held == name,
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

/// What a server writes into its certificate is shown to people: on one line, and not at any length.
fn plain(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(200).collect()
}

/// Whether the chain leads to one of the roots at `moment`, in which its own certificate is valid: its dates are judged
/// apart. So are its names: it is asked for one that no certificate has, which is the last thing that is looked at.
fn leads(chain: &[Vec<u8>], roots: &[Vec<u8>], moment: i64) -> Result<(), String> {
    let mut store = RootCertStore::empty();
    for root in roots {
        // What does not parse was warned of when the credentials were loaded.
        let _ = store.add(CertificateDer::from(root.as_slice()));
    }
    if store.is_empty() {
        return Err("no CA is known".to_owned());
    }
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider)
        .build()
        .map_err(|error| error.to_string())?;
    let mut all = chain.iter().map(|der| CertificateDer::from(der.as_slice()));
    let Some(own) = all.next() else { return Err("it shows no certificate".to_owned()) };
    let intermediates: Vec<_> = all.collect();
    let moment = UnixTime::since_unix_epoch(Duration::from_secs(moment.max(0).unsigned_abs()));
    let nobody = ServerName::try_from("nobody.invalid").map_err(|error| error.to_string())?;
    match verifier.verify_server_cert(&own, &intermediates, &nobody, &[], moment) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => Ok(()),
        Err(rustls::Error::InvalidCertificate(error)) => Err(match error {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "the cluster's CA did not sign it".to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "a CA of its chain has expired".to_owned()
            }
            other => other.to_string(),
        }),
        Err(other) => Err(other.to_string()),
    }
}

#[cfg(test)]
mod tests;
