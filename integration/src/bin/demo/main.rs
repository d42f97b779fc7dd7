//! What `scripts/demo` shows: a node, a Pod and three simulated API servers, each in a network namespace, and the daemon
//! between them; with `--real`, the same on a real cluster. It removes everything that it made when it ends.

mod print;
mod real;
mod stage;

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use integration::command::{self, COMMAND_LIMIT};
use integration::daemon::{Daemon, DaemonOptions};
use integration::netns::Namespace;

use print::{act, lines, say, typed};
use stage::{REMOVED_AFTER, SECONDS, Stage, VIP};

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        None => simulated(),
        Some("--real") => real::show(),
        Some(other) => bail!("unknown argument {other}; expected --real"),
    }
}

fn simulated() -> Result<()> {
    let stage = Stage::build()?;
    scenery();
    without(&stage)?;
    let mut daemon = start(&stage)?;
    requests(&stage)?;
    removal(&stage, &daemon)?;
    inspect(&stage, &daemon)?;
    crash(&stage, &mut daemon)?;
    cleanup(&stage, &daemon)
}

fn scenery() {
    act("The setup: a cluster on one machine, built from network namespaces.");
    lines(&format!(
        "Pod 10.244.0.11 --- node 192.0.2.1 ---+--- apiserver-1  192.0.2.11:6443\n\
         {0:38}+--- apiserver-2  192.0.2.12:6443\n\
         {0:38}+--- apiserver-3  192.0.2.13:6443",
        ""
    ));
    say("Pods know the Kubernetes API by its virtual IP, 10.96.0.1:443. No machine has that address.");
}

fn without(stage: &Stage) -> Result<()> {
    act("Without apivip (and without kube-proxy) no program answers there.");
    let answer = stage.request(stage.lab.pod(1), "before")?;
    ensure!(!answer.status.success(), "the virtual IP answers before apivip has started");
    lines(&answer.stderr);
    Ok(())
}

fn start(stage: &Stage) -> Result<Daemon> {
    act(
        "The daemon starts on the node. It reads the Service and its endpoints from an API server and programs the kernel.",
    );
    typed("apivip run --kubeconfig kubeconfig");
    let options = DaemonOptions::kubeconfig(&stage.kubeconfig);
    let daemon = Daemon::start(stage.lab.node(), stage.lab.dir(), &options)?;
    lines(&daemon.log());
    Ok(daemon)
}

fn requests(stage: &Stage) -> Result<()> {
    act(
        "Now the Pod reaches the API: each new connection goes to one of the API servers, which sees the Pod's own address.",
    );
    for number in 1..=5 {
        request(stage, stage.lab.pod(1), "Pod", &number.to_string())?;
    }
    say("The node's own processes reach it too, with the node's address.");
    request(stage, stage.lab.node(), "node", "6")
}

fn request(stage: &Stage, from: &Namespace, who: &str, number: &str) -> Result<()> {
    let answer = stage.request(from, number)?;
    ensure!(answer.status.success(), "request {number} failed: {}", answer.stderr.trim());
    let (server, client) = stage.answered_by(number)?;
    lines(&format!("request {number} from the {who}: {server} answered, and saw a client at {client}"));
    Ok(())
}

fn removal(stage: &Stage, daemon: &Daemon) -> Result<()> {
    act("An API server is removed from the endpoints while the Pod opens 100 TLS connections a second.");
    let mut load = stage.start_load()?;
    let begin = stage::now_us();
    thread::sleep(Duration::from_secs(REMOVED_AFTER.into()));
    stage.publish(&[1, 2])?;
    let status = load.wait(COMMAND_LIMIT)?;
    ensure!(status.success(), "the load generator failed\n{}", load.tail());
    for (second, counts) in stage.connections_by_second(begin)?.iter().take(SECONDS as usize).enumerate() {
        let note =
            if second == REMOVED_AFTER as usize { "   apiserver-3 is no longer published" } else { "" };
        let [one, two, three] = counts;
        lines(&format!(
            "second {}: apiserver-1 {one:>3}, apiserver-2 {two:>3}, apiserver-3 {three:>3} connections{note}",
            second + 1
        ));
    }
    let report = load.stdout();
    say("The result of all connections, as the Pod saw it:");
    lines(report.lines().find(|line| line.contains("connections in")).unwrap_or(&report));
    say("The log of the daemon shows the change: one transaction of duration_us microseconds.");
    lines(daemon.log().lines().last().unwrap_or_default());
    Ok(())
}

fn inspect(stage: &Stage, daemon: &Daemon) -> Result<()> {
    act("The daemon reports its state.");
    typed("apivip status");
    lines(&status(daemon.run_dir())?);
    act("The rules in the kernel, as any nft prints them. The comments explain each chain.");
    typed("nft list table inet apivip");
    lines(&stage.lab.node().run("nft", &["list", "table", "inet", "apivip"])?);
    Ok(())
}

/// What `apivip status` prints, whatever its verdict.
fn status(run_dir: &Path) -> Result<String> {
    let mut status = Command::new(command::program("apivip")?);
    status.arg("status").arg("--run-dir").arg(run_dir);
    let shown = command::finish(status, "", COMMAND_LIMIT)?;
    ensure!(matches!(shown.status.code(), Some(0 | 3 | 4)), "apivip status: {}", shown.stderr.trim());
    Ok(shown.stdout)
}

fn crash(stage: &Stage, daemon: &mut Daemon) -> Result<()> {
    act("The daemon is killed. The rules stay in the kernel, so the Pod still reaches the API.");
    daemon.kill()?;
    request(stage, stage.lab.pod(1), "Pod", "7")
}

fn cleanup(stage: &Stage, daemon: &Daemon) -> Result<()> {
    act("Only `apivip cleanup` removes the rules, and prints what it removed.");
    typed("apivip cleanup");
    lines(&command::run(daemon.cleanup_command(stage.lab.node()), "")?);
    ensure!(!stage.request(stage.lab.pod(1), "after")?.status.success(), "{VIP} answers after the cleanup");
    Ok(())
}
