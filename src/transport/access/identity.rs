//! Certificate and key of the client: read from PEM, held together, and checked before they are needed.
//!
//! In: PEM from files, from a kubeconfig or from a credential plugin. Out: an [`Identity`], or one line that says what
//! cannot be used and what to do.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo, X509Certificate};

use super::algorithms::{Key, USABLE};

/// A certificate with its chain, the client's own first, and its key. The key is not shown by `Debug`.
#[derive(Clone)]
pub(crate) struct Identity {
    certified: Arc<CertifiedKey>,
    /// To tell one from another.
    key: Arc<PrivateKeyDer<'static>>,
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.certified.cert == other.certified.cert && self.key == other.key
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads both. Whether the certificate is in date is the apiserver's to say.
    pub(crate) fn of_pem(certificate: &[u8], key: &[u8]) -> Result<Self, String> {
        let chain = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| "the client certificate is damaged: it is not PEM to its end".to_owned())?;
        let leaf = chain.first().ok_or("the client certificate holds no certificate in PEM form")?;
        let key = private_key(key)?;
        // Version 1, as openssl makes it unless told otherwise, is good enough for a client: nothing of it is used here
        // but its key.
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| {
            "the client certificate is damaged: what is in its PEM is no certificate".to_owned()
        })?;
        let public = parsed.public_key();
        let signing = any_supported_type(&key).map_err(|_| unusable(public))?;
        if let Some(own) = signing.public_key() {
            let same = SubjectPublicKeyInfo::from_der(&own)
                .is_ok_and(|(_, own)| own.subject_public_key.data == public.subject_public_key.data);
            if !same {
                return Err("the client key does not match the client certificate; take both from the same \
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

/// The first key. An encrypted one is told from a damaged one: it is in order, and nobody is there to say its passphrase.
fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let has = |words: &[u8]| pem.windows(words.len()).any(|window| window == words);
    if has(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || has(b"Proc-Type: 4,ENCRYPTED") {
        return Err(
            "the client key is encrypted, and there is nobody to ask for its passphrase; decrypt it with \
                    openssl pkey -in KEY -out NEWKEY"
                .to_owned(),
        );
    }
    if has(b"-----BEGIN OPENSSH PRIVATE KEY-----") {
        return Err(
            "the client key is one of OpenSSH; convert it with ssh-keygen -p -m PKCS8 -f KEY".to_owned()
        );
    }
    let mut keys = <(SectionKind, Vec<u8>)>::pem_slice_iter(pem).filter_map(|section| match section {
        Ok((kind, der)) => PrivateKeyDer::from_pem(kind, der).map(Ok),
        Err(_) => Some(Err("the client key is damaged: it is not PEM to its end".to_owned())),
    });
    keys.next().unwrap_or_else(|| Err("the client key holds no private key in PEM form".to_owned()))
}

/// Why a key cannot be used, by the certificate that goes with it.
fn unusable(public: &SubjectPublicKeyInfo<'_>) -> String {
    match Key::of(public).problem() {
        Some(kind) => format!(
            "the client key is {kind}, which cannot be used here; have the client certificate made for {USABLE}"
        ),
        None => format!("the client key cannot be used: it is damaged, or not {USABLE}"),
    }
}
