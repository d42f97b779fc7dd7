//! What `apivip check` says of an API that cannot be reached, believed or read, and how it says it.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::check::{BAD, Checked, GOOD, check, check_command, sees_processes};
use integration::command::{self, COMMAND_LIMIT};
use integration::control_plane::{ControlPlane, Variant};
use integration::kubeconfig::{Authority as Verify, Kubeconfig, User};
use integration::lab::{Lab, LabOptions};
use integration::pki::{Authority, ServerCertificate, Validity};
use integration::real::PORT;
use integration::sim::fleet::TOKEN;
use integration::sim::protocol::{Canned, Resource};

/// Ten times what it promises.
const LIMIT: Duration = Duration::from_secs(100);

fn run(lab: &Lab, kubeconfig: &Path) -> Result<Checked> {
    check(lab.node(), lab.dir(), &["--kubeconfig", &kubeconfig.display().to_string()])
}

fn bad(lab: &Lab, kubeconfig: &Path) -> Result<Checked> {
    let checked = run(lab, kubeconfig)?;
    ensure!(checked.code == Some(BAD), "{:#}", checked.report);
    Ok(checked)
}

/// A kubeconfig for apiserver 1 that believes `authority` and shows `user`.
fn written(lab: &Lab, name: &str, authority: &Path, user: User) -> Result<std::path::PathBuf> {
    let path = lab.dir().join(name);
    let server = format!("https://{}:{PORT}", lab.apiserver_addresses(1)[0]);
    Kubeconfig::new(server, Verify::File(authority.to_owned()), user).write(&path)?;
    Ok(path)
}

#[test]
fn no_apiserver_answers_or_all_of_them_hang() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut plane = ControlPlane::serving(&lab, Variant::Simulated)?;
    let kubeconfig = plane.kubeconfig()?;
    for i in 1..=3 {
        plane.pause(i)?;
    }
    let seeds = ["--seed", "192.0.2.12:6443", "--seed", "192.0.2.13:6443", "--seed", "silent.example:6443"];
    let kubeconfig_text = kubeconfig.display().to_string();
    let arguments = [&["--kubeconfig", kubeconfig_text.as_str()][..], &seeds].concat();
    let checked = check(lab.node(), lab.dir(), &arguments)?;
    println!("with three that hang it took {:?}", checked.took);
    ensure!(checked.took < LIMIT && checked.code == Some(BAD), "{:?} {:#}", checked.took, checked.report);
    checked.expect("apiserver-tls", "fail", &["no answer within", "192.0.2.11:6443", "192.0.2.13:6443"])?;
    checked.expect("api-read", "unknown", &["no API server with a verified certificate"])?;
    checked.expect("clock", "unknown", &[])?;
    checked.expect("apiserver-name", "fail", &["silent.example"])?;
    for i in 1..=3 {
        plane.resume(i)?;
        plane.kill(i)?;
    }
    let checked = bad(&lab, &kubeconfig)?;
    checked.expect("apiservers", "fail", &["0 of 1"])?;
    checked.expect("apiserver-tcp", "fail", &["connection refused"])?;
    lab.unplug_all(&[1, 2, 3])?;
    let checked = bad(&lab, &kubeconfig)?;
    println!("with three that are unplugged it took {:?}", checked.took);
    ensure!(checked.took < LIMIT, "{:?}", checked.took);
    checked.expect("apiserver-tcp", "fail", &[])
}

#[test]
fn one_of_three_hangs() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut plane = ControlPlane::serving(&lab, Variant::Simulated)?;
    let kubeconfig = plane.kubeconfig()?;
    plane.pause(3)?;
    let checked = bad(&lab, &kubeconfig)?;
    checked.expect("api-read", "ok", &["3 API servers"])?;
    ensure!(checked.with_verdicts(&["fail"]) == ["apiserver-tls 192.0.2.13:6443"], "{:#}", checked.report);
    Ok(())
}

