//! The daemon's clock jumps, by years, as on a node without a battery or with a wrong time server. Its wall clock only,
//! by a library that is loaded before libc: the machine's clock stays as it is.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context, Result, ensure};
use apivip::model::types::Family;
use integration::clients::Mix;
use integration::control_plane::Variant;
use integration::daemon::{Daemon, DaemonOptions};
use integration::failover::Failover;
use integration::failover::trial::{lab, leave, mix};
use integration::fault::Fault;
use integration::kubeconfig::CREDENTIAL_VERSION;
use integration::lab::{Families, Lab, addresses};
use serde_json::Value;

/// `/readyz` is asked every 10 s.
const LONG_ENOUGH: Duration = Duration::from_secs(13);
const PATIENCE: Duration = Duration::from_secs(60);

/// The clock of one daemon.
struct Clock {
    file: PathBuf,
    library: PathBuf,
}

impl Clock {
    fn new(folder: &Path) -> Result<Self> {
        let folders = fs::read_dir("/usr/lib").context("read /usr/lib")?.filter_map(Result::ok);
        let libraries = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
        let library = libraries.into_iter().find(|path| path.is_file());
        let library = library.context("find libfaketimeMT.so.1; install the Debian package libfaketime")?;
        let clock = Self { file: folder.join("clock"), library };
        clock.jump("+0")?;
        Ok(clock)
    }

    /// Moves it away from the machine's: `+40y`, `-30y`.
    fn jump(&self, offset: &str) -> Result<()> {
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{offset}\n"))
            .and_then(|()| fs::rename(&new, &self.file))
            .context("set the clock")
    }

    fn apply(&self, options: &mut DaemonOptions) {
        let environment = [
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ];
        options.environment.extend(environment.map(|(name, value)| (name.to_owned(), value)));
    }
}

fn says_clock(status: &Value) -> bool {
    let holds = status["retained"].as_array().map(Vec::as_slice).unwrap_or_default();
    holds.iter().any(|hold| hold.as_str().is_some_and(|hold| hold.contains("clock")))
}

/// Seconds since the first of the apiservers was learnt, by the daemon's clock.
fn oldest(status: &Value) -> Result<u64> {
    let backends = status["frontends"][0]["backends"].as_array().context("no backends in the status")?;
    let ages = backends.iter().filter_map(|backend| backend["source_age_seconds"].as_u64());
    ages.max().context("no ages in the status")
}

pub(crate) fn jumps_cut_nobody(variant: Variant) -> Result<()> {
    let lab = lab(Families::V4)?;
    let clock = Clock::new(lab.dir())?;
    let mut stage = Failover::start_with(&lab, variant, &[1, 2, 3], |options| clock.apply(options))?;
    let mix = if stage.plane.is_simulated() { mix() } else { Mix::default() };
    let crowd = stage.everybody(&mix)?;
    for offset in ["+40y", "+0", "-30y", "+0"] {
        clock.jump(offset)?;
        thread::sleep(LONG_ENOUGH);
        stage.expect_backends(offset, &[1, 2, 3])?;
        let age = oldest(&stage.daemon.status()?)?;
        let jumped = age > 30 * 365 * 86_400;
        ensure!(jumped == (offset == "+40y"), "{offset}: the daemon's clock did not jump, it says {age} s");
    }
    let outcome = crowd.finish()?;
    stage.daemon.explain(outcome.expect_uncut(&[]).and_then(|()| outcome.expect_served(0)))?;
    leave(&mut stage, Fault::Killed, &[2], &mix).map(drop)
}

pub(crate) fn is_wrong_at_the_start(variant: Variant) -> Result<()> {
    let lab = lab(Families::V4)?;
    let clock = Clock::new(lab.dir())?;
    let mut options = DaemonOptions::default();
    let mut stage = Failover::start_with(&lab, variant, &[1, 2, 3], |prepared| {
        clock.apply(prepared);
        options = prepared.clone();
    })?;
    for offset in ["+40y", "-30y"] {
        stage.daemon.stop()?;
        clock.jump(offset)?;
        stage.daemon = Daemon::spawn(lab.node(), lab.dir(), &options)?;
        let told = |status: &Value| status["phase"] == "programmed" && says_clock(status);
        let status = stage.daemon.wait_for_status("rules, and a word on the clock", PATIENCE, told)?;
        ensure!(status["api"]["state"] != "synced", "{offset}: the API was read\n{status:#}");
        // The log of all daemons in turn, of which the first had a clock that was too late.
        let expired = stage.daemon.log().contains("every certificate in it has expired");
        ensure!(expired, "{offset}: the daemon says\n{}", stage.daemon.log());
        stage.expect_backends(offset, &[1, 2, 3])?;
        let answer = stage.plane.fetch(lab.pod(1), addresses::vip(Family::V4))?;
        ensure!(answer == "ok", "{offset}: the pod got {answer:?}");
        clock.jump("+0")?;
        let well = |status: &Value| status["api"]["state"] == "synced" && !says_clock(status);
        stage.daemon.wait_for_status("the API in sync again", PATIENCE, well)?;
        // Each of them is Up with its next probe, and the first that is gets new connections until then.
        stage.wait_for_backends(&[1, 2, 3])?;
    }
    Ok(())
}

