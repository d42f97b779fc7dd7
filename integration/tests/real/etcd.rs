//! An etcd that hangs: no apiserver is ready, all of them are alive, and their clients hear nothing of it. An apiserver that is
//! cut off from its etcd: the daemon reads another one.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::clients::Mix;
use integration::control_plane::Variant;
use integration::failover::Failover;
use integration::failover::trial::lab;
use integration::lab::Families;

use crate::shared::lag;

const LIMIT: Duration = Duration::from_secs(60);

/// An apiserver asks a silent etcd after 30 s, and gives the connection up 10 s later.
const HANGS: Duration = Duration::from_secs(50);

/// The problem that a status names then.
const NOBODY: &str = "No API server of 10.96.0.1:443 is ready; the ones that answer are used";

#[test]
fn an_etcd_that_hangs_cuts_nobody_and_afterwards_changes_arrive() -> Result<()> {
    let lab = lab(Families::V4)?;
    let mut stage = Failover::start(&lab, Variant::Real, &[1, 2, 3], &[])?;
    let mix = Mix { fresh_every: Some(Duration::from_millis(50)), ..Mix::default() };
    let crowd = stage.everybody(&mix)?;
    stage.plane.real()?.pause_etcd()?;
    let status = stage.daemon.wait_for_status("apiservers that are not ready", LIMIT, |status| {
        status["problems"].to_string().contains(NOBODY)
    })?;
    ensure!(status["phase"] == "programmed", "{status:#}");
    stage.expect_backends("an etcd that hangs", &[1, 2, 3])?;
    thread::sleep(HANGS);
    stage.expect_backends("an etcd that hung for long", &[1, 2, 3])?;
    let real = stage.plane.real()?;
    real.resume_etcd()?;
    (1..=3).try_for_each(|i| real.wait_ready(i))?;
    stage.plane.publish_apiservers(&[1, 2])?;
    stage.wait_for_backends(&[1, 2])?;
    let outcome = crowd.finish()?;
    println!("{outcome}");
    let verdict = outcome.expect_uncut(&[]).and_then(|()| outcome.expect_nothing_refused());
    stage.daemon.explain(verdict)
}

/// Packets between an apiserver and etcd, which is in the switch, are lost in both directions.
fn cut_off(stage: &mut Failover<'_>, i: u8) -> Result<()> {
    let address = stage.lab.apiserver_addresses(i)[0];
    stage.lab.fabric().nft_load(&format!(
        "table inet lag {{
            chain input {{ type filter hook input priority 0; ip saddr {address} tcp dport 2379 drop; }}
            chain output {{ type filter hook output priority 0; ip daddr {address} tcp sport 2379 drop; }}
        }}"
    ))?;
    let client = stage.plane.real()?.client(i);
    stage
        .daemon
        .process()
        .wait_until("an apiserver without etcd", LIMIT, |_| Ok((!client.is_ready()).then_some(())))
}

#[test]
fn an_apiserver_that_falls_behind_is_left_for_another() -> Result<()> {
    lag::is_left(Variant::Real, cut_off)
}
