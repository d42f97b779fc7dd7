//! How a client authenticates to an apiserver: the `Authorization` and impersonation headers, and the token files
//! that others renew.
//!
//! In: what a kubeconfig, a service account or a credential plugin gives. Out: header values. Each value is made into
//! what goes over the wire when it is read, so that nothing which was accepted can fail, or be something else, later.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::text::percent_encode;

/// What Go takes: the bits that are left over may be any.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// RFC 6750, section 2.1.
const SCHEME: &str = "Bearer ";

/// The largest file that is read, in bytes: a bundle of every public CA has a quarter of that.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The header for a token, without the white space around it that editors leave.
pub(crate) fn bearer(token: &str) -> Option<HeaderValue> {
    let token = token.trim();
    if token.is_empty() {
        return None;
    }
    let mut header = HeaderValue::try_from(format!("{SCHEME}{token}")).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// Decodes base64 as client-go does, where it may be broken into lines.
pub(crate) fn decode_base64(text: &str) -> Option<Vec<u8>> {
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

/// The impersonation headers (`Impersonate-User` and its like). The error names the field.
pub(crate) fn impersonation(
    user: Option<&str>,
    uid: Option<&str>,
    groups: &[String],
    extra: &BTreeMap<String, Option<Vec<String>>>,
) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let mut add = |name: HeaderName, value: &str, field: &str| -> Result<(), String> {
        let value = HeaderValue::from_str(value)
            .map_err(|_| format!("its {field} contains characters that are invalid in an HTTP header"))?;
        headers.try_append(name, value).map(drop).map_err(|_| format!("its {field} contains too many values"))
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
        let name = HeaderName::try_from(format!("impersonate-extra-{}", header_name_part(key)))
            .map_err(|_| "its as-user-extra contains a key that is too long".to_owned())?;
        for value in values.iter().flatten() {
            add(name.clone(), value, "as-user-extra")?;
        }
    }
    Ok(headers)
}

/// A key as a header's name may hold it: all but what RFC 9110, section 5.6.2, calls a token is percent-encoded.
fn header_name_part(key: &str) -> String {
    percent_encode(key, b"!#$&'*+-.^_`|~")
}

/// A bearer token in a file that others renew, as the kubelet does with the projected token of a Pod.
///
/// It is read again for every request, which is every few minutes. If it cannot be read the last one is used: some
/// tools remove the file after the start.
pub(crate) struct Token {
    file: PathBuf,
    last: Mutex<HeaderValue>,
}

impl Token {
    /// Reads the token: for the first time, or as a renewal of the one that is `kept` if that is from the same file.
    /// The error does not repeat the file's name.
    pub(crate) fn open(file: &Path, kept: Option<&Arc<Self>>) -> Result<Arc<Self>, String> {
        if let Some(kept) = kept.filter(|kept| kept.file == file) {
            kept.header();
            return Ok(Arc::clone(kept));
        }
        let last = Mutex::new(read_token(file)?);
        Ok(Arc::new(Self { file: file.to_owned(), last }))
    }

    /// The value of the Authorization header.
    pub(crate) fn header(&self) -> HeaderValue {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match read_token(&self.file).and_then(|read| reject_partial(&last, read)) {
            Ok(header) => *last = header,
            Err(error) => {
                tracing::debug!(
                    event = %"token_file_unreadable", file = %self.file.display(), error,
                    "Failed to read token file, using the last token"
                );
            }
        }
        last.clone()
    }

    /// The header as it was read last.
    pub(crate) fn latest(&self) -> HeaderValue {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The token itself, as it was read last.
    pub(crate) fn current(&self) -> Option<String> {
        Some(self.latest().to_str().ok()?.strip_prefix(SCHEME)?.to_owned())
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("file", &self.file).finish_non_exhaustive()
    }
}

fn read_token(path: &Path) -> Result<HeaderValue, String> {
    let bytes = read_file(path)?;
    let token = std::str::from_utf8(&bytes).ok().and_then(bearer);
    token.ok_or_else(|| "it does not contain a token".to_owned())
}

/// Refuses a token that is only the begin of one: JSON Web Tokens of one issuer and key have the same header and
/// signatures of one length.
fn reject_partial(last: &HeaderValue, read: HeaderValue) -> Result<HeaderValue, String> {
    let parts = |token: &HeaderValue| -> Option<(Vec<u8>, usize)> {
        let mut parts = token.as_bytes().split(|byte| *byte == b'.');
        let (header, _, signature) = (parts.next()?, parts.next()?, parts.next()?);
        parts.next().is_none().then(|| (header.to_vec(), signature.len()))
    };
    match (parts(last), parts(&read)) {
        (Some((last, length)), Some((header, signature))) if last == header && signature < length => {
            Err("it is written only in part".to_owned())
        }
        (Some((header, _)), None)
            if read.as_bytes().starts_with(&header) || header.starts_with(read.as_bytes()) =>
        {
            Err("it is written only in part".to_owned())
        }
        _ => Ok(read),
    }
}

/// Reads a regular file, so that a wrong path is an error and never a daemon that hangs or grows. The error says why
/// not and what to do, without the file's name.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let metadata = std::fs::metadata(path).map_err(|error| file_error(&error))?;
    if metadata.is_dir() {
        return Err("it is a directory; set a file".to_owned());
    }
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let file = std::fs::File::open(path).map_err(|error| file_error(&error))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| file_error(&error))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("it is larger than {} MiB; set another file", MAX_FILE_BYTES >> 20));
    }
    Ok(bytes)
}

