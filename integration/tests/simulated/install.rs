//! What docs/install gives to operators: manifests, the unit's limits, the words to the service manager, and what Prometheus makes
//! of the metrics, the rules and the dashboard.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, ensure};
use apivip::model::types::Family;
use integration::command;
use integration::control_plane::Variant;
use integration::failover::Failover;
use integration::failover::trial::{lab, leave, mix};
use integration::fault::Fault;
use integration::lab::{Families, addresses};
use integration::process::Spawned;
use integration::refusal::apivip;
use integration::scenario::Scenario;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
const METRICS: &str = "http://127.0.0.1:10299/metrics";
const PROMETHEUS: &str = "127.0.0.1:9090";

fn install(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/install").join(name)
}

fn read(name: &str) -> Result<String> {
    fs::read_to_string(install(name)).with_context(|| format!("read {name}"))
}

/// Clients of every kind, pods and the host's, are told by a daemon that has no more than these.
#[test]
fn the_capabilities_of_the_unit_are_enough() -> Result<()> {
    let unit = read("apivip.service")?;
    let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let names = line.context("no CapabilityBoundingSet")?.split_whitespace();
    let names = names.map(|name| format!("+{}", name.trim_start_matches("CAP_").to_lowercase()));
    let bounds = format!("-all,{}", names.collect::<Vec<_>>().join(","));
    let lab = lab(Families::V4)?;
    let mut stage = Failover::start_with(&lab, Variant::Simulated, &[1, 2, 3], |options| {
        let wrapper = ["setpriv", "--no-new-privs", "--bounding-set", &bounds];
        options.wrapper = wrapper.iter().map(ToString::to_string).collect();
    })?;
    leave(&mut stage, Fault::Unplugged, &[1], &mix()).map(drop)
}

/// What `apivip manifest` prints. It asks nothing of the cluster, which is not there.
fn manifest(words: &[&str]) -> Result<String> {
    command::run(apivip(&[&["manifest"], words].concat())?, "")
}

/// The arguments of the container in a Pod, or in the template of a DaemonSet.
fn arguments(object: &Value) -> Result<Vec<String>> {
    let pod = if object["kind"] == "Pod" { object } else { &object["spec"]["template"] };
    let arguments = pod["spec"]["containers"][0]["args"].as_array().context("no arguments")?;
    arguments
        .iter()
        .map(|word| word.as_str().map(str::to_owned).context("an argument is no string"))
        .collect()
}

/// The arguments of the manifest are those that the daemon is started with here, and it serves by them.
#[test]
fn a_daemon_runs_with_the_arguments_of_its_manifest() -> Result<()> {
    let lab = lab(Families::V4)?;
    let mut scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2])?;
    let kubeconfig = scenario.options.kubeconfig.clone().context("no kubeconfig")?.display().to_string();
    let seed = |number| SocketAddr::new(addresses::apiserver(number, Family::V4), 6443).to_string();
    let vip = SocketAddr::new(addresses::vip(Family::V4), 443).to_string();
    let (first, second) = (seed(1), seed(2));
    let image = "registry.example.com/apivip:1";
    let given = ["--seed", &first, "--seed", &second, "--vip", &vip, "--listen", "127.0.0.1:7445"];
    let words = [&["static-pod", "--image", image, "--kubeconfig", &kubeconfig], &given[..]].concat();
    let pod: Value = serde_saphyr::from_str(&manifest(&words)?).context("read the manifest")?;
    ensure!(pod["spec"]["containers"][0]["image"] == image, "{pod:#}");
    let arguments = arguments(&pod)?;
    let head = ["run".to_owned(), format!("--kubeconfig={kubeconfig}")];
    let (begin, flags) = arguments.split_at_checked(head.len()).context("no arguments")?;
    ensure!(begin == head, "{arguments:?}");
    scenario.options.arguments = flags.to_vec();
    let daemon = scenario.daemon()?;
    scenario.expect_everybody("with the arguments of a manifest")?;
    lab.node().run("bash", &["-c", "exec 3<>/dev/tcp/127.0.0.1/7445"])?;
    drop(daemon);
    for (form, file) in
        [("rbac", "rbac.yaml"), ("daemonset", "daemonset.yaml"), ("systemd", "apivip.service")]
    {
        ensure!(manifest(&[form])? == read(file)?, "apivip manifest {form} is not {file}");
    }
    Ok(())
}

/// kustomize reads no file outside of its folder, and Helm none outside of the chart.
#[test]
fn copies_for_kustomize_and_helm_are_the_files_themselves() -> Result<()> {
    for (file, copy) in [
        ("rbac.yaml", "kustomize/base/rbac.yaml"),
        ("daemonset.yaml", "kustomize/base/daemonset.yaml"),
        ("static-pod.yaml", "kustomize/overlays/static-pod/static-pod.yaml"),
        ("alerts.yaml", "chart/apivip/files/alerts.yaml"),
        ("dashboard.json", "chart/apivip/files/dashboard.json"),
    ] {
        ensure!(read(file)? == read(copy)?, "{copy} is not {file}: run scripts/check-manifests --write");
    }
    let chart: Value = serde_saphyr::from_str(&read("chart/apivip/Chart.yaml")?)?;
    ensure!(chart["appVersion"] == env!("CARGO_PKG_VERSION"), "{chart:#}");
    Ok(())
}

