//! The page in a real browser: what is drawn, a failover and a failing node seen live, without scripting, in the dark, and on a
//! phone. Its pictures are kept in `target/tmp/page`.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::admin;
use integration::browser::Browser;
use integration::control_plane::Variant;
use integration::daemon::Daemon;
use integration::lab::{Families, Lab, LabOptions};
use integration::scenario::Scenario;
use serde_json::Value;

/// A change is on the page within a second or two; without scripting after the next five seconds.
const LIMIT: Duration = Duration::from_secs(60);
const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";

fn pictures() -> Result<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("page");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    Ok(folder)
}

/// The sparklines of the first virtual IP.
const SPARKS: &str = "return [...document.querySelector('svg.broad').querySelectorAll('path.spark')].map(p=>p.getAttribute('d'))";

/// Waits until a script returns what is wanted.
fn wait_for(
    browser: &Browser<'_>,
    script: &str,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let end = Instant::now() + LIMIT;
    loop {
        let seen = browser.script(script)?;
        if wanted(&seen) {
            return Ok(seen);
        }
        ensure!(Instant::now() < end, "no sign of {what}, but {seen}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// Finds the parts of the strip of apiserver `i` below the first virtual IP, oldest first: they are in the box of their
/// apiserver, and below its address.
fn strip_script(i: u8) -> String {
    format!(
        "const svg=document.querySelector('svg.broad'),mid=e=>{{const r=e.getBoundingClientRect();return r.top+r.height/2}},\
         text=[...svg.querySelectorAll('text')].find(t=>t.textContent==='192.0.2.1{i}:6443');\
         return [...svg.querySelectorAll('.bar')].filter(b=>mid(b)>mid(text)&&mid(b)<mid(text)+60).map(b=>b.getAttribute('class'))"
    )
}

fn strip(browser: &Browser<'_>, i: u8) -> Result<Vec<String>> {
    let seen = browser.script(&strip_script(i))?;
    let classes: Vec<String> =
        seen.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    ensure!(!classes.is_empty(), "apiserver {i} has no strip");
    Ok(classes)
}

/// The times of all events, newest first, and on how many lines each of them is.
const TIMES: &str = "return [...document.querySelectorAll('ol time')].map(t=>{const r=document.createRange();r.selectNodeContents(t);return [t.textContent,r.getClientRects().length]})";
/// What the summary says under a name: the node's clock.
const CLOCK: &str = "return [...document.querySelectorAll('dt')].find(t=>t.textContent==='Clock of the node').nextSibling.textContent";
/// The round trips of the first virtual IP.
const ROUND_TRIPS: &str = "return [...document.querySelector('tbody').querySelectorAll('td[data-is=\"Round trip\"]')].map(t=>t.textContent)";
/// The colors of the edges from Pods and from this node to the first virtual IP, and their classes.
const SOURCES: &str = "return [...document.querySelector('svg.broad').querySelectorAll('path.source')].map(p=>[p.getAttribute('class'),getComputedStyle(p).stroke])";
/// The kinds of problems, in their order.
const PROBLEMS: &str = "return [...document.querySelectorAll('.problems li')].map(p=>p.className)";
const GREEN: &str = "rgb(26, 127, 75)";
const RED: &str = "rgb(192, 39, 45)";

/// Whether the edge of this node has this class and this color, and that of Pods is as the status says.
fn sources_are(seen: &Value, status: &Value, (class, color): (&str, &str)) -> bool {
    let pods = match status["selftests"][0]["pod_traffic"].as_str() {
        Some("passing") => "edge source ok",
        Some("blocked") => "edge source bad",
        _ => "edge source unknown",
    };
    seen[0][0] == pods && seen[1][0] == format!("edge source {class}") && seen[1][1] == color
}

/// Waits until the times of all events were shown again, which must be the same.
fn expect_lasting_times(browser: &Browser<'_>) -> Result<()> {
    let (clock, before) = (browser.script(CLOCK)?, browser.script(TIMES)?);
    for _ in 0..3 {
        let clock = browser.script(CLOCK)?;
        wait_for(browser, CLOCK, "another second", |now| *now != clock)?;
    }
    let after = browser.script(TIMES)?;
    let (before, after) = (before.as_array().context("no times")?, after.as_array().context("no times")?);
    ensure!(!before.is_empty(), "no change has a time");
    ensure!(after.ends_with(before), "times changed since {clock}: {before:?}, now {after:?}");
    Ok(())
}

fn url() -> String {
    format!("http://{}/", admin::ADDRESS)
}

fn ready(lab: &Lab, scenario: &Scenario<'_>) -> Result<Daemon> {
    let daemon = scenario.daemon()?;
    admin::wait_until_ready(lab.node(), LIMIT)?;
    Ok(daemon)
}

#[test]
fn a_failover_is_seen_live_and_looks_right() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let mut scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    let daemon = ready(&lab, &scenario)?;
    let browser = Browser::start(lab.node(), lab.dir(), true)?;
    let pictures = pictures()?;
    browser.appear(1100, false)?;
    browser.open(&url())?;
    browser.wait_for_text(".pill", "the verdict", LIMIT, |text| text == "healthy")?;
    ensure!(browser.title()?.starts_with("healthy: "), "the title is {:?}", browser.title()?);
    browser.wait_for_text("#live", "live news", LIMIT, |text| text == "live")?;
    wait_for(&browser, SOURCES, "the edges of Pods and of this node", |seen| {
        daemon.status().is_ok_and(|status| sources_are(seen, &status, ("ok", GREEN)))
    })?;
    let drawn =
        "return [...document.querySelectorAll('svg.broad')].map(s=>s.getAttribute('aria-label')).join()";
    let drawn = browser.script(drawn)?;
    let label = drawn.as_str().unwrap_or_default();
    ensure!(label.contains("10.96.0.1:443") && label.contains("192.0.2.12:6443: healthy, 33 %"), "{label}");
    // Whatever the page needs, it brought along or asked the daemon for.
    let asked = "return performance.getEntriesByType('resource').map(e=>e.name).filter(n=>!n.startsWith(location.origin)&&!n.startsWith('data:'))";
    ensure!(browser.script(asked)? == serde_json::json!([]), "asked elsewhere: {}", browser.script(asked)?);
    let inline = "const s=document.createElement('script');s.textContent='window.evil=1';document.body.append(s);return window.evil||0";
    ensure!(browser.script(inline)? == 0, "the policy lets other scripts run");
    wait_for(&browser, SPARKS, "a sparkline for each apiserver", |drawn| {
        let lines: Vec<&str> = drawn.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        lines.len() == 3 && lines.iter().all(|line| line.starts_with('M') && line.contains('L'))
    })?;
    let scale = "return [...document.querySelector('svg.broad').querySelectorAll('text.scale')].map(t=>t.textContent)";
    let scale = browser.script(scale)?;
    let ends: Vec<&str> = scale.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let all_have_both = ends.len() == 6 && ends.chunks(2).all(|two| two[0].ends_with("ms") && two[1] == "0");
    ensure!(all_have_both, "the scales of the sparklines are {ends:?}");
    ensure!(strip(&browser, 2)?.iter().all(|class| class == "bar ok"), "{:?}", strip(&browser, 2)?);
    browser.picture(&pictures.join("light.png"))?;

    browser.script("window.marker=1")?;
    scenario.plane.kill(2)?;
    let down =
        |text: &str| text.contains("192.0.2.12 (6443, 7007)") && text.contains("healthy \u{2192} suspect");
    browser.wait_for_text("ol", "the change", LIMIT, down)?;
    browser.wait_for_text("tbody tr:nth-child(2)", "the state", LIMIT, |text| {
        text.contains("suspect") || text.contains("failed")
    })?;
    browser.wait_for_text(".pill", "the verdict", LIMIT, |text| text == "degraded")?;
    wait_for(&browser, PROBLEMS, "a warning", |seen| {
        seen.as_array().is_some_and(|all| !all.is_empty() && all.iter().all(|class| class == "warn"))
    })?;
    wait_for(&browser, ROUND_TRIPS, "round trips of those that answer", |seen| {
        let trips: Vec<&str> = seen.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        trips.len() == 3 && [0, 2].iter().all(|i| trips[*i].ends_with("ms")) && trips[1] == "\u{2013}"
    })?;
    expect_lasting_times(&browser)?;
    ensure!(browser.script("return window.marker")? == 1, "the page was loaded again");
    // What was good before stays so, to the left of it; the others stay good.
    wait_for(&browser, &strip_script(2), "a strip that turned bad", |seen| {
        let bars = seen.as_array().map(Vec::as_slice).unwrap_or_default();
        let ends = [bars.first(), bars.last()].map(|class| class.and_then(Value::as_str));
        ends == [Some("bar ok"), Some("bar bad")]
    })?;
    for i in [1, 3] {
        ensure!(strip(&browser, i)?.iter().all(|class| class == "bar ok"), "{i}: {:?}", strip(&browser, i)?);
    }
    browser.picture(&pictures.join("failover.png"))?;
    for (name, width, dark) in
        [("dark", 1100, true), ("medium", 1024, false), ("narrow", 360, false), ("narrow-dark", 360, true)]
    {
        browser.appear(width, dark)?;
        let colour = browser.script("return getComputedStyle(document.body).backgroundColor")?;
        ensure!((colour == "rgb(16, 21, 28)") == dark, "{name}: the background is {colour}");
        let excess = "return document.documentElement.scrollWidth-document.documentElement.clientWidth";
        ensure!(browser.script(excess)? == 0, "{name} scrolls sideways by {}", browser.script(excess)?);
        let times = browser.script(TIMES)?;
        let on_one_line = times.as_array().is_some_and(|times| times.iter().all(|time| time[1] == 1));
        ensure!(on_one_line, "{name} breaks lines in times: {times}");
        browser.picture(&pictures.join(format!("{name}.png")))?;
    }
    Ok(())
}

#[test]
fn a_failing_node_is_red() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    scenario.options = scenario.options.arg("--selftest-interval=1s");
    let daemon = ready(&lab, &scenario)?;
    let browser = Browser::start(lab.node(), lab.dir(), true)?;
    browser.appear(1100, false)?;
    browser.open(&url())?;
    browser.wait_for_text(".pill", "the verdict", LIMIT, |text| text == "healthy")?;
    scenario.plane.kill_all(&[1, 2, 3])?;
    browser.wait_for_text(".pill.bad", "the verdict", LIMIT, |text| text == "failing")?;
    let title = |title: &Value| title.as_str().is_some_and(|title| title.starts_with("failing: "));
    wait_for(&browser, "return document.title", "the verdict in the title", title)?;
    wait_for(&browser, SOURCES, "a red edge of this node", |seen| {
        daemon.status().is_ok_and(|status| sources_are(seen, &status, ("bad", RED)))
    })?;
    wait_for(&browser, ROUND_TRIPS, "no round trip", |seen| {
        seen.as_array().is_some_and(|trips| trips.len() == 3 && trips.iter().all(|trip| trip == "\u{2013}"))
    })?;
    let problems = browser.script(PROBLEMS)?;
    let classes: Vec<&str> = problems.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let critical = classes.iter().take_while(|class| **class == "bad").count();
    let sorted = critical > 0 && classes[critical..].iter().all(|class| *class == "warn");
    ensure!(sorted, "the problems are {classes:?}");
    browser.picture(&pictures()?.join("failing.png"))
}

/// Every stop of the Tab key in the order of the page, each with a ring around it; a stop outlasts what comes live.
#[test]
fn a_keyboard_is_enough() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    let _daemon = ready(&lab, &scenario)?;
    let browser = Browser::start(lab.node(), lab.dir(), true)?;
    browser.appear(1100, false)?;
    browser.open(&url())?;
    browser.wait_for_text("#live", "live news", LIMIT, |text| text == "live")?;
    let stops =
        "return [...document.querySelectorAll('a[href],button,input,summary,[tabindex=\"0\"]')].length";
    let stops = browser.script(stops)?.as_u64().context("count the stops")?;
    // The link to the state, a table for each virtual IP, the links below.
    ensure!(stops > 6, "{stops} stops");
    let at = "const all=[...document.querySelectorAll('a[href],button,input,summary,[tabindex=\"0\"]')],e=document.activeElement;\
              return [all.indexOf(e),getComputedStyle(e).outlineStyle,e.className,e.getAttribute('href')]";
    let mut met = Vec::new();
    for i in 0..stops {
        browser.press(TAB)?;
        let seen = browser.script(at)?;
        ensure!(seen[0] == i, "stop {i} is {seen}, after {met:?}");
        ensure!(seen[1] != "none", "no ring around {seen}");
        if seen[2] == "scroll" {
            let before = browser.script(SPARKS)?;
            wait_for(&browser, SPARKS, "live news", |now| *now != before)?;
            ensure!(browser.script(at)? == seen, "live news moved the focus from {seen}");
        }
        met.push(seen);
    }
    ensure!(met[0][2] == "skip", "the first key leads to {}", met[0]);
    for link in ["/readyz?verbose", "/status", "/metrics", "/debug/ruleset"] {
        ensure!(met.iter().any(|seen| seen[3] == link), "no way to {link}: {met:?}");
    }
    // The first stop leads to the state.
    browser.open(&url())?;
    browser.press(TAB)?;
    browser.press(ENTER)?;
    let focused = "return document.activeElement.id";
    wait_for(&browser, focused, "the state", |id| id == "main").map(drop)
}

