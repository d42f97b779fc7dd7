//! What must cut nobody, on real apiservers: standstills of a process and of a cable, a stop in good order, a host firewall that
//! blocks the node's own dials, a node that is cut off; and what must: a host that is gone for good, or lost its memory.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::clients::Mix;
use integration::control_plane::Variant;
use integration::daemon::every_backend;
use integration::failover::Failover;
use integration::failover::trial::{NOTIFIED, addresses, lab};
use integration::failover::way::{ALL, SILENCE_MS, Way, expect_uncut, mix};
use integration::fault::Fault;
use integration::lab::Families;
use integration::real::writing::while_writing;
use integration::sim::clients::timeline::Kind;

/// Between two faults: all that follows from the first one is over.
const HEALED: Duration = Duration::from_secs(3);

/// A long standstill, and the most handshakes that one node may leave with whoever stands still so long: four or five until the
/// decision, and one in ten seconds after it; 6 are usual.
const STALL: Duration = Duration::from_secs(20);
const MOST_WAITING: usize = 9;

/// Each stands still for so long, one after the other.
fn standstills(way: Way, faults: &[(Fault, u64)]) -> Result<()> {
    let lab = way.lab()?;
    let mut stage = way.start(&lab, &ALL)?;
    for (fault, ms) in faults {
        let mut crowd = way.crowd(&mut stage, &mix(), &ALL, 2)?;
        let inflicted = stage.inflict(&mut crowd, *fault, &[2])?;
        thread::sleep(Duration::from_millis(*ms));
        inflicted.heal(&mut stage.plane)?;
        thread::sleep(HEALED);
        stage.wait_for_backends(&ALL)?;
        let outcome = crowd.finish()?;
        expect_uncut(&outcome, &stage).with_context(|| format!("{fault:?} for {ms} ms, {way:?}"))?;
    }
    Ok(())
}

const SHORT: [(Fault, u64); 3] = [(Fault::Paused, 1500), (Fault::Unplugged, 1500), (Fault::Paused, 4000)];

#[test]
fn a_standstill_cuts_nobody_through_rules() -> Result<()> {
    standstills(Way::Rules(Families::Dual), &SHORT)
}

#[test]
fn a_standstill_cuts_nobody_through_the_forwarder() -> Result<()> {
    standstills(Way::Forwarder(Families::V6), &SHORT)
}

/// A process that does not wake for twenty seconds is gone by the measure of `--silence-timeout`.
fn long_standstill(way: Way) -> Result<()> {
    let lab = way.lab()?;
    let mut stage = way.start(&lab, &ALL)?;
    let mut crowd = way.crowd(&mut stage, &mix(), &ALL, 3)?;
    let dead = addresses(&lab, &[3]);
    let inflicted = stage.inflict(&mut crowd, Fault::Paused, &[3])?;
    let waited = crowd.wait_notified(&dead, NOTIFIED);
    thread::sleep(Duration::from_secs(1));
    let outcome = crowd.finish()?;
    println!("{outcome}\n{}", outcome.by_kind(&dead));
    let told = stage.daemon.explain(waited.and_then(|()| outcome.expect_notified(&dead)))?;
    ensure!(
        told.first_ms >= SILENCE_MS,
        "told after {} ms of silence\n{}",
        told.first_ms,
        stage.daemon.log()
    );
    stage.daemon.explain(outcome.expect_uncut(&dead))?;
    inflicted.heal(&mut stage.plane)?;
    stage.wait_for_backends(&ALL)
}

#[test]
fn a_process_that_does_not_wake_is_given_up_through_rules() -> Result<()> {
    long_standstill(Way::Rules(Families::Dual))
}

