//! The TLS handshake.
//!
//! Seen: TLS 1.3; HTTP/2 wherever the client offers it, also as its second choice; HTTP/1.1 without ALPN; client certificates
//! are asked for and not required; a second connection resumes the session of the first. Each handshake here verifies that the
//! certificate has the name `kubernetes.default.svc`.

use anyhow::{Result, ensure};
use integration::wire::{self, Server};
use rustls::{HandshakeKind, ProtocolVersion};

/// A protocol's name in ALPN.
type Protocol = &'static [u8];

/// What a client offers, and what is chosen.
const OFFERS: [(&[Protocol], Option<Protocol>); 4] = [
    (&[b"h2", b"http/1.1"], Some(b"h2")),
    (&[b"http/1.1", b"h2"], Some(b"h2")),
    (&[b"http/1.1"], Some(b"http/1.1")),
    (&[], None),
];

pub(super) async fn offers(server: &Server) -> Result<()> {
    for (offered, chosen) in OFFERS {
        let (config, asked) = server.tls_config(offered)?;
        let stream = server.shake(&config).await?;
        let tls = stream.get_ref().1;
        ensure!(tls.alpn_protocol() == chosen, "of {offered:?} {:?} was chosen", tls.alpn_protocol());
        ensure!(tls.protocol_version() == Some(ProtocolVersion::TLSv1_3), "{:?}", tls.protocol_version());
        ensure!(asked.was(), "no client certificate was asked for");
    }
    let (config, _) = server.tls_config(&[b"http/1.1"])?;
    let mut first = server.shake(&config).await?;
    // Tickets come after the handshake: who reads an answer has read them.
    wire::get_http1(&mut first, "/readyz", server.token()).await?;
    let second = server.shake(&config).await?;
    let kind = second.get_ref().1.handshake_kind();
    ensure!(kind == Some(HandshakeKind::Resumed), "the second handshake was {kind:?}");
    Ok(())
}
