//! Certificates -> whether an apiserver is believed. Input: the length of the CA's certificate as two bytes, that
//! certificate, and the server's, both in DER.

#![no_main]

use apivip::transport::readyz::verify_chain;
use apivip_fuzz::access::{access, is_one_line};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((length, rest)) = data.split_first_chunk() else { return };
    let Some((ca, leaf)) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length))) else { return };
    let pem =
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", BASE64_STANDARD.encode(ca));
    let kubeconfig = serde_json::json!({
        "clusters": [{ "name": "a", "cluster": {
            "server": "https://192.0.2.11:6443", "certificate-authority-data": BASE64_STANDARD.encode(pem) } }],
        "users": [{ "name": "a", "user": { "token": "t" } }],
        "contexts": [{ "name": "a", "context": { "cluster": "a", "user": "a" } }],
        "current-context": "a",
    });
    let Ok(access) = access(kubeconfig.to_string().as_bytes()) else { return };
    for chain in [vec![leaf.to_vec()], vec![leaf.to_vec(), ca.to_vec()]] {
        if let Err(why) = verify_chain(&access, &chain) {
            is_one_line(&why);
        }
    }
});
