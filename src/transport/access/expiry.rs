//! When certificates and tokens expire, for metrics and messages.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

use super::Token;
use crate::process::clock::unix_now;

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
    pub(crate) fn remark(&self) -> String {
        let now = unix_now();
        let mut remark = String::new();
        for (what, end) in [("client certificate", self.client_certificate), ("token", self.token)] {
            let Some(end) = end.filter(|end| u64::try_from(*end).is_ok_and(|end| end < now)) else {
                continue;
            };
            let date =
                ASN1Time::from_timestamp(end).map_or_else(|_| end.to_string(), |date| date.to_string());
            // Writing to a string does not fail.
            let _ = write!(remark, ", whose {what} expired at {date}: renew it");
        }
        remark
    }
}

/// From when to when something is good, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// The begin, if it says so.
    pub begin: Option<i64>,
    /// The end.
    pub end: i64,
}

/// Those of the CA's certificate that ends first of those that are still valid, of the client certificate, and of the
/// token, each by the name that [`Expiry::dates`] gives it.
pub(crate) fn lifetimes(
    roots: &[Vec<u8>],
    client: Option<&[u8]>,
    expiry: Expiry,
) -> Vec<(&'static str, Lifetime)> {
    let of_end = |end: i64| roots.iter().filter_map(|der| lifetime(der)).find(|found| found.end == end);
    let all = [
        ("ca", expiry.ca.and_then(of_end)),
        ("client_certificate", client.and_then(lifetime)),
        ("token", expiry.token.map(|end| Lifetime { begin: None, end })),
    ];
    all.into_iter().filter_map(|(name, found)| Some((name, found?))).collect()
}

/// That of a certificate.
pub(crate) fn lifetime(der: &[u8]) -> Option<Lifetime> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let validity = certificate.validity();
    Some(Lifetime { begin: Some(validity.not_before.timestamp()), end: validity.not_after.timestamp() })
}

fn not_after(der: &[u8]) -> Option<i64> {
    Some(lifetime(der)?.end)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expiry_of_a_token_is_read_if_it_has_one() {
        let token = |claims: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        assert_eq!(token_expiry(&token(r#"{"exp": 1700000000, "aud": ["x"]}"#)), Some(1_700_000_000));
        for none in [token("{}"), token(r#"{"exp": "soon"}"#), "opaque".to_owned(), "a.b.c".to_owned()] {
            assert_eq!(token_expiry(&none), None, "{none}");
        }
    }

    #[test]
    fn what_has_expired_is_said_with_its_date() {
        let past = Expiry { client_certificate: Some(1_700_000_000), ..Expiry::default() };
        assert_eq!(
            past.remark(),
            ", whose client certificate expired at Nov 14 22:13:20 2023 +00:00: renew it"
        );
        assert_eq!(Expiry { client_certificate: Some(i64::MAX), ..Expiry::default() }.remark(), "");
    }
}
