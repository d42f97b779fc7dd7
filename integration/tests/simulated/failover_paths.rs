//! A cut cable where something on the path between client and node is unusual: the node's own filters, the pod's, a
//! second NAT, few challenge ACKs, bridged pods, a full table of foreign flows.

use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use apivip::model::types::Family;
use integration::clients::Mix;
use integration::control_plane::Variant;
use integration::failover::trial::{addresses, lab, leave, mix};
use integration::failover::{Failover, Outcome};
use integration::fault::Fault;
use integration::foreign;
use integration::lab::{self, Families, Lab, LabOptions, PodAttachment};
use integration::netns::Namespace;
use integration::sim::clients::config::Fresh;
use integration::sim::clients::timeline::Kind;

/// Foreign entries in the node's conntrack table; `scripts/bench failover --foreign` has as many as fit.
const FOREIGN: u32 = 5_000;

/// Longest until the daemon gives clients up that it cannot reach: it does after 15 s.
const GIVEN_UP: Duration = Duration::from_secs(150);

/// Busy clients, so many that some lead to each apiserver. One that sends a request and waits for the answer is not always busy:
/// where the cable is cut after its request was acknowledged and before the answer came, its kernel has nothing to send again.
const BUSY: Mix = Mix {
    fresh_every: None,
    fresh: Fresh::Tls,
    timeout: Duration::from_secs(15),
    idle: 0,
    watch: 0,
    half_closed: 0,
    upload: 0,
    download: 0,
    pipelined: 36,
};

/// Longest until a busy client is told. Its kernel sends again 0.2 s after the fault, and then each time after twice as long:
/// once the rule is there, that takes at most as long as the rule took to come.
const SPOKE_UP: Duration = Duration::from_secs(60);

/// How long clients behind something unusual are watched then.
const WATCHED: Duration = Duration::from_secs(4);

/// New connections that begin so long after the fault, in milliseconds, are served: usual is one second.
const SERVED: u64 = 4_000;

fn started(lab: &Lab) -> Result<Failover<'_>> {
    Failover::start(lab, Variant::Simulated, &[1, 2, 3], &[])
}

#[test]
fn an_output_policy_that_drops_untracked_packets_keeps_nobody_waiting() -> Result<()> {
    let lab = lab(Families::Dual)?;
    let mut stage = started(&lab)?;
    // Neighbour discovery is never tracked, and a policy that dropped it would cut IPv6 off.
    lab.node().nft_load(
        "table inet strict {\nchain out { type filter hook output priority 0;\nmeta l4proto tcp ct state untracked drop\n}\n}\n",
    )?;
    leave(&mut stage, Fault::Unplugged, &[2], &mix()).map(drop)
}

#[test]
fn few_challenge_acks_a_second_are_enough() -> Result<()> {
    let lab = lab(Families::V4)?;
    let mut stage = started(&lab)?;
    for namespace in [lab.pod(1), lab.node()] {
        namespace.sysctl("net.ipv4.tcp_challenge_ack_limit", "1000")?;
    }
    leave(&mut stage, Fault::Unplugged, &[2], &Mix { idle: 1_500, ..mix() }).map(drop)
}

#[test]
fn foreign_conntrack_entries_are_left_alone() -> Result<()> {
    let lab = lab(Families::V4)?;
    let mut stage = started(&lab)?;
    foreign::fill_conntrack(lab.node(), lab.dir(), FOREIGN)?;
    leave(&mut stage, Fault::Unplugged, &[1], &mix())?;
    let count = lab
        .node()
        .run("conntrack", &["-L", "-p", "tcp", "--dport", &foreign::PORT.to_string()])?
        .lines()
        .count();
    ensure!(count == FOREIGN as usize, "{count} of {FOREIGN} foreign entries are left");
    Ok(())
}

#[test]
fn bridged_pods_with_bridge_netfilter_are_told() -> Result<()> {
    let attachment = PodAttachment::Bridged { netfilter: true };
    let lab = Lab::start(LabOptions { families: Families::Dual, attachment, ..LabOptions::default() })?;
    let mut stage = started(&lab)?;
    leave(&mut stage, Fault::Unplugged, &[3], &mix()).map(drop)
}

