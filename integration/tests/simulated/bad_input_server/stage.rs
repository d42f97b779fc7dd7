//! A node whose table was programmed by an earlier daemon, two apiservers that can be told to answer nonsense, and what
//! must hold while they do.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use apivip::model::types::Family;
use integration::control_plane::{ControlPlane, Variant};
use integration::daemon::{Daemon, DaemonOptions};
use integration::lab::{Lab, addresses};
use integration::sim::protocol::{Canned, Injection, Resource};
use serde_json::Value;

/// A retry comes within a second or two; the backoff ends at 15 s.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// The rules with the handles that the kernel gave them, which any replacement changes, and without counters' values.
pub(crate) fn rules(lab: &Lab) -> Result<String> {
    lab.node().run("nft", &["-s", "-a", "list", "table", "inet", "apivip"])
}

/// How many backends share new connections.
fn backends(status: &Value) -> usize {
    let backends = status["frontends"][0]["backends"].as_array();
    backends.map_or(0, |all| all.iter().filter(|backend| backend["used"] == true).count())
}

fn failed_with(status: &Value, words: &[&str]) -> bool {
    let error = status["api"]["last_error"].as_str().unwrap_or_default();
    words.iter().all(|word| error.contains(word))
}

/// The warnings that say the API cannot be read, as far as they hold these words.
fn warnings(daemon: &Daemon, words: &[&str]) -> Vec<String> {
    let log = daemon.log();
    let wanted = |line: &&str| line.contains("WARN") && words.iter().all(|word| line.contains(word));
    log.lines().filter(wanted).map(str::to_owned).collect()
}

pub(crate) fn in_one_line(daemon: &mut Daemon, words: &[&str]) -> Result<()> {
    let what = format!("a failure that says {words:?}");
    let status = daemon.wait_for_status(&what, LIMIT, |status| failed_with(status, words))?;
    let error = status["api"]["last_error"].as_str().unwrap_or_default();
    ensure!(error.lines().count() == 1, "not one line: {error:?}");
    let found = warnings(daemon, words);
    let log = daemon.log();
    // A failure of each address is logged once, however often it is met.
    let distinct: BTreeSet<&str> = found.iter().filter_map(|line| Some(line.split_once(' ')?.1)).collect();
    ensure!(distinct.len() == found.len() && !found.is_empty(), "{words:?} is not said once each:\n{log}");
    ensure!(!log.contains("panicked"), "a panic:\n{log}");
    Ok(())
}

/// A node whose table holds two apiservers, and no daemon.
pub(crate) struct Stage<'lab> {
    lab: &'lab Lab,
    control_plane: ControlPlane<'lab>,
    pub(crate) kubeconfig: PathBuf,
}

impl<'lab> Stage<'lab> {
    pub(crate) fn build(lab: &'lab Lab) -> Result<Self> {
        let control_plane = ControlPlane::start(lab, Variant::Simulated)?;
        control_plane.put_service(&[addresses::vip(Family::V4)], false)?;
        control_plane.publish_apiservers(&[1, 2])?;
        let kubeconfig = control_plane.kubeconfig()?;
        let stage = Self { lab, control_plane, kubeconfig };
        stage.daemon("first", &stage.kubeconfig)?.stop()?;
        Ok(stage)
    }

    fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.lab.dir().join(name);
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    pub(crate) fn daemon(&self, name: &str, kubeconfig: &Path) -> Result<Daemon> {
        Daemon::start(self.lab.node(), &self.folder(name)?, &DaemonOptions::kubeconfig(kubeconfig))
    }

    pub(crate) fn spawn(&self, name: &str, kubeconfig: &Path) -> Result<Daemon> {
        Daemon::spawn(self.lab.node(), &self.folder(name)?, &DaemonOptions::kubeconfig(kubeconfig))
    }

    pub(crate) fn unchanged(&self, before: &str, what: &str) -> Result<()> {
        let now = rules(self.lab)?;
        ensure!(now == before, "with {what} the rules went from\n{before}to\n{now}");
        let vip = addresses::vip(Family::V4);
        self.control_plane.fetch(self.lab.pod(1), vip).with_context(|| what.to_owned()).map(drop)
    }

    /// The server is as it should be again: a change arrives.
    fn goes_on(&self, daemon: &mut Daemon) -> Result<()> {
        self.control_plane.publish_apiservers(&[1, 2, 3])?;
        daemon.wait_for_status("three backends", LIMIT, |status| backends(status) == 3)?;
        self.control_plane.publish_apiservers(&[1, 2])?;
        daemon.wait_for_status("two backends", LIMIT, |status| backends(status) == 2).map(drop)
    }

    /// The servers answer with `canned` when a daemon starts, and again while it runs.
    pub(crate) fn answers(&mut self, name: &str, canned: &Canned, words: &[&str]) -> Result<()> {
        let before = rules(self.lab)?;
        self.set(Some(canned))?;
        let mut daemon = self.spawn(&format!("{name}-at-start"), &self.kubeconfig)?;
        in_one_line(&mut daemon, words)?;
        let status = daemon.status()?;
        ensure!(status["phase"] == "starting" && status["api"]["state"] == "connecting", "{status:#}");
        self.unchanged(&before, name)?;
        self.set(None)?;
        self.goes_on(&mut daemon)?;
        daemon.kill()?;

        let mut daemon = self.daemon(&format!("{name}-later"), &self.kubeconfig)?;
        daemon.wait_for_status("synced", LIMIT, |status| status["api"]["state"] == "synced")?;
        let before = rules(self.lab)?;
        self.set(Some(canned))?;
        self.control_plane.end_connections()?;
        in_one_line(&mut daemon, words)?;
        let status = daemon.status()?;
        ensure!(status["phase"] == "programmed" && status["api"]["state"] == "degraded", "{status:#}");
        self.unchanged(&before, name)?;
        self.set(None)?;
        self.goes_on(&mut daemon)
    }

    fn set(&mut self, canned: Option<&Canned>) -> Result<()> {
        self.control_plane.fleet()?.on_all(|control| {
            let canned = canned.cloned();
            async move { control.answer(canned).await }
        })
    }

    /// The servers write `injection` into the watches of a daemon that runs.
    pub(crate) fn injects(
        &mut self,
        daemon: &mut Daemon,
        injection: &Injection,
        words: &[&str],
    ) -> Result<()> {
        daemon.wait_for_status("synced", LIMIT, |status| status["api"]["state"] == "synced")?;
        let before = rules(self.lab)?;
        self.control_plane.fleet()?.on_all(|control| {
            let injection = injection.clone();
            async move { control.inject(Some(Resource::Services), injection).await.map(drop) }
        })?;
        let what = format!("a warning that says {words:?}");
        daemon.process().wait_until(&what, LIMIT, |process| {
            let log = process.stderr();
            let found = |line: &str| line.contains("WARN") && words.iter().all(|word| line.contains(word));
            Ok(log.lines().any(found).then_some(()))
        })?;
        self.unchanged(&before, &what)?;
        self.goes_on(daemon)
    }
}