fn file_error(error: &Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "no such file; correct the path".to_owned(),
        ErrorKind::PermissionDenied => "permission denied; allow this user to read it".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_in_several_lines_is_decoded() {
        for text in
            ["aGVsbG8gd29ybGQ=", "aGVsbG8g\nd29ybGQ=\n", "aGVs\r\nbG8gd29ybGQ=\r\n", " aGVsbG8g d29ybGR=\n"]
        {
            assert_eq!(decode_base64(text).as_deref(), Some(&b"hello world"[..]), "{text:?}");
        }
        for text in ["aGVsbG8gd29ybGQ", "aGVsbG8*", "a"] {
            assert_eq!(decode_base64(text), None, "{text:?}");
        }
    }

    #[test]
    fn name_and_password_become_basic_authorization() {
        assert_eq!(basic("me", "a\nb").unwrap(), "Basic bWU6YQpi");
    }

    #[test]
    fn impersonation_becomes_headers_and_bad_values_are_refused() {
        let extra =
            BTreeMap::from([("example.com/Ä".to_owned(), Some(vec!["1".to_owned(), "2".to_owned()]))]);
        let headers =
            impersonation(Some("jane"), Some("7"), &["a".to_owned(), "b".to_owned()], &extra).unwrap();
        assert_eq!(headers["impersonate-user"], "jane");
        assert_eq!(headers.get_all("impersonate-group").iter().count(), 2);
        assert_eq!(headers.get_all("impersonate-extra-example.com%2f%c3%84").iter().count(), 2);
        let error = impersonation(Some("a\nb"), None, &[], &BTreeMap::new()).unwrap_err();
        assert_eq!(error, "its as contains characters that are invalid in an HTTP header");
    }

    #[test]
    fn directories_devices_and_large_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let large = folder.path().join("large");
        std::fs::File::create(&large).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();
        let cases = [
            (folder.path(), "it is a directory; set a file"),
            (Path::new("/dev/zero"), "it is not a regular file"),
            (&large, "it is larger than 1 MiB; set another file"),
            (&folder.path().join("none"), "no such file; correct the path"),
        ];
        for (path, cause) in cases {
            assert_eq!(read_file(path).unwrap_err(), cause);
        }
    }

    /// The tests run as root, for which permissions do not count.
    #[test]
    fn forbidden_file_is_reported_with_what_to_do() {
        let denied = Error::from(ErrorKind::PermissionDenied);
        assert_eq!(file_error(&denied), "permission denied; allow this user to read it");
    }
}
