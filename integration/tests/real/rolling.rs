//! A rolling restart of real apiservers that publish themselves and drain, as an upgrade does it.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use integration::clients::Mix;
use integration::control_plane::{ControlPlane, SERVICE_PORT};
use integration::daemon::{Daemon, DaemonOptions};
use integration::failover::Crowd;
use integration::failover::trial::lab;
use integration::lab::{Families, Lab};
use integration::real::SHUTDOWN_DELAY;
use integration::sim::clients::timeline::{End, Kind};

/// By then nobody is led to an apiserver that stops: it turns `/readyz` red and leaves the slices at once.
const LATE: Duration = Duration::from_millis(200);

/// Longer than the delay, the grace of watches, and a minute for requests that are under way.
const ENDED: Duration = Duration::from_secs(100);

/// Connections that reach an apiserver after it began to stop are what load balancers are judged by; and no watch is torn.
#[test]
fn no_connection_comes_late_and_no_watch_is_torn() -> Result<()> {
    let lab = lab(Families::V4)?;
    let mut plane = ControlPlane::self_published_draining(&lab)?;
    let mut daemon = Daemon::start(lab.node(), lab.dir(), &DaemonOptions::kubeconfig(plane.kubeconfig()?))?;
    plane.wait_until_served(&mut daemon, &[1, 2, 3])?;
    let vips: Vec<_> = lab.vips().into_iter().map(|vip| (vip, SERVICE_PORT).into()).collect();
    for i in 1..=3 {
        let mix = Mix {
            fresh_every: Some(Duration::from_millis(20)),
            idle: 0,
            watch: 30,
            upload: 0,
            download: 0,
            ..Mix::default()
        };
        let crowd = Crowd::start(&lab, &plane, &[(lab.pod(1), vips.clone())], &mix)?;
        plane.terminate(i)?;
        thread::sleep(LATE);
        lab.apiserver(i).nft_load(COUNTER)?;
        let begun = Instant::now();
        while !plane.has_ended(i)? {
            if begun.elapsed() > ENDED {
                bail!("apiserver {i} did not end");
            }
            thread::sleep(Duration::from_millis(100));
        }
        let took = begun.elapsed() + LATE;
        let late = late(&lab, i)?;
        lab.apiserver(i).nft_load("delete table inet late\n")?;
        plane.start_again(i)?;
        plane.wait_until_served(&mut daemon, &[1, 2, 3])?;
        let outcome = crowd.finish()?;
        let watches = || outcome.timelines().flat_map(|(_, t)| t.kept()).filter(|c| c.kind == Kind::Watch);
        let torn = watches().filter(|watch| matches!(watch.end, Some(End::Failed(_)))).count();
        let ended = watches().filter(|watch| watch.end == Some(End::Closed)).count();
        println!(
            "apiserver {i}: {late} late connections in {took:?}, {torn} watches torn, {ended} ended by it"
        );
        let verdict = || -> Result<()> {
            ensure!(took >= SHUTDOWN_DELAY, "it ended after {took:?}");
            ensure!(
                late == 0,
                "{late} connections reached apiserver {i} more than {LATE:?} after it began to stop"
            );
            ensure!(torn == 0, "{torn} watches were torn");
            outcome.expect_nothing_refused()
        };
        daemon.explain(verdict()).with_context(|| format!("apiserver {i}"))?;
    }
    Ok(())
}

/// Counts connections that Pods open. The daemon asks for itself, and from the node.
const COUNTER: &str = "table inet late {
    counter late { }
    chain input {
        type filter hook input priority 0
        ip saddr 10.244.0.0/16 tcp dport 6443 tcp flags & (syn | ack) == syn counter name late
    }
}
";

fn late(lab: &Lab, i: u8) -> Result<u64> {
    let listed = lab.apiserver(i).nft_json("counter inet late late")?;
    let counter = listed["nftables"].as_array().into_iter().flatten().find_map(|item| item.get("counter"));
    counter.and_then(|counter| counter["packets"].as_u64()).context("no counter")
}
