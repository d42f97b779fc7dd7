//! The page in a real browser: what is drawn, a failover seen live, without scripting, in the dark, and on a phone. Its
//! pictures are kept in `target/tmp/page`.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::admin;
use integration::browser::Browser;
use integration::control_plane::Variant;
use integration::daemon::Daemon;
use integration::lab::{Families, Lab, LabOptions};
use integration::scenario::Scenario;

/// A change is on the page within a second or two; without scripting after the next five seconds.
const LIMIT: Duration = Duration::from_secs(60);
const TAB: &str = "\u{e004}";

fn pictures() -> Result<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("page");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    Ok(folder)
}

fn url() -> String {
    format!("http://{}/", admin::ADDRESS)
}

fn ready(lab: &Lab, scenario: &Scenario<'_>) -> Result<Daemon> {
    let daemon = scenario.daemon()?;
    admin::wait_for(lab.node(), "/readyz", "readiness", LIMIT, |answer| answer.status == 200)?;
    Ok(daemon)
}

#[test]
fn a_failover_is_seen_live_and_looks_right() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let mut scenario = Scenario::start(&lab, Variant::SimulatedSlices, &[1, 2, 3])?;
    let _daemon = ready(&lab, &scenario)?;
    let browser = Browser::start(lab.node(), lab.dir(), true)?;
    let pictures = pictures()?;
    browser.appear(1100, false)?;
    browser.open(&url())?;
    ensure!(browser.title()?.starts_with("Serving"), "the title is {:?}", browser.title()?);
    browser.wait_for_text(".pill", "the verdict", LIMIT, |text| text.starts_with("Serving"))?;
    browser.wait_for_text("#live", "live news", LIMIT, |text| text == "live")?;
    let drawn =
        "return [...document.querySelectorAll('svg.broad')].map(s=>s.getAttribute('aria-label')).join()";
    let drawn = browser.script(drawn)?;
    let label = drawn.as_str().unwrap_or_default();
    ensure!(label.contains("10.96.0.1:443") && label.contains("192.0.2.12:6443: up, 33 %"), "{label}");
    // Whatever the page needs, it brought along or asked the daemon for.
    let asked = "return performance.getEntriesByType('resource').map(e=>e.name).filter(n=>!n.startsWith(location.origin)&&!n.startsWith('data:'))";
    ensure!(browser.script(asked)? == serde_json::json!([]), "asked elsewhere: {}", browser.script(asked)?);
    let inline = "const s=document.createElement('script');s.textContent='window.evil=1';document.body.append(s);return window.evil||0";
    ensure!(browser.script(inline)? == 0, "the policy lets other scripts run");
    browser.press(TAB)?;
    let focused = browser.script("return document.activeElement.className")?;
    ensure!(focused == "skip", "the first key leads to {focused}");
    browser.picture(&pictures.join("light.png"))?;

    browser.script("window.marker=1")?;
    scenario.plane.kill(2)?;
    let down = |text: &str| text.contains("192.0.2.12 (6443, 7007)") && text.contains("up \u{2192} down");
    browser.wait_for_text("ol", "the change", LIMIT, down)?;
    browser.wait_for_text("tbody tr:nth-child(2)", "the state", LIMIT, |text| text.contains("down"))?;
    ensure!(browser.script("return window.marker")? == 1, "the page was loaded again");
    browser.picture(&pictures.join("failover.png"))?;
    for (name, width, dark) in [("dark", 1100, true), ("narrow", 360, false), ("narrow-dark", 360, true)] {
        browser.appear(width, dark)?;
        let colour = browser.script("return getComputedStyle(document.body).backgroundColor")?;
        ensure!((colour == "rgb(16, 21, 28)") == dark, "{name}: the background is {colour}");
        let excess = "return document.documentElement.scrollWidth-document.documentElement.clientWidth";
        ensure!(browser.script(excess)? == 0, "{name} scrolls sideways by {}", browser.script(excess)?);
        browser.picture(&pictures.join(format!("{name}.png")))?;
    }
    Ok(())
}

#[test]
fn without_scripting_the_state_is_there_and_renews_itself() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut scenario = Scenario::start(&lab, Variant::SimulatedSlices, &[1, 2, 3])?;
    let mut daemon = ready(&lab, &scenario)?;
    let browser = Browser::start(lab.node(), lab.dir(), false)?;
    browser.open(&url())?;
    browser.wait_for_text(".pill", "the verdict", LIMIT, |text| text.starts_with("Serving"))?;
    browser.wait_for_text("#live", "the time of the state", LIMIT, |text| text.contains("loaded"))?;
    scenario.plane.kill(2)?;
    let down = |text: &str| text.contains("192.0.2.12:6443") && text.contains("down");
    browser.wait_for_text("tbody", "the change", LIMIT, down)?;
    ensure!(browser.text("#live")?.contains("loaded"), "a script ran");
    daemon.stop().map(drop)
}

#[test]
fn a_daemon_that_ends_is_noticed_on_the_page() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let scenario = Scenario::start(&lab, Variant::SimulatedSlices, &[1, 2, 3])?;
    let mut daemon = ready(&lab, &scenario)?;
    let browser = Browser::start(lab.node(), lab.dir(), true)?;
    browser.open(&url())?;
    browser.wait_for_text("#live", "live news", LIMIT, |text| text == "live")?;
    daemon.stop()?;
    browser.wait_for_text("#live", "the end", LIMIT, |text| text.contains("does not answer"))?;
    let _next = scenario.daemon()?;
    browser.wait_for_text("#live", "the next daemon", LIMIT, |text| text == "live").map(drop)
}