/// A standstill must not end in a storm: what one node's daemon has let wait for an apiserver when it wakes.
#[test]
fn one_that_wakes_finds_few_handshakes_of_each_node() -> Result<()> {
    let lab = lab(Families::V4)?;
    let mut stage = Failover::start(&lab, Variant::Real, &ALL, &[])?;
    stage.plane.pause(3)?;
    thread::sleep(STALL);
    let found = lab.apiserver(3).run("ss", &["-Htanp", "sport", "=", ":6443"])?;
    stage.plane.resume(3)?;
    // Whoever was accepted has a process; who was given up waits like the others.
    let from_node = |line: &&str| ["192.0.2.1:", "192.0.2.1]:"].iter().any(|address| line.contains(address));
    let accepted = |line: &str| line.contains("users:") || line.contains("TIME-WAIT");
    let waiting: Vec<&str> = found.lines().filter(from_node).filter(|line| !accepted(line)).collect();
    println!("{} handshakes wait after {STALL:?}\n{}", waiting.len(), waiting.join("\n"));
    ensure!((1..=MOST_WAITING).contains(&waiting.len()), "{} handshakes wait\n{found}", waiting.len());
    stage.wait_for_backends(&ALL)
}

/// A real one that stops refuses connections within 0.2 s, and its watches live on for up to a minute.
fn stopped_in_good_order(way: Way) -> Result<()> {
    let lab = way.lab()?;
    let mut stage = way.start(&lab, &ALL)?;
    let watches = Mix { idle: 0, upload: 0, download: 0, watch: 20, ..mix() };
    let crowd = way.crowd(&mut stage, &watches, &ALL, 1)?;
    stage.plane.terminate(1)?;
    thread::sleep(Duration::from_secs(20));
    let outcome = crowd.finish()?;
    println!("{outcome}");
    let told = outcome.notified(&addresses(&lab, &[1]), Some(Kind::Watch));
    ensure!(
        told.flows > 0 && told.notified == 0,
        "watches of one that stops: {told:?}\n{}",
        stage.daemon.log()
    );
    Ok(())
}

#[test]
fn one_that_stops_in_good_order_keeps_its_watches_through_rules() -> Result<()> {
    stopped_in_good_order(Way::Rules(Families::Dual))
}

/// When a process is killed its host's kernel tells all its clients: apivip has nothing to end.
#[test]
fn a_killed_one_s_clients_are_told_by_its_host() -> Result<()> {
    let lab = lab(Families::V4)?;
    let mut stage = Failover::start(&lab, Variant::Real, &ALL, &[])?;
    let idle = Mix { idle: 600, watch: 0, upload: 0, download: 0, ..mix() };
    let mut crowd = stage.crowd(&[lab.pod(1)], &idle)?;
    let dead = addresses(&lab, &[2]);
    stage.inflict(&mut crowd, Fault::Killed, &[2])?;
    crowd.wait_notified(&dead, NOTIFIED)?;
    thread::sleep(HEALED);
    let outcome = crowd.finish()?;
    println!("{outcome}\n{}", outcome.by_kind(&dead));
    stage.daemon.explain(outcome.expect_notified(&dead))?;
    stage.daemon.explain(outcome.expect_uncut(&dead))?;
    for method in ["reset", "socket"] {
        let ended = stage.daemon.metric(&format!("apivip_flows_ended_total{{method=\"{method}\"}}"))?;
        ensure!(ended == 0, "{ended} flows were ended by {method}\n{}", stage.daemon.log());
    }
    Ok(())
}

/// What a host that lost power forgot, its clients cannot know: asking them brings it home.
fn power_cycle(way: Way) -> Result<()> {
    let lab = way.lab()?;
    let mut stage = way.start(&lab, &ALL)?;
    let crowd = way.crowd(&mut stage, &Mix { watch: 0, upload: 0, download: 0, ..mix() }, &ALL, 2)?;
    let dead = addresses(&lab, &[2]);
    lab.unplug(2)?;
    stage.plane.kill(2)?;
    thread::sleep(Duration::from_secs(3));
    lab.replug(2)?;
    let back = Instant::now();
    let waited = crowd.wait_notified(&dead, NOTIFIED);
    println!("{way:?}: all were told {:?} after the host's return", back.elapsed());
    let outcome = crowd.finish()?;
    println!("{outcome}\n{}", outcome.by_kind(&dead));
    stage.daemon.explain(waited)?;
    stage.daemon.explain(outcome.expect_notified(&dead))?;
    stage.daemon.explain(outcome.expect_uncut(&dead))
}

