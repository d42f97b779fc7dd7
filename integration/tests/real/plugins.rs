//! Credential plugins, as clusters of cloud providers have them, on a real apiserver: a client certificate that lives for
//! seconds, a token, and what is said once a plugin has nothing good any more.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use integration::control_plane::{ControlPlane, Variant};
use integration::daemon::{Daemon, DaemonOptions};
use integration::kubeconfig::{Authority, CREDENTIAL_VERSION, Kubeconfig, User};
use integration::lab::{Lab, LabOptions};
use integration::pki::{KeyFiles, Validity};
use integration::real::{ADMIN_TOKEN, PORT};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const LIMIT: Duration = Duration::from_secs(60);
/// How long a certificate is good; a daemon changes to the next after four fifths of that.
const LIFETIME: u16 = 15;
/// How long they are renewed.
const RENEWED: Duration = Duration::from_secs(20);
const READS: &str = "event=api_read_failed";

/// A plugin that says what a file holds, and leaves a line each time that it is asked.
struct Plugin {
    command: PathBuf,
    says: PathBuf,
    asked: PathBuf,
}

impl Plugin {
    fn new(folder: &Path) -> Result<Self> {
        let [command, says, asked] = ["plugin", "says", "asked"].map(|name| folder.join(name));
        let script = format!("#!/bin/sh\necho once >>{}\nexec cat {}\n", asked.display(), says.display());
        fs::write(&command, script).context("write the plugin")?;
        fs::set_permissions(&command, fs::Permissions::from_mode(0o755)).context("make it a program")?;
        Ok(Self { command, says, asked })
    }

    fn say(&self, mut status: Value, seconds: u16) -> Result<()> {
        let end = OffsetDateTime::from(SystemTime::now() + Duration::from_secs(seconds.into()));
        status["expirationTimestamp"] = end.format(&Rfc3339).context("write a date")?.into();
        let said = json!({ "apiVersion": CREDENTIAL_VERSION, "kind": "ExecCredential", "status": status });
        let new = self.says.with_extension("new");
        fs::write(&new, said.to_string()).context("write what the plugin says")?;
        fs::rename(&new, &self.says).context("replace what the plugin says")
    }

    fn asked(&self) -> usize {
        fs::read_to_string(&self.asked).map_or(0, |text| text.lines().count())
    }

    /// A daemon that is let in by it.
    fn daemon(&self, lab: &Lab, plane: &mut ControlPlane<'_>) -> Result<Daemon> {
        let authority = Authority::Inline(plane.real()?.authority().pem().to_owned());
        let server = format!("https://{}:{PORT}", lab.apiserver_addresses(1)[0]);
        let path = lab.dir().join("plugin.kubeconfig");
        let mut config = Kubeconfig::new(server, authority, User::Plugin(self.command.clone()));
        config.server_name = Some("kubernetes.default.svc".to_owned());
        config.write(&path)?;
        Daemon::start(lab.node(), lab.dir(), &DaemonOptions::kubeconfig(path))
    }
}

fn synced(status: &Value) -> bool {
    status["api"]["state"] == "synced"
}

fn published(status: &Value) -> usize {
    let backends = status["frontends"][0]["backends"].as_array().map_or(&[][..], Vec::as_slice);
    backends.iter().filter(|backend| backend["published"] == true).count()
}

