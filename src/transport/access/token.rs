//! A bearer token in a file that others renew.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderValue;

use super::file;

/// RFC 6750, section 2.1.
const SCHEME: &str = "Bearer ";

/// Reads the token anew for every request, which is every few minutes. If it cannot be read the last one is used: some
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
        let last = Mutex::new(read(file)?);
        Ok(Arc::new(Self { file: file.to_owned(), last }))
    }

    /// The value of the Authorization header.
    pub(crate) fn header(&self) -> HeaderValue {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match read(&self.file).and_then(|read| whole(&last, read)) {
            Ok(header) => *last = header,
            Err(cause) => {
                tracing::debug!(file = %self.file.display(), cause, "the token file cannot be read; using the last");
            }
        }
        last.clone()
    }
}

impl Token {
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

fn read(path: &Path) -> Result<HeaderValue, String> {
    let bytes = file::read(path)?;
    let token = std::str::from_utf8(&bytes).ok().and_then(bearer);
    token.ok_or_else(|| "it does not hold a token".to_owned())
}

/// Refuses a token that is only the begin of one: JSON Web Tokens of one issuer and key have the same header and
/// signatures of one length.
fn whole(last: &HeaderValue, read: HeaderValue) -> Result<HeaderValue, String> {
    let parts = |token: &HeaderValue| -> Option<(Vec<u8>, usize)> {
        let mut parts = token.as_bytes().split(|byte| *byte == b'.');
        let (header, _, signature) = (parts.next()?, parts.next()?, parts.next()?);
        parts.next().is_none().then(|| (header.to_vec(), signature.len()))
    };
    match (parts(last), parts(&read)) {
        (Some((last, length)), Some((header, signature))) if last == header && signature < length => {
            Err("it is only half written".to_owned())
        }
        (Some((header, _)), None)
            if read.as_bytes().starts_with(&header) || header.starts_with(read.as_bytes()) =>
        {
            Err("it is only half written".to_owned())
        }
        _ => Ok(read),
    }
}

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
