//! What must not be cut: flows of apiservers that drain, of the last ones there are, and of a node whose own link is
//! gone.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use integration::clients::Mix;
use integration::control_plane::Variant;
use integration::failover::Failover;
use integration::failover::trial::{addresses, lab, mix};
use integration::fault::Fault;
use integration::lab::{Families, Lab, LabOptions};
use integration::sim::access_log::What;
use integration::sim::clients::config::Fresh;

/// How long a node's own link is away.
const OWN_LINK: Duration = Duration::from_secs(5);

/// How long a fault that concerns every apiserver lasts: longer than it takes to notice.
const HELD: Duration = Duration::from_secs(3);

/// How long the network gets back to work between two faults: a neighbour is asked for each second.
const HEALED: Duration = Duration::from_secs(2);

/// Longest until an unready apiserver gets no new connection: it is asked every 10 s.
const DRAINED: Duration = Duration::from_secs(30);

/// Longer than the time between two questions for `/readyz`.
const ASKED: Duration = Duration::from_secs(13);

/// How long no connection must come before it is taken for drained.
const QUIET: Duration = Duration::from_secs(1);

const ALL: [u8; 3] = [1, 2, 3];

#[test]
fn nothing_is_cut_while_all_apiservers_or_the_nodes_own_link_are_away() -> Result<()> {
    let lab = lab(Families::Dual)?;
    let mut stage = Failover::start(&lab, Variant::Simulated, &ALL, &[])?;
    // Whoever meets one fault may, with its retransmissions further and further apart, meet the next one as well.
    let timeout = Duration::from_secs(60);
    let mut crowd =
        stage.everybody(&Mix { fresh_every: Some(Duration::from_millis(50)), timeout, ..mix() })?;
    let mut away = || -> Result<()> {
        for fault in [
            Fault::UplinkDown,
            Fault::Unplugged,
            Fault::InboundLost,
            Fault::OutboundLost,
            Fault::Paused,
            Fault::Slow,
        ] {
            let inflicted = stage.inflict(&mut crowd, fault, &ALL)?;
            thread::sleep(if fault == Fault::UplinkDown { OWN_LINK } else { HELD });
            stage.expect_backends(&format!("{fault:?} for all"), &ALL)?;
            inflicted.heal(&mut stage.plane)?;
            // The first that is back speaks against the others for the moment that it takes them to follow.
            thread::sleep(HEALED);
            stage.wait_for_backends(&ALL)?;
        }
        Ok(())
    };
    let went = away();
    let outcome = crowd.finish()?;
    println!("{outcome}");
    let verdict =
        went.and_then(|()| outcome.expect_uncut(&[])).and_then(|()| outcome.expect_nothing_refused());
    stage.daemon.explain(verdict)
}

/// What concerns the way from this node, and no apiserver, for five seconds. Meanwhile these get new
/// connections, where that is certain.
fn cut_off(
    lab: &Lab,
    served: Option<&[u8]>,
    begin: impl Fn() -> Result<()>,
    end: impl Fn() -> Result<()>,
) -> Result<()> {
    let mut stage = Failover::start(lab, Variant::Simulated, &ALL, &[])?;
    let timeout = Duration::from_secs(60);
    let crowd = stage.everybody(&Mix { fresh_every: Some(Duration::from_millis(50)), timeout, ..mix() })?;
    begin()?;
    thread::sleep(OWN_LINK);
    if let Some(served) = served {
        stage.expect_backends("while the node is cut off", served)?;
    }
    end()?;
    thread::sleep(HEALED);
    stage.wait_for_backends(&ALL)?;
    let outcome = crowd.finish()?;
    println!("{outcome}");
    let verdict = outcome.expect_uncut(&[]).and_then(|()| outcome.expect_nothing_refused());
    stage.daemon.explain(verdict)
}

/// Its own apiserver answers all the time, and says nothing of the way to the others.
#[test]
fn a_control_plane_node_whose_link_is_away_ends_nothing() -> Result<()> {
    let families = Families::Dual;
    let lab = Lab::start(LabOptions { families, node_is_apiserver: true, ..LabOptions::default() })?;
    cut_off(&lab, Some(&[1]), || lab.unplug_node(), || lab.replug_node())
}

