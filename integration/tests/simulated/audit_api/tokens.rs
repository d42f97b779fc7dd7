//! `apivip-audit`, the token of the node's credentials, and the CAs that they come with.

use std::fs;

use anyhow::{Context, Result};
use apivip::process::clock::unix_now;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use integration::check::Checked;
use integration::pki::Authority;
use integration::sim::odd_api::Options;
use serde_json::{Value, json};

use super::stage::Stage;

/// A signed token in form.
fn token(claims: &Value) -> String {
    format!("e30.{}.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

fn of(stage: &Stage, token: String) -> Result<Checked> {
    let audited = stage.with_token(&token)?;
    audited.of(Options { known: vec![token], ..stage.good()? })
}

#[test]
fn a_token_is_judged_by_what_it_claims() -> Result<()> {
    let stage = Stage::start()?;
    let now = unix_now();
    let pod = json!({"pod": {"name": "web"}, "node": {"name": "n"}});
    let good = json!({"aud": ["api"], "iat": now, "exp": now + 3600, "kubernetes.io": pod});
    let checked = of(&stage, token(&good))?;
    for id in ["token-lifetime", "token-audience", "token-binding", "damaged-token", "credentials"] {
        checked.expect(id, "pass", &[])?;
    }
    let mut wide = good.clone();
    wide["aud"] = json!(["api", "vault"]);
    of(&stage, token(&wide))?.expect("token-audience", "fail", &["it names api, vault"])?;
    let mut none = good.clone();
    none["aud"] = Value::Null;
    of(&stage, token(&none))?.expect("token-audience", "fail", &["it names no audience"])?;
    let mut old = good.clone();
    old["exp"] = json!(now - 60);
    of(&stage, token(&old))?.expect("token-lifetime", "fail", &["it expired"])?;
    let secret = json!({"aud": "api", "kubernetes.io/serviceaccount/secret.name": "default-token"});
    of(&stage, token(&secret))?.expect("token-binding", "fail", &["it comes from Secret default-token"])?;
    of(&stage, "opaque-token".to_owned())?.expect("static-tokens", "fail", &["it comes from such a file"])
}

#[test]
fn more_cas_than_a_renewal_needs_and_public_ones_are_noticed() -> Result<()> {
    let stage = Stage::start()?;
    let own = fs::read_to_string(stage.authority.certificate()).context("read the CA")?;
    let others = ["next-ca", "third-ca"].map(|name| -> Result<String> {
        let other = Authority::new(stage.lab.dir(), name)?;
        fs::read_to_string(other.certificate()).context("read a CA")
    });
    let [next, third] = others;
    let (next, third) = (next?, third?);
    let _serving = stage.serve(stage.good()?)?;
    let trusting = |bundle: &[&str]| -> Result<Checked> {
        fs::write(stage.lab.dir().join("bundle.pem"), bundle.concat())?;
        stage.trusting(&stage.lab.dir().join("bundle.pem"))?.audit()
    };
    trusting(&[&own])?.expect("trusted-cas", "pass", &["one CA: CN=ca"])?;
    trusting(&[&own, &next])?.expect("trusted-cas", "pass", &["two CAs", "CN=next-ca"])?;
    trusting(&[&own, &next, &third])?.expect("trusted-cas", "fail", &["3 CAs", "CN=third-ca"])?;
    let system = fs::read_to_string("/etc/ssl/certs/ca-certificates.crt")
        .context("read the system's CAs (Debian package ca-certificates)")?;
    let end = "-----END CERTIFICATE-----\n";
    let public = system.split_inclusive(end).next().context("find a public CA")?;
    trusting(&[&own, public])?.expect("trusted-cas", "fail", &["a public CA of this host"])
}
