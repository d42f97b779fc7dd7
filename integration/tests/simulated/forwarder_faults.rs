//! nftables is refused and works again, over and over, under new connections and established ones: the forwarder takes
//! over and hands back, no new connection fails and no established one is cut, neither one that rules led nor one that the
//! forwarder carries.
//!
//! What the kernel of this machine cannot show (a missing chain type, a failing commit) is injected at the daemon's
//! netlink socket.

use std::io::ErrorKind;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use integration::daemon::Daemon;
use integration::echoes::{Echoes, connects};
use integration::forwarder::{Stage, TAKEN_OVER, devices, echo_vips, takeovers};
use integration::lab::{Families, Lab, LabOptions};
use integration::load::{Load, Plan};
use integration::neighbour::Neighbour;
use integration::nftfault::Fault;
use integration::sim::load::report::Report;
use integration::sources;

/// How often a fault leaves and returns.
const TURNS: usize = 40;
/// The same where no rate is asked for: each turn takes two seconds of both cores, and a suite runs often.
const FEWER_TURNS: usize = 10;
/// One turn in so many tries the node-local endpoints.
const LISTENING_TURNS: usize = 10;
/// New connections a second, and the variable that asks for another number: an unoptimised build carries a third of what
/// `cargo test --release` does on the same machine.
const RATE: u32 = 1_000;
const RATE_VARIABLE: &str = "APIVIP_TEST_RATE";
/// One in so many of them carries bytes to an apiserver and back, and one comes from the node and does; the others only
/// connect.
const ECHOES: u32 = 5;
/// Connections that live through all of it, in the Pod and on the node each.
const ESTABLISHED: usize = 20;
/// How long each dataplane is left to serve.
const STRETCH: Duration = Duration::from_millis(200);
/// Longest until nftables is found to work again, which is tried at most a second after the last time.
const HANDED_BACK: Duration = Duration::from_secs(20);

/// Longest until the virtual IPs are given back. A second without connections is usual; conntrack remembers some longer.
const GIVEN_BACK: Duration = Duration::from_secs(60);

/// Who opens connections all the time, and which.
struct Loads {
    running: Vec<Running>,
}

struct Running {
    load: Load,
    rate: u32,
    established: usize,
}

/// What a load saw, and which part of the attempts that were to be made were made, in percent.
struct Seen {
    report: Report,
    share: u64,
}

impl Loads {
    /// From the Pod, and from the node where its connections come about.
    fn start(lab: &Lab, rate: u32, from_node: bool) -> Result<Self> {
        let (vips, sources) = (echo_vips(lab), sources::add(lab, 10)?);
        let part = rate / ECHOES;
        let connects = Plan { sources: &sources, ..Plan::new("tcp", &vips, rate - 2 * part) };
        let node = Plan { established: ESTABLISHED, ..Plan::new("echo", &vips, part) };
        let echoes = Plan { sources: &sources, ..node };
        let start = |from, name, plan: &Plan<'_>| -> Result<Running> {
            let (rate, established) = (plan.rate, plan.established);
            Ok(Running { load: Load::planned(from, lab.dir(), name, plan)?, rate, established })
        };
        let mut running =
            vec![start(lab.pod(1), "connects", &connects)?, start(lab.pod(1), "echoes", &echoes)?];
        if from_node {
            running.push(start(lab.node(), "node", &node)?);
        }
        Ok(Self { running })
    }

    /// Fails if a connection failed, or one that lives long was cut.
    fn finish_clean(self) -> Result<Vec<Seen>> {
        let mut all = Vec::new();
        for Running { load, rate, established } in self.running {
            let report = load.finish_clean()?;
            let opened = report.established.opened;
            ensure!(opened == established as u64, "{opened} long-lived connections\n{report}");
            let share = report.attempted * 100_000 / (u64::from(rate) * report.elapsed_ms).max(1);
            all.push(Seen { report, share });
        }
        Ok(all)
    }
}

/// One lab in which a fault comes and goes.
struct Scene<'lab> {
    lab: &'lab Lab,
    stage: Stage<'lab>,
    daemon: Daemon,
    fault: Fault,
    /// Beside a kube-proxy in nftables mode the node's own connections are refused while the forwarder stands in.
    node_is_refused: bool,
    kept: Echoes,
    longest_seen: Duration,
}

