//! A certificate authority of its own for each test.

use std::sync::Arc;

use http::HeaderValue;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::transport::readyz::{Credentials, Identity};

/// The token that servers know.
pub(super) const TOKEN: &str = "known";
pub(super) const NAME: &str = "kubernetes.default.svc";

/// When a certificate is valid.
#[derive(Clone, Copy, Debug)]
pub(super) enum Valid {
    Now,
    Until2021,
    From2090,
}

/// A CA, and what it signs.
pub(super) struct Pki {
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        Self { ca: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    /// A client that trusts this CA alone, and that servers know by [`TOKEN`].
    pub(super) fn client(&self) -> Identity {
        self.bearer(TOKEN)
    }

    /// A client that trusts this CA alone and shows a token.
    pub(super) fn bearer(&self, token: &str) -> Identity {
        let authorization = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
        Identity { credentials: Credentials::new(None, Some(authorization)), ..self.stranger() }
    }

    /// A client that trusts this CA alone and shows nothing.
    pub(super) fn stranger(&self) -> Identity {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Identity::anonymous(Arc::new(config))
    }

    /// A sound server.
    pub(super) fn server(&self, protocols: &[&str]) -> Arc<ServerConfig> {
        self.server_of(NAME, Valid::Now, protocols)
    }

    /// Any server. `protocols` is its ALPN.
    pub(super) fn server_of(&self, name: &str, valid: Valid, protocols: &[&str]) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.not_before, params.not_after) = match valid {
            Valid::Now => (params.not_before, params.not_after),
            Valid::Until2021 => (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1)),
            Valid::From2090 => (date_time_ymd(2090, 1, 1), date_time_ymd(2091, 1, 1)),
        };
        let certificate = params.signed_by(&key, &self.ca).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![certificate.der().clone()], key)
                .unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}
