//! `apivip-audit` and an apiserver that is good, and then bad in one way after the other.

mod control;
mod stage;
mod tokens;

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use integration::audit;
use integration::command::{self, COMMAND_LIMIT};
use integration::pki::{Authority, Validity};
use integration::process::Spawned;
use integration::sim::odd_api::{Manner, Options};
use stage::{AT, IDS, NAMES, Stage, TOKEN, expect};

#[test]
fn a_good_apiserver_passes_and_each_bad_way_at_the_door_is_noticed() -> Result<()> {
    let stage = Stage::start()?;
    let good = || stage.good();
    let checked = stage.of(good()?)?;
    expect(&checked, &[])?;
    checked.expect("anonymous-discovery", "pass", &["/version, /livez, /readyz, but no discovery"])?;
    checked.expect("token-lifetime", "fail", &["never expires"])?;
    checked.expect("token-audience", "pass", &["api"])?;

    let open = |path: &'static str| -> Result<Options> { Ok(Options { public: vec![path], ..good()? }) };
    expect(
        &stage.of(open("/api")?)?,
        &[
            ("anonymous-discovery", "fail", "/api, /apis"),
            ("anonymous-objects", "fail", "/api/v1/namespaces, /api/v1/nodes"),
            // A path that begins like the others: whoever is nobody may read any, and nothing tells a stranger from nobody.
            ("foreign-client-certificate", "pass", "rejected"),
            ("basic-auth", "pass", ""),
        ],
    )?;
    expect(&stage.of(open("/openapi")?)?, &[("anonymous-discovery", "fail", "/openapi/v2")])?;
    expect(&stage.of(Options { anonymous: false, ..good()? })?, &[])?;
    let foreign = Options { any_certificate: true, ..good()? };
    expect(&stage.of(foreign)?, &[("foreign-client-certificate", "fail", "can read any path")])?;
    let believing = Options { any_token: true, ..good()? };
    expect(&stage.of(believing)?, &[("damaged-token", "fail", "authenticated as whoever")])?;
    expect(&stage.of(Options { basic: true, ..good()? })?, &[("basic-auth", "fail", "Basic")])?;
    for port in [8080, 8001] {
        let plain = Options { plain: Some(port), ..good()? };
        expect(
            &stage.of(plain)?,
            &[("plain-http", "fail", &format!("port {port} serves the API without TLS"))],
        )?;
    }
    let stranger = Options { known: Vec::new(), ..good()? };
    let checked = stage.of(stranger)?;
    expect(&checked, &[("credentials", "fail", "rejected (401)")])?;
    checked.expect("authorization-mode", "unknown", &["rejects these credentials"])
}

#[test]
fn certificates_that_are_bad_are_noticed_and_no_credentials_are_shown_to_them() -> Result<()> {
    let stage = Stage::start()?;
    let unasked = [
        ("foreign-client-certificate", "unknown", "the audit sends no request"),
        ("anonymous-discovery", "unknown", "the audit sends no request"),
        ("anonymous-objects", "unknown", "the audit sends no request"),
        ("basic-auth", "unknown", "the audit sends no request"),
        ("credentials", "unknown", "the audit sends no request"),
        ("damaged-token", "unknown", "the audit sends no request"),
    ];
    let foreign = Authority::new(stage.lab.dir(), "foreign-ca")?;
    let cases = [
        (
            stage.certificate(&foreign, "foreign", &NAMES, Validity::Now)?,
            "apiserver-certificate-issuer",
            "signed by CN=foreign-ca",
        ),
        (
            stage.certificate(&stage.authority, "expired", &NAMES, Validity::Expired)?,
            "apiserver-certificate-expiry",
            "expired 1h",
        ),
        (
            stage.certificate(&stage.authority, "early", &NAMES, Validity::NotYet)?,
            "apiserver-certificate-expiry",
            "not valid yet, for another",
        ),
    ];
    for (files, id, words) in cases {
        let checked = stage.of(Options { files, ..stage.good()? })?;
        expect(&checked, &[&[(id, "fail", words)][..], &unasked].concat())?;
    }
    let files = stage.certificate(&stage.authority, "nameless", &["kubernetes"], Validity::Now)?;
    let checked = stage.of(Options { files, ..stage.good()? })?;
    expect(
        &checked,
        &[(
            "apiserver-certificate-names",
            "fail",
            "it lacks kubernetes.default.svc; it is valid for kubernetes",
        )],
    )
}

