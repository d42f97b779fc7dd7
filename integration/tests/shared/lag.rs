//! The apiserver that the daemon watches loses its etcd: it lives, its watches stay open, and nothing new comes in them. The
//! daemon hears of changes all the same.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::control_plane::Variant;
use integration::failover::Failover;
use integration::failover::trial::lab;
use integration::lab::Families;

/// It takes some 20 s: that it is not ready is known within 12, and borne for 10.
const LIMIT: Duration = Duration::from_secs(200);

/// `fall_behind` lets an apiserver miss all changes from now on.
pub(crate) fn is_left(
    variant: Variant,
    fall_behind: impl Fn(&mut Failover<'_>, u8) -> Result<()>,
) -> Result<()> {
    let lab = lab(Families::Dual)?;
    let mut stage = Failover::start(&lab, variant, &[1, 2, 3], &[])?;
    let late = stage.watched()?;
    fall_behind(&mut stage, late)?;
    let left: Vec<u8> = (1..=3).filter(|i| *i != late).collect();
    stage.plane.publish_apiservers(&left)?;
    let behind = stage.plane.apiservers(late);
    let elsewhere = |status: &serde_json::Value| {
        let address = status["api"]["address"].as_str().and_then(|address| address.parse().ok());
        status["api"]["state"] == "synced" && address.is_some_and(|address| !behind.contains(&address))
    };
    let moved = stage.daemon.wait_for_status("another apiserver", LIMIT, elsewhere);
    stage.daemon.explain(moved)?;
    stage.wait_for_backends(&left)?;
    ensure!(stage.daemon.metric("apivip_api_relists_total")? == 0, "it began anew\n{}", stage.daemon.log());
    Ok(())
}
