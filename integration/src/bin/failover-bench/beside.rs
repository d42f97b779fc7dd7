//! Failovers of real API servers on a node with apivip and on one with kube-proxy, each in a cluster of its own, so that one
//! outage does not influence the next.
//! In: nothing. Out: a table, and the figures of the picture.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use integration::clients::Mix;
use integration::control_plane::{ControlPlane, SERVICE_PORT};
use integration::failover::Crowd;
use integration::failover::trial::addresses;
use integration::fault::Fault;
use integration::pictures::failover::Failovers;
use integration::real::node::arm::{Arm, Server};
use integration::real::node::cluster;
use integration::real::node::kube_proxy::Mode;

use crate::judged::Judged;

/// How long before and after the fault new connections are observed.
const BEFORE: Duration = Duration::from_secs(1);
/// Longer than the lease of an API server lasts, and than kube-proxy takes to notice that the one that it watches is gone.
const AFTER: Duration = Duration::from_secs(45);

const ARMS: [Arm; 3] = [Arm::Apivip, Arm::KubeProxy(Mode::Nftables), Arm::KubeProxy(Mode::Iptables)];

/// By then the program that serves the virtual IP knows all API servers.
const SETTLE: Duration = Duration::from_secs(5);

struct Case {
    title: &'static str,
    fault: Fault,
    /// The API server that the program watches fails.
    watched: bool,
}

const CASES: [Case; 5] = [
    Case { title: "killed", fault: Fault::Killed, watched: false },
    Case { title: "killed, the one that is watched", fault: Fault::Killed, watched: true },
    Case { title: "unplugged", fault: Fault::Unplugged, watched: false },
    Case { title: "stopped in place (SIGSTOP)", fault: Fault::Paused, watched: false },
    Case { title: "terminated (SIGTERM)", fault: Fault::Stopped, watched: false },
];

/// The client's own timeout for a new connection.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Injects each fault beside each program. Each line of the table is printed when it is known.
pub fn measure() -> Result<Failovers> {
    println!(
        "| an API server is | served by | new connections that fail | longest extra wait | established flows reset | others reset |"
    );
    println!("|---|---|---|---|---|---|");
    let mut rows = Vec::new();
    for arm in ARMS {
        for case in &CASES {
            let judged = fail(arm, case)?;
            let (failed, wait, reset) = (judged.failed(), judged.extra_wait(), judged.reset());
            println!("| {} | {arm} | {failed} | {wait} | {reset} | {} |", case.title, judged.others_reset());
            rows.push(judged.row(case.title, arm.to_string()));
        }
    }
    Ok(Failovers {
        client_timeout_seconds: TIMEOUT.as_secs_f64(),
        observed_seconds: AFTER.as_secs_f64(),
        rows,
    })
}

fn fail(arm: Arm, case: &Case) -> Result<Judged> {
    let lab = cluster::lab(3)?;
    let mut plane = ControlPlane::self_published(&lab)?;
    let mut server = Server::start(&lab, &mut plane, arm)?;
    thread::sleep(SETTLE);
    let watched = server.watched(&plane)?;
    let failing = if case.watched { watched } else { watched % lab.options().apiservers + 1 };
    let mix =
        Mix { fresh_every: Some(Duration::from_millis(20)), timeout: TIMEOUT, idle: 300, ..Mix::default() };
    let vip = SocketAddr::new(lab.vips()[0], SERVICE_PORT);
    let mut crowd = Crowd::start(&lab, &plane, &[(lab.pod(1), vec![vip])], &mix)?;
    thread::sleep(BEFORE);
    let begin = Instant::now();
    crowd.inflict(&mut plane, case.fault, &[failing])?;
    // A terminated one takes a minute to end, and no API server keeps an idle connection for longer than 90 s.
    thread::sleep(AFTER.saturating_sub(begin.elapsed()));
    let outcome = crowd.finish()?;
    Ok(Judged::new(&outcome, &addresses(&lab, &[failing])))
}
