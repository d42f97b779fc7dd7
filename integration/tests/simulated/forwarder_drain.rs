//! SIGTERM: the forwarder stops to accept, open connections live on for the grace, then they are reset; a new daemon takes
//! over meanwhile, and no connection is refused at the switch.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::daemon::{Daemon, DaemonOptions};
use integration::forwarder::{Stage, echo_vips, stream_vips};
use integration::lab::{Families, Lab, LabOptions};
use integration::load::{Load, Plan};
use integration::nftfault::Fault;
use integration::process::Signal;
use integration::sim::fleet::ECHO_PORT;
use integration::sources;
use integration::streams::Idle;
use socket2::{Domain, Socket, Type};

const GRACE: Duration = Duration::from_secs(12);
const LIMIT: Duration = Duration::from_secs(20);
/// What an unoptimised daemon forwards beside whatever else the machine does.
const CONNECTS: u32 = 400;
/// Longer than listeners stay open that nobody dials any more.
const SWITCHED: Duration = Duration::from_secs(3);

#[test]
fn open_connections_live_for_the_grace_and_are_reset() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let mut stage = Stage::start(&lab, "forwarder")?;
    let grace = format!("{}s", GRACE.as_secs());
    stage.options().arguments.extend(["--drain-grace".to_owned(), grace]);
    let mut daemon = stage.daemon("forwarder")?;
    let idle = || Idle::start(lab.pod(1), &lab, &stream_vips(&lab), &[], 20, false);
    let (early, late) = (idle()?, idle()?);
    let begin = Instant::now();
    daemon.process().signal(Signal::TERM)?;
    thread::sleep(GRACE / 12);
    early.finish_clean().context("a connection was cut within the grace")?;
    ensure!(daemon.process().exited()?.is_none(), "the daemon ended within the grace\n{}", daemon.log());
    for vip in lab.vips() {
        ensure!(stage.scenario.plane.fetch(lab.pod(1), vip).is_err(), "{vip} is served while draining");
    }
    let exit = daemon.process().wait(GRACE + LIMIT)?;
    ensure!(exit.code() == Some(0), "the daemon ended with {exit}\n{}", daemon.log());
    ensure!(begin.elapsed() >= GRACE, "it ended after {:?}", begin.elapsed());
    let examined = late.finish()?;
    ensure!(examined.told == examined.opened, "some were not told: {examined:?}");
    Ok(())
}

#[test]
fn with_nothing_open_it_ends_at_once() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let stage = Stage::start(&lab, "forwarder")?;
    let mut daemon = stage.daemon("forwarder")?;
    stage.expect_forwarded("before the end")?;
    let (exit, took) = daemon.stop()?;
    ensure!(exit.code() == Some(0), "the daemon ended with {exit} after {took:?}\n{}", daemon.log());
    Ok(())
}

/// A daemon in one mode follows one in another, under new connections and open ones.
fn taken_over(modes: [&str; 2], dataplanes: [&str; 2]) -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let stage = Stage::start(&lab, modes[0])?;
    let mut first = stage.daemon(dataplanes[0])?;
    let (vips, sources) = (echo_vips(&lab), sources::add(&lab, 4)?);
    let plan = Plan { sources: &sources, ..Plan::new("echo", &vips, CONNECTS) };
    let pod = Load::planned(lab.pod(1), lab.dir(), "pod", &plan)?;
    let host = Load::start(lab.node(), lab.dir(), "host", "echo", &vips, CONNECTS / 4)?;
    let listening: Vec<SocketAddr> = stage.listening()?;
    let node = Load::start(lab.node(), lab.dir(), "node", "tcp", &listening, CONNECTS / 2)?;
    let idle = Idle::start(lab.pod(1), &lab, &stream_vips(&lab), &sources, 50, false)?;
    first.process().signal(Signal::TERM)?;
    let options = DaemonOptions { arguments: with_mode(&stage, modes[1]), ..stage.scenario.options.clone() };
    let mut second = Daemon::spawn(lab.node(), lab.dir(), &options)?;
    let pid = second.pid();
    second.wait_for_status("the new daemon", LIMIT, |status| {
        status["pid"] == pid && status["dataplane"]["in_use"] == dataplanes[1]
    })?;
    thread::sleep(SWITCHED);
    if dataplanes[0] == "forwarder" {
        let draining = first.process().exited()?.is_none();
        ensure!(draining, "the old daemon does not drain\n{}", first.log());
    } else {
        first.process().wait(LIMIT)?;
    }
    idle.finish_clean().context("a connection of the old daemon was cut")?;
    for load in [pod, host, node] {
        load.finish_clean().with_context(|| first.log())?;
    }
    let exit = first.process().wait(LIMIT)?;
    ensure!(exit.code() == Some(0), "the old daemon ended with {exit}\n{}", first.log());
    if dataplanes[1] == "nftables" {
        gone(&lab, &mut second)?;
    }
    Ok(())
}

