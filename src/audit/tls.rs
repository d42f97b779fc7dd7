//! What a server shows of itself in TLS, whoever it is: its certificates, and which old versions and ciphers it accepts.
//!
//! In: an address. Out: certificates in DER, replies to a ClientHello. No credentials are shown, and nothing is sent but
//! handshakes.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::Rng;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::client_hello;
use super::client_hello::Reply;
use crate::transport::text::errno_text;

/// One handshake.
const LIMIT: Duration = Duration::from_secs(3);
/// More than any server's first flight.
const FLIGHT_BYTES: usize = 64 << 10;

/// The certificates that a server shows, its own first, in DER. Nothing of them is verified, except that the server
/// holds the key of its own.
///
/// # Errors
/// One line: there was no handshake, not even of TLS 1.2.
pub async fn certificates(address: SocketAddr, name: &str) -> Result<Vec<Vec<u8>>, String> {
    let recorder = Arc::new(Recorder::new());
    let config = unverified(recorder.clone())?;
    let name = ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?;
    let handshake = async {
        let stream = TcpStream::connect(address).await?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    };
    let ended = timeout(LIMIT, handshake).await;
    let shown = recorder.shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match ended {
        // A server that wants a client certificate ends the handshake, and has shown its own before.
        _ if !shown.is_empty() => Ok(shown),
        Ok(Ok(_)) => Err("it presents no certificate".to_owned()),
        Ok(Err(error)) => Err(errno_text(&error)),
        Err(_) => Err(format!("no handshake within {:.0} s", LIMIT.as_secs_f32())),
    }
}

/// TLS settings that accept any certificate: for requests in which nothing is secret.
///
/// # Errors
/// One line: the provider of ciphers lacks one.
pub fn accept_any_certificate() -> Result<ClientConfig, String> {
    unverified(Arc::new(Recorder::new()))
}

/// TLS settings that verify a server by `roots` (DER) and its name. The client shows the
/// certificate that `client` has, if it has one.
///
/// # Errors
/// One line: no root can be used.
pub fn verify_with_roots(roots: &[Vec<u8>], client: &ClientConfig) -> Result<ClientConfig, String> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().map(|der| CertificateDer::from(der.as_slice())));
    let provider = Arc::new(ring::default_provider());
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider)).build();
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_webpki_verifier(verifier.map_err(|error| error.to_string())?)
        .with_client_cert_resolver(Arc::clone(&client.client_auth_cert_resolver));
    Ok(config)
}

fn unverified(recorder: Arc<Recorder>) -> Result<ClientConfig, String> {
    let config = ClientConfig::builder_with_provider(Arc::clone(&recorder.provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(recorder)
        .with_no_client_auth();
    Ok(config)
}

/// What a server says to a client of up to `version` that has `suites` only.
///
/// # Errors
/// One line: it said nothing that is TLS. An end of the connection without a word is a refusal, and so `Ok(None)`.
pub async fn offer(
    address: SocketAddr,
    name: &str,
    version: u16,
    suites: &[(u16, &str)],
) -> Result<Option<Reply>, String> {
    let mut random = [0; 32];
    rand::rng().fill_bytes(&mut random);
    let client_hello = client_hello::client_hello(version, suites, name, &random);
    let reply = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(&client_hello).await?;
        let mut read = Vec::new();
        loop {
            if let Some(reply) = client_hello::reply(&read) {
                return Ok(Some(reply));
            }
            if read.len() > FLIGHT_BYTES || !client_hello::is_tls(&read) {
                return Err(io::Error::other("it does not speak TLS"));
            }
            match stream.read_buf(&mut read).await {
                Ok(0) => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
    };
    match timeout(LIMIT, reply).await {
        Ok(reply) => reply.map_err(|error| errno_text(&error)),
        Err(_) => Err(format!("no answer within {:.0} s", LIMIT.as_secs_f32())),
    }
}

/// Accepts every certificate, and records it.
#[derive(Debug)]
struct Recorder {
    provider: Arc<CryptoProvider>,
    shown: Mutex<Vec<Vec<u8>>>,
}

impl Recorder {
    fn new() -> Self {
        Self { provider: Arc::new(ring::default_provider()), shown: Mutex::new(Vec::new()) }
    }
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let all = std::iter::once(end_entity).chain(intermediates).map(|der| der.to_vec()).collect();
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = all;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
