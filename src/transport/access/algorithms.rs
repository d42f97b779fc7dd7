//! The kinds of keys and signatures that TLS can verify here, in the words that openssl has for them.
//!
//! In: certificates in DER. Out: what is wrong with one, or nothing. What is said here must be so: the list is the one of
//! the TLS provider, ring, and a test holds the two against each other.

use x509_parser::der_parser::oid::Oid;
use x509_parser::oid_registry::{self as known, asn1_rs::oid};
use x509_parser::prelude::{AlgorithmIdentifier, SubjectPublicKeyInfo, X509Certificate};
use x509_parser::public_key::PublicKey;

/// What to have instead, for messages.
pub(crate) const USABLE: &str = "RSA of 2048 to 8192 bits, ECDSA on P-256 or P-384, or Ed25519";

const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// A kind of key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Rsa(usize),
    P256,
    P384,
    Ed25519,
    /// Any other, by its name.
    Other(String),
}

impl Key {
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
            _ => Self::Other(format!("of the kind {algorithm}")),
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
    let key = Key::of(issuer);
    if let Some(problem) = key.problem() {
        return Some(format!("its issuer's key is {problem}, which cannot be verified here; use {USABLE}"));
    }
    let AlgorithmIdentifier { algorithm, .. } = &certificate.signature_algorithm;
    (!key.takes(algorithm)).then(|| {
        format!(
            "it is signed with {}, which cannot be verified here; sign it with SHA-256",
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
