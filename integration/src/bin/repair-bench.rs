//! How long a change that another program makes of the table lasts: from that program's transaction to the daemon's, as a
//! listener outside both receives them. `scripts/bench repair` builds everything in release mode and runs it.

use std::os::fd::AsRawFd;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use apivip::nftables::watch::{Follower, GROUP};
use integration::control_plane::Variant;
use integration::lab::{Families, Lab, LabOptions};
use integration::netns::Namespace;
use integration::scenario::Scenario;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
    sockopt,
};

const ROUNDS: usize = 20;
const LIMIT: Duration = Duration::from_secs(20);
/// So seldom that the daemon does not delay its repairs.
const PAUSE: Duration = Duration::from_millis(1200);

/// The group, as a mask.
const NFTABLES: u32 = 1 << (GROUP - 1);
/// The events of a flush of all tables fit.
const RECEIVE_BUFFER: usize = 8 << 20;
const DATAGRAM: usize = 64 << 10;
/// No socket has this port: transactions of all programs count.
const NO_PORT: u32 = 0;

/// What the table calls each change, and the change.
const CHANGES: [(&str, &str); 5] = [
    ("a rule is inserted", "insert rule inet apivip nat-output ip daddr 192.0.2.99 drop"),
    ("`nft flush ruleset`", "flush ruleset"),
    ("`nft delete table inet apivip`", "delete table inet apivip"),
    ("a chain is flushed", "flush chain inet apivip nat-output"),
    (
        "a chain is flushed and deleted",
        "flush chain inet apivip nat-postrouting\ndelete chain inet apivip nat-postrouting",
    ),
];

fn main() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let mut scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    scenario.options = scenario.options.arg("--table-owner=off");
    let mut daemon = scenario.daemon()?;
    let mut monitor = Monitor::start(lab.node())?;
    println!("another program's transaction -> the daemon's, {ROUNDS} times each:\n");
    println!("| change | bound | median | longest | after that program's end, longest |");
    println!("|---|---|---|---|---|");
    for (title, script) in CHANGES {
        let repairs = (0..ROUNDS).map(|_| monitor.repair(lab.node(), script)).collect::<Result<Vec<_>>>()?;
        let (all, after): (Vec<Duration>, Vec<Duration>) = repairs.into_iter().unzip();
        let ((median, longest), (_, left)) = (spread(all), spread(after));
        println!("| {title} | 20 ms | {median:.1} ms | {longest:.1} ms | {left:.1} ms |");
    }
    println!("\nby the daemon's own clock, from the event to its commit:");
    let metrics = daemon.metrics()?;
    let own = metrics.lines().filter(|line| line.starts_with("apivip_drift_repair_seconds"));
    own.for_each(|line| println!("  {line}"));
    daemon.stop()?;
    Ok(())
}

/// The median and the longest, in milliseconds.
fn spread(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort();
    let millis = |index: usize| times[index].as_secs_f64() * 1000.0;
    (millis(ROUNDS / 2), millis(ROUNDS - 1))
}

/// When the kernel reported a transaction, and the program that made it. `nft monitor` would first print all its rules, which
/// takes about as long as a repair.
struct Monitor(Receiver<(Instant, String)>);

impl Monitor {
    fn start(node: &Namespace) -> Result<Self> {
        let (kind, flags) = (SockType::Raw, SockFlag::SOCK_CLOEXEC);
        let socket = node.within(|| {
            let socket = socket(AddressFamily::Netlink, kind, flags, SockProtocol::NetlinkNetFilter)?;
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, NFTABLES))?;
            setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
            Ok(socket)
        })?;
        let (sender, transactions) = channel();
        thread::spawn(move || {
            let mut datagram = vec![0; DATAGRAM];
            let mut follower = Follower::default();
            while let Ok(count) = recv(socket.as_raw_fd(), &mut datagram, MsgFlags::empty()) {
                let at = Instant::now();
                let Ok(culprits) = follower.take(&datagram[..count], NO_PORT) else { return };
                if culprits.into_iter().any(|culprit| sender.send((at, culprit.name)).is_err()) {
                    return;
                }
            }
        });
        Ok(Self(transactions))
    }

    /// The time between the transaction of `script` and the next of another program, and how much of it was left at the end of the
    /// program that ran the script: while that closes its socket, no other program can commit.
    fn repair(&mut self, node: &Namespace, script: &str) -> Result<(Duration, Duration)> {
        thread::sleep(PAUSE);
        while self.0.try_recv().is_ok() {}
        node.nft_load(script)?;
        let ended = Instant::now();
        let changed = self.transaction(true)?;
        let repaired = self.transaction(false)?;
        Ok((repaired.duration_since(changed), repaired.saturating_duration_since(ended)))
    }

    /// When the next transaction was reported: nft's, or that of another program.
    fn transaction(&mut self, by_nft: bool) -> Result<Instant> {
        loop {
            let (at, name) = self.0.recv_timeout(LIMIT).context("no transaction was reported")?;
            if (name == "nft") == by_nft {
                return Ok(at);
            }
        }
    }
}