/// A plugin whose token is good for an hour by the clock that it sees, which is the daemon's. Each time that it is asked
/// leaves a line.
fn plugin(lab: &Lab, options: &mut DaemonOptions) -> Result<PathBuf> {
    let (program, asked) = (lab.dir().join("plugin"), lab.dir().join("asked"));
    let text = fs::read_to_string(options.kubeconfig.as_ref().context("a kubeconfig")?).context("read it")?;
    let old = text.lines().map(str::trim).find(|line| line.starts_with("token: "));
    let old = old.with_context(|| format!("no token in\n{text}"))?;
    let token = old.trim_start_matches("token: ");
    let status =
        format!(r#"{{\"token\":\"{token}\",\"expirationTimestamp\":\"$(date -u -d '+1 hour' +%FT%TZ)\"}}"#);
    let script = format!(
        "#!/bin/sh\necho once >>{}\n\
         echo \"{{\\\"apiVersion\\\":\\\"{CREDENTIAL_VERSION}\\\",\\\"kind\\\":\\\"ExecCredential\\\",\\\"status\\\":{status}}}\"\n",
        asked.display()
    );
    fs::write(&program, script).context("write the plugin")?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).context("make it a program")?;
    let exec = format!(
        "exec: {{apiVersion: {CREDENTIAL_VERSION}, command: {}, interactiveMode: Never}}",
        program.display()
    );
    let path = lab.dir().join("plugin.kubeconfig");
    fs::write(&path, text.replace(old, &exec)).context("write the kubeconfig")?;
    options.kubeconfig = Some(path);
    Ok(asked)
}

pub(crate) fn goes_a_day_forward_and_back(variant: Variant) -> Result<()> {
    let lab = lab(Families::V4)?;
    let clock = Clock::new(lab.dir())?;
    let mut asked = Ok(PathBuf::new());
    let mut stage = Failover::start_with(&lab, variant, &[1, 2, 3], |options| {
        clock.apply(options);
        asked = plugin(&lab, options);
    })?;
    let asked = asked?;
    let asked = || fs::read_to_string(&asked).map_or(0, |text| text.lines().count());
    let synced = |status: &Value| status["api"]["state"] == "synced";
    let ends = stage.daemon.wait_for_status("the API", PATIENCE, synced)?["api"]["expiry"].clone();
    let day = 86_400;
    for (offset, ages) in [("+1d", day - 60..day + 600), ("-1d", 0..1), ("+0", 0..600)] {
        clock.jump(offset)?;
        let age = oldest(&stage.daemon.status()?)?;
        ensure!(ages.contains(&age), "{offset}: an age of {age} s");
        if offset == "+0" {
            // A session of its own accord, so that there is one to end.
            stage.daemon.wait_for_status("the API with the right clock", PATIENCE, synced)?;
        }
        // Tokens and sessions by the clock as it is now.
        let before = asked();
        stage.plane.end_connections()?;
        if offset == "-1d" {
            // No certificate is valid yet: the rules stand, and the status says what to look at.
            let held = |status: &Value| !synced(status) && says_clock(status);
            let status = stage.daemon.wait_for_status("a word on the clock", PATIENCE, held)?;
            ensure!(status["phase"] == "programmed", "{status:#}");
            stage.expect_backends(offset, &[1, 2, 3])?;
            continue;
        }
        let renewed = |status: &Value| synced(status) && asked() > before;
        let status = stage.daemon.wait_for_status("another session", PATIENCE, renewed)?;
        ensure!(status["api"]["expiry"] == ends, "{offset}: {status:#}");
        // The watch and the probes: one leaves and comes back, one dies.
        for published in [&[1, 2][..], &[1, 2, 3]] {
            stage.plane.publish_apiservers(published)?;
            stage.wait_for_backends(published)?;
        }
        stage.plane.kill(3)?;
        stage.wait_for_backends(&[1, 2])?;
        stage.plane.start_again(3)?;
        stage.wait_for_backends(&[1, 2, 3])?;
    }
    let log = stage.daemon.log();
    ensure!(!log.contains("panicked"), "{log}");
    Ok(())
}
