//! A TLS ClientHello as an old client would send it, and what a server replies. Pure.
//!
//! rustls speaks TLS 1.2 and 1.3 with good ciphers only, so whether a server accepts others is tested with a ClientHello written
//! by hand (RFC 5246, section 7.4.1.2). The handshake goes no further, so no key is ever made.

/// TLS 1.1, in a `ProtocolVersion`.
pub const TLS_1_1: u16 = 0x0302;
/// TLS 1.2.
pub const TLS_1_2: u16 = 0x0303;

/// `protocol_version`, the alert of a server that speaks newer versions only (RFC 5246, section 7.2.2).
pub const PROTOCOL_VERSION: u8 = 70;

/// Suites that can be broken or protect nothing: NULL, EXPORT, anonymous, RC4, DES, 3DES. IANA's numbers and names.
pub const BROKEN: &[(u16, &str)] = &[
    (0x0001, "TLS_RSA_WITH_NULL_MD5"),
    (0x0002, "TLS_RSA_WITH_NULL_SHA"),
    (0x003b, "TLS_RSA_WITH_NULL_SHA256"),
    (0xc010, "TLS_ECDHE_RSA_WITH_NULL_SHA"),
    (0xc006, "TLS_ECDHE_ECDSA_WITH_NULL_SHA"),
    (0x0003, "TLS_RSA_EXPORT_WITH_RC4_40_MD5"),
    (0x0008, "TLS_RSA_EXPORT_WITH_DES40_CBC_SHA"),
    (0x0018, "TLS_DH_anon_WITH_RC4_128_MD5"),
    (0x0034, "TLS_DH_anon_WITH_AES_128_CBC_SHA"),
    (0xc018, "TLS_ECDH_anon_WITH_AES_128_CBC_SHA"),
    (0x0004, "TLS_RSA_WITH_RC4_128_MD5"),
    (0x0005, "TLS_RSA_WITH_RC4_128_SHA"),
    (0xc007, "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA"),
    (0xc011, "TLS_ECDHE_RSA_WITH_RC4_128_SHA"),
    (0x0009, "TLS_RSA_WITH_DES_CBC_SHA"),
    (0x000a, "TLS_RSA_WITH_3DES_EDE_CBC_SHA"),
    (0x0016, "TLS_DHE_RSA_WITH_3DES_EDE_CBC_SHA"),
    (0xc008, "TLS_ECDHE_ECDSA_WITH_3DES_EDE_CBC_SHA"),
    (0xc012, "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA"),
];

/// Suites without forward secrecy.
pub const STATIC: &[(u16, &str)] = &[
    (0x002f, "TLS_RSA_WITH_AES_128_CBC_SHA"),
    (0x0035, "TLS_RSA_WITH_AES_256_CBC_SHA"),
    (0x003c, "TLS_RSA_WITH_AES_128_CBC_SHA256"),
    (0x003d, "TLS_RSA_WITH_AES_256_CBC_SHA256"),
    (0x009c, "TLS_RSA_WITH_AES_128_GCM_SHA256"),
    (0x009d, "TLS_RSA_WITH_AES_256_GCM_SHA384"),
];

/// Suites that servers of TLS 1.1 and older have, whatever certificate they show.
pub const OLD: &[(u16, &str)] = &[
    (0xc009, "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA"),
    (0xc00a, "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA"),
    (0xc013, "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"),
    (0xc014, "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA"),
    (0x0033, "TLS_DHE_RSA_WITH_AES_128_CBC_SHA"),
    (0x0039, "TLS_DHE_RSA_WITH_AES_256_CBC_SHA"),
    (0x002f, "TLS_RSA_WITH_AES_128_CBC_SHA"),
    (0x0035, "TLS_RSA_WITH_AES_256_CBC_SHA"),
    (0x000a, "TLS_RSA_WITH_3DES_EDE_CBC_SHA"),
    (0x0005, "TLS_RSA_WITH_RC4_128_SHA"),
];

/// Record types (RFC 5246, section 6.2.1).
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const SERVER_HELLO: u8 = 2;
/// The version, the random, and the length of a session id, before the id and the suite.
const FIXED: usize = 2 + 32 + 1;

/// What a server said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It goes on with this version and suite.
    Chosen {
        /// A `ProtocolVersion`.
        version: u16,
        /// A cipher suite's number.
        suite: u16,
    },
    /// It refuses, with this alert.
    Alert(u8),
}

