//! Certificates and keys: the client's own, which keys and signatures TLS can verify here, and when what was read expires.
//!
//! In: PEM from files, from a kubeconfig or from a credential plugin; certificates in DER; tokens. Out: a
//! `ClientCertificate`, an [`Expiry`], or one line that says what cannot be used and what to do. What is said here
//! must be so: the list of algorithms is that of the TLS provider, ring, and a test holds the two against each other.

use std::fmt::{self, Write};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use x509_parser::der_parser::oid::Oid;
use x509_parser::oid_registry::{self as known, asn1_rs::oid};
use x509_parser::prelude::{AlgorithmIdentifier, FromDer, SubjectPublicKeyInfo, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;

use super::authentication::Token;
use crate::process::clock::unix_now;

/// A certificate with its chain, the client's own first, and its key. The key is not shown by `Debug`.
#[derive(Clone)]
pub(crate) struct ClientCertificate {
    certified: Arc<CertifiedKey>,
    /// For comparison.
    key: Arc<PrivateKeyDer<'static>>,
}

impl PartialEq for ClientCertificate {
    fn eq(&self, other: &Self) -> bool {
        self.certified.cert == other.certified.cert && self.key == other.key
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").finish_non_exhaustive()
    }
}

impl ClientCertificate {
    /// Reads both. Whether the certificate is in date is the apiserver's to say.
    pub(crate) fn of_pem(certificate: &[u8], key: &[u8]) -> Result<Self, String> {
        let chain = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| "the client certificate is damaged: it contains invalid PEM".to_owned())?;
        let leaf = chain.first().ok_or("the client certificate contains no certificate in PEM format")?;
        let key = private_key(key)?;
        // Version 1, as openssl makes it unless told otherwise, is good enough for a client: nothing of it is used here
        // but its key.
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| {
            "the client certificate is damaged: its PEM contains no valid certificate".to_owned()
        })?;
        let public = parsed.public_key();
        let signing = any_supported_type(&key).map_err(|_| unusable(public))?;
        if let Some(own) = signing.public_key() {
            let same = SubjectPublicKeyInfo::from_der(&own)
                .is_ok_and(|(_, own)| own.subject_public_key.data == public.subject_public_key.data);
            if !same {
                return Err("the client key does not match the client certificate; use both from the same \
                            renewal"
                    .to_owned());
            }
        }
        let certified = Arc::new(CertifiedKey::new(chain, signing));
        Ok(Self { certified, key: Arc::new(key) })
    }

    /// As rustls shows it.
    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }

    /// The client's own certificate, in DER.
    pub(crate) fn leaf(&self) -> Option<&[u8]> {
        self.certified.cert.first().map(AsRef::as_ref)
    }
}

/// The first key. An encrypted key gets an error of its own: it is valid, but there is no passphrase.
fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let has = |words: &[u8]| pem.windows(words.len()).any(|window| window == words);
    if has(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || has(b"Proc-Type: 4,ENCRYPTED") {
        return Err(
            "the client key is encrypted, and a daemon cannot prompt for its passphrase; decrypt it with \
                    openssl pkey -in KEY -out NEWKEY"
                .to_owned(),
        );
    }
    if has(b"-----BEGIN OPENSSH PRIVATE KEY-----") {
        return Err(
            "the client key is in OpenSSH format; convert it with ssh-keygen -p -m PKCS8 -f KEY".to_owned()
        );
    }
    let mut keys = <(SectionKind, Vec<u8>)>::pem_slice_iter(pem).filter_map(|section| match section {
        Ok((kind, der)) => PrivateKeyDer::from_pem(kind, der).map(Ok),
        Err(_) => Some(Err("the client key is damaged: it contains invalid PEM".to_owned())),
    });
    keys.next().unwrap_or_else(|| Err("the client key contains no private key in PEM format".to_owned()))
}

/// Why a key cannot be used, by the certificate that goes with it.
fn unusable(public: &SubjectPublicKeyInfo<'_>) -> String {
    match KeyKind::of(public).problem() {
        Some(kind) => format!(
            "the client key is {kind}, which is not supported; issue the client certificate for {USABLE}"
        ),
        None => format!("the client key cannot be used: it is damaged, or not {USABLE}"),
    }
}

