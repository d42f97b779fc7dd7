//! No credential is told to anybody: not in the log at its finest, not in status, metrics, page or `apivip check`, and
//! not where credentials are wrong, half written or refused.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::prelude::{BASE64_STANDARD, Engine};
use integration::admin;
use integration::check::check_command;
use integration::command;
use integration::control_plane::Variant;
use integration::daemon::{self, Daemon};
use integration::lab::{Lab, LabOptions};
use integration::pki::{Authority, KeyFiles, Validity};
use integration::scenario::Scenario;
use integration::sim::protocol::Canned;

const LIMIT: Duration = Duration::from_secs(60);
/// Parts of it would do harm, too.
const MARKER: &str = "marker-5f1dc0e7-of-no-other-text";

/// One kind of credential, as lines of the kubeconfig's user.
struct Credential {
    what: &'static str,
    user: String,
    /// What must never be seen, parts of it among them.
    secrets: Vec<String>,
    accepted: bool,
}

/// The text of a secret in the forms in which it travels.
fn forms(secret: &str) -> Vec<String> {
    let basic = BASE64_STANDARD.encode(format!("apivip:{secret}"));
    vec![secret.to_owned(), BASE64_STANDARD.encode(secret), basic]
}

/// Each line of the key itself.
fn lines_of(key: &str) -> Vec<String> {
    key.lines().filter(|line| !line.starts_with("-----")).map(str::to_owned).collect()
}

