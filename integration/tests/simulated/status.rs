//! What `apivip status` prints and how it ends: the exit codes, a forwarder that the operator chose, and terminals.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use integration::admin::get;
use integration::command::{self, Finished, finish};
use integration::control_plane::Variant;
use integration::daemon::Daemon;
use integration::lab::{Lab, LabOptions};
use integration::scenario::Scenario;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

/// `apivip status` with these arguments, asked as an operator asks.
fn status(lab: &Lab, daemon: &Daemon, arguments: &[&str]) -> Result<Finished> {
    let mut status = lab.node().command(command::program("apivip")?);
    status.arg("status").arg("--run-dir").arg(daemon.run_dir()).args(arguments);
    finish(status, "", command::COMMAND_LIMIT)
}

/// Waits until every form ends with this exit code, and the table says so in its first line: a probe may be late for once.
fn expect(lab: &Lab, daemon: &Daemon, code: i32, verdict: &str) -> Result<()> {
    for form in ["table", "wide", "json", "yaml"] {
        let deadline = Instant::now() + LIMIT;
        loop {
            let shown = status(lab, daemon, &["-o", form])?;
            let head = shown.stdout.lines().next().unwrap_or_default();
            let said = !matches!(form, "table" | "wide") || head.ends_with(verdict);
            if said && shown.status.code() == Some(code) {
                break;
            }
            let late = Instant::now() >= deadline;
            ensure!(!late, "-o {form} ended with {}\n{}", shown.status, shown.stdout);
            thread::sleep(Duration::from_millis(100));
        }
    }
    Ok(())
}

/// Waits until the status names no problem, and each self-test was answered.
fn wait_for_health(daemon: &mut Daemon) -> Result<Value> {
    daemon.wait_for_status("a healthy node", LIMIT, |status| {
        let tests = status["selftests"].as_array();
        status["problems"].as_array().is_some_and(Vec::is_empty)
            && tests.is_some_and(|tests| !tests.is_empty() && tests.iter().all(|test| test["ready"] == true))
    })
}

#[test]
fn the_exit_code_tells_healthy_degraded_failing_and_no_answer_apart() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    let mut daemon = scenario.daemon()?;
    let healthy = wait_for_health(&mut daemon)?;
    ensure!(
        healthy["dataplane"]["reason"] == "--mode auto: the kernel accepts the rules",
        "{:#}",
        healthy["dataplane"]
    );
    expect(&lab, &daemon, 0, "healthy")?;
    let shown = status(&lab, &daemon, &[])?.stdout;
    ensure!(shown.contains("(--mode auto: the kernel accepts the rules)"), "{shown}");
    ensure!(get(lab.node(), "/")?.body.contains("--mode auto: the kernel accepts the rules"), "the page");

    scenario.plane.kill(3)?;
    daemon.wait_for_status("a problem", LIMIT, |status| {
        let problems = status["problems"].as_array().into_iter().flatten();
        problems
            .filter_map(|problem| problem["message"].as_str())
            .any(|message| message.contains("has not answered for"))
    })?;
    expect(&lab, &daemon, 3, "degraded")?;

    scenario.plane.start_again(3)?;
    wait_for_health(&mut daemon)?;
    expect(&lab, &daemon, 0, "healthy")?;
    daemon.wait_for_metric("apivip_verdict{verdict=\"healthy\"}", LIMIT, |value| value == 1)?;

    scenario.plane.kill_all(&[1, 2, 3])?;
    let failing = daemon.wait_for_status("a failing node", LIMIT, |status| status["verdict"] == "failing")?;
    ensure!(failing["problems"][0]["severity"] == "critical", "{failing:#}");
    expect(&lab, &daemon, 4, "failing")?;
    daemon.wait_for_metric("apivip_verdict{verdict=\"failing\"}", LIMIT, |value| value == 1)?;
    ensure!(daemon.metric("apivip_verdict{verdict=\"healthy\"}")? == 0, "{}", daemon.metrics()?);

    daemon.stop()?;
    for form in ["table", "json"] {
        let shown = status(&lab, &daemon, &["-o", form])?;
        ensure!(shown.status.code() == Some(1), "-o {form} ended with {}: {shown:?}", shown.status);
    }
    Ok(())
}