#[test]
fn servers_that_hang_flood_or_are_not_there_are_left_in_time() -> Result<()> {
    let stage = Stage::start()?;
    let all = |words: &'static str| -> Vec<(&'static str, &'static str, &'static str)> {
        IDS.into_iter().filter(|id| *id != "plain-http").map(|id| (id, "unknown", words)).collect()
    };
    let checked = stage.of(Options { manner: Manner::Hangs, ..stage.good()? })?;
    println!("one that hangs took {:?}", checked.took);
    expect(&checked, &[&all("within")[..], &[("plain-http", "unknown", "6443 does not answer")]].concat())?;
    let checked = stage.audit()?;
    expect(&checked, &all("refused"))?;
    // Statuses are all that is wanted of most paths; of what is read no more than a part is.
    let checked = stage.of(Options { manner: Manner::Floods(100 << 20), ..stage.good()? })?;
    println!("one that floods took {:?}", checked.took);
    checked.expect("proxy-https-services", "unknown", &["longer than 4 MiB"])
}

#[test]
fn old_tls_and_weak_ciphers_are_taken_for_what_they_are() -> Result<()> {
    let stage = Stage::start()?;
    let files = stage.certificate(&stage.authority, "good", &NAMES, Validity::Now)?;
    let serve = |flags: &[&str]| -> Result<Spawned> {
        let mut server = stage.lab.apiserver(1).command("openssl");
        server.args(["s_server", "-quiet", "-accept", AT]).arg("-cert").arg(&files.certificate);
        server.arg("-key").arg(&files.key).args(flags);
        let mut server = Spawned::start("s_server", server, stage.lab.dir())?;
        server.wait_until("it listens", COMMAND_LIMIT, |_| {
            let listening = stage.lab.apiserver(1).run("ss", &["-Hltn", "sport", "=", ":6443"])?;
            Ok((!listening.trim().is_empty()).then_some(()))
        })?;
        Ok(server)
    };
    let mut old = serve(&["-tls1", "-cipher", "ALL:@SECLEVEL=0"])?;
    let checked = stage.audit()?;
    checked.expect("apiserver-tls-version", "fail", &["it accepts TLS 1.0"])?;
    checked.expect("apiserver-certificate-issuer", "unknown", &[])?;
    old.kill()?;
    let mut weak = serve(&["-tls1_2", "-cipher", "ECDHE-ECDSA-NULL-SHA:AECDH-NULL-SHA:ALL:@SECLEVEL=0"])?;
    let checked = stage.audit()?;
    checked.expect("apiserver-tls-version", "pass", &[])?;
    checked.expect("apiserver-tls-ciphers", "fail", &["it accepts TLS_"])?;
    checked.expect("apiserver-certificate-issuer", "pass", &[])?;
    weak.kill()?;
    Ok(())
}

#[test]
fn it_says_what_it_found_in_each_form_and_by_its_exit_code() -> Result<()> {
    let stage = Stage::start()?;
    let at: SocketAddr = AT.parse()?;
    let _serving = stage.serve(Options { basic: true, ..stage.good()? })?;
    let run = |arguments: &[&str]| {
        let mut command = audit::command(&stage.lab)?;
        command.arg("--kubeconfig").arg(&stage.kubeconfig).args(arguments);
        command::finish(command, "", audit::LIMIT)
    };
    let text = run(&[])?;
    ensure!(text.status.code() == Some(3) && text.stderr.is_empty(), "{}\n{}", text.stdout, text.stderr);
    for words in [
        "cluster -> API server\n",
        "fail",
        "high",
        "basic-auth",
        &at.to_string(),
        "-> remove --basic-auth-file",
    ] {
        ensure!(text.stdout.contains(words), "{words} is missing in\n{}", text.stdout);
    }
    ensure!(!text.stdout.contains(TOKEN) && !text.stdout.contains('\x1b'), "{}", text.stdout);
    ensure!(run(&["--fail-on", "never"])?.status.code() == Some(0), "--fail-on never");
    let sarif = run(&["-o", "sarif"])?;
    let sarif: serde_json::Value = serde_json::from_str(&sarif.stdout).context("read SARIF")?;
    ensure!(sarif["version"] == "2.1.0" && sarif["runs"][0]["results"].is_array(), "{sarif:#}");

    let explained = |id: &str| {
        let mut command = stage.lab.node().command(command::program("apivip-audit")?);
        command.args(["--explain", id]);
        command::finish(command, "", COMMAND_LIMIT)
    };
    let known = explained("kubelet-verified")?;
    ensure!(
        known.status.success() && known.stdout.contains("--kubelet-certificate-authority"),
        "{}",
        known.stdout
    );
    let unknown = explained("nothing")?;
    ensure!(unknown.status.code() == Some(2) && unknown.stderr.lines().count() == 1, "{}", unknown.stderr);
    Ok(())
}