#[test]
fn clients_of_a_host_that_lost_power_are_told_when_it_is_back_through_rules() -> Result<()> {
    power_cycle(Way::Rules(Families::Dual))
}

/// A host firewall that blocks what the node itself dials says nothing of apiservers, nor does the end of the daemon's own
/// connections; whether watches are idle, or busy.
fn own_dials_blocked(way: Way, numbers: &[u8], verdict: &str, busy: bool) -> Result<()> {
    let lab = way.lab()?;
    let mut stage = way.start(&lab, &ALL)?;
    let crowd = way.crowd(&mut stage, &mix(), &ALL, 2)?;
    let blocked = addresses(&lab, numbers);
    lab.node().nft_load(&blocking(&blocked, verdict))?;
    // The forwarder's connections to an apiserver are its clients'.
    if let Way::Rules(_) = way {
        for address in &blocked {
            let address = SocketAddr::new(*address, 6443).to_string();
            lab.node().run("ss", &["-K", "dst", &address])?;
        }
    }
    let wait = || -> Result<()> {
        thread::sleep(Duration::from_secs(15));
        Ok(())
    };
    if busy {
        while_writing(&stage.plane.real()?.client(1), wait)?;
    } else {
        wait()?;
    }
    let status = stage.daemon.status()?;
    let problems = format!("{:#}", status["problems"]);
    let states: Vec<_> = every_backend(&status).map(|backend| backend["state"].clone()).collect();
    println!("{way:?} {numbers:?} {verdict}: {states:?}\n{problems}");
    lab.node().nft_load("delete table inet hostfirewall\n")?;
    let outcome = crowd.finish()?;
    println!("{outcome}");
    stage.daemon.explain(outcome.expect_uncut(&[]))?;
    // The forwarder's clients are helped by others, and who is asked over connections from before answers.
    if matches!(way, Way::Rules(_)) && verdict == "drop" && numbers.len() < ALL.len() {
        ensure!(problems.contains("connections are not reset"), "{problems}");
    }
    Ok(())
}

fn blocking(addresses: &[IpAddr], verdict: &str) -> String {
    let rule = |address: &IpAddr| {
        let family = if address.is_ipv4() { "ip" } else { "ip6" };
        format!("{family} daddr {address} tcp dport 6443 tcp flags & (syn | ack) == syn {verdict}\n")
    };
    let rules: String = addresses.iter().map(rule).collect();
    format!(
        "table inet hostfirewall {{\nchain output {{\ntype filter hook output priority 0\n{rules}}}\n}}\n"
    )
}

const RULES: Way = Way::Rules(Families::Dual);

#[test]
fn a_firewall_that_drops_the_node_s_own_dials_to_one_cuts_nobody() -> Result<()> {
    own_dials_blocked(RULES, &[2], "drop", false)
}

#[test]
fn a_firewall_that_rejects_the_node_s_own_dials_cuts_no_busy_watch() -> Result<()> {
    own_dials_blocked(RULES, &[2], "reject with tcp reset", true)
}

mod release {
    use super::*;

    #[test]
    fn a_firewall_that_drops_the_node_s_own_dials_to_all_cuts_nobody() -> Result<()> {
        own_dials_blocked(RULES, &ALL, "drop", true)
    }

    #[test]
    fn clients_of_a_host_that_lost_power_are_told_when_it_is_back_through_the_forwarder() -> Result<()> {
        power_cycle(Way::Forwarder(Families::V4))
    }