/// Clients that no forged packet reaches: those that send something are told, new connections go elsewhere, nobody else is
/// cut, and the log says how many could not be told, and why, where that can be known.
fn unreached(
    stage: &mut Failover<'_>,
    from: &Namespace,
    inner: IpAddr,
    why: Option<&str>,
) -> Result<Outcome> {
    let (dead, outer) = (addresses(stage.lab, &[2]), lab::addresses::pod(1, Family::V4));
    let mut busy = stage.crowd(&[from], &BUSY)?;
    busy.hidden(inner, outer);
    let mut others = stage.crowd(&[from], &Mix { upload: 0, download: 0, idle: 60, ..mix() })?;
    others.hidden(inner, outer);
    stage.inflict(&mut busy, Fault::Unplugged, &[2])?;
    let waited = busy.wait_notified(&dead, SPOKE_UP);
    let told = stage.daemon.process().wait_for_line("event=connections_reset", GIVEN_UP)?;
    // Two rounds are over soon, where somebody answers in the clients' place.
    thread::sleep(WATCHED);
    let outcome = busy.joined(others).finish()?;
    println!("{}\n{outcome}", outcome.by_kind(&dead));
    let judge = || -> Result<()> {
        outcome.expect_uncut(&dead)?;
        outcome.expect_served(SERVED)?;
        waited?;
        let busy = outcome.notified(&dead, Some(Kind::Pipelined));
        ensure!(busy.notified == busy.flows && busy.flows > 0, "of the busy ones {busy:?} were notified");
        let idle = outcome.notified(&dead, Some(Kind::Idle));
        ensure!(
            idle.notified == 0 && idle.flows > 0,
            "of the idle ones {idle:?} were notified: nothing was in the way"
        );
        if let Some(why) = why {
            ensure!(told.contains(why) && !told.contains("remaining=0"), "no word of {why}: {told}");
        }
        Ok(())
    };
    stage.daemon.explain(judge())?;
    Ok(outcome)
}

#[test]
fn busy_clients_of_a_pod_that_drops_invalid_packets_are_told() -> Result<()> {
    let lab = lab(Families::V6)?;
    let mut stage = started(&lab)?;
    lab.pod(1).nft_load(
        "table inet firewall {\nchain in { type filter hook input priority 0;\nct state invalid drop\n}\n}\n",
    )?;
    unreached(&mut stage, lab.pod(1), lab::addresses::pod(1, Family::V4), Some("no_answer")).map(drop)
}

#[test]
fn busy_clients_behind_a_second_nat_are_told() -> Result<()> {
    let lab = lab(Families::V4)?;
    let mut stage = started(&lab)?;
    let inner = behind(&lab)?;
    // Whoever hides them says that there is no such connection, which is what a client says that has been told.
    unreached(&mut stage, &inner, Ipv4Addr::new(10, 244, 9, 2).into(), None).map(drop)
}

/// What cannot be seen is no evidence: new connections go to others, and nobody is ended.
#[test]
fn without_a_raw_socket_nobody_is_ended_and_the_status_says_why() -> Result<()> {
    let lab = lab(Families::V4)?;
    let wrapper = ["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw"];
    let mut stage = Failover::start_with(&lab, Variant::Simulated, &[1, 2, 3], |options| {
        options.wrapper = wrapper.map(str::to_owned).to_vec();
    })?;
    let mut crowd = stage.crowd(&[lab.pod(1)], &Mix { idle: 60, ..mix() })?;
    stage.inflict(&mut crowd, Fault::Unplugged, &[2])?;
    let withheld = |status: &serde_json::Value| status["problems"].to_string().contains("could not observe");
    stage.daemon.wait_for_status("why nobody is ended", GIVEN_UP, withheld)?;
    thread::sleep(WATCHED);
    let outcome = crowd.finish()?;
    println!("{outcome}");
    let judge = || outcome.expect_uncut(&[]).and_then(|()| outcome.expect_served(SERVED));
    stage.daemon.explain(judge())
}

/// A namespace behind pod 1, which hides it behind its own address.
fn behind(lab: &Lab) -> Result<Namespace> {
    let inner = Namespace::create("inner")?;
    let pod = lab.pod(1);
    pod.ip(&format!(
        "link add name inner type veth peer name eth0 netns {}\nlink set inner up\naddr add 10.244.9.1/24 dev inner\n",
        inner.name()
    ))?;
    inner.ip(
        "link set lo up\nlink set eth0 up\naddr add 10.244.9.2/24 dev eth0\nroute add default via 10.244.9.1\n",
    )?;
    pod.sysctl("net/ipv4/ip_forward", "1")?;
    // The port stays what it was, so that the node's table still names the client.
    pod.nft_load(&format!(
        "table ip hide {{\nchain post {{ type nat hook postrouting priority 100;\n\
         oifname \"eth0\" snat to {}\n}}\n}}\n",
        lab::addresses::pod(1, Family::V4)
    ))?;
    Ok(inner)
}
