//! The admin listener: every endpoint as documented, on both sockets, and a port that cannot be had.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::admin::{self, Answer, get};
use integration::command;
use integration::control_plane::Variant;
use integration::daemon::Daemon;
use integration::lab::{Lab, LabOptions};
use integration::netns::Namespace;
use integration::scenario::Scenario;
use serde_json::Value;

/// Everything here usually happens within two seconds.
const LIMIT: Duration = Duration::from_secs(40);

const PATHS: [&str; 7] = ["/", "/livez", "/readyz", "/healthz", "/metrics", "/status", "/debug/ruleset"];

fn is_ready(answer: &Answer) -> bool {
    answer.status == 200
}

fn expect(answer: &Answer, status: u16, words: &[&str]) -> Result<()> {
    ensure!(answer.status == status, "expected {status}, got {answer:#?}");
    for word in words {
        ensure!(answer.body.contains(word), "expected {word:?} in {answer:#?}");
    }
    Ok(())
}

/// The body of an answer on the daemon's socket.
fn on_socket(node: &Namespace, daemon: &Daemon, path: &str) -> Result<String> {
    let mut curl = node.command("curl");
    curl.args(["-sS", "-m", "20", "--unix-socket"]).arg(daemon.run_dir().join("apivip.sock"));
    curl.arg(format!("http://apivip{path}"));
    command::run(curl, "")
}

#[test]
fn every_endpoint_answers_as_documented() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    let daemon = scenario.daemon()?;
    let node = lab.node();
    admin::wait_until_ready(node, LIMIT)?;

    expect(&get(node, "/livez")?, 200, &["ok\n"])?;
    expect(&get(node, "/livez?verbose")?, 200, &["[+]reconciler ok\nlivez check passed\n"])?;
    let checks = "[+]reconciler ok\n[+]dataplane ok\n[+]selftest ok\n";
    expect(&get(node, "/readyz?verbose")?, 200, &[checks, "readyz check passed\n"])?;
    expect(&get(node, "/healthz?verbose")?, 200, &[checks, "healthz check passed\n"])?;
    expect(&get(node, "/readyz?verbose&exclude=selftest")?, 200, &["[+]selftest excluded: ok\n"])?;
    expect(&get(node, "/nothing")?, 404, &["available paths: / /livez /readyz /healthz /metrics /status"])?;

    let metrics = get(node, "/metrics")?;
    let series = "apivip_selftest_answers_total{component=\"rules\"} ";
    expect(&metrics, 200, &[series, "apivip_selftest_seconds_count ", "\n# EOF\n"])?;
    ensure!(metrics.head.contains("application/openmetrics-text"), "{metrics:#?}");
    let status: Value = serde_json::from_str(&get(node, "/status")?.body).context("parse the status")?;
    ensure!(status["phase"] == "programmed" && status["selftests"][0]["ready"] == true, "{status:#}");
    // The text is one that nft takes, and says what is loaded.
    let rules = get(node, "/debug/ruleset")?;
    expect(&rules, 200, &["table inet apivip {", "10.96.0.1"])?;
    lab.pod(1).nft_load(&rules.body)?;
    ensure!(lab.pod(1).nft_text("table inet apivip")?.contains("vip-10.96.0.1-443"), "{}", rules.body);

    let stranger = admin::ask(node, &["-H", "Host: pages.example:10299"], "/status")?;
    ensure!(stranger.status == 421, "a name that others chose is answered: {stranger:#?}");
    let older = admin::ask(node, &["-H", "Accept: text/plain"], "/metrics")?;
    ensure!(older.head.contains("version=0.0.4") && !older.body.contains("# EOF"), "{older:#?}");
    for path in PATHS {
        let head = admin::ask(node, &["-I"], path)?;
        ensure!(head.status == 200 && head.body.is_empty(), "HEAD {path}: {head:#?}");
        let post = admin::ask(node, &["-X", "POST", "-d", "x"], path)?;
        ensure!(post.status == 405 && post.head.to_lowercase().contains("allow: get, head"), "{post:#?}");
        ensure!(
            !on_socket(node, &daemon, path)?.contains("available paths"),
            "{path} is missing on the socket"
        );
    }
    let mode = fs::metadata(daemon.run_dir().join("apivip.sock"))?.permissions().mode() & 0o7777;
    ensure!(mode == 0o600, "the socket's mode is {mode:o}");
    ensure!(on_socket(node, &daemon, "/nothing")?.contains("available paths"), "the socket knows /nothing");

    // Nobody answers any more, and so the virtual IP does not; the daemon itself is well.
    scenario.plane.kill_all(&[1, 2, 3])?;
    let failed = |answer: &Answer| answer.status == 500 && answer.body.contains("2 in a row");
    let answer = admin::wait_for(node, "/readyz", "a failed self-test", LIMIT, failed)?;
    expect(&answer, 500, &["[+]dataplane ok\n[-]selftest failed: 10.96.0.1:443: ", "readyz check failed\n"])?;
    expect(&get(node, "/readyz?exclude=selftest")?, 200, &["ok\n"])?;
    expect(&get(node, "/livez")?, 200, &["ok\n"])?;
    ensure!(daemon.log().contains("event=selftest_failed"), "{}", daemon.log());
    for i in 1..=3 {
        scenario.plane.start_again(i)?;
    }
    admin::wait_until_ready(node, LIMIT)
}

#[test]
fn a_port_that_is_in_use_delays_the_listener_and_nothing_else() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    let node = lab.node();
    let other = node.within(|| TcpListener::bind(admin::ADDRESS).context("take the port"))?;
    let mut daemon = scenario.daemon()?;
    scenario.expect_everybody("while another program has the admin port")?;
    daemon.process().wait_for_line("event=admin_listener_failed", LIMIT)?;
    drop(other);
    admin::wait_until_ready(node, LIMIT)?;
    // The next daemon has it as soon as this one is gone.
    daemon.stop()?;
    let mut next = scenario.daemon()?;
    admin::wait_for(node, "/livez", "the next daemon", LIMIT, is_ready)?;
    let waits = next.log().matches("event=admin_listener_failed").count();
    ensure!(waits == 1, "it was said {waits} times\n{}", next.log());
    next.stop()?;
    let off = scenario.options.clone().arg("--admin-listen=off").arg("--selftest-interval=off");
    let daemon = Daemon::start(node, lab.dir(), &off)?;
    ensure!(node.within(|| Ok(TcpListener::bind(admin::ADDRESS).is_ok()))?, "it listens though it is off");
    let text = on_socket(node, &daemon, "/readyz?verbose")?;
    ensure!(text == "[+]reconciler ok\n[+]dataplane ok\nreadyz check passed\n", "{text}");
    Ok(())
}