/// The arguments of the stage's daemon with another mode.
fn with_mode(stage: &Stage<'_>, mode: &str) -> Vec<String> {
    let mut arguments = stage.scenario.options.arguments.clone();
    let at = arguments.iter().position(|argument| argument == "--mode");
    if let Some(value) = at.and_then(|at| arguments.get_mut(at + 1)) {
        mode.clone_into(value);
    }
    arguments
}

/// Waits until nothing is left of the forwarder: no route, no routing rule, no exception in the table.
fn gone(lab: &Lab, daemon: &mut Daemon) -> Result<()> {
    daemon.process().wait_until("the end of the claim", LIMIT, |_| {
        let mut left = String::new();
        for version in ["-4", "-6"] {
            left += &lab.node().run("ip", &[version, "rule", "show", "priority", "97"])?;
            left += &lab
                .node()
                .run("ip", &[version, "route", "show", "table", "all", "type", "local", "proto", "97"])?;
        }
        let table = lab.node().nft_text("table inet apivip")?;
        Ok((left.is_empty() && !table.contains("connections of the forwarder are not redirected"))
            .then_some(()))
    })
}

/// Echoes through a virtual IP from one port of a Pod.
fn echo_from(lab: &Lab, vip: SocketAddr, port: u16) -> Result<TcpStream> {
    lab.pod(1).within(|| {
        let socket = Socket::new(Domain::for_address(vip), Type::STREAM, None)?;
        let any: IpAddr =
            if vip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        socket.bind(&SocketAddr::new(any, port).into()).with_context(|| format!("bind port {port}"))?;
        socket.set_read_timeout(Some(LIMIT))?;
        socket.connect_timeout(&vip.into(), LIMIT).with_context(|| format!("dial {vip} from port {port}"))?;
        let stream = TcpStream::from(socket);
        (&stream).write_all(b"?\n")?;
        // A greeting, and what was sent.
        for line in BufReader::new(&stream).lines().take(2) {
            line.with_context(|| format!("echo through {vip} from port {port}"))?;
        }
        Ok(stream)
    })
}

/// Lets the servers reset their echoes, and waits until these clients know.
fn reset(lab: &Lab, clients: Vec<TcpStream>) -> Result<()> {
    for i in 1..=lab.options().apiservers {
        let port = format!("= :{ECHO_PORT}");
        lab.apiserver(i).run("ss", &["-K", "state", "established", "sport", &port])?;
    }
    for mut client in clients {
        let end = client.read(&mut [0]);
        ensure!(end.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionReset), "not reset: {end:?}");
    }
    Ok(())
}

/// Conntrack remembers a connection that was reset for 10 s, and where it went.
#[test]
fn a_port_that_is_used_again_leads_to_an_apiserver() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let stage = Stage::start(&lab, "auto")?;
    stage.faults.set(Fault::Failing)?;
    let mut daemon = stage.daemon("forwarder")?;
    let vips = echo_vips(&lab);
    let dial = |ports: u16| (0..).zip(&vips).map(move |(i, vip)| (*vip, ports + i));
    let echo = |(vip, port)| echo_from(&lab, vip, port);
    let (drained, kept) = (dial(30_000), dial(30_100));
    let idle = Idle::start(lab.pod(1), &lab, &stream_vips(&lab), &[], 2, false)?;
    let clients = drained.clone().chain(kept.clone()).map(echo).collect::<Result<_>>()?;
    reset(&lab, clients)?;
    stage.faults.clear()?;
    daemon.wait_for_dataplane("nftables", LIMIT)?;
    thread::sleep(SWITCHED);
    kept.map(echo).collect::<Result<Vec<_>>>().context("beside connections that drain")?;
    idle.finish_clean()?;
    gone(&lab, &mut daemon)?;
    drained.map(echo).collect::<Result<Vec<_>>>().context("after the last connection")?;
    Ok(())
}

#[test]
fn a_new_daemon_takes_the_virtual_ip_over() -> Result<()> {
    taken_over(["forwarder"; 2], ["forwarder"; 2])
}

#[test]
fn a_new_daemon_takes_the_local_endpoint_over() -> Result<()> {
    taken_over(["auto"; 2], ["nftables"; 2])
}

#[test]
fn rules_take_over_from_a_forwarder_that_drains() -> Result<()> {
    taken_over(["forwarder", "auto"], ["forwarder", "nftables"])
}

#[test]
fn a_forwarder_takes_over_from_rules() -> Result<()> {
    taken_over(["auto", "forwarder"], ["nftables", "forwarder"])
}