/// The other family's answers say nothing of this one.
#[test]
fn a_node_that_loses_one_family_ends_nothing() -> Result<()> {
    let lab = lab(Families::Dual)?;
    let lose = "table bridge lost {\nchain forward {\ntype filter hook forward priority 0\nether type { ip, arp } drop\n}\n}\n";
    let fabric = lab.fabric();
    cut_off(&lab, None, || fabric.nft_load(lose), || fabric.nft_load("delete table bridge lost\n"))
}

/// Waits until no client of the pod has come to this apiserver for a while.
fn wait_drained(lab: &Lab, stage: &mut Failover<'_>, i: u8) -> Result<()> {
    let pods: Vec<IpAddr> =
        lab.families().iter().map(|family| integration::lab::addresses::pod(1, *family)).collect();
    let deadline = Instant::now() + DRAINED;
    let (mut count, mut since) = (usize::MAX, Instant::now());
    while since.elapsed() < QUIET {
        ensure!(Instant::now() < deadline, "apiserver {i} still gets connections\n{}", stage.daemon.log());
        thread::sleep(Duration::from_millis(100));
        let log = stage.plane.fleet()?.access_log(i)?;
        let now = log.iter().filter(|e| e.what == What::Connection && pods.contains(&e.peer.ip())).count();
        if now != count {
            (count, since) = (now, Instant::now());
        }
    }
    Ok(())
}

#[test]
fn unready_and_withdrawn_apiservers_drain() -> Result<()> {
    let lab = lab(Families::V4)?;
    let mut stage = Failover::start(&lab, Variant::Simulated, &ALL, &[])?;
    let mut crowd = stage.everybody(&mix())?;
    stage.inflict(&mut crowd, Fault::Unready, &[1])?;
    wait_drained(&lab, &mut stage, 1)?;
    // With the second one withdrawn, the third is left for new connections.
    stage.plane.publish_apiservers(&[1, 3])?;
    wait_drained(&lab, &mut stage, 2)?;
    wait_drained(&lab, &mut stage, 1)?;
    // When none is ready, unready ones are better than none.
    stage.inflict(&mut crowd, Fault::Unready, &[3])?;
    thread::sleep(ASKED);
    let outcome = crowd.finish()?;
    println!("{outcome}");
    for i in ALL {
        ensure!(
            outcome.notified(&addresses(&lab, &[i]), None).flows > 0,
            "no connection led to apiserver {i}"
        );
    }
    let verdict = outcome.expect_uncut(&[]).and_then(|()| outcome.expect_nothing_refused());
    stage.daemon.explain(verdict)
}

#[test]
fn slow_apiservers_keep_their_clients() -> Result<()> {
    let lab = lab(Families::V6)?;
    let mut stage = Failover::start(&lab, Variant::Simulated, &[1], &[])?;
    let mut crowd = stage.everybody(&mix())?;
    let inflicted = stage.inflict(&mut crowd, Fault::Slow, &[1])?;
    thread::sleep(ASKED);
    stage.expect_backends("a lone slow apiserver", &[1])?;
    inflicted.heal(&mut stage.plane)?;
    let outcome = crowd.finish()?;
    println!("{outcome}");
    outcome.expect_uncut(&[])?;
    outcome.expect_served(0)?;
    ensure!(outcome.longest_ms() >= 3000, "nothing was slow\n{outcome}");
    Ok(())
}

#[test]
fn a_clock_that_is_wrong_for_all_cuts_nobody_off() -> Result<()> {
    let lab = lab(Families::V4)?;
    let mut stage = Failover::start(&lab, Variant::Simulated, &ALL, &[])?;
    // Only what does not look at certificates can be served.
    let mut crowd = stage.everybody(&Mix {
        fresh: Fresh::Tcp,
        idle: 0,
        watch: 0,
        upload: 0,
        download: 0,
        ..Mix::default()
    })?;
    for fault in [Fault::Expired, Fault::NotYetValid, Fault::ForeignCertificate] {
        stage.inflict(&mut crowd, fault, &ALL)?;
        thread::sleep(Duration::from_secs(3));
        stage.expect_backends(&format!("{fault:?} for all"), &ALL)?;
        // A handshake that took too long for once is another reason, until the next probe.
        stage.daemon.wait_for_status("a word on the certificates", DRAINED, |status| {
            status["retained"].to_string().contains("certificate")
        })?;
    }
    crowd.finish()?.expect_nothing_refused()
}
