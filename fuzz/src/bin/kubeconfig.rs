//! A kubeconfig -> what an apiserver is shown. Input: its text.

#![no_main]

use apivip_fuzz::access::{access, is_one_line, shown};
use libfuzzer_sys::fuzz_target;

/// For a user whose kubeconfig names a plugin, or nothing.
const ANSWER: &[u8] = br#"{"kind":"ExecCredential","status":{"token":"t"}}"#;

fuzz_target!(|data: &[u8]| {
    let Ok(access) = access(data) else { return };
    access.warnings().iter().for_each(|warning| is_one_line(&warning.to_string()));
    access.trust().expect("a CA that was accepted");
    shown(&access, ANSWER).expect("credentials that were accepted");
});