#[test]
fn certificates_that_are_not_believed() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut plane = ControlPlane::serving(&lab, Variant::Simulated)?;
    let good = plane.kubeconfig()?;
    let foreign = Authority::new(lab.dir(), "foreign")?;
    let token = || User::Token(TOKEN.to_owned());
    let kubeconfig = written(&lab, "foreign.yaml", foreign.certificate(), token())?;
    let checked = bad(&lab, &kubeconfig)?;
    checked.expect("apiserver-tls", "fail", &["not signed by the cluster CA", "foreign.crt"])?;
    checked.expect("api-read", "unknown", &[])?;

    let old = Authority::with_validity(lab.dir(), "old", Validity::Expired)?;
    let checked = bad(&lab, &written(&lab, "old.yaml", old.certificate(), token())?)?;
    checked.expect("api-access", "warning", &["expired"])?;
    checked.expect("ca-expiry", "fail", &["expired 1h0m ago", "renew the CA"])?;

    for (validity, words) in [(Validity::Expired, "has expired"), (Validity::NotYet, "not valid yet")] {
        plane.show_certificates(&[1, 2, 3], None, validity)?;
        bad(&lab, &good)?.expect("apiserver-tls", "fail", &[words, "clock"])?;
    }
    plane.show_certificates(&[1, 2, 3], None, Validity::Now)?;
    ensure!(run(&lab, &good)?.code == Some(GOOD), "it does not recover");

    // Of the wrong name: said with the one that it carries.
    let authority = Authority::new(lab.dir(), "ca-of-names")?;
    let addresses: Vec<IpAddr> = lab.apiserver_addresses(1);
    let certificate = ServerCertificate {
        names: &["api.elsewhere.example"],
        addresses: &addresses,
        validity: Validity::Now,
    };
    let files = authority.server_with("nameless", &certificate)?;
    plane.fleet()?.on(1, |control| async move { control.certificate(&files).await })?;
    let kubeconfig = written(&lab, "names.yaml", authority.certificate(), token())?;
    let checked = bad(&lab, &kubeconfig)?;
    checked.expect(
        "apiserver-tls",
        "fail",
        &["does not contain the name kubernetes.default.svc", "api.elsewhere.example"],
    )?;
    let named =
        ["--kubeconfig", &kubeconfig.display().to_string(), "--probe-server-name", "api.elsewhere.example"];
    check(lab.node(), lab.dir(), &named)?.expect("apiserver-tls", "ok", &["for api.elsewhere.example"])?;

    let nonsense = ["--kubeconfig", &good.display().to_string(), "--probe-server-name", "a b"];
    check(lab.node(), lab.dir(), &nonsense)?.expect("api-access", "fail", &["a b"])
}

#[test]
fn credentials_that_are_old_or_wrong() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let plane = ControlPlane::serving(&lab, Variant::Simulated)?;
    let authority = Authority::new(lab.dir(), "clients")?;
    let expired = authority.client("old", "apivip", &[], Validity::Expired)?;
    let kubeconfig = written(&lab, "expired.yaml", plane.authority(), User::Files(expired))?;
    let checked = bad(&lab, &kubeconfig)?;
    checked.expect("client-certificate-expiry", "fail", &["expired 1h0m ago", "renew it"])?;
    checked.expect("apiserver-tls", "ok", &[])?;
    checked.expect("permission", "fail", &["(401)", "client certificate expired at"])?;
    checked.expect("api-read", "fail", &["(401)"])?;
    let wrong = written(&lab, "wrong.yaml", plane.authority(), User::Token("stolen".to_owned()))?;
    bad(&lab, &wrong)?.expect("permission", "fail", &["(401)"])?;
    let missing = lab.dir().join("missing.yaml");
    bad(&lab, &missing)?.expect("api-access", "fail", &["no such file", "does not start"])
}

#[test]
fn exactly_the_missing_permission_is_named() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut plane = ControlPlane::serving(&lab, Variant::Simulated)?;
    let kubeconfig = plane.kubeconfig()?;
    let deny = |denied: &[&str]| {
        let denied: Vec<String> = denied.iter().map(|what| (*what).to_owned()).collect();
        move |faults: &mut integration::sim::protocol::Faults| faults.denied = denied
    };
    let watch = deny(&["watch endpointslices"]);
    plane.fleet()?.on(1, |control| async move { control.adjust(watch).await })?;
    let checked = bad(&lab, &kubeconfig)?;
    ensure!(
        checked.with_verdicts(&["fail"]) == ["permission watch endpointslices.discovery.k8s.io"],
        "{:#}",
        checked.report
    );
    plane.fleet()?.on(1, |control| async move { control.adjust(|faults| faults.denied.clear()).await })?;
    ensure!(run(&lab, &kubeconfig)?.code == Some(GOOD), "it does not recover");

    // The list itself is refused, and reviews say nothing of it.
    let refused =
        Canned { verb: Some("list".to_owned()), resource: Some(Resource::Services), ..Canned::status(403) };
    plane.fleet()?.on(1, |control| async move { control.answer(Some(refused)).await })?;
    bad(&lab, &kubeconfig)?.expect("api-read", "fail", &["not allowed (403)", "services"])
}

#[test]
fn a_server_without_slices_is_too_old() -> Result<()> {
    let lab = Lab::start(LabOptions { apiservers: 1, ..LabOptions::default() })?;
    let mut plane = ControlPlane::serving(&lab, Variant::Simulated)?;
    let unknown = Canned { resource: Some(Resource::EndpointSlices), ..Canned::status(404) };
    plane.fleet()?.on(1, |control| async move { control.answer(Some(unknown)).await })?;
    let checked = bad(&lab, &plane.kubeconfig()?)?;
    checked.expect("api-read", "fail", &["(404)", "Kubernetes 1.21 or later is needed"])?;
    ensure!(checked.with_verdicts(&["fail"]) == ["api-read"], "{:#}", checked.report);
    Ok(())
}

