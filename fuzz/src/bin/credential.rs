//! What a credential plugin writes -> what an apiserver is shown. Input: the ExecCredential, in JSON or YAML.

#![no_main]

use std::sync::LazyLock;

use apivip::transport::Access;
use apivip_fuzz::access::{access, shown};
use libfuzzer_sys::fuzz_target;

static ACCESS: LazyLock<Access> =
    LazyLock::new(|| access(include_bytes!("../../seeds/kubeconfig/none.yaml")).expect("a kubeconfig"));

fuzz_target!(|data: &[u8]| {
    shown(&ACCESS, data);
});
