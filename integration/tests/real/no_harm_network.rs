//! Networks that lose packets on the way to a real apiserver, and one that lets handshakes through and nothing after them: nobody
//! is cut, neither idle clients nor busy ones.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use integration::failover::Failover;
use integration::failover::way::{ALL, Way, expect_uncut, patient};
use integration::fault::Fault;
use integration::lab::{Families, Lab};
use integration::real::writing::while_writing;

/// Longer than it takes to end those of one that is silent.
const LASTING: Duration = Duration::from_secs(15);

/// After a fault, until all that follows from it is over.
const HEALED: Duration = Duration::from_secs(4);

/// Clients in a crowd suffer what `begin` does to apiserver 2 until `end` undoes it.
fn suffers(
    way: Way,
    lasting: Duration,
    begin: impl FnOnce(&Lab) -> Result<()>,
    end: impl FnOnce(&Lab) -> Result<()>,
) -> Result<()> {
    let lab = way.lab()?;
    let mut stage = way.start(&lab, &ALL)?;
    let crowd = way.crowd(&mut stage, &patient(), &ALL, 2)?;
    begin(&lab)?;
    let writer = stage.plane.real()?.client(1);
    while_writing(&writer, || {
        thread::sleep(lasting);
        Ok(())
    })?;
    let log = states(&stage)?;
    end(&lab)?;
    thread::sleep(HEALED);
    stage.wait_for_backends(&ALL)?;
    let outcome = crowd.finish()?;
    expect_uncut(&outcome, &stage).with_context(|| format!("{way:?}, {log}"))
}

/// What the daemon thinks of each apiserver, in words.
fn states(stage: &Failover<'_>) -> Result<String> {
    let status = stage.daemon.status()?;
    let words = |backend: &serde_json::Value| format!("{} {}", backend["address"], backend["state"]);
    let states: Vec<String> = integration::daemon::every_backend(&status).map(words).collect();
    let said = states.join(", ");
    println!("{said}");
    Ok(said)
}

/// Three of ten packets are lost in each direction.
fn loses(way: Way) -> Result<()> {
    let rules = "table bridge loss {\nchain forward {\ntype filter hook forward priority 0;\n\
                 oifname api2 tcp dport 6443 numgen random mod 10 < 3 drop\n\
                 iifname api2 tcp sport 6443 numgen random mod 10 < 3 drop\n}\n}\n";
    suffers(
        way,
        LASTING,
        |lab| lab.fabric().nft_load(rules),
        |lab| lab.fabric().nft_load("delete table bridge loss\n"),
    )
}

/// New connections come about, and whatever their clients say is lost; those from before stream on.
fn accepts_and_never_answers(way: Way) -> Result<()> {
    let rules = "table inet mute {\nchain input {\ntype filter hook input priority -150;\n\
                 tcp dport 6443 tcp flags & (syn | ack) == syn ct mark set 1\n\
                 ct mark 1 tcp dport 6443 tcp flags & psh == psh drop\n}\n}\n";
    suffers(
        way,
        LASTING,
        |lab| lab.apiserver(2).nft_load(rules),
        |lab| lab.apiserver(2).nft_load("delete table inet mute\n"),
    )
}

/// Packets of one direction are lost, for less than a silence takes.
fn one_direction(way: Way) -> Result<()> {
    let lab = way.lab()?;
    let mut stage = way.start(&lab, &ALL)?;
    for fault in [Fault::InboundLost, Fault::OutboundLost] {
        let mut crowd = way.crowd(&mut stage, &patient(), &ALL, 2)?;
        let inflicted = stage.inflict(&mut crowd, fault, &[2])?;
        thread::sleep(Duration::from_secs(3));
        inflicted.heal(&mut stage.plane)?;
        thread::sleep(HEALED);
        stage.wait_for_backends(&ALL)?;
        let outcome = crowd.finish()?;
        expect_uncut(&outcome, &stage).with_context(|| format!("{fault:?}, {way:?}"))?;
    }
    Ok(())
}

#[test]
fn a_lossy_network_cuts_nobody() -> Result<()> {
    loses(Way::Rules(Families::Dual))
}

#[test]
fn one_that_accepts_and_never_answers_cuts_nobody_while_its_watches_stream() -> Result<()> {
    accepts_and_never_answers(Way::Rules(Families::Dual))
}

mod release {
    use super::*;

    #[test]
    fn a_lossy_network_cuts_nobody_through_the_forwarder() -> Result<()> {
        loses(Way::Forwarder(Families::Dual))
    }

    #[test]
    fn one_that_accepts_and_never_answers_cuts_nobody_through_the_forwarder() -> Result<()> {
        accepts_and_never_answers(Way::Forwarder(Families::Dual))
    }

    #[test]
    fn a_direction_that_is_lost_for_a_moment_cuts_nobody_through_rules() -> Result<()> {
        one_direction(Way::Rules(Families::Dual))
    }

    #[test]
    fn a_direction_that_is_lost_for_a_moment_cuts_nobody_through_the_forwarder() -> Result<()> {
        one_direction(Way::Forwarder(Families::Dual))
    }
}
