//! Lines for systemd's journal carry their priority, and only where it is the journal that reads them.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::control_plane::Variant;
use integration::daemon::Daemon;
use integration::lab::{Lab, LabOptions};
use integration::scenario::Scenario;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn priorities_go_before_lines_where_stderr_is_what_the_manager_named() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    // Where the harness lets the daemon's stderr lead.
    let stderr = lab.dir().join("apivip.stderr");
    let log = File::create(&stderr).and_then(|file| file.metadata()).context("make the log")?;
    let stream = format!("{}:{}", log.dev(), log.ino());
    scenario.options.environment.push(("JOURNAL_STREAM".to_owned(), stream.clone()));
    let mut daemon = scenario.daemon()?;
    scenario.plane.kill(3)?;
    daemon.process().wait_for_line("API server does not answer", LIMIT)?;
    daemon.stop()?;
    for line in daemon.log().lines() {
        let level = match line.get(..3) {
            Some("<3>") => "ERROR",
            Some("<4>") => "WARN",
            Some("<6>") => "INFO",
            _ => "nothing",
        };
        ensure!(line[3..].trim_start().starts_with(&format!("{level} apivip")), "{line}");
    }
    ensure!(daemon.log().contains("\n<4> WARN apivip"), "{}", daemon.log());

    // Why it does not start is an error, too.
    let mut options = scenario.options.clone();
    options.kubeconfig = Some(lab.dir().join("missing"));
    let mut refused = Daemon::spawn(lab.node(), lab.dir(), &options)?;
    refused.process().wait(LIMIT)?;
    let last = refused.log().lines().last().unwrap_or_default().to_owned();
    ensure!(last.starts_with("<3>apivip: ") && last.contains("missing"), "{last}");

    // One that leads elsewhere, with what was inherited.
    let folder = lab.dir().join("other");
    std::fs::create_dir(&folder).context("make a folder")?;
    let mut other = Daemon::start(lab.node(), &folder, &scenario.options)?;
    other.stop()?;
    ensure!(
        !other.log().is_empty() && !other.log().lines().any(|line| line.starts_with('<')),
        "{}",
        other.log()
    );
    // Nor are objects changed.
    let options = scenario.options.clone().arg("--log-format=json");
    let before = daemon.log().len();
    let mut objects = Daemon::start(lab.node(), lab.dir(), &options)?;
    objects.stop()?;
    let said = objects.log().split_off(before);
    ensure!(said.starts_with('{') && said.lines().all(|line| line.starts_with('{')), "{said}");
    Ok(())
}