/// The daemon accepts the arguments that each overlay gives it.
#[test]
fn arguments_of_overlays_are_those_of_the_daemon() -> Result<()> {
    for overlay in ["kubeadm", "k3s-rke2", "cilium", "static-pod"] {
        let text = read(&format!("kustomize/overlays/{overlay}/kustomization.yaml"))?;
        let kustomization: Value = serde_saphyr::from_str(&text).context("read the kustomization")?;
        let patch = kustomization["patches"][0]["patch"].as_str().context("no patch")?;
        let arguments = arguments(&serde_saphyr::from_str(patch).context("read the patch")?)?;
        let form = if overlay == "static-pod" { overlay } else { "daemonset" };
        let (run, flags) = arguments.split_first().context("no arguments")?;
        ensure!(run == "run" && flags.len() > 1, "{overlay}: {arguments:?}");
        let words: Vec<&str> = [form].into_iter().chain(flags.iter().map(String::as_str)).collect();
        let printed = manifest(&words).with_context(|| overlay.to_owned())?;
        for flag in flags {
            ensure!(printed.contains(&format!("- {flag}\n")), "{overlay}: {flag} is not in\n{printed}");
        }
    }
    Ok(())
}

#[test]
fn systemd_takes_the_unit_without_a_word() -> Result<()> {
    let text = read("apivip.service")?;
    // The program is not installed here, which would be one.
    let installed = "/usr/local/bin/apivip";
    ensure!(text.contains(&format!("ExecStart={installed} run ")), "the unit starts something else");
    let here = |text: &str| -> Result<String> {
        Ok(text.replace(installed, &command::program("apivip")?.display().to_string()))
    };
    let text = here(&text)?;
    let folder = tempfile::tempdir()?;
    let unit = folder.path().join("apivip.service");
    let verify = |text: &str| -> Result<command::Finished> {
        fs::write(&unit, text)?;
        let mut analyze = Command::new("systemd-analyze");
        analyze.args(["verify", "--man=no", "--recursive-errors=no"]).arg(&unit);
        command::finish(analyze, "", PATIENCE).context("run systemd-analyze, of Debian's package systemd")
    };
    let verified = verify(&text)?;
    ensure!(verified.status.success() && verified.stderr.is_empty(), "{verified:?}");
    let odd = r#"a "b" \ $HOME %h"#;
    let words =
        ["systemd", "--seed", "api.example.com:6443", "--probe-server-name", odd, "--drain-grace", "1s"];
    let printed = here(&manifest(&words)?)?;
    let verified = verify(&printed)?;
    ensure!(verified.status.success() && verified.stderr.is_empty(), "{verified:?}\n{printed}");
    for (right, wrong) in [("WatchdogSec=", "WatchdogSecs="), ("Type=notify", "Type=notifies")] {
        ensure!(text.contains(right), "the unit has no {right}");
        let verified = verify(&text.replace(right, wrong))?;
        ensure!(verified.stderr.contains("apivip.service:"), "{wrong} is taken: {verified:?}");
    }
    Ok(())
}

/// `/livez` and `/readyz` wait for the reconciler as long as docs/reference.md says. A kubelet that gives up sooner restarts a
/// daemon that was about to answer, and its own default is one second.
#[test]
fn probes_of_the_manifest_outlast_the_health_checks() -> Result<()> {
    let manual = include_str!("../../../docs/reference.md");
    let limit = manual.split_once("| `/livez` | 200 while the reconciler answers within ");
    let limit = limit.and_then(|(_, rest)| rest.split_once(" s |")).context("no limit of /livez")?.0;
    let limit: u32 = limit.parse().context("parse the limit of /livez")?;
    let manifest = read("daemonset.yaml")?;
    for probe in ["livenessProbe:", "readinessProbe:"] {
        let (_, rest) = manifest.split_once(probe).with_context(|| format!("the manifest has no {probe}"))?;
        let indented = |line: &&str| line.is_empty() || line.starts_with("          ");
        let mut said = rest.lines().take_while(indented).map(str::trim);
        let said = said.find_map(|line| line.strip_prefix("timeoutSeconds: "));
        let seconds: u32 = said.with_context(|| format!("{probe} has no timeoutSeconds"))?.parse()?;
        ensure!(seconds > limit, "{probe} gives up after {seconds} s, and an answer may take {limit} s");
    }
    Ok(())
}