/// Seconds since 1970, each missing where there is none or it cannot be known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expiry {
    /// Of the CA's certificates that are still valid, the first to expire; the last of them when none is.
    pub ca: Option<i64>,
    /// The client certificate. A credential plugin's is not known.
    pub client_certificate: Option<i64>,
    /// The token in a file, if it is a JSON Web Token that says so.
    pub token: Option<i64>,
}

impl Expiry {
    /// That of the CA's certificates, of the client's, both in DER, and of a token in a file.
    pub(crate) fn of(roots: &[Vec<u8>], client: Option<&[u8]>, token: Option<&Token>) -> Self {
        let now = ASN1Time::now().timestamp();
        let ends: Vec<i64> = roots.iter().filter_map(|der| not_after(der)).collect();
        let valid = ends.iter().copied().filter(|end| *end >= now).min();
        Self {
            ca: valid.or_else(|| ends.iter().copied().max()),
            client_certificate: client.and_then(not_after),
            token: token.and_then(Token::current).as_deref().and_then(token_expiry),
        }
    }

    /// Those that are known, by name.
    pub fn dates(&self) -> impl Iterator<Item = (&'static str, i64)> {
        let dates = [("ca", self.ca), ("client_certificate", self.client_certificate), ("token", self.token)];
        dates.into_iter().filter_map(|(name, end)| Some((name, end?)))
    }

    /// What has expired by now of that by which an apiserver knows the client, to be put behind the credentials' name.
    pub(crate) fn expired_hint(&self) -> String {
        let now = unix_now();
        let mut expired_hint = String::new();
        for (what, end) in [("client certificate", self.client_certificate), ("token", self.token)] {
            let Some(end) = end.filter(|end| u64::try_from(*end).is_ok_and(|end| end < now)) else {
                continue;
            };
            let date =
                ASN1Time::from_timestamp(end).map_or_else(|_| end.to_string(), |date| date.to_string());
            // Writing to a string does not fail.
            let _ = write!(expired_hint, ", whose {what} expired at {date}: renew it");
        }
        expired_hint
    }
}

/// From when to when something is good, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// `notBefore`, if there is one.
    pub begin: Option<i64>,
    /// The end.
    pub end: i64,
}

/// Those of the CA's certificate that ends first of those that are still valid, of the client certificate, and of the
/// token, each by the name that [`Expiry::dates`] gives it.
pub(crate) fn validities(
    roots: &[Vec<u8>],
    client: Option<&[u8]>,
    expiry: Expiry,
) -> Vec<(&'static str, Validity)> {
    let of_end = |end: i64| roots.iter().filter_map(|der| validity(der)).find(|found| found.end == end);
    let all = [
        ("ca", expiry.ca.and_then(of_end)),
        ("client_certificate", client.and_then(validity)),
        ("token", expiry.token.map(|end| Validity { begin: None, end })),
    ];
    all.into_iter().filter_map(|(name, found)| Some((name, found?))).collect()
}

/// That of a certificate.
pub(crate) fn validity(der: &[u8]) -> Option<Validity> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let found = certificate.validity();
    Some(Validity { begin: Some(found.not_before.timestamp()), end: found.not_after.timestamp() })
}

fn not_after(der: &[u8]) -> Option<i64> {
    Some(validity(der)?.end)
}

/// `exp` of a JSON Web Token (RFC 7519, section 4.1.4). Nothing is verified: the apiserver does that.
fn token_expiry(token: &str) -> Option<i64> {
    #[derive(Deserialize)]
    struct Claims {
        exp: i64,
    }
    let payload = token.split('.').nth(1)?;
    let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    Some(claims.exp)
}

/// What to have instead, for messages.
pub(crate) const USABLE: &str = "RSA of 2048 to 8192 bits, ECDSA on P-256 or P-384, or Ed25519";

const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// A kind of key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyKind {
    Rsa(usize),
    P256,
    P384,
    Ed25519,
    /// Any other, by its name.
    Other(String),
}

