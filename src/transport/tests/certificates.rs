//! Certificates that openssl makes, on whose kinds Go and the TLS provider do not agree: taken like in Go where that can
//! be, and told truly where not.

use std::sync::Arc;

use rustls::CertificateError;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;
use crate::transport::certificates::{ClientCertificate, KeyKind};
use crate::transport::failure::{ExpectedServer, explain};

macro_rules! data {
    ($name:literal) => {
        include_str!(concat!("data/", $name))
    };
}

fn der(pem: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

/// What is said of a server with this certificate by a daemon with this CA; empty if it is believed.
fn verdict(ca: &str, shown: &str, name: &str) -> String {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let (leaf, name) = (CertificateDer::from(der(shown)), ServerName::try_from(name.to_owned()).unwrap());
    let verifier = tls::verifier(&[der(ca)], provider).unwrap();
    let verified = verifier.verify_server_cert(&leaf, &[], &name, &[], UnixTime::now());
    let expected = ExpectedServer { name: TLS_NAME.to_owned(), ca: "ca.crt".to_owned() };
    verified.err().map(|error| explain(&error, &expected)).unwrap_or_default()
}

#[tokio::test]
async fn client_certificate_of_x509_version_1_is_used() {
    let case =
        Case::new().write("client.crt", data!("version1.crt")).write("client.key", data!("version1.key"));
    let access = case.load(None).await.unwrap();
    assert!(access.tls_config().await.unwrap().client_auth_cert_resolver.has_certs());
    assert!(access.expiry().client_certificate.is_some());
    let case = case.write("client.key", Pki::new("other").leaf("node", false).1);
    case.fails(None, &["the client key does not match the client certificate"]).await;
}

#[tokio::test]
async fn unsupported_encrypted_and_damaged_client_keys_are_told_apart() {
    let with = |certificate: &str, key: &str| {
        ClientCertificate::of_pem(certificate.as_bytes(), key.as_bytes()).map(drop).unwrap_err()
    };
    let error = with(data!("client521.crt"), data!("client521.key"));
    assert!(
        error.contains("the client key is ECDSA on P-521") && error.contains("P-256 or P-384"),
        "{error}"
    );
    for encrypted in [data!("encrypted.key"), data!("legacy.key")] {
        let error = with(data!("version1.crt"), encrypted);
        assert!(error.contains("is encrypted") && error.contains("openssl pkey"), "{error}");
    }
    let openssh = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n";
    assert!(with(data!("version1.crt"), openssh).contains("ssh-keygen"));
    let cut = &data!("version1.key")[..60];
    let error = with(data!("version1.crt"), cut);
    assert!(error.contains("damaged") || error.contains("no private key"), "{error}");
}

#[test]
fn pinned_server_certificate_is_trusted_as_in_go() {
    assert_eq!(verdict(data!("ca.crt"), data!("server.crt"), TLS_NAME), "");
    assert_eq!(verdict(data!("server.crt"), data!("server.crt"), TLS_NAME), "", "its issuer is not known");
    assert_eq!(verdict(data!("self.crt"), data!("self.crt"), TLS_NAME), "", "signed by itself, with CA:TRUE");
    let name = verdict(data!("server.crt"), data!("server.crt"), "other.example");
    assert!(
        name.contains("does not contain the name") && name.contains("it contains kubernetes.default.svc"),
        "{name}"
    );
    let purpose = verdict(data!("onlyclient.crt"), data!("onlyclient.crt"), TLS_NAME);
    assert!(purpose.contains("serverAuth"), "{purpose}");
    let stranger = verdict(data!("server.crt"), data!("self.crt"), TLS_NAME);
    assert!(stranger.contains("the server belongs to another cluster"), "{stranger}");
}

#[test]
fn unverifiable_algorithms_are_not_reported_as_another_cluster() {
    for (ca, shown, says) in [
        (data!("ca521.crt"), data!("by521.crt"), "the key of its issuer is ECDSA on P-521"),
        (data!("ca.crt"), data!("sha512.crt"), "signed with ecdsa-with-SHA512"),
        (data!("ca.crt"), data!("version1.crt"), "X.509 version 1"),
    ] {
        let said = verdict(ca, shown, TLS_NAME);
        assert!(said.starts_with("its certificate cannot be verified: ") && said.contains(says), "{said}");
    }
    // The certificate of another CA on P-521 is not called unverifiable, since nothing says that it is of ours.
    assert!(
        verdict(data!("ca.crt"), data!("by521.crt"), TLS_NAME)
            .contains("the server belongs to another cluster")
    );
}

#[test]
fn tls_errors_are_never_shown_in_debug_form() {
    use rustls::{AlertDescription, Error, PeerIncompatible, PeerMisbehaved};
    let expected = ExpectedServer { name: TLS_NAME.to_owned(), ca: "ca.crt".to_owned() };
    for error in [
        Error::InvalidCertificate(CertificateError::BadEncoding),
        Error::InvalidCertificate(CertificateError::UnhandledCriticalExtension),
        Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure),
        Error::AlertReceived(AlertDescription::HandshakeFailure),
        Error::AlertReceived(AlertDescription::BadCertificate),
        Error::AlertReceived(AlertDescription::InternalError),
        Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon),
        Error::PeerMisbehaved(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme),
        Error::NoCertificatesPresented,
    ] {
        let said = explain(&error, &expected);
        let debug = format!("{error:?}");
        let camel = debug.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        for name in camel {
            assert!(!said.contains(name), "{said} shows {name}");
        }
    }
}