#[test]
fn a_forwarder_that_was_chosen_is_no_problem() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    scenario.options = scenario.options.arg("--mode=forwarder");
    let mut daemon = Daemon::spawn(lab.node(), lab.dir(), &scenario.options)?;
    daemon.wait_for_dataplane("forwarder", LIMIT)?;
    let healthy = wait_for_health(&mut daemon)?;
    ensure!(healthy["dataplane"]["fallback_active"] == false, "{:#}", healthy["dataplane"]);
    expect(&lab, &daemon, 0, "healthy")?;
    let shown = status(&lab, &daemon, &[])?.stdout;
    ensure!(shown.contains("(--mode forwarder)"), "{shown}");
    let page = get(lab.node(), "/")?.body;
    ensure!(page.contains(">healthy</b>") && page.contains("--mode forwarder"), "{page}");
    Ok(())
}

/// What a terminal of so many rows and columns is written by these words, for which `apivip status` stands.
fn on_terminal(lab: &Lab, daemon: &Daemon, (rows, columns): (u16, u16), words: &str) -> Result<String> {
    let program = command::program("apivip")?;
    let status = format!("{} status --run-dir {}", program.display(), daemon.run_dir().display());
    let script = format!("stty rows {rows} cols {columns}; {}", words.replace("STATUS", &status));
    let mut terminal = lab.node().command("script");
    terminal.args(["-qec", &script, "/dev/null"]).env("TERM", "xterm").env_remove("NO_COLOR");
    Ok(finish(terminal, "", command::COMMAND_LIMIT)?.stdout)
}

#[test]
fn a_terminal_is_redrawn_in_place_and_in_colour() -> Result<()> {
    const HOME: &str = "\x1b[H";
    let lab = Lab::start(LabOptions::default())?;
    let scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    let mut daemon = scenario.daemon()?;
    wait_for_health(&mut daemon)?;
    let shown = on_terminal(&lab, &daemon, (50, 200), "timeout 10 STATUS --watch")?;
    let frames: Vec<&str> = shown.split(HOME).skip(1).collect();
    ensure!((2..14).contains(&frames.len()), "{} frames within 10 s: {shown:?}", frames.len());
    ensure!(shown.matches("\x1b[2J").count() == 1, "the screen was cleared again: {shown:?}");
    for frame in &frames[..frames.len() - 1] {
        ensure!(frame.ends_with("\x1b[J") && frame.contains("\x1b[32mhealthy\x1b[0m"), "{frame:?}");
        ensure!(frame.contains("192.0.2.13:6443") && !frame.contains("more lines"), "{frame:?}");
    }
    // In a small window nothing scrolls: there is no line feed in its last row.
    let shown = on_terminal(&lab, &daemon, (5, 40), "timeout 10 STATUS --watch")?;
    for frame in shown.split(HOME).skip(1).filter(|frame| frame.ends_with("\x1b[J")) {
        ensure!(frame.matches('\n').count() == 4 && frame.contains("more lines"), "{frame:?}");
    }

    let plain = on_terminal(&lab, &daemon, (50, 200), "NO_COLOR=1 STATUS")?;
    ensure!(plain.contains("healthy") && !plain.contains('\x1b'), "{plain:?}");
    let plain = on_terminal(&lab, &daemon, (50, 200), "NO_COLOR=1 timeout 6 STATUS --watch")?;
    ensure!(plain.contains(HOME) && !plain.contains("\x1b[3"), "{plain:?}");
    let coloured = on_terminal(&lab, &daemon, (50, 200), "STATUS")?;
    ensure!(coloured.contains("\x1b[32mhealthy\x1b[0m"), "{coloured:?}");
    let piped = on_terminal(&lab, &daemon, (50, 200), "STATUS | cat; timeout 6 STATUS --watch | cat")?;
    ensure!(piped.matches("healthy").count() >= 2 && !piped.contains('\x1b'), "{piped:?}");
    Ok(())
}