#[test]
fn a_certificate_of_seconds_is_replaced_before_it_ends() -> Result<()> {
    let lab = Lab::start(LabOptions { apiservers: 1, ..LabOptions::default() })?;
    let mut plane = ControlPlane::serving(&lab, Variant::Real)?;
    let plugin = Plugin::new(lab.dir())?;
    let mut turn = 0;
    let mut renew = |plane: &mut ControlPlane<'_>| -> Result<()> {
        turn += 1;
        let authority = plane.real()?.authority();
        let name = format!("brief-{turn}");
        let KeyFiles { certificate, key } =
            authority.client(&name, "apivip", &["system:masters"], Validity::Brief(LIFETIME))?;
        let text = |path: &Path| fs::read_to_string(path).with_context(|| format!("read {}", path.display()));
        let status = json!({ "clientCertificateData": text(&certificate)?, "clientKeyData": text(&key)? });
        plugin.say(status, LIFETIME)
    };
    renew(&mut plane)?;
    let mut daemon = plugin.daemon(&lab, &mut plane)?;
    daemon.wait_for_status("the API", LIMIT, synced)?;
    let (first, begin) = (plugin.asked(), Instant::now());
    let one = lab.apiserver_addresses(1);
    let two: Vec<_> = one.iter().copied().chain([[192, 0, 2, 99].into()]).collect();
    let mut many = false;
    while begin.elapsed() < RENEWED {
        renew(&mut plane)?;
        // Every change arrives, whichever certificate is shown at the time.
        many = !many;
        plane.publish(if many { &two } else { &one })?;
        let wanted = if many { 2 } else { 1 };
        daemon.wait_for_status("a change of the endpoints", LIMIT, |status| published(status) == wanted)?;
        std::thread::sleep(Duration::from_secs(2));
    }
    let asked = plugin.asked();
    ensure!(asked > first, "the plugin was asked {first} times at first, and not again\n{}", daemon.log());
    ensure!(!daemon.log().contains(READS), "a session ended with an error\n{}", daemon.log());
    ensure!(daemon.metric("apivip_api_relists_total")? == 0, "events between the sessions were lost");
    println!("the plugin was asked {first} times, and {} times in {:?}", asked - first, begin.elapsed());

    // It has nothing new: what is said names the certificate and its end, the rules stay, and nothing is tried in haste.
    let status = daemon.wait_for_status("an expired certificate", LIMIT, |status| {
        let error = status["api"]["last_error"].as_str().unwrap_or_default();
        error.contains("(401)") && error.contains("client certificate expired at")
    })?;
    ensure!(status["phase"] == "programmed" && status["api"]["state"] == "degraded", "{status:#}");
    let (before, begin) = (plugin.asked(), Instant::now());
    std::thread::sleep(Duration::from_secs(4));
    // Two runs for each session, after pauses of 0.2, 0.4, 0.8, 1.6 and 3.2 s at the most, half of that at the least.
    let more = plugin.asked() - before;
    ensure!(more <= 16, "the plugin was asked {more} times in {:?}", begin.elapsed());
    let log = daemon.log();
    let said = log.lines().filter(|line| line.contains("client certificate expired at")).count();
    ensure!((1..=3).contains(&said), "it is said {said} times:\n{log}");
    renew(&mut plane)?;
    daemon.wait_for_status("the API again", LIMIT, synced)?;
    ensure!(!daemon.log().contains("PRIVATE KEY"), "a key is in the log");
    Ok(())
}

#[test]
fn a_token_of_seconds_is_asked_for_again() -> Result<()> {
    let lab = Lab::start(LabOptions { apiservers: 1, ..LabOptions::default() })?;
    let mut plane = ControlPlane::serving(&lab, Variant::Real)?;
    let plugin = Plugin::new(lab.dir())?;
    plugin.say(json!({ "token": ADMIN_TOKEN }), 1)?;
    let mut daemon = plugin.daemon(&lab, &mut plane)?;
    daemon.wait_for_status("the API", LIMIT, synced)?;
    // One that has ended by its date is not used for the next session.
    let before = plugin.asked();
    plugin.say(json!({ "token": "no-longer-known" }), 1)?;
    plane.kill(1)?;
    plane.real()?.start_apiserver(1)?;
    let status = daemon.wait_for_status("a token that is refused", LIMIT, |status| {
        status["api"]["last_error"].as_str().unwrap_or_default().contains("(401)")
    })?;
    ensure!(status["phase"] == "programmed" && status["api"]["state"] == "degraded", "{status:#}");
    ensure!(plugin.asked() > before, "the plugin was not asked again");
    plugin.say(json!({ "token": ADMIN_TOKEN }), 1)?;
    daemon.wait_for_status("the API again", LIMIT, synced)?;
    let log = daemon.log();
    ensure!(!log.contains(ADMIN_TOKEN) && !log.contains("no-longer-known"), "a token is in the log");
    Ok(())
}
