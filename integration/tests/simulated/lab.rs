//! The lab itself: every kind of it is wired as said, works at once and leaves nothing behind.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use apivip::model::types::Family;
use integration::lab::{DefaultRoute, Families, Lab, LabOptions, PodAttachment, addresses};
use integration::netns::Namespace;
use integration::packets::Capture;
use integration::process::{Signal, Spawned};

/// A refused connection is an answer, too: the packet went there and one came back.
fn answers(from: &Namespace, to: IpAddr) -> bool {
    answers_within(20, from, to)
}

fn answers_within(seconds: u32, from: &Namespace, to: IpAddr) -> bool {
    let asked =
        from.run("timeout", &[&seconds.to_string(), "bash", "-c", &format!("exec 3<>/dev/tcp/{to}/9")]);
    asked.is_err_and(|error| error.to_string().contains("Connection refused"))
}

fn check(options: LabOptions) -> Result<()> {
    let begin = Instant::now();
    let lab = Lab::start(options)?;
    println!("{options:?} took {:?}", begin.elapsed());
    for family in lab.families().iter().copied() {
        for i in 1..=options.apiservers {
            let address = lab.apiserver_address(i, family);
            ensure!(answers(lab.node(), address), "the node does not reach apiserver {i} at {address}");
            for p in 1..=options.pods {
                ensure!(answers(lab.pod(p), address), "pod {p} does not reach apiserver {i} at {address}");
            }
        }
    }
    Ok(())
}

#[test]
fn routed_pods_reach_every_apiserver() -> Result<()> {
    for families in [Families::V4, Families::V6, Families::Dual] {
        check(LabOptions { families, pods: 2, ..LabOptions::default() })?;
    }
    Ok(())
}

#[test]
fn bridged_pods_reach_every_apiserver() -> Result<()> {
    for netfilter in [false, true] {
        let attachment = PodAttachment::Bridged { netfilter };
        check(LabOptions { families: Families::Dual, attachment, ..LabOptions::default() })?;
    }
    Ok(())
}

#[test]
fn special_nodes_reach_every_apiserver() -> Result<()> {
    let base = LabOptions { families: Families::Dual, ..LabOptions::default() };
    check(LabOptions { node_is_apiserver: true, ..base })?;
    check(LabOptions { default_route: DefaultRoute::Absent, ..base })?;
    check(LabOptions { second_network: true, default_route: DefaultRoute::SecondNetwork, ..base })
}

#[test]
fn a_cable_can_be_pulled_and_put_back() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    for family in [Family::V4, Family::V6] {
        let address = addresses::apiserver(2, family);
        lab.unplug(2)?;
        ensure!(!answers_within(2, lab.node(), address), "apiserver 2 answers without a cable");
        ensure!(answers(lab.node(), addresses::apiserver(1, family)), "apiserver 1 has its cable");
        lab.replug(2)?;
        // A neighbour entry that was asked for without the cable may still fail a first call made with it.
        let until = Instant::now() + Duration::from_secs(20);
        while !answers_within(2, lab.node(), address) {
            ensure!(Instant::now() < until, "apiserver 2 does not answer at {address} with its cable back");
        }
    }
    Ok(())
}

#[test]
fn nothing_is_left_behind() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let (name, folder) = (lab.node().name().to_owned(), lab.dir().to_owned());
    let mut sleep = lab.pod(1).command("sleep");
    sleep.arg("600");
    let mut inside = Spawned::start("sleep", sleep, lab.dir())?;
    inside.wait_until("the pid to be the program's own", Duration::from_secs(10), |process| {
        let name = fs::read_to_string(format!("/proc/{}/comm", process.pid()))?;
        Ok((name == "sleep\n").then_some(()))
    })?;
    inside.signal(Signal::STOP)?;
    drop(lab);
    ensure!(!inside.wait(Duration::from_secs(10))?.success(), "a process outlives its namespace");
    ensure!(!fs::exists(format!("/run/netns/{name}"))?, "{name} is still there");
    ensure!(!fs::exists(folder)?, "the folder is still there");
    Ok(())
}

#[test]
fn output_is_waited_for() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "sleep 0.1; echo it is ready; echo alas >&2; exit 3"]);
    let mut process = Spawned::start("words", command, folder.path())?;
    let limit = Duration::from_secs(10);
    ensure!(process.wait_for_line("ready", limit)? == "it is ready", "wrong line");
    let error = process.wait_for_line("never said", limit).expect_err("nobody said it").to_string();
    ensure!(error.contains("alas") && error.contains("exit status: 3"), "unhelpful: {error}");
    Ok(())
}

#[test]
fn a_capture_shows_who_calls() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let mut capture = Capture::start(lab.apiserver(1), lab.dir(), "capture", "eth0", "port 9")?;
    let limit = Duration::from_secs(10);
    for family in [Family::V4, Family::V6] {
        let server = SocketAddr::new(addresses::apiserver(1, family), 9);
        ensure!(answers(lab.pod(1), server.ip()), "pod 1 does not reach {server}");
        capture
            .wait_for("the refusal", limit, |segment| segment.source == server && segment.flags == "R.")?;
        let clients = capture.clients_of(server);
        ensure!(clients == [addresses::pod(1, family)].into(), "clients of {server}: {clients:?}");
    }
    Ok(())
}
