//! Certificate and key of the client, taken from their files into memory at one moment.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::config::AuthInfo;

use super::AccessError;
use super::kubeconfig::read;

/// Replaces the names of files by what they hold.
pub(super) fn hold(user: &mut AuthInfo) -> Result<(), AccessError> {
    if let (None, Some(path)) = (&user.client_certificate_data, user.client_certificate.take()) {
        let pem = read("the client-certificate", Path::new(&path))?;
        user.client_certificate_data = Some(STANDARD.encode(pem));
    }
    if let (None, Some(path)) = (&user.client_key_data, user.client_key.take()) {
        let pem = read("the client-key", Path::new(&path))?;
        user.client_key_data = Some(STANDARD.encode(pem).into());
    }
    Ok(())
}

/// The certificate in PEM form, if there is one.
pub(super) fn certificate(user: &AuthInfo) -> Option<Vec<u8>> {
    STANDARD.decode(user.client_certificate_data.as_deref()?).ok()
}
