//! Text that crosses a boundary: errors and untrusted text as one line of a log, without secrets; names and values as
//! a URL or a header name may hold them. Pure.
//!
//! In: errors of the kernel, of libraries and of parsers, which quote what they could not read; text that a server
//! sent. Out: one line.

use serde_saphyr::Error as YamlError;

/// The text of an errno (`strerror`), without its number.
pub fn errno_text(error: &std::io::Error) -> String {
    let text = error.to_string().to_lowercase();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// Makes untrusted text fit for a line of the log: no control characters, single spaces, at most 300 characters.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if line.chars().count() > 300 {
        line = line.chars().take(299).chain(['…']).collect();
    }
    line
}

/// The name of an enum variant as words, for errors without `Display`: its last part, which says most.
pub(crate) fn variant_text(error: &impl std::fmt::Debug) -> String {
    let text = format!("{error:?}");
    let names = text.split(['{', '"']).next().unwrap_or_default();
    let is_name = |name: &&str| name.starts_with(|c: char| c.is_ascii_alphabetic());
    let name = names.split(|c: char| !c.is_alphanumeric()).rfind(is_name).unwrap_or("unknown error");
    let mut words = String::new();
    let mut last = 'A';
    for c in name.chars() {
        if c.is_uppercase() && last.is_lowercase() {
            words.push(' ');
        }
        words.extend(c.to_lowercase());
        last = c;
    }
    words
}

/// Why a field cannot be read, without its value: serde_json quotes what stands there, which may be a secret. `path`
/// leads to the field.
pub(crate) fn redacted_field_error(path: &str, error: &serde_json::Error) -> String {
    // The keys below are names that the operator chose.
    let path = path.split_inclusive("as-user-extra").next().unwrap_or_default();
    let text = error.to_string();
    match text.rsplit_once(", expected ") {
        Some((_, expected)) => format!("{path}: the value is not {expected}"),
        None => format!("{path}: it cannot be read"),
    }
}

/// Why a text is not YAML, without a word of that text.
pub(crate) fn redacted_yaml_error(error: &YamlError) -> String {
    let mut inner = error;
    while let YamlError::WithSnippet { error, .. } = inner {
        inner = error;
    }
    let what = match inner {
        YamlError::SerdeMissingField { field, .. } => format!("the field {field} is missing"),
        YamlError::SerdeInvalidType { expected, .. } | YamlError::SerdeInvalidValue { expected, .. } => {
            format!("the value is not {expected}")
        }
        YamlError::Unexpected { expected, .. } => format!("the value is not {expected}"),
        YamlError::DuplicateMappingKey { .. } => "a key is duplicated".to_owned(),
        YamlError::Eof { .. } => "it is truncated".to_owned(),
        _ => "it cannot be read".to_owned(),
    };
    match inner.location() {
        Some(place) => format!("{what}, in line {} at column {}", place.line(), place.column()),
        None => what,
    }
}

/// Percent-encoding (RFC 3986, section 2.1): `text` with every byte encoded but letters and digits of ASCII, and what
/// is in `kept`.
pub(crate) fn percent_encode(text: &str, kept: &[u8]) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || kept.contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untrusted_text_becomes_one_short_line() {
        assert_eq!(one_line(" a\n\tb\u{1b}[31m  c\r\n"), "a b [31m c");
        assert_eq!(one_line(&"x".repeat(1000)).chars().count(), 300);
    }

    #[test]
    fn variant_name_becomes_lower_case_words() {
        let error = rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding);
        assert_eq!(variant_text(&error), "bad encoding");
        assert_eq!(variant_text(&rustls::AlertDescription::UnknownCA), "unknown ca");
        assert_eq!(variant_text(&rustls::AlertDescription::Unknown(7)), "alert description");
        assert_eq!(variant_text(&"text"), "unknown error");
    }
}
