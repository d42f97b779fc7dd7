//! The apiserver that the daemon watches dies without a word, or falls behind, on a simulated control plane.

use anyhow::Result;
use integration::control_plane::Variant;

use crate::shared::{dead_apiserver, lag};

#[test]
fn an_unplugged_apiserver_is_left_for_another() -> Result<()> {
    dead_apiserver::is_left(Variant::Simulated, |lab, _, i| lab.unplug(i))
}

#[test]
fn a_paused_apiserver_is_left_for_another() -> Result<()> {
    dead_apiserver::is_left(Variant::Simulated, |_, plane, i| plane.pause(i))
}

#[test]
fn the_virtual_ip_is_not_dialled_once_apiservers_are_known() -> Result<()> {
    dead_apiserver::the_virtual_ip_is_not_dialled(Variant::Simulated)
}

#[test]
fn an_apiserver_that_falls_behind_is_left_for_another() -> Result<()> {
    lag::is_left(Variant::Simulated, |stage, i| {
        let fleet = stage.plane.fleet()?;
        fleet.lag(i)?;
        fleet.on(i, |control| async move { control.readyz(500).await })
    })
}
