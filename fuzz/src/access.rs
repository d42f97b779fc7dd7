//! From a configuration to what an apiserver is shown, without a connection and without running a credential plugin.

use std::path::Path;

use apivip::transport::{Access, AccessError, ResolvedCredentials};
use tokio::runtime::{Builder, Runtime};

/// Reads a kubeconfig as if it stood where nothing else does.
///
/// # Errors
/// What the product says of it, in one line.
pub fn access(kubeconfig: &[u8]) -> Result<Access, AccessError> {
    let access = apivip::transport::load::of_kubeconfig(Path::new("/nowhere/kubeconfig"), kubeconfig, None);
    if let Err(error) = &access {
        is_one_line(&error.to_string());
    }
    access
}

/// What is shown with a plugin's answer; whatever the header holds, a request can be made of it.
///
/// # Panics
/// If what was accepted cannot be used.
pub fn shown(access: &Access, written: &[u8]) -> Option<ResolvedCredentials> {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread().build().expect("a runtime");
    }
    let shown = RUNTIME.with(|runtime| runtime.block_on(access.credentials_of(written)));
    let shown = shown.inspect_err(|error| is_one_line(error)).ok()?;
    let mut request = access.request(http::Method::GET, "/readyz");
    if let Some(authorization) = &shown.authorization {
        assert!(authorization.is_sensitive(), "a secret that logs may show");
        request = request.header(http::header::AUTHORIZATION, authorization);
    }
    request.body(()).expect("a request of what was accepted");
    Some(shown)
}

/// An error is for a log.
///
/// # Panics
/// If it is none that a log can take.
pub fn is_one_line(error: &str) {
    assert!(!error.is_empty() && !error.chars().any(char::is_control), "{error:?} is no line");
    assert!(error.len() < 4096, "{} bytes are no line", error.len());
}
