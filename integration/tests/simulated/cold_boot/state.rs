//! A state that cannot be read or kept: a warning, and life goes on.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use integration::cold_boot::{ColdBoot, LIMIT, serves};
use integration::control_plane::Variant;
use integration::daemon::{Daemon, DaemonOptions};
use integration::lab::{Lab, LabOptions};

/// The same, and keeps its state when it is told to stop, if not before.
fn works_and_keeps(boot: &ColdBoot<'_>, options: &DaemonOptions, warning: &str) -> Result<()> {
    let mut daemon = works(boot, options, warning)?;
    daemon.stop()?;
    let text = fs::read_to_string(daemon.state_file())?;
    ensure!(text.starts_with("apivip state 1 ") && text.contains("192.0.2.13"), "after {warning:?}: {text}");
    Ok(())
}

/// Starts a daemon that must say `warning` and serve the virtual IP all the same, also after a change.
fn works(boot: &ColdBoot<'_>, options: &DaemonOptions, warning: &str) -> Result<Daemon> {
    boot.plane.publish_apiservers(&[1, 2])?;
    let mut daemon = boot.spawn(options)?;
    let served = |numbers: &[u8]| numbers.iter().map(|i| boot.plane.apiservers(*i)[0]).collect::<Vec<_>>();
    let two = served(&[1, 2]);
    daemon
        .wait_for_status("the API's list", LIMIT, |status| serves(status, boot.vip(), &two, "published"))?;
    daemon.process().wait_for_line(warning, LIMIT)?;
    boot.plane.publish_apiservers(&[1, 2, 3])?;
    daemon.wait_for_backends(boot.vip(), &served(&[1, 2, 3]))?;
    let lines = daemon.log().lines().filter(|line| line.contains(warning)).count();
    ensure!(lines == 1, "{warning:?} is said {lines} times\n{}", daemon.log());
    boot.expect_served(warning)?;
    // The next daemon's log begins anew.
    fs::remove_file(daemon.run_dir().with_file_name("apivip.stderr"))?;
    Ok(daemon)
}

/// Mounts a small file system where the state is kept, for the daemon alone, and runs `more` before it starts.
fn on_a_disk(options: &DaemonOptions, folder: &Path, mount: &str, more: &str) -> DaemonOptions {
    let folder = folder.display();
    let script = format!("mount -t tmpfs -o {mount} tmpfs {folder} && {more} && exec \"$@\"");
    let wrapper = ["sh", "-c", &script, "sh"].map(str::to_owned).to_vec();
    DaemonOptions { wrapper, ..options.clone() }
}

#[test]
fn whatever_is_wrong_with_the_state_the_daemon_warns_and_works() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let boot = ColdBoot::start(&lab, Variant::Simulated, true)?;
    boot.may_read(true)?;
    let options = boot.options(&["--seed", "192.0.2.11:6443"])?;
    works_and_keeps(&boot, &options, "event=daemon_starting")?;
    let folder = lab.dir().join("state");
    let file = folder.join("state");
    let text = fs::read_to_string(&file).context("read the state")?;
    for (wrong, warning) in [
        ("something else entirely".to_owned(), "is damaged"),
        (text[..text.len() / 2].to_owned(), "its checksum is wrong"),
        (text.replacen("state 1 ", "state 2 ", 1), "has version 2"),
        (text.replacen("192.0.2.12", "192.0.2.99", 1), "its checksum is wrong"),
    ] {
        fs::write(&file, &wrong)?;
        works_and_keeps(&boot, &options, warning)?;
        let mended = fs::read_to_string(&file)?;
        ensure!(mended.starts_with("apivip state 1 ") && mended != wrong, "after {warning:?}: {mended}");
    }
    let read_only = on_a_disk(&options, &folder, "ro", "true");
    works(&boot, &read_only, "Read-only file system")?.stop()?;
    let fill = format!("dd if=/dev/zero of={}/filler bs=4096 count=1 status=none", folder.display());
    works(&boot, &on_a_disk(&options, &folder, "size=4k", &fill), "No space left on device")?.stop()?;
    Ok(())
}
