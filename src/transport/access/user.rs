//! As whom the daemon speaks to apiservers: what a user entry says, in the form in which it is used.
//!
//! Each value is made into what goes over the wire when it is read, so that nothing which was accepted can fail, or be
//! something else, later.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::identity::Identity;
use super::plugin::Plugin;
use crate::transport::percent;

/// What Go takes: the bits that are left over may be any.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// What one user entry gives. Its secrets are not shown by `Debug`.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct User {
    /// A token or a password that never changes. It is marked as sensitive.
    pub(crate) authorization: Option<HeaderValue>,
    /// Certificate and key.
    pub(crate) identity: Option<Identity>,
    /// As whom it acts.
    pub(crate) headers: HeaderMap,
    /// Who is asked for token or certificate.
    pub(crate) plugin: Option<Plugin>,
}

impl User {
    /// The client's own certificate, in DER.
    pub(crate) fn leaf(&self) -> Option<&[u8]> {
        self.identity.as_ref()?.leaf()
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").finish_non_exhaustive()
    }
}

/// Decodes base64 as client-go does, where it may be broken into lines.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let whole: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    BASE64.decode(whole).ok()
}

/// The header for a name and a password (RFC 7617).
pub(crate) fn basic(name: &str, password: &str) -> Option<HeaderValue> {
    let mut header =
        HeaderValue::try_from(format!("Basic {}", BASE64.encode(format!("{name}:{password}")))).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// The headers that say as whom to act. The error names the field.
pub(crate) fn impersonation(
    user: Option<&str>,
    uid: Option<&str>,
    groups: &[String],
    extra: &BTreeMap<String, Option<Vec<String>>>,
) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let mut add = |name: HeaderName, value: &str, field: &str| -> Result<(), String> {
        let value = HeaderValue::from_str(value)
            .map_err(|_| format!("its {field} holds characters that no HTTP header has"))?;
        headers.try_append(name, value).map(drop).map_err(|_| format!("its {field} holds too many values"))
    };
    if let Some(user) = user {
        add(HeaderName::from_static("impersonate-user"), user, "as")?;
    }
    if let Some(uid) = uid {
        add(HeaderName::from_static("impersonate-uid"), uid, "as-uid")?;
    }
    for group in groups {
        add(HeaderName::from_static("impersonate-group"), group, "as-groups")?;
    }
    for (key, values) in extra {
        let name = HeaderName::try_from(format!("impersonate-extra-{}", escaped(key)))
            .map_err(|_| "its as-user-extra holds a key that is too long".to_owned())?;
        for value in values.iter().flatten() {
            add(name.clone(), value, "as-user-extra")?;
        }
    }
    Ok(headers)
}

/// A key as a header's name may hold it: all but what RFC 9110, section 5.6.2, calls a token is percent-encoded.
fn escaped(key: &str) -> String {
    percent::encoded(key, b"!#$&'*+-.^_`|~")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_may_be_broken_into_lines() {
        for text in
            ["aGVsbG8gd29ybGQ=", "aGVsbG8g\nd29ybGQ=\n", "aGVs\r\nbG8gd29ybGQ=\r\n", " aGVsbG8g d29ybGR=\n"]
        {
            assert_eq!(decode(text).as_deref(), Some(&b"hello world"[..]), "{text:?}");
        }
        for text in ["aGVsbG8gd29ybGQ", "aGVsbG8*", "a"] {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_password_and_a_name_become_one_header() {
        assert_eq!(basic("me", "a\nb").unwrap(), "Basic bWU6YQpi");
    }

    #[test]
    fn as_whom_to_act_is_said_in_headers() {
        let extra =
            BTreeMap::from([("example.com/Ä".to_owned(), Some(vec!["1".to_owned(), "2".to_owned()]))]);
        let headers =
            impersonation(Some("jane"), Some("7"), &["a".to_owned(), "b".to_owned()], &extra).unwrap();
        assert_eq!(headers["impersonate-user"], "jane");
        assert_eq!(headers.get_all("impersonate-group").iter().count(), 2);
        assert_eq!(headers.get_all("impersonate-extra-example.com%2f%c3%84").iter().count(), 2);
        let error = impersonation(Some("a\nb"), None, &[], &BTreeMap::new()).unwrap_err();
        assert_eq!(error, "its as holds characters that no HTTP header has");
    }
}
