//! What is wrong with a text that holds credentials, without a word of that text.
//!
//! In: errors of the parsers, which quote what they could not read. Out: one line for the log.

use serde_saphyr::Error as YamlError;

/// Why a field cannot be read. `path` leads to it; serde_json quotes what stands there, and says what should.
pub(crate) fn of_field(path: &str, error: &serde_json::Error) -> String {
    // The keys below are names that the operator chose.
    let path = path.split_inclusive("as-user-extra").next().unwrap_or_default();
    let text = error.to_string();
    match text.rsplit_once(", expected ") {
        Some((_, expected)) => format!("{path}: something else stands there than {expected}"),
        None => format!("{path}: it cannot be read"),
    }
}

/// Why a text is no YAML.
pub(crate) fn of_yaml(error: &YamlError) -> String {
    let mut inner = error;
    while let YamlError::WithSnippet { error, .. } = inner {
        inner = error;
    }
    let what = match inner {
        YamlError::SerdeMissingField { field, .. } => format!("the field {field} is missing"),
        YamlError::SerdeInvalidType { expected, .. } | YamlError::SerdeInvalidValue { expected, .. } => {
            format!("something else stands there than {expected}")
        }
        YamlError::Unexpected { expected, .. } => format!("something else stands there than {expected}"),
        YamlError::DuplicateMappingKey { .. } => "a key is there twice".to_owned(),
        YamlError::Eof { .. } => "it ends too early".to_owned(),
        _ => "it cannot be read".to_owned(),
    };
    match inner.location() {
        Some(place) => format!("{what}, in line {} at column {}", place.line(), place.column()),
        None => what,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use crate::transport::access::kubeconfig::parse;

    const SECRET: &str = "87654321";

    fn error_of(text: &str) -> Option<String> {
        parse(Path::new("/kubeconfig"), text.as_bytes(), None, None).err().map(|error| error.to_string())
    }

    #[test]
    fn a_kubeconfig_is_not_quoted() {
        let of = |user: &str| {
            format!(
                "kind: Config\ncurrent-context: a\ncontexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n\
                 clusters: [{{name: a, cluster: {{}}}}]\nusers:\n- name: a\n  user: {user}\n"
            )
        };
        for (text, says) in [
            (of(&format!("{{token: [{SECRET}]}}")), "token: something else stands there than"),
            (of(&format!("{{token: {{a: {SECRET}}}}}")), "token: something else stands there than"),
            (of(&format!("{{token: {SECRET}}}")), "token: something else stands there than"),
            (of(&format!("{{exec: {SECRET}}}")), "exec: something else stands there than"),
            (of(&format!("{{as-user-extra: {{{SECRET}: {SECRET}}}}}")), "as-user-extra: something else"),
            (of(&format!("\"{SECRET}")), "line"),
            (of(&format!("{SECRET}: [\"")), "line"),
            (of(&format!("{{token: *{SECRET}}}")), ""),
            (of(&format!("{{exec: {{env: {SECRET}}}}}")), "exec.env: something else stands there than"),
            (of(&format!("{{token: a, {SECRET}: 1, {SECRET}: 2}}")), "twice"),
        ] {
            let error = error_of(&text).unwrap_or_else(|| panic!("{text} is read"));
            assert!(!error.contains(SECRET) && error.contains(says), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_quoted(before in "[ -~\n]{0,40}", after in "[ -~\n]{0,40}") {
            if let Some(told) = error_of(&format!("{before}{SECRET}{after}")) {
                prop_assert!(!told.contains(SECRET), "{}", told);
            }
        }
    }
}
