//! Servers that answer nonsense: the daemon stays, says in one line what is wrong, and leaves the rules as they were,
//! whether it meets the nonsense when it starts or while it runs. Once the server is mended, the next change is
//! programmed.

mod stage;

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use apivip::model::types::Family;
use integration::command::program;
use integration::kubeconfig::{Authority as Verify, Kubeconfig, User};
use integration::lab::{Lab, LabOptions};
use integration::pki::{Authority, KeyFiles, SERVER_NAMES, ServerCertificate, Validity};
use integration::process::Spawned;
use integration::sim::control::Control;
use integration::sim::fleet::TOKEN;
use integration::sim::protocol::{Canned, Injection, Resource};

use stage::{LIMIT, Stage, in_one_line, rules};

/// What the daemon may use at most, in a debug build, in KiB. It is 26 MB when idle there.
const MOST_MEMORY: u64 = 60 << 10;
/// Where the server with another certificate listens.
const OTHER_PORT: u16 = 7443;

fn json(body: impl Into<String>) -> Canned {
    Canned { body: Some(body.into()), ..Canned::status(200) }
}

#[test]
fn answers_that_are_no_answers() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut stage = Stage::build(&lab)?;
    let pods = r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"7"},"items":[]}"#;
    let wrong_type = r#"{"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":"7"},
                         "items":[{"metadata":{"name":"kubernetes","namespace":"default"},"spec":"none"}]}"#;
    for (name, canned, words) in [
        (
            "html",
            Canned::html(),
            &["services in namespace default", "text/html", "this is not an API server"] as &[&str],
        ),
        ("half", json("{\"kind\":\"ServiceList\",\"apiVersion\":\"v1\",\"meta"), &["does not parse", "EOF"]),
        ("pods", json(pods), &["sent a v1 PodList instead of the requested v1 ServiceList"]),
        (
            "wrong-type",
            json(wrong_type),
            &["services in namespace default", "does not parse", "invalid type"],
        ),
        ("no-json", json("It works!"), &["does not parse", "It works!"]),
        ("redirect", Canned::status(302), &["answered 302"]),
    ] {
        stage.answers(name, &canned, words).with_context(|| name.to_owned())?;
    }
    Ok(())
}

#[test]
fn answers_that_refuse() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut stage = Stage::build(&lab)?;
    let of = |resource, status| Canned { resource: Some(resource), ..Canned::status(status) };
    for (name, canned, words) in [
        (
            "401",
            Canned::status(401),
            &["does not accept the credentials (401)", "user \"apivip\""] as &[&str],
        ),
        (
            "403-services",
            of(Resource::Services, 403),
            &["(403)", "Role in namespace default", "list and watch on services "],
        ),
        (
            "403-slices",
            of(Resource::EndpointSlices, 403),
            &["(403)", "list and watch on endpointslices.discovery.k8s.io "],
        ),
        ("500", Canned::status(500), &["services in namespace default", "answered 500"]),
        ("503", Canned::status(503), &["answered 503"]),
        ("429", Canned::status(429), &["answered 429"]),
    ] {
        stage.answers(name, &canned, words).with_context(|| name.to_owned())?;
    }
    Ok(())
}

#[test]
fn nonsense_in_a_watch_and_memory_stays_bounded() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut stage = Stage::build(&lab)?;
    for (name, injection, words) in [
        ("half-line", Injection::HalfLine, &["watch services", "in the middle of"] as &[&str]),
        ("line", Injection::Line("It works!".to_owned()), &["watch services", "does not parse", "It works!"]),
        (
            "kind",
            Injection::WrongKind,
            &["watch services", "sent a v1 Pod instead of the requested v1 Service"],
        ),
        ("error", Injection::Error(500), &["watch services", "ended the watch with error 500"]),
        ("large", Injection::Large(8 << 20), &["watch services", "more than 4 MiB as one object"]),
    ] {
        let mut daemon = stage.daemon(&format!("watch-{name}"), &stage.kubeconfig)?;
        stage.injects(&mut daemon, &injection, words).with_context(|| name.to_owned())?;
        let peak = peak_memory(daemon.pid())?;
        println!("{name}: {peak} KiB at most");
        ensure!(peak < MOST_MEMORY, "with {name} the daemon used {peak} KiB");
    }
    Ok(())
}

/// The most memory that a process had resident, in KiB.
fn peak_memory(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// A server at apiserver 1 that shows this certificate.
fn other_server(lab: &Lab, name: &str, files: &KeyFiles) -> Result<Spawned> {
    let control = lab.dir().join(format!("{name}.sock"));
    let mut command = lab.apiserver(1).command(program("sim-apiserver")?);
    let listen = SocketAddr::new(lab.apiserver_address(1, Family::V4), OTHER_PORT);
    command.args(["--name", name, "--token", TOKEN, "--listen", &listen.to_string()]);
    command.arg("--cert").arg(&files.certificate).arg("--key").arg(&files.key);
    command.arg("--control").arg(&control);
    let server = Spawned::start(name, command, lab.dir())?;
    tokio::runtime::Runtime::new()?.block_on(Control::new(control).wait_ready(LIMIT))?;
    Ok(server)
}

#[test]
fn a_server_that_cannot_be_trusted() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let stage = Stage::build(&lab)?;
    let before = rules(&lab)?;
    let address: IpAddr = lab.apiserver_address(1, Family::V4);
    let addresses = [address];
    let own = Authority::new(lab.dir(), "own-ca")?;
    let foreign = Authority::new(lab.dir(), "foreign-ca")?;
    let certificate = |names, validity| ServerCertificate { names, addresses: &addresses, validity };
    let at = format!("{address}:{OTHER_PORT}");
    for (name, files, words) in [
        (
            "foreign",
            foreign.server("foreign", &[address])?,
            &["certificate is not signed by the cluster CA", "own-ca.crt"] as &[&str],
        ),
        (
            "nameless",
            own.server_with("nameless", &certificate(&["elsewhere"], Validity::Now))?,
            &["does not contain the name kubernetes.default.svc", "elsewhere"],
        ),
        (
            "expired",
            own.server_with("expired", &certificate(&SERVER_NAMES, Validity::Expired))?,
            &["certificate has expired", "clock"],
        ),
        (
            "early",
            own.server_with("early", &certificate(&SERVER_NAMES, Validity::NotYet))?,
            &["certificate is not valid yet", "clock"],
        ),
    ] {
        let _server = other_server(&lab, name, &files)?;
        let path = lab.dir().join(format!("{name}.yaml"));
        let verify = Verify::File(own.certificate().to_owned());
        Kubeconfig::new(format!("https://{at}"), verify, User::Token(TOKEN.into())).write(&path)?;
        let mut daemon = stage.spawn(name, &path)?;
        in_one_line(&mut daemon, &[&[at.as_str()], words].concat())?;
        ensure!(daemon.status()?["phase"] == "starting", "{:#}", daemon.status()?);
        stage.unchanged(&before, name)?;
        let (ended, _) = daemon.stop()?;
        ensure!(ended.success(), "with {name} the daemon ended with {ended}\n{}", daemon.log());
        stage.unchanged(&before, name)?;
    }
    Ok(())
}
