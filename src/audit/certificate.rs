//! Reads the certificates that a server shows, verifies their chain, and makes a client certificate that no server may accept.
//!
//! In: DER. Out: a [`ServedCertificate`]; TLS settings with a certificate of an unknown CA. Nothing is read from files or sent.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::columns::few;

/// A server's certificate, and whether its chain is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedCertificate {
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
    /// Whether the cluster's CA verifies its chain, whatever its names and dates; or why not.
    pub trusted: Result<(), String>,
}

impl ServedCertificate {
    /// Reads what a server showed, its own certificate first, at `now` (seconds since 1970). `roots` are the cluster's CA
    /// in DER.
    ///
    /// # Errors
    /// One line: the certificate cannot be read.
    pub fn read(chain: &[Vec<u8>], roots: &[Vec<u8>], now: i64) -> Result<Self, String> {
        let own = chain.first().ok_or("it presents no certificate")?;
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
            subject: plain_text(&parsed.subject().to_string()),
            issuer: plain_text(&parsed.issuer().to_string()),
            self_signed: parsed.subject() == parsed.issuer(),
            trusted: verify_chain(
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
        if all.is_empty() { "no name".to_owned() } else { few(&all) }
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
fn plain_text(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(200).collect()
}

/// Verifies the chain against the roots at `moment`, at which its own certificate is valid: its dates are judged separately.
/// So are its names: the name given here is in no certificate, and webpki verifies names last.
fn verify_chain(chain: &[Vec<u8>], roots: &[Vec<u8>], moment: i64) -> Result<(), String> {
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
    let Some(own) = all.next() else { return Err("it presents no certificate".to_owned()) };
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
                "the cluster CA did not sign it".to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "a CA of its chain has expired".to_owned()
            }
            other => other.to_string(),
        }),
        Err(other) => Err(other.to_string()),
    }
}

/// The TLS settings of `trust` with a client certificate for the group `system:masters`, signed by a CA that nobody knows.
///
/// # Errors
/// One line: none can be made.
pub(super) fn untrusted_client(trust: &ClientConfig) -> Result<ClientConfig, String> {
    let (certificate, key) = make_untrusted().map_err(|error| error.to_string())?;
    let certified = CertifiedKey::from_der(vec![certificate], key, &ring::default_provider())
        .map_err(|error| error.to_string())?;
    let mut config = trust.clone();
    config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certified));
    Ok(config)
}

fn make_untrusted() -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), rcgen::Error> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "apivip-audit-ca");
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let mut client = CertificateParams::default();
    client.distinguished_name.push(DnType::OrganizationName, "system:masters");
    client.distinguished_name.push(DnType::CommonName, "apivip-audit");
    client.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    let key = KeyPair::generate()?;
    let certificate = client.signed_by(&key, &authority)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok((certificate.der().clone(), key))
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};

    use super::*;

    /// 2026-01-01.
    const NOW: i64 = 1_767_225_600;

    fn ca(name: &str) -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn params(years: (i32, i32)) -> CertificateParams {
        let names = ["Kubernetes.default.svc", "*.pods.example", "10.96.0.1", "2001:db8::1"];
        let mut params = CertificateParams::new(names.map(str::to_owned)).unwrap();
        params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        params
    }

    #[test]
    fn names_dates_and_issuer_are_read() {
        let root = ca("cluster");
        for years in [(2025, 2027), (2020, 2021), (2040, 2041)] {
            let own = params(years).signed_by(&KeyPair::generate().unwrap(), &root).unwrap();
            let shown = ServedCertificate::read(&[own.der().to_vec()], &[root.der().to_vec()], NOW).unwrap();
            assert_eq!(shown.trusted, Ok(()), "its dates are judged apart");
            assert_eq!(shown.begin < NOW && shown.end > NOW, years.0 == 2025);
            assert!(!shown.self_signed && shown.issuer.contains("cluster"), "{shown:?}");
            for (name, expected) in [
                ("kubernetes.default.svc", true),
                ("KUBERNETES.default.svc", true),
                ("a.pods.example", true),
                ("a.b.pods.example", false),
                ("pods.example", false),
                ("10.96.0.1", true),
                ("2001:db8::1", true),
                ("10.96.0.2", false),
            ] {
                assert_eq!(shown.is_for(name), expected, "{name}");
            }
        }
    }

    #[test]
    fn certificate_of_another_ca_is_not_trusted() {
        let (root, other) = (ca("cluster"), ca("cluster"));
        let key = KeyPair::generate().unwrap();
        let untrusted = params((2025, 2027)).signed_by(&key, &other).unwrap().der().to_vec();
        let own = params((2025, 2027)).self_signed(&key).unwrap().der().to_vec();
        let roots = [root.der().to_vec()];
        assert_eq!(
            ServedCertificate::read(&[untrusted], &roots, NOW).unwrap().trusted,
            Err("the cluster CA did not sign it".to_owned())
        );
        let own = ServedCertificate::read(&[own], &roots, NOW).unwrap();
        assert!(own.self_signed && own.trusted.is_err());
        assert!(
            ServedCertificate::read(&[b"x".to_vec()], &roots, NOW).is_err()
                && ServedCertificate::read(&[], &roots, NOW).is_err()
        );
    }

    #[test]
    fn certificate_text_stays_on_one_line() {
        let mut params = CertificateParams::new(vec!["x".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, format!("a\n\x1b[31m{}", "b".repeat(500)));
        let own = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let shown = ServedCertificate::read(&[own.der().to_vec()], &[], NOW).unwrap();
        assert!(!shown.subject.contains(['\n', '\x1b']) && shown.subject.len() <= 200);
        assert_eq!(shown.trusted, Err("no CA is known".to_owned()));
    }
}