#[test]
fn the_service_manager_is_told() -> Result<()> {
    let lab = lab(Families::V4)?;
    let path = lab.dir().join("notify");
    let manager = UnixDatagram::bind(&path).context("bind the manager's socket")?;
    manager.set_read_timeout(Some(PATIENCE))?;
    let mut scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2])?;
    let environment =
        [("NOTIFY_SOCKET", path.display().to_string()), ("WATCHDOG_USEC", "2000000".to_owned())];
    scenario.options.environment.extend(environment.map(|(name, value)| (name.to_owned(), value)));
    let _daemon = scenario.daemon()?;
    let mut wanted = BTreeSet::from(["READY=1", "STATUS=healthy, programmed: ", "WATCHDOG=1"]);
    let deadline = Instant::now() + PATIENCE;
    let mut said = Vec::new();
    while !wanted.is_empty() {
        let mut buffer = [0; 4096];
        let length =
            manager.recv(&mut buffer).with_context(|| format!("still wanted: {wanted:?}; said: {said:?}"))?;
        let text = String::from_utf8(buffer[..length].to_vec()).context("read what was said")?;
        wanted.retain(|begin| !text.starts_with(begin));
        said.push(text);
        ensure!(Instant::now() < deadline, "still wanted: {wanted:?}; said: {said:?}");
    }
    ensure!(said[0] == "READY=1", "{said:?}");
    Ok(())
}

#[test]
fn promtool_takes_rules_and_metrics_and_prometheus_scrapes_them() -> Result<()> {
    for (words, file) in [(["check", "rules"], "alerts.yaml"), (["test", "rules"], "alerts-test.yaml")] {
        let mut promtool = Command::new("promtool");
        promtool.args(words).arg(install(file));
        command::run(promtool, "")?;
    }
    let lab = lab(Families::V4)?;
    let scenario = Scenario::start(&lab, Variant::Simulated, &[1, 2, 3])?;
    let daemon = scenario.daemon()?;
    let node = lab.node();
    let classic = node.run("curl", &["-sS", "--fail", "-m", "10", "-H", "Accept: text/plain", METRICS])?;
    let mut check = Command::new("promtool");
    check.args(["check", "metrics"]);
    command::run(check, &classic)?;

    let config = lab.dir().join("prometheus.yaml");
    let rules = install("alerts.yaml").canonicalize().context("find the rules")?.display().to_string();
    let text = read("prometheus.yaml")?.replace("- alerts.yaml", &format!("- {rules}"));
    fs::write(&config, format!("global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n{text}"))?;
    let mut prometheus = node.command("prometheus");
    prometheus.arg("--config.file").arg(&config).arg("--storage.tsdb.path").arg(lab.dir().join("tsdb"));
    prometheus.args(["--web.listen-address", PROMETHEUS]);
    let _prometheus = Spawned::start("prometheus", prometheus, lab.dir())?;
    let query = |expression: &str| -> Result<Vec<Value>> {
        let url = format!("http://{PROMETHEUS}/api/v1/query");
        let expression = format!("query={expression}");
        let answer = node.run("curl", &["-sS", "-m", "10", "-G", &url, "--data-urlencode", &expression])?;
        let answer: Value = serde_json::from_str(&answer).context("read the answer of Prometheus")?;
        ensure!(answer["status"] == "success", "{expression}: {answer:#}");
        Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
    };
    let deadline = Instant::now() + PATIENCE;
    while !query("apivip_programmed == 1 and on (instance) up == 1").is_ok_and(|found| found.len() == 1) {
        ensure!(Instant::now() < deadline, "Prometheus has nothing\n{}", daemon.log());
        thread::sleep(Duration::from_millis(500));
    }
    // Each expression of the dashboard is one, and each metric in it is there.
    let dashboard: Value = serde_json::from_str(&read("dashboard.json")?).context("read the dashboard")?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
    let expressions: Vec<String> =
        targets.filter_map(|target| target["expr"].as_str().map(str::to_owned)).collect();
    ensure!(expressions.len() > 15, "{expressions:?}");
    for expression in expressions {
        let filled = expression.replace("$instance", ".*").replace("$__rate_interval", "5m");
        query(&filled).with_context(|| expression.clone())?;
        expect_known(&expression, &classic)?;
    }
    let rules = read("alerts.yaml")?;
    for expression in rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")) {
        expect_known(expression, &classic)?;
    }
    Ok(())
}

/// Fails if the expression names a metric of apivip that it does not have.
fn expect_known(expression: &str, metrics: &str) -> Result<()> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    for name in words.filter(|word| word.starts_with("apivip_")) {
        let family = name.strip_suffix("_bucket").unwrap_or(name);
        let known = metrics.lines().any(|line| {
            line.strip_prefix("# TYPE ").is_some_and(|rest| rest.split(' ').next() == Some(family))
        });
        ensure!(known, "{expression} names {name}, which is no metric");
    }
    Ok(())
}
