//! A cold boot on real apiservers: seeds serve the virtual IP of a daemon that may not read the API yet, the API's list
//! rules once it may, and after the death of all of them the last good state does until one is back.

use anyhow::{Result, ensure};
use integration::cold_boot::{ColdBoot, LIMIT, backend, serves};
use integration::control_plane::Variant;
use integration::lab::{Lab, LabOptions};

#[test]
fn real_apiservers_are_found_by_seeds_and_by_saved_state() -> Result<()> {
    let lab = Lab::start(LabOptions { apiservers: 2, ..LabOptions::default() })?;
    let mut boot = ColdBoot::start(&lab, Variant::Real, true)?;
    let (vip, all) = (boot.vip(), [boot.plane.apiservers(1)[0], boot.plane.apiservers(2)[0]]);
    let options = boot.options(&["--seed", "192.0.2.12:6443", "--service-cidr", "10.96.0.0/12"])?;
    boot.watch_vip()?;
    let mut daemon = boot.spawn(&options)?;
    daemon.wait_for_status("the seed", LIMIT, |status| serves(status, vip, &all[1..], "seed"))?;
    boot.expect_vip_undialled()?;
    boot.expect_served("from a seed")?;
    boot.may_read(true)?;
    daemon.wait_for_status("the API's list", LIMIT, |status| serves(status, vip, &all, "published"))?;
    daemon.stop()?;
    let text = std::fs::read_to_string(daemon.state_file())?;
    ensure!(
        all.iter().all(|address| text.contains(&address.to_string())),
        "it does not keep {all:?}: {text}"
    );

    boot.plane.kill_all(&[1, 2])?;
    boot.forget_rules()?;
    let mut daemon = boot.spawn(&boot.options(&[])?)?;
    let status =
        daemon.wait_for_status("what was saved", LIMIT, |status| serves(status, vip, &all, "saved"))?;
    ensure!(status["generation"] == 0 && status["phase"] == "programmed", "{status:#}");
    boot.plane.start_again(2)?;
    daemon.wait_for_status("the API again", LIMIT * 3, |status| {
        status["api"]["state"] == "synced"
            && backend(status, vip, all[1]).is_some_and(|b| b["state"] == "healthy")
    })?;
    daemon.wait_for_backends(vip, &all[1..])?;
    boot.expect_served("from the one that is back")
}