    #[test]
    fn one_that_stops_in_good_order_keeps_its_watches_through_the_forwarder() -> Result<()> {
        stopped_in_good_order(Way::Forwarder(Families::V4))
    }

    #[test]
    fn a_process_that_does_not_wake_is_given_up_through_the_forwarder() -> Result<()> {
        long_standstill(Way::Forwarder(Families::V4))
    }

    const FORWARDER: Way = Way::Forwarder(Families::Dual);

    #[test]
    fn a_firewall_that_drops_dials_to_one_cuts_no_busy_watch() -> Result<()> {
        own_dials_blocked(RULES, &[2], "drop", true)
    }

    #[test]
    fn a_firewall_that_rejects_dials_by_icmp_cuts_nobody() -> Result<()> {
        own_dials_blocked(RULES, &[3], "reject with icmpx admin-prohibited", false)
    }

    #[test]
    fn a_firewall_that_resets_or_refuses_dials_to_all_cuts_nobody() -> Result<()> {
        own_dials_blocked(RULES, &ALL, "reject with tcp reset", false)?;
        own_dials_blocked(RULES, &ALL, "reject with icmpx admin-prohibited", true)
    }

    #[test]
    fn a_firewall_that_drops_dials_cuts_nobody_through_the_forwarder() -> Result<()> {
        own_dials_blocked(FORWARDER, &[2], "drop", false)?;
        own_dials_blocked(FORWARDER, &ALL, "drop", true)
    }

    #[test]
    fn a_firewall_that_rejects_dials_cuts_nobody_through_the_forwarder() -> Result<()> {
        own_dials_blocked(FORWARDER, &[2], "reject with tcp reset", true)?;
        own_dials_blocked(FORWARDER, &[2], "reject with icmpx admin-prohibited", false)
    }

    #[test]
    fn a_standstill_cuts_nobody_over_the_other_families() -> Result<()> {
        standstills(Way::Rules(Families::V6), &SHORT)?;
        standstills(Way::Forwarder(Families::V4), &SHORT)
    }

    #[test]
    fn a_process_that_does_not_wake_is_given_up_over_the_other_families() -> Result<()> {
        long_standstill(Way::Rules(Families::V6))?;
        long_standstill(Way::Forwarder(Families::V6))
    }

    #[test]
    fn clients_of_a_host_that_lost_power_are_told_over_the_other_families() -> Result<()> {
        power_cycle(Way::Rules(Families::V6))?;
        power_cycle(Way::Forwarder(Families::V6))
    }

    #[test]
    fn one_that_stops_in_good_order_keeps_its_watches_over_the_other_families() -> Result<()> {
        stopped_in_good_order(Way::Rules(Families::V6))?;
        stopped_in_good_order(Way::Forwarder(Families::V6))
    }

    #[test]
    fn a_node_whose_link_is_out_for_eight_seconds_cuts_nobody_through_the_forwarder() -> Result<()> {
        link_out(FORWARDER)
    }
}

/// The first that answers when the node's network is back must not condemn the rest.
#[test]
fn a_node_whose_link_is_out_for_eight_seconds_cuts_nobody() -> Result<()> {
    link_out(RULES)
}

fn link_out(way: Way) -> Result<()> {
    let lab = way.lab()?;
    let mut stage = way.start(&lab, &ALL)?;
    let mut crowd = way.crowd(&mut stage, &Mix { timeout: Duration::from_secs(60), ..mix() }, &ALL, 2)?;
    let inflicted = stage.inflict(&mut crowd, Fault::UplinkDown, &ALL)?;
    thread::sleep(Duration::from_secs(8));
    inflicted.heal(&mut stage.plane)?;
    thread::sleep(Duration::from_secs(8));
    stage.wait_for_backends(&ALL)?;
    let outcome = crowd.finish()?;
    expect_uncut(&outcome, &stage)
}