/// The record of a ClientHello that offers up to `version`, with `suites`, for the DNS name `name`. `random` must be
/// new for each.
pub fn client_hello(version: u16, suites: &[(u16, &str)], name: &str, random: &[u8; 32]) -> Vec<u8> {
    let mut extensions = Vec::new();
    let host = vector16(&[&[0][..], &vector16(name.as_bytes())].concat());
    extension(&mut extensions, 0, &host);
    // Curves: X25519, P-256, P-384, P-521. Points: uncompressed.
    extension(&mut extensions, 10, &vector16(&[0, 29, 0, 23, 0, 24, 0, 25]));
    extension(&mut extensions, 11, &[1, 0]);
    if version >= TLS_1_2 {
        // ECDSA and RSA (PKCS 1 and PSS), each with SHA-256, 384 and 512, and with SHA-1.
        let algorithms = [4, 3, 5, 3, 6, 3, 4, 1, 5, 1, 6, 1, 8, 4, 8, 5, 8, 6, 2, 3, 2, 1];
        extension(&mut extensions, 13, &vector16(&algorithms));
    }
    let mut body = version.to_be_bytes().to_vec();
    body.extend(random);
    body.push(0);
    let suites: Vec<u8> = suites.iter().flat_map(|(suite, _)| suite.to_be_bytes()).collect();
    body.extend(vector16(&suites));
    body.extend([1, 0]);
    body.extend(vector16(&extensions));
    let mut message = vec![1, 0];
    message.extend(vector16(&body));
    let mut record = vec![HANDSHAKE, 3, 1];
    record.extend(vector16(&message));
    record
}

fn extension(all: &mut Vec<u8>, kind: u16, content: &[u8]) {
    all.extend(kind.to_be_bytes());
    all.extend(vector16(content));
}

/// Behind its length. Nothing here is ever as long as 64 KiB, and a name that were would be cut.
fn vector16(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap_or(u16::MAX);
    let mut all = length.to_be_bytes().to_vec();
    all.extend(&content[..usize::from(length)]);
    all
}

/// Reads the beginning of what a server sent. `None`: more is needed, or it is no TLS; [`is_tls`] tells which.
pub fn reply(bytes: &[u8]) -> Option<Reply> {
    let (kind, content) = (*bytes.first()?, bytes.get(5..)?);
    match kind {
        ALERT => Some(Reply::Alert(*content.get(1)?)),
        HANDSHAKE if *content.first()? == SERVER_HELLO => {
            let hello = content.get(4..)?;
            let version = u16::from_be_bytes([*hello.first()?, *hello.get(1)?]);
            let at = FIXED + usize::from(*hello.get(FIXED - 1)?);
            let suite = u16::from_be_bytes([*hello.get(at)?, *hello.get(at + 1)?]);
            Some(Reply::Chosen { version, suite })
        }
        _ => None,
    }
}

/// Whether that may be the begin of a server's records.
pub fn is_tls(bytes: &[u8]) -> bool {
    matches!(bytes, [] | [ALERT | HANDSHAKE] | [ALERT | HANDSHAKE, 3, ..])
}

/// The name of a suite.
pub fn suite_name(suite: u16) -> String {
    let known = [BROKEN, STATIC, OLD].into_iter().flatten().find(|(number, _)| *number == suite);
    known.map_or_else(|| format!("suite 0x{suite:04x}"), |(_, name)| (*name).to_owned())
}

/// The name of a version.
pub fn version_name(version: u16) -> String {
    match version {
        0x0300 => "SSL 3.0".to_owned(),
        0x0301 => "TLS 1.0".to_owned(),
        TLS_1_1 => "TLS 1.1".to_owned(),
        TLS_1_2 => "TLS 1.2".to_owned(),
        0x0304 => "TLS 1.3".to_owned(),
        other => format!("version 0x{other:04x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_hello_lengths_are_right() {
        let hello = client_hello(TLS_1_2, BROKEN, "kubernetes.default.svc", &[7; 32]);
        let length = |at: usize| usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
        assert_eq!(length(3), hello.len() - 5);
        assert_eq!(length(7), hello.len() - 9);
        assert_eq!(&hello[9..11], &[3, 3]);
        assert_eq!(length(44), BROKEN.len() * 2);
    }

    #[test]
    fn server_replies_are_read() {
        let mut hello = vec![22, 3, 1, 0, 44, 2, 0, 0, 40, 3, 1];
        hello.extend([0; 32]);
        hello.extend([2, 9, 9, 0xc0, 0x12, 0]);
        assert_eq!(reply(&hello), Some(Reply::Chosen { version: 0x0301, suite: 0xc012 }));
        assert_eq!(suite_name(0xc012), "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA");
        assert_eq!(reply(&hello[..46]), None);
        assert!(is_tls(&hello) && !is_tls(b"HTTP/1.1 400"));
        assert_eq!(reply(&[21, 3, 3, 0, 2, 2, 70]), Some(Reply::Alert(70)));
    }

    proptest::proptest! {
        #[test]
        fn no_server_reply_panics(bytes: Vec<u8>) {
            let _ = reply(&bytes);
            let _ = is_tls(&bytes);
        }

        #[test]
        fn client_hello_of_any_name_has_right_length(name in ".{0,300}") {
            let hello = client_hello(TLS_1_1, OLD, &name, &[0; 32]);
            let length = u16::from_be_bytes([hello[3], hello[4]]);
            proptest::prop_assert_eq!(usize::from(length), hello.len() - 5);
        }
    }
}