#[test]
fn without_scripting_the_state_is_there_and_renews_itself() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    let mut daemon = ready(&lab, &scenario)?;
    let browser = Browser::start(lab.node(), lab.dir(), false)?;
    browser.open(&url())?;
    browser.wait_for_text(".pill", "the verdict", LIMIT, |text| text == "healthy")?;
    browser.wait_for_text("#live", "the time of the state", LIMIT, |text| text.contains("loaded"))?;
    scenario.plane.kill(2)?;
    let down = |text: &str| text.contains("192.0.2.12:6443") && text.contains("suspect");
    browser.wait_for_text("tbody", "the change", LIMIT, down)?;
    ensure!(browser.text("#live")?.contains("loaded"), "a script ran");
    daemon.stop().map(drop)
}

#[test]
fn a_daemon_that_ends_is_noticed_on_the_page() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    let mut daemon = ready(&lab, &scenario)?;
    let browser = Browser::start(lab.node(), lab.dir(), true)?;
    browser.open(&url())?;
    browser.wait_for_text("#live", "live news", LIMIT, |text| text == "live")?;
    daemon.stop()?;
    browser.wait_for_text("#live", "the end", LIMIT, |text| text.contains("does not answer"))?;
    let _next = scenario.daemon()?;
    browser.wait_for_text("#live", "the next daemon", LIMIT, |text| text == "live").map(drop)
}
