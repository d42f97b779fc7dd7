//! Credentials and the CA are replaced under a running daemon as kubelets and projected volumes do: whole, half, wrong
//! and expired, while a real apiserver says by whom it is read.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::control_plane::{ControlPlane, Variant};
use integration::daemon::{Daemon, DaemonOptions};
use integration::kubeconfig::{Authority, Kubeconfig, User};
use integration::lab::{Lab, LabOptions};
use integration::pki::{self, KeyFiles, Validity};
use integration::real::PORT;
use serde_json::Value;

/// The product's promise is a minute; it looks every 2 s.
const LIMIT: Duration = Duration::from_secs(60);

/// A folder whose files are reached through a symbolic link that is replaced as a whole, as in a projected volume.
struct Volume {
    folder: PathBuf,
    turn: u32,
}

impl Volume {
    fn new(folder: PathBuf) -> Result<Self> {
        fs::create_dir(&folder).context("make the volume")?;
        Ok(Self { folder, turn: 0 })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join("data").join(name)
    }

    /// Replaces all files at once.
    fn swap(&mut self, files: &[(&str, &str)]) -> Result<()> {
        self.turn += 1;
        let (target, link) = (self.folder.join(format!("turn-{}", self.turn)), self.folder.join("new"));
        fs::create_dir(&target).context("make a turn")?;
        for (name, content) in files {
            fs::write(target.join(name), content).context("write a file of the volume")?;
        }
        symlink(&target, &link).context("make a link")?;
        fs::rename(&link, self.folder.join("data")).context("replace the link")
    }
}

fn text(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

/// Whether the apiserver was asked for endpoints by a user of this group.
fn asked_by(plane: &mut ControlPlane<'_>, group: &str) -> Result<bool> {
    Ok(plane.real()?.audit_log(1)?.iter().any(|event| {
        let groups = event["user"]["groups"].as_array().map_or(&[][..], Vec::as_slice);
        event["objectRef"]["resource"] == "endpointslices" && groups.iter().any(|known| known == group)
    }))
}

/// The apiservers of the virtual IP that the API publishes, in order.
fn published(status: &Value) -> Vec<SocketAddr> {
    let backends = status["frontends"][0]["backends"].as_array().map_or(&[][..], Vec::as_slice);
    let published = backends.iter().filter(|backend| backend["published"] == true);
    published.filter_map(|backend| backend["address"].as_str()?.parse().ok()).collect()
}

#[test]
fn credentials_are_renewed_without_a_restart() -> Result<()> {
    let lab = Lab::start(LabOptions { apiservers: 1, ..LabOptions::default() })?;
    let mut plane = ControlPlane::serving(&lab, Variant::Real)?;
    let vip = SocketAddr::new(lab.vips()[0], 443);
    let authority = plane.real()?.authority();
    let client = |group: &str, validity| -> Result<(String, String)> {
        let KeyFiles { certificate, key } =
            authority.client(&format!("client-{group}"), "apivip", &[group], validity)?;
        Ok((text(&certificate)?, text(&key)?))
    };
    let first = client("first", Validity::Now)?;
    let second = client("second", Validity::Now)?;
    let expired = client("expired", Validity::Expired)?;
    let ca = authority.pem().to_owned();
    let other = pki::Authority::new(lab.dir(), "next-ca")?.pem().to_owned();

    let mut volume = Volume::new(lab.dir().join("volume"))?;
    let swap = |volume: &mut Volume, (certificate, key): &(String, String), ca: &str| {
        volume.swap(&[("tls.crt", certificate), ("tls.key", key), ("ca.crt", ca)])
    };
    swap(&mut volume, &first, &ca)?;
    let files = KeyFiles { certificate: volume.path("tls.crt"), key: volume.path("tls.key") };
    let server = format!("https://{}:{PORT}", lab.apiserver_addresses(1)[0]);
    let kubeconfig = lab.dir().join("renewed.kubeconfig");
    let mut config = Kubeconfig::new(server, Authority::File(volume.path("ca.crt")), User::Files(files));
    config.server_name = Some("kubernetes.default.svc".to_owned());
    config.write(&kubeconfig)?;
    let mut daemon = Daemon::start(lab.node(), lab.dir(), &DaemonOptions::kubeconfig(kubeconfig))?;
    daemon.wait_for_status("the API", LIMIT, |status| status["api"]["state"] == "synced")?;
    daemon
        .process()
        .wait_until("a request of the first", LIMIT, |_| Ok(asked_by(&mut plane, "first")?.then_some(())))?;
    let status = daemon.status()?;
    let end = status["api"]["expiry"]["client_certificate"].as_u64().context("an expiry date")?;
    let metric = "apivip_credential_expiry_timestamp_seconds{credential=\"client_certificate\"}";
    ensure!(daemon.metric(metric)? == end, "status and metric differ");

    // Half a key, in place: what was good is used on.
    fs::write(volume.path("tls.key"), &second.1[..second.1.len() / 2]).context("write half a key")?;
    daemon.process().wait_for_line("event=credentials_reload_failed", LIMIT)?;
    plane.publish(
        &lab.apiserver_addresses(2).iter().chain(&lab.apiserver_addresses(1)).copied().collect::<Vec<_>>(),
    )?;
    // The second does not live, and gets no connection.
    let both = [plane.apiservers(1)[0], plane.apiservers(2)[0]];
    daemon.wait_for_status("both published", LIMIT, |status| published(status) == both)?;
    daemon.wait_for_backends(vip, &both[..1])?;
    ensure!(daemon.status()?["api"]["state"] == "synced", "half a key ended the session");

    // The whole: the session goes on with it where it was.
    swap(&mut volume, &second, &format!("{ca}{other}"))?;
    daemon.process().wait_for_line("event=credentials_renewed", LIMIT)?;
    daemon.process().wait_for_line("event=ca_renewed", LIMIT)?;
    plane.publish_apiservers(&[1])?;
    daemon.wait_for_status("one published", LIMIT, |status| published(status) == both[..1])?;
    daemon.wait_for_backends(vip, &both[..1])?;
    ensure!(daemon.metric("apivip_api_relists_total")? == 0, "events between the sessions were lost");

    // Expired: said once, with its date, and the rules stay.
    swap(&mut volume, &expired, &ca)?;
    let status = daemon.wait_for_status("an expired certificate", LIMIT, |status| {
        let error = status["api"]["last_error"].as_str().unwrap_or_default();
        error.contains("(401)") && error.contains("client certificate expired at")
    })?;
    ensure!(status["phase"] == "programmed", "{status:#}");
    // It resumed watches only, which are logged when they end.
    daemon.process().wait_until("a request of the second", LIMIT, |_| {
        Ok(asked_by(&mut plane, "second")?.then_some(()))
    })?;
    std::thread::sleep(Duration::from_secs(5));
    let log = daemon.log();
    let said = log.lines().filter(|line| line.contains("client certificate expired at")).count();
    ensure!((1..=2).contains(&said), "it is said {said} times:\n{log}");

    swap(&mut volume, &first, &ca)?;
    daemon.wait_for_status("the API again", LIMIT, |status| status["api"]["state"] == "synced")?;
    let log = daemon.log();
    ensure!(!log.contains("PRIVATE KEY"), "a key is in the log");
    Ok(())
}