impl Scene<'_> {
    /// The fault comes, and goes again.
    fn turn(&mut self, turn: usize) -> Result<()> {
        self.stage.faults.set(self.fault)?;
        self.stage.touch(turn)?;
        let begin = Instant::now();
        let status = self.daemon.wait_for_dataplane("forwarder", TAKEN_OVER)?;
        self.longest_seen = self.longest_seen.max(begin.elapsed());
        let (reason, expected) = (status["dataplane"]["reason"].as_str(), self.fault.reason());
        ensure!(reason.is_some_and(|reason| reason.contains(expected.unwrap_or_default())), "{status:#}");
        for target in echo_vips(self.lab) {
            self.kept.open(&format!("turn {turn}"), self.lab.pod(1), target)?;
            if self.node_is_refused {
                match connects(self.lab.node(), target)? {
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                    other => bail!("the node's connection to {target} ended with {other:?}, not refused"),
                }
            } else {
                self.kept.open(&format!("turn {turn}"), self.lab.node(), target)?;
            }
        }
        if turn.is_multiple_of(LISTENING_TURNS) {
            self.stage.expect_listening()?;
        }
        thread::sleep(STRETCH);
        self.stage.faults.clear()?;
        self.daemon.wait_for_dataplane("nftables", HANDED_BACK)?;
        for target in echo_vips(self.lab) {
            connects(self.lab.node(), target)?.with_context(|| format!("from the node to {target}"))?;
        }
        thread::sleep(STRETCH);
        Ok(())
    }

    /// Connections that began in the forwarder go on; when they have ended the virtual IPs are nobody's again.
    fn give_back(&mut self) -> Result<()> {
        let kept = std::mem::take(&mut self.kept);
        let places = if self.node_is_refused { 1 } else { 2 };
        ensure!(kept.count() == turns() * places * self.lab.vips().len(), "{} are kept", kept.count());
        let claimed = |lab: &Lab| -> Result<bool> {
            Ok(devices(lab.node())?.iter().any(|name| name.starts_with("apivip")))
        };
        ensure!(claimed(self.lab)?, "nothing leads to the forwarder, whose connections go on");
        kept.finish_clean()?;
        let lab = self.lab;
        self.daemon
            .process()
            .wait_until("virtual IPs given back", GIVEN_BACK, |_| Ok((!claimed(lab)?).then_some(())))
    }
}

fn turns() -> usize {
    if std::env::var_os(RATE_VARIABLE).is_some() { TURNS } else { FEWER_TURNS }
}

fn leaves_and_returns(fault: Fault, neighbour: Option<Neighbour>) -> Result<()> {
    let _turn = crate::alone();
    let rate: u32 = match std::env::var(RATE_VARIABLE) {
        Ok(rate) => rate.parse().with_context(|| format!("{RATE_VARIABLE}={rate}"))?,
        Err(_) => RATE,
    };
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let mut stage = Stage::start(&lab, "auto")?;
    stage.options().arguments.push("--log-format=json".to_owned());
    if let Some(neighbour) = neighbour {
        neighbour.load(lab.node(), lab.families())?;
    }
    let daemon = stage.daemon("nftables")?;
    let node_is_refused = matches!(neighbour, Some(Neighbour::KubeProxyNft));
    let loads = Loads::start(&lab, rate, !node_is_refused)?;
    let (kept, longest_seen) = (Echoes::default(), Duration::ZERO);
    let mut scene = Scene { lab: &lab, stage, daemon, fault, node_is_refused, kept, longest_seen };
    for turn in 0..turns() {
        scene.turn(turn).with_context(|| format!("turn {turn} of {fault:?}"))?;
    }
    let seen = scene.daemon.explain(loads.finish_clean()).with_context(|| format!("{fault:?}"))?;
    scene.give_back()?;
    let daemon = scene.daemon;
    for to in ["forwarder", "nftables"] {
        let switches = daemon.metric(&format!("apivip_dataplane_switches_total{{to=\"{to}\"}}"))?;
        ensure!(switches >= turns() as u64, "only {switches} switches to {to}");
    }
    let took = takeovers(&daemon.log())?;
    let longest = took.iter().max().copied().unwrap_or_default();
    ensure!(took.len() >= turns(), "the log tells of {} takeovers\n{}", took.len(), daemon.log());
    ensure!(longest < TAKEN_OVER, "{longest:?} from the first refusal until the forwarder served");
    println!("{}", row(fault, neighbour, &seen, longest, scene.longest_seen));
    Ok(())
}

/// A line of the table in docs/benchmarks.md.
fn row(
    fault: Fault,
    neighbour: Option<Neighbour>,
    seen: &[Seen],
    served: Duration,
    shown: Duration,
) -> String {
    let sum = |of: fn(&Report) -> u64| seen.iter().map(|seen| of(&seen.report)).sum::<u64>();
    let longest_us = seen.iter().map(|seen| seen.report.total_us.max).max().unwrap_or(0);
    let beside = if neighbour.is_some() { ", beside a kube-proxy" } else { "" };
    format!(
        "| {}{beside} | {} | {} % | {} | {} | {} | {} | {} |",
        title(fault),
        sum(|report| report.attempted),
        seen.iter().map(|seen| seen.share).min().unwrap_or(0),
        sum(|report| report.failed),
        sum(|report| report.established.broken),
        longest_us / 1000,
        served.as_millis(),
        shown.as_millis()
    )
}

fn title(fault: Fault) -> String {
    match fault {
        Fault::NotPermitted => "refused (EPERM)".to_owned(),
        Fault::NoChainType => "a chain type is missing".to_owned(),
        Fault::Failing => "commits fail".to_owned(),
        other => format!("{other:?}"),
    }
}

#[test]
fn without_permission() -> Result<()> {
    leaves_and_returns(Fault::NotPermitted, None)
}

#[test]
fn without_the_chain_type() -> Result<()> {
    leaves_and_returns(Fault::NoChainType, None)
}

#[test]
fn with_commits_that_fail() -> Result<()> {
    leaves_and_returns(Fault::Failing, None)
}

#[test]
fn beside_a_kube_proxy() -> Result<()> {
    leaves_and_returns(Fault::Failing, Some(Neighbour::KubeProxyNft))
}