fn plugin(lab: &Lab, name: &str, output: &str) -> Result<String> {
    let path = lab.dir().join(name);
    fs::write(&path, format!("#!/bin/sh\ncat <<'END'\n{output}\nEND\n"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    let path = path.display();
    Ok(format!(
        "exec: {{apiVersion: client.authentication.k8s.io/v1, command: {path}, interactiveMode: Never}}"
    ))
}

fn credential(token: &str) -> String {
    format!(
        r#"{{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{{"token":"{token}"}}}}"#
    )
}

/// All kinds: some that the apiservers accept, and some that they refuse.
fn credentials(lab: &Lab, accepted: &str) -> Result<Vec<Credential>> {
    let authority = Authority::new(lab.dir(), "client-ca")?;
    let KeyFiles { certificate, key } = authority.client("apivip", "apivip", &[], Validity::Now)?;
    let pem = fs::read_to_string(&key)?;
    let mut of_key = lines_of(&pem);
    of_key.push(BASE64_STANDARD.encode(&pem));
    let token_file = lab.dir().join("token");
    fs::write(&token_file, MARKER)?;
    let whole = credential(MARKER);
    let cut = &whole[..whole.len() - 10];
    let kind = |what, user: String, secrets, accepted| Credential { what, user, secrets, accepted };
    Ok(vec![
        kind("a token that is accepted", format!("token: {accepted}"), forms(accepted), true),
        kind("a token that is refused", format!("token: {MARKER}"), forms(MARKER), false),
        kind("a token file", format!("tokenFile: {}", token_file.display()), forms(MARKER), false),
        kind("a plugin", plugin(lab, "good", &credential(accepted))?, forms(accepted), true),
        kind("a plugin with a bad token", plugin(lab, "bad", &credential(MARKER))?, forms(MARKER), false),
        kind("a plugin that is cut off", plugin(lab, "cut", cut)?, forms(&MARKER[..16]), false),
        kind("a password", format!("username: apivip\n    password: {MARKER}"), forms(MARKER), false),
        kind(
            "a client certificate",
            format!("client-certificate: {}\n    client-key: {}", certificate.display(), key.display()),
            of_key.clone(),
            false,
        ),
        kind(
            "a client certificate in the file",
            format!(
                "client-certificate-data: {}\n    client-key-data: {}",
                BASE64_STANDARD.encode(fs::read(&certificate)?),
                BASE64_STANDARD.encode(&pem)
            ),
            of_key,
            false,
        ),
    ])
}

fn expect_none(what: &str, place: &str, text: &str, secrets: &[String]) -> Result<()> {
    for secret in secrets {
        let Some(at) = text.find(secret.as_str()) else { continue };
        let line = text[..at].lines().count().saturating_sub(1);
        let line = text.lines().nth(line).unwrap_or_default();
        anyhow::bail!("{place} shows the secret of {what}: {line}");
    }
    Ok(())
}

/// The kubeconfig of the scenario with another user.
fn kubeconfig(scenario: &Scenario<'_>, lab: &Lab, user: &str) -> Result<PathBuf> {
    let good = scenario.options.kubeconfig.clone().context("a kubeconfig")?;
    let text = fs::read_to_string(good)?;
    let old = format!("token: {}", scenario.plane.token());
    ensure!(text.contains(&old), "no token in\n{text}");
    let path = lab.dir().join("other.kubeconfig");
    fs::write(&path, text.replace(&old, user))?;
    Ok(path)
}

#[test]
fn no_secret_is_told_whatever_becomes_of_it() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    let foreign = Authority::new(lab.dir(), "foreign")?;
    for Credential { what, user, secrets, accepted } in credentials(&lab, scenario.plane.token())? {
        let path = kubeconfig(&scenario, &lab, &user)?;
        let folder = lab.dir().join(what.replace(' ', "-"));
        fs::create_dir(&folder)?;
        let mut options = daemon::DaemonOptions::kubeconfig(&path).arg("--log-level=trace");
        options = options.arg("--seed=192.0.2.11:6443").arg("--vip=10.96.0.1:443");
        let mut daemon = Daemon::spawn(lab.node(), &folder, &options)?;
        let synced = |status: &serde_json::Value| {
            (status["api"]["state"] == "synced") == accepted
                && (accepted || status["api"]["last_error"].is_string())
        };
        daemon.wait_for_status(what, LIMIT, synced).with_context(|| daemon.log())?;
        if accepted {
            scenario.plane.fleet()?.on_all(|control| async move {
                control.answer(Some(Canned::status(401))).await?;
                control.close_watches().await.map(drop)
            })?;
            daemon.wait_for_status("a refusal", LIMIT, |status| status["api"]["last_error"].is_string())?;
            scenario.plane.fleet()?.on_all(|control| async move { control.answer(None).await })?;
            scenario.plane.show_certificates(&[1, 2, 3], Some(&foreign), Validity::Now)?;
            daemon.wait_for_status("broken TLS", LIMIT, |status| {
                status["api"]["last_error"].as_str().is_some_and(|error| error.contains("certificate"))
            })?;
        }
        // A renewal that is half written, right behind the secret.
        fs::write(&path, fs::read_to_string(&path)?.replace(&user, &format!("{user}: [\"")))?;
        if accepted {
            // It looks each ten seconds; what it finds is read as at a start, which comes below.
            daemon.process().wait_for_line("event=credentials_reload_failed", LIMIT)?;
        }
        for (place, text) in [
            ("/status", daemon.status()?.to_string()),
            ("/metrics", daemon.metrics()?),
            ("the page", admin::get(lab.node(), "/")?.body),
        ] {
            expect_none(what, place, &text, &secrets)?;
        }
        let second = folder.join("second");
        fs::create_dir(&second)?;
        let refused = daemon::run_to_end(lab.node(), &second, &options, LIMIT)?;
        let named = refused.stderr.contains(&path.display().to_string());
        ensure!(!refused.status.success() && named, "{what}: {refused:?}");
        expect_none(what, "a refused start", &(refused.stdout + &refused.stderr), &secrets)?;
        kubeconfig(&scenario, &lab, &user)?;
        for form in ["json", "wide"] {
            let mut check = check_command(lab.node(), &folder, &[])?;
            check.args(["--log-level=trace", "-o", form, "--kubeconfig"]).arg(&path);
            let checked = command::finish(check, "", LIMIT)?;
            ensure!(checked.stdout.contains("api-access"), "{checked:?}");
            expect_none(what, "apivip check", &(checked.stdout + &checked.stderr), &secrets)?;
        }
        scenario.plane.show_certificates(&[1, 2, 3], None, Validity::Now)?;
        daemon.stop()?;
        let log = daemon.log();
        ensure!(log.contains("TRACE"), "the log is not at its finest");
        expect_none(what, "the log", &log, &secrets)?;
    }
    Ok(())
}