impl KeyKind {
    pub(crate) fn of(spki: &SubjectPublicKeyInfo<'_>) -> Self {
        let algorithm = &spki.algorithm.algorithm;
        if *algorithm == known::OID_PKCS1_RSAENCRYPTION {
            let bits = match spki.parsed() {
                Ok(PublicKey::RSA(key)) => key.key_size(),
                _ => 0,
            };
            return Self::Rsa(bits);
        }
        if *algorithm == known::OID_SIG_ED25519 {
            return Self::Ed25519;
        }
        let curve = spki.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
        match curve {
            Some(curve) if *algorithm == known::OID_KEY_TYPE_EC_PUBLIC_KEY => match () {
                () if curve == known::OID_EC_P256 => Self::P256,
                () if curve == known::OID_NIST_EC_P384 => Self::P384,
                () if curve == known::OID_NIST_EC_P521 => Self::Other("ECDSA on P-521".to_owned()),
                () => Self::Other(format!("ECDSA on the curve {curve}")),
            },
            _ => Self::Other(format!("of type {algorithm}")),
        }
    }

    /// Why nothing that such a key signed can be verified, nor anything be signed with it.
    pub(crate) fn problem(&self) -> Option<String> {
        match self {
            Self::Rsa(bits) if !RSA_BITS.contains(bits) => Some(format!("RSA of {bits} bits")),
            Self::Rsa(_) | Self::P256 | Self::P384 | Self::Ed25519 => None,
            Self::Other(name) => Some(name.clone()),
        }
    }

    fn takes(&self, signature: &Oid<'_>) -> bool {
        let any = |of: &[Oid<'static>]| of.contains(signature);
        match self {
            Self::Rsa(_) => any(&[
                known::OID_PKCS1_SHA256WITHRSA,
                known::OID_PKCS1_SHA384WITHRSA,
                known::OID_PKCS1_SHA512WITHRSA,
                known::OID_PKCS1_RSASSAPSS,
            ]),
            Self::P256 | Self::P384 => {
                any(&[known::OID_SIG_ECDSA_WITH_SHA256, known::OID_SIG_ECDSA_WITH_SHA384])
            }
            Self::Ed25519 => any(&[known::OID_SIG_ED25519]),
            Self::Other(_) => false,
        }
    }
}

/// Why `certificate` could not be verified if `issuer` signed it, though it be in order otherwise.
pub(crate) fn signature_problem(
    certificate: &X509Certificate<'_>,
    issuer: &SubjectPublicKeyInfo<'_>,
) -> Option<String> {
    let key = KeyKind::of(issuer);
    if let Some(problem) = key.problem() {
        return Some(format!("the key of its issuer is {problem}, which is not supported; use {USABLE}"));
    }
    let AlgorithmIdentifier { algorithm, .. } = &certificate.signature_algorithm;
    (!key.takes(algorithm)).then(|| {
        format!(
            "it is signed with {}, which is not supported; sign it with SHA-256",
            signature_name(algorithm)
        )
    })
}

fn signature_name(algorithm: &Oid<'_>) -> String {
    let named = [
        (known::OID_SIG_ECDSA_WITH_SHA512, "ecdsa-with-SHA512"),
        (known::OID_SIG_ECDSA_WITH_SHA224, "ecdsa-with-SHA224"),
        (oid!(1.2.840.10045.4.1), "ecdsa-with-SHA1"),
        (known::OID_PKCS1_SHA1WITHRSA, "sha1WithRSAEncryption"),
        (known::OID_PKCS1_SHA224WITHRSA, "sha224WithRSAEncryption"),
        (known::OID_PKCS1_MD5WITHRSAENC, "md5WithRSAEncryption"),
    ];
    let name = named.iter().find(|(known, _)| known == algorithm).map(|(_, name)| (*name).to_owned());
    name.unwrap_or_else(|| format!("the algorithm {algorithm}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jwt_exp_is_read_and_opaque_tokens_have_none() {
        let token = |claims: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        assert_eq!(token_expiry(&token(r#"{"exp": 1700000000, "aud": ["x"]}"#)), Some(1_700_000_000));
        for none in [token("{}"), token(r#"{"exp": "soon"}"#), "opaque".to_owned(), "a.b.c".to_owned()] {
            assert_eq!(token_expiry(&none), None, "{none}");
        }
    }

    #[test]
    fn expired_certificate_is_named_with_its_date() {
        let past = Expiry { client_certificate: Some(1_700_000_000), ..Expiry::default() };
        assert_eq!(
            past.expired_hint(),
            ", whose client certificate expired at Nov 14 22:13:20 2023 +00:00: renew it"
        );
        assert_eq!(Expiry { client_certificate: Some(i64::MAX), ..Expiry::default() }.expired_hint(), "");
    }
}