/// What is called unusable is so, and the rest is not.
#[test]
fn supported_keys_are_those_of_the_tls_provider() {
    for (pem, expected) in
        [(data!("ca.crt"), KeyKind::P256), (data!("ca521.crt"), KeyKind::Other("ECDSA on P-521".to_owned()))]
    {
        let der = der(pem);
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        let key = KeyKind::of(certificate.public_key());
        assert_eq!(key, expected);
        let provider = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        let is_known = provider.all.iter().any(|algorithm| {
            let parameters = certificate.public_key().algorithm.parameters.as_ref().unwrap();
            algorithm
                .public_key_alg_id()
                .as_ref()
                .windows(parameters.data.len())
                .any(|part| part == parameters.data)
        });
        assert_eq!(key.problem().is_none(), is_known, "{key:?}");
    }
}

#[tokio::test]
async fn unusable_certificates_and_keys_are_refused() {
    let (other, _) = Pki::new("cluster").leaf("node", false);
    Case::new()
        .write("client.crt", other)
        .fails(None, &["user \"kubelet\": the client key does not match"])
        .await;
    Case::new()
        .write("client.crt", "text")
        .fails(None, &["the client certificate contains no certificate"])
        .await;
    Case::new().write("client.key", "text").fails(None, &["the client key contains no private key"]).await;
    let broken = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    Case::new()
        .write("client.key", broken)
        .fails(None, &["the client key cannot be used: it is damaged, or not RSA"])
        .await;
    Case::new()
        .replace("    client-key: client.key\n", "")
        .fails(None, &["user \"kubelet\": it has a client-certificate but no client-key"])
        .await;
    Case::new()
        .write("ca.crt", "text")
        .fails(None, &["FOLDER/ca.crt: contains no certificate in PEM format"])
        .await;
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    Case::new()
        .write("ca.crt", broken)
        .fails(None, &["FOLDER/ca.crt: contains a certificate that cannot be parsed"])
        .await;
}

#[tokio::test]
async fn expired_ca_is_a_warning() {
    let old = Pki::expired("old-ca").ca_pem();
    let access = Case::new().write("ca.crt", &old).load(None).await.expect("perhaps the clock is wrong");
    let warning = access.warnings.first().expect("it is said").to_string();
    for words in ["every certificate in it has expired", "CN=old-ca", "2021", "clock"] {
        assert!(warning.contains(words), "{words}: {warning}");
    }
    let both = format!("{old}{}", Pki::new("new-ca").ca_pem());
    assert!(Case::new().write("ca.crt", both).load(None).await.is_ok(), "one good certificate is enough");
}