#[test]
fn a_server_that_is_unready_or_has_another_clock() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut plane = ControlPlane::serving(&lab, Variant::Simulated)?;
    let kubeconfig = plane.kubeconfig()?;
    plane.fleet()?.on(2, |control| async move { control.readyz(500).await })?;
    let checked = run(&lab, &kubeconfig)?;
    ensure!(checked.code == Some(GOOD), "{:#}", checked.report);
    ensure!(
        checked.with_verdicts(&["warning"]) == ["apiserver-readyz 192.0.2.12:6443"],
        "{:#}",
        checked.report
    );
    for (ahead, verdict, words) in
        [(3600, "fail", "192.0.2.13:6443 is 1h0m ahead"), (-30, "warning", "behind"), (0, "ok", "")]
    {
        let adjust = move |faults: &mut integration::sim::protocol::Faults| faults.clock_ahead = ahead;
        plane.fleet()?.on(3, |control| async move { control.adjust(adjust).await })?;
        run(&lab, &kubeconfig)?.expect("clock", verdict, &[words])?;
    }
    Ok(())
}

/// What is different from run to run is masked.
fn masked(text: &str) -> String {
    let mask = |line: &str| {
        for begin in ["round trip ", "valid for another "] {
            if let Some((head, _)) = line.split_once(begin) {
                return format!("{head}{begin}T");
            }
        }
        if line.trim_start().starts_with("ok ") && line.contains(" conntrack-table ") {
            let column = line.find(|c: char| c.is_ascii_digit()).unwrap_or(line.len());
            return format!("{}N of M entries", &line[..column]);
        }
        line.to_owned()
    };
    text.lines().map(mask).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_table_for_people_is_stable_and_aligned() -> Result<()> {
    let lab = Lab::start(LabOptions { apiservers: 2, ..LabOptions::default() })?;
    let plane = ControlPlane::serving(&lab, Variant::Simulated)?;
    let kubeconfig = plane.kubeconfig()?.display().to_string();
    lab.node().sysctls(&[("net/ipv4/conf/all/rp_filter", "0"), ("net/ipv4/ip_forward", "0")])?;
    lab.node().sysctls(&[("net/ipv4/conf/eth0/rp_filter", "0"), ("net/ipv4/conf/pod1/rp_filter", "0")])?;
    let say = |arguments: &[&str], wrapper: &[&str]| -> Result<String> {
        let mut command = check_command(lab.node(), lab.dir(), wrapper)?;
        command.args(["--kubeconfig", &kubeconfig]).args(arguments);
        Ok(command::finish(command, "", COMMAND_LIMIT)?.stdout)
    };
    let text = say(&[], &[])?;
    let folder = lab.dir().display().to_string();
    let (head, body) = text.split_once("\n\n").context("a heading")?;
    ensure!(head.starts_with("apivip ") && head.contains("commit"), "{head}");
    let golden = include_str!("check/golden.txt");
    let seen = masked(&body.replace(&folder, "FOLDER"));
    let read = |text: &str| -> Result<String> {
        if sees_processes()? {
            return Ok(text.trim().to_owned());
        }
        // A container sees its own processes only, and so do tests that run in one: one line is another there.
        let words = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        let others =
            words.filter(|line| !["macvlan", "hostPID", " unknown, "].iter().any(|word| line.contains(word)));
        Ok(others.collect::<Vec<_>>().join("\n"))
    };
    ensure!(read(&seen)? == read(golden)?, "it reads\n{seen}\ninstead of\n{golden}");
    ensure!(masked(&say(&[], &[])?) == masked(&text), "two runs read differently");
    ensure!(!text.contains('\u{1b}'), "colours without a terminal");
    ensure!(
        say(&["-o", "wide"], &[])?.contains("IPv4 forwarding: net.ipv4.ip_forward is 0"),
        "wide says no more"
    );

    // `script` gives it a terminal.
    let on_terminal = |variables: &str| -> Result<String> {
        let program = command::program("apivip")?;
        let line = format!("{variables} {} check --kubeconfig {kubeconfig}", program.display());
        let mut command = lab.node().command("script");
        command.args(["-qec", &line, "/dev/null"]);
        Ok(command::finish(command, "", COMMAND_LIMIT)?.stdout)
    };
    ensure!(
        on_terminal("env -u NO_COLOR TERM=xterm")?.contains("\u{1b}[33mwarning\u{1b}[0m   ip-forward"),
        "no colours on a terminal"
    );
    ensure!(!on_terminal("NO_COLOR=1 TERM=xterm")?.contains('\u{1b}'), "colours in spite of NO_COLOR");
    Ok(())
}
