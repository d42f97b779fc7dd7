//! What is wrong with a text that holds credentials, without a word of that text.
//!
//! In: errors of kube and of its YAML parser, which quote what they could not read, and what a credential plugin was given
//! and wrote. Out: one line for the log.

use kube::client::AuthError;
use kube::config::KubeconfigError;
use serde_saphyr::Error as YamlError;

use crate::apiserver::error::one_line;

/// Why a kubeconfig cannot be read.
pub(super) fn of_kubeconfig(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::Parse(error) => of_yaml(error),
        other => one_line(&other.to_string()),
    }
}

/// Why there are no credentials.
pub(super) fn of_kube(error: &kube::Error) -> String {
    match error {
        kube::Error::Auth(error) => of_plugin(error),
        other => one_line(&other.to_string()),
    }
}

/// What became of a credential plugin. Its standard output holds the credential, its arguments and variables may hold
/// others; what it says on standard error is meant for people.
pub(in crate::apiserver) fn of_plugin(error: &AuthError) -> String {
    match error {
        AuthError::AuthExecRun { out, .. } => {
            let said = one_line(&String::from_utf8_lossy(&out.stderr));
            let separator = if said.is_empty() { "" } else { ": " };
            format!("the credential plugin failed with {}{separator}{said}", out.status)
        }
        AuthError::AuthExecParse(error) => {
            format!("what the credential plugin wrote is no ExecCredential: {}", of_yaml(error))
        }
        other => one_line(&other.to_string()),
    }
}

fn of_yaml(error: &YamlError) -> String {
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
    use std::os::unix::process::ExitStatusExt;
    use std::process::{ExitStatus, Output};

    use kube::config::Kubeconfig;
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "87654321";

    #[test]
    fn a_kubeconfig_is_not_quoted() {
        let of = |user: &str| format!("kind: Config\nusers:\n- name: apivip\n  user: {user}\n");
        for (text, says) in [
            (of(&format!("{{token: [{SECRET}]}}")), "line 4"),
            (of(&format!("{{token: {{a: {SECRET}}}}}")), "line 4"),
            (of(&format!("{{exec: {SECRET}}}")), "something else stands there than"),
            (of(&format!("\"{SECRET}")), "line"),
            (of(&format!("{SECRET}: [\"")), "line"),
            (of(&format!("{{token: *{SECRET}}}")), ""),
            (of(&format!("{{exec: {{interactiveMode: {SECRET}}}}}")), "line 4"),
            (of(&format!("{{token: a, {SECRET}: 1, {SECRET}: 2}}")), "twice"),
        ] {
            let error = match Kubeconfig::from_yaml(&text) {
                Err(error) => of_kubeconfig(&error),
                Ok(read) => panic!("{text} is read as {read:?}"),
            };
            assert!(!error.contains(SECRET) && error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn of_a_plugin_only_the_standard_error_is_told() {
        let out = Output {
            status: ExitStatus::from_raw(256),
            stdout: SECRET.into(),
            stderr: b"no\n such  realm\n".to_vec(),
        };
        let error =
            AuthError::AuthExecRun { cmd: format!("KEY={SECRET} plugin {SECRET}"), out: Box::new(out) };
        let told = of_kube(&kube::Error::Auth(error));
        assert_eq!(told, "the credential plugin failed with exit status: 1: no such realm");
    }

    proptest! {
        #[test]
        fn no_text_is_quoted(before in "[ -~\n]{0,40}", after in "[ -~\n]{0,40}") {
            let text = format!("{before}{SECRET}{after}");
            if let Err(error) = Kubeconfig::from_yaml(&text) {
                let told = of_kubeconfig(&error);
                prop_assert!(!told.contains(SECRET), "{}", told);
            }
        }
    }
}
