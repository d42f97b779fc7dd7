//! How long a change that another program makes of the table stands: from that program's transaction to the daemon's, as a
//! listener outside both hears of them. `scripts/bench repair` builds everything in release mode and runs it.

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
/// So seldom that the daemon does not take it for a fight, in which it waits.
const PAUSE: Duration = Duration::from_millis(1200);

/// The group, as a mask.
const NFTABLES: u32 = 1 << (GROUP - 1);
/// What a flush of all tables says fits.
const RECEIVE_BUFFER: usize = 8 << 20;
const DATAGRAM: usize = 64 << 10;
/// No socket has this port: transactions of all are heard.
const NOBODY: u32 = 0;

const CHANGES: [&str; 5] = [
    "flush ruleset",
    "delete table inet apivip",
    "flush chain inet apivip nat-output",
    "flush chain inet apivip nat-postrouting\ndelete chain inet apivip nat-postrouting",
    "insert rule inet apivip nat-output ip daddr 192.0.2.99 drop",
];

fn main() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let mut scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    scenario.options = scenario.options.arg("--table-owner=off");
    let mut daemon = scenario.daemon()?;
    let mut monitor = Monitor::start(lab.node())?;
    println!("another program's transaction -> the daemon's, {ROUNDS} times each:");
    for script in CHANGES {
        let repairs = (0..ROUNDS).map(|_| monitor.repair(lab.node(), script)).collect::<Result<Vec<_>>>()?;
        let (all, after): (Vec<Duration>, Vec<Duration>) = repairs.into_iter().unzip();
        println!(
            "  {:?}: {}; after the program's end {}",
            script.replace('\n', "; "),
            spread(all),
            spread(after)
        );
    }
    println!("by the daemon's own clock, from the event to its commit:");
    let metrics = daemon.metrics()?;
    let own = metrics.lines().filter(|line| line.starts_with("apivip_drift_repair_seconds"));
    own.for_each(|line| println!("  {line}"));
    daemon.stop()?;
    Ok(())
}

fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    let millis = |index: usize| times[index].as_secs_f64() * 1000.0;
    format!("median {:.2} ms, longest {:.2} ms", millis(ROUNDS / 2), millis(ROUNDS - 1))
}

/// When the kernel told everybody of a transaction, and whose it was. `nft monitor` would first print all its rules, which
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
                let Ok(culprits) = follower.take(&datagram[..count], NOBODY) else { return };
                if culprits.into_iter().any(|culprit| sender.send((at, culprit.name)).is_err()) {
                    return;
                }
            }
        });
        Ok(Self(transactions))
    }

    /// The time between the transaction of `script` and the next of anybody else, and what of it came after the end of the
    /// program that ran the script: while that closes its socket, the kernel lets nobody else commit.
    fn repair(&mut self, node: &Namespace, script: &str) -> Result<(Duration, Duration)> {
        thread::sleep(PAUSE);
        while self.0.try_recv().is_ok() {}
        node.nft_load(script)?;
        let ended = Instant::now();
        let changed = self.transaction(true)?;
        let repaired = self.transaction(false)?;
        Ok((repaired.duration_since(changed), repaired.saturating_duration_since(ended)))
    }

    /// When the next transaction was told: nft's, or that of another program.
    fn transaction(&mut self, by_nft: bool) -> Result<Instant> {
        loop {
            let (at, name) = self.0.recv_timeout(LIMIT).context("no transaction was told")?;
            if (name == "nft") == by_nft {
                return Ok(at);
            }
        }
    }
}
