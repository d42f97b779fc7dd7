//! What `scripts/demo --real` shows: the same on a real cluster of one node, with kubelet, containerd and Pods.

use std::fmt::Write;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use integration::clients::{Clients, Mix};
use integration::control_plane::SERVICE_PORT;
use integration::fault::Fault;
use integration::lab::Lab;
use integration::real::node::cluster::{self, Cluster};
use integration::real::node::{asking, install};
use integration::sim::clients::timeline::monotonic_us;

use crate::print::{act, lines, say, typed};
use crate::status;

/// The API server that is unplugged, and for how long.
const UNPLUGGED: u8 = 2;
const OUTAGE: Duration = Duration::from_secs(20);
/// Between two looks at a status that is about to change.
const PAUSE: Duration = Duration::from_millis(200);
/// Longest until the status shows the suspect API server. It takes a second or two.
const SEEN: Duration = Duration::from_secs(30);

/// Shows it.
pub(crate) fn show() -> Result<()> {
    act("The setup: three kube-apiservers with etcd, controllers, and a node with kubelet and containerd.");
    let lab = cluster::lab(3)?;
    let mut cluster = Cluster::start(&lab)?;
    kubectl(&cluster, "get nodes -o wide")?;
    act("No program serves the API's virtual IP: there is no kube-proxy.");
    let answer = lab.node().run("curl", &["-sS", "--max-time", "3", &format!("https://{}/", lab.vips()[0])]);
    let Err(error) = answer else { bail!("the virtual IP answers before apivip has started") };
    let said = format!("{error:#}");
    lines(said.find("curl: ").map_or(said.as_str(), |at| &said[at..]));
    act("Install apivip from docs/install.");
    install::import(&cluster, lab.dir())?;
    typed("kubectl apply -f docs/install/rbac.yaml -f docs/install/daemonset.yaml");
    install::apply(&mut cluster)?;
    kubectl(&cluster, "get pods -A -o wide")?;
    act("A Pod with only its service account queries the API, at the address that every Pod gets.");
    let log = asking::asks(&mut cluster, lab.dir())?;
    lines(log.lines().next().unwrap_or_default());
    outage(&lab, &mut cluster)?;
    act("The rules in the kernel.");
    typed("nft list table inet apivip");
    lines(&lab.node().run("nft", &["list", "table", "inet", "apivip"])?);
    Ok(())
}

fn outage(lab: &Lab, cluster: &mut Cluster<'_>) -> Result<()> {
    act("One API server is unplugged, while a Pod and the node open connections and hold idle ones.");
    let mix = Mix { fresh_every: Some(Duration::from_millis(20)), idle: 30, watch: 6, ..Mix::default() };
    let vip = [SocketAddr::new(lab.vips()[0], SERVICE_PORT)];
    let start = |from, name| Clients::start(from, lab.dir(), name, &cluster.plane, &vip, &mix);
    let clients = [("the Pod", start(lab.pod(1), "pod")?), ("the node", start(lab.node(), "node")?)];
    thread::sleep(Duration::from_secs(2));
    let (begin, cut) = (Instant::now(), monotonic_us());
    let inflicted = Fault::Unplugged.inflict(&mut cluster.plane, &[UNPLUGGED])?;
    typed("apivip status");
    lines(&noticed(cluster, begin)?);
    thread::sleep(OUTAGE.saturating_sub(begin.elapsed()));
    say(&format!("Their connections within {} s:", OUTAGE.as_secs()));
    for (who, mut clients) in clients {
        clients.stop()?;
        let timeline = clients.finish()?;
        let fault = timeline.at_ms(cut);
        let new = timeline.fresh().filter(|c| c.started_ms >= fault).count();
        let failed = timeline.failures(fault, 0, u64::MAX).len();
        let reset: Vec<u64> = timeline.kept().filter_map(|c| c.ended_ms?.checked_sub(fault)).collect();
        let mut line = format!("{who}: {failed} of {new} new connections failed, ");
        // Writing to a String cannot fail.
        let _ = write!(line, "the slowest took {} ms; ", timeline.longest_ms(fault));
        let _ = match reset.iter().max() {
            Some(last) => write!(line, "{} open ones to it were reset after {last} ms at most", reset.len()),
            None => write!(line, "it had no open ones to it"),
        };
        lines(&line);
    }
    kubectl(cluster, "get nodes")?;
    inflicted.heal(&mut cluster.plane)
}

/// The status once apivip has noticed.
fn noticed(cluster: &Cluster<'_>, begin: Instant) -> Result<String> {
    loop {
        let text = status(&cluster.node.path("/run/apivip"))?;
        if text.contains("suspect") || begin.elapsed() > SEEN {
            return Ok(text);
        }
        thread::sleep(PAUSE);
    }
}

fn kubectl(cluster: &Cluster<'_>, words: &str) -> Result<()> {
    typed(&format!("kubectl {words}"));
    lines(&cluster.kubectl(&words.split(' ').collect::<Vec<_>>())?);
    Ok(())
}
