//! Words for errors of the kernel, of libraries and of servers, fit for one line. Pure.

/// The kernel's words for an error, without its number.
pub fn plain(error: &std::io::Error) -> String {
    let text = error.to_string().to_lowercase();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// Makes text of a stranger fit for a line: no control characters, single spaces, at most 300 characters.
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

/// The name of an error that has no words of its own, as words: its last part, which says most.
pub(crate) fn words(error: &impl std::fmt::Debug) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_becomes_one_short_line() {
        assert_eq!(one_line(" a\n\tb\u{1b}[31m  c\r\n"), "a b [31m c");
        assert_eq!(one_line(&"x".repeat(1000)).chars().count(), 300);
    }

    #[test]
    fn a_name_becomes_words() {
        let error = rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding);
        assert_eq!(words(&error), "bad encoding");
        assert_eq!(words(&rustls::AlertDescription::UnknownCA), "unknown ca");
        assert_eq!(words(&rustls::AlertDescription::Unknown(7)), "alert description");
        assert_eq!(words(&"text"), "unknown error");
    }
}
