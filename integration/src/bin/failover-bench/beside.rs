//! Failovers of real apiservers on a node that apivip serves, and on one that kube-proxy serves, each in a cluster of its own:
//! what one outage leaves behind is not to count for the next.
//! In: nothing. Out: a table, and the picture's panels.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use integration::clients::Mix;
use integration::control_plane::{ControlPlane, SERVICE_PORT};
use integration::failover::Crowd;
use integration::failover::trial::addresses;
use integration::fault::Fault;
use integration::real::node::arm::{Arm, Server};
use integration::real::node::cluster;
use integration::real::node::kube_proxy::Mode;

use crate::judged::Judged;

/// How long before and after the fault new connections are watched.
pub const BEFORE: Duration = Duration::from_secs(1);
/// Longer than a lease of an apiserver is good for, and than kube-proxy takes to notice that its own apiserver is gone.
pub const AFTER: Duration = Duration::from_secs(45);

const ARMS: [Arm; 3] = [Arm::Apivip, Arm::KubeProxy(Mode::Nftables), Arm::KubeProxy(Mode::Iptables)];

/// By then whoever serves the virtual IP knows of all apiservers.
const SETTLE: Duration = Duration::from_secs(5);

struct Case {
    title: &'static str,
    fault: Fault,
    /// It happens to the apiserver that is watched.
    own: bool,
}

const CASES: [Case; 5] = [
    Case { title: "killed", fault: Fault::Killed, own: false },
    Case { title: "killed, the watched one", fault: Fault::Killed, own: true },
    Case { title: "unplugged", fault: Fault::Unplugged, own: false },
    Case { title: "stands still (SIGSTOP)", fault: Fault::Paused, own: false },
    Case { title: "stopped (SIGTERM)", fault: Fault::Stopped, own: false },
];

/// What one fault did on one node.
pub struct Measured {
    pub arm: Arm,
    pub title: &'static str,
    pub judged: Judged,
}

/// Lets each of them happen to each. Each line of the table is printed when it is known.
pub fn measure() -> Result<Vec<Measured>> {
    println!(
        "| an apiserver is | served by | new connections that fail | longest extra wait | established flows told | others cut |"
    );
    println!("|---|---|---|---|---|---|");
    let mut all = Vec::new();
    for arm in ARMS {
        for case in &CASES {
            let judged = suffer(arm, case)?;
            let (failed, wait, told) = (judged.failed(), judged.extra_wait(), judged.told());
            println!("| {} | {arm} | {failed} | {wait} | {told} | {} |", case.title, judged.cut());
            all.push(Measured { arm, title: case.title, judged });
        }
    }
    Ok(all)
}

fn suffer(arm: Arm, case: &Case) -> Result<Judged> {
    let lab = cluster::lab(3)?;
    let mut plane = ControlPlane::self_published(&lab)?;
    let mut server = Server::start(&lab, &mut plane, arm)?;
    thread::sleep(SETTLE);
    let watched = server.watched(&plane)?;
    let concerned = if case.own { watched } else { watched % lab.options().apiservers + 1 };
    let mix = Mix {
        fresh_every: Some(Duration::from_millis(20)),
        timeout: Duration::from_secs(5),
        idle: 300,
        ..Mix::default()
    };
    let vip = SocketAddr::new(lab.vips()[0], SERVICE_PORT);
    let mut crowd = Crowd::start(&lab, &plane, &[(lab.pod(1), vec![vip])], &mix)?;
    thread::sleep(BEFORE);
    let begin = Instant::now();
    crowd.suffer(&mut plane, case.fault, &[concerned])?;
    // One that is stopped takes a minute to end, and longer than 90 s no apiserver keeps an idle connection.
    thread::sleep(AFTER.saturating_sub(begin.elapsed()));
    let outcome = crowd.finish()?;
    Ok(Judged::new(&outcome, &addresses(&lab, &[concerned])))
}
