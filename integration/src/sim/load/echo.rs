//! The client's side of an echo port.
//!
//! In: a connected stream. Out: the server's greeting, and whether bytes come back as they were sent.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::failure::{Failure, Reason};

/// Longer than any name and address.
const MAX_GREETING: usize = 256;

/// What an echo server says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Greeting {
    /// Its name.
    pub(super) server: String,
    /// The client's address, without port, as the server saw it.
    pub(super) peer: String,
}

/// Reads the greeting and nothing after it.
pub(super) async fn greeting(stream: &mut (impl AsyncRead + Unpin)) -> Result<Greeting, Failure> {
    let mut line = Vec::with_capacity(64);
    // Byte by byte, because what follows belongs to the exchange; the line is short.
    loop {
        match stream.read_u8().await {
            Ok(b'\n') => break,
            Ok(byte) if line.len() < MAX_GREETING => line.push(byte),
            Ok(_) => return Err(Failure::new(Reason::WrongAnswer, "the greeting does not end")),
            Err(error) => return Err(Failure::io("read the greeting", &error)),
        }
    }
    parse(&line).ok_or_else(|| {
        Failure::new(Reason::WrongAnswer, format!("greeting {:?}", String::from_utf8_lossy(&line)))
    })
}

/// Sends 8 bytes that differ with `number` and reads them back.
pub(super) async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    number: u64,
) -> Result<(), Failure> {
    // Mixed, so that neighbours' bytes differ everywhere and a crossed connection shows.
    let sent = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    stream.write_all(&sent).await.map_err(|error| Failure::io("send", &error))?;
    let mut back = [0; 8];
    stream.read_exact(&mut back).await.map_err(|error| Failure::io("read the echo", &error))?;
    match back == sent {
        true => Ok(()),
        false => Err(Failure::new(Reason::WrongAnswer, format!("sent {sent:02x?}, got {back:02x?}"))),
    }
}

fn parse(line: &[u8]) -> Option<Greeting> {
    let (server, peer) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    let peer: std::net::SocketAddr = peer.parse().ok()?;
    (!server.is_empty()).then(|| Greeting { server: server.to_owned(), peer: peer.ip().to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn greetings() {
        let mut good: &[u8] = b"api-1 [2001:db8::1]:5000\nrest";
        let expected = Greeting { server: "api-1".into(), peer: "2001:db8::1".into() };
        assert_eq!(greeting(&mut good).await, Ok(expected));
        assert_eq!(good, b"rest");
        let mut early: &[u8] = b"api-1 192";
        assert_eq!(greeting(&mut early).await.unwrap_err().reason, Reason::Reset);
        for mut wrong in [&b"HTTP/1.1 400 Bad Request\n"[..], b"\n", b" 192.0.2.1:1\n", &[b'x'; 300]] {
            assert_eq!(greeting(&mut wrong).await.unwrap_err().reason, Reason::WrongAnswer);
        }
    }

    #[tokio::test]
    async fn a_changed_byte_is_seen() {
        let (mut client, mut server) = tokio::io::duplex(64);
        let answer = async {
            let mut bytes = [0; 8];
            server.read_exact(&mut bytes).await.unwrap();
            bytes[3] ^= 1;
            server.write_all(&bytes).await.unwrap();
        };
        let (result, ()) = tokio::join!(exchange(&mut client, 7), answer);
        assert_eq!(result.unwrap_err().reason, Reason::WrongAnswer);
    }
}
