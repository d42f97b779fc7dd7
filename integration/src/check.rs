//! `apivip check` as an operator runs it.
//! In: a node, a folder, arguments. Out: what it found, by check and subject.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::command;
use crate::control_plane::Variant;
use crate::lab::Lab;
use crate::netns::Namespace;
use crate::refusal;
use crate::scenario::Scenario;

/// Nothing fails.
pub const GOOD: i32 = 0;
/// Something fails.
pub const BAD: i32 = 3;

/// It promises to end within ten seconds.
const LIMIT: Duration = Duration::from_secs(100);

/// What a run of it said.
#[derive(Debug)]
pub struct Checked {
    /// Its exit code.
    pub code: Option<i32>,
    /// The whole document.
    pub report: Value,
    /// How long it took.
    pub took: Duration,
}

/// The command, with the run and state folders of a daemon in `folder`, run by `wrapper` if there is one.
pub fn check_command(node: &Namespace, folder: &Path, wrapper: &[&str]) -> Result<Command> {
    let program = command::program("apivip")?;
    let mut command = match wrapper.split_first() {
        Some((first, rest)) => {
            let mut command = node.command(first);
            command.args(rest).arg(program);
            command
        }
        None => node.command(program),
    };
    refusal::clean_environment(&mut command);
    command
        .arg("check")
        .arg("--run-dir")
        .arg(folder.join("run"))
        .arg("--state-dir")
        .arg(folder.join("state"));
    Ok(command)
}

/// Runs it with these arguments.
pub fn check<S: AsRef<str>>(node: &Namespace, folder: &Path, arguments: &[S]) -> Result<Checked> {
    check_by(node, folder, &[], arguments, &[])
}

/// The same, run by another program and with more variables.
pub fn check_by<S: AsRef<str>>(
    node: &Namespace,
    folder: &Path,
    wrapper: &[&str],
    arguments: &[S],
    environment: &[(String, String)],
) -> Result<Checked> {
    let mut command = check_command(node, folder, wrapper)?;
    command.args(["-o", "json"]).args(arguments.iter().map(AsRef::as_ref));
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    let begin = Instant::now();
    let finished = command::finish(command, "", LIMIT)?;
    let took = begin.elapsed();
    ensure!(finished.stderr.is_empty(), "it said {}", finished.stderr);
    let report = serde_json::from_str(&finished.stdout)
        .with_context(|| format!("read the report {:?}", finished.stdout))?;
    Ok(Checked { code: finished.status.code(), report, took })
}

impl Checked {
    /// All findings.
    pub fn findings(&self) -> impl Iterator<Item = &Value> {
        self.report["findings"].as_array().into_iter().flatten()
    }

    /// Those of a check, each as subject (empty where it has none), verdict, and everything that it says.
    pub fn of(&self, id: &str) -> Vec<(String, String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let found = self.findings().filter(|finding| finding["id"] == id);
        let said = |f: &Value| format!("{} -> {}", text(&f["evidence"]), text(&f["fix"]));
        found.map(|f| (text(&f["subject"]), text(&f["verdict"]), said(f))).collect()
    }

    /// Fails unless the check has findings, all with this verdict, of which one contains each of `words`.
    pub fn expect(&self, id: &str, verdict: &str, words: &[&str]) -> Result<()> {
        let found = self.of(id);
        let all = !found.is_empty() && found.iter().all(|(_, seen, _)| seen == verdict);
        ensure!(all, "{id} should be {verdict}: {found:?}\nin {:#}", self.report);
        for word in words {
            let is_said =
                |(subject, _, said): &(String, String, String)| said.contains(word) || subject.contains(word);
            ensure!(found.iter().any(is_said), "{id} should say {word:?}: {found:?}");
        }
        Ok(())
    }

    /// What has one of these verdicts, as ID or ID SUBJECT.
    pub fn with_verdicts(&self, verdicts: &[&str]) -> Vec<String> {
        let found = self.findings().filter(|f| verdicts.contains(&f["verdict"].as_str().unwrap_or_default()));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        found.map(|f| format!("{} {}", text(&f["id"]), text(&f["subject"])).trim_end().to_owned()).collect()
    }
}

/// What the machine's own settings would otherwise decide.
pub const SETTINGS: [(&str, &str); 5] = [
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/eth0/rp_filter", "0"),
    ("net/ipv4/conf/pod1/rp_filter", "0"),
    ("net/netfilter/nf_conntrack_tcp_loose", "1"),
];

/// Whether this process is in the pid namespace that holds all of the machine's processes (`PROC_PID_INIT_INO`).
pub fn sees_processes() -> Result<bool> {
    let namespace = std::fs::read_link("/proc/self/ns/pid").context("read the pid namespace")?;
    Ok(namespace.as_os_str() == "pid:[4026531836]")
}

/// A control plane with three published apiservers, and the arguments by which a check reads it.
#[derive(Debug)]
pub struct Stage<'lab> {
    lab: &'lab Lab,
    /// The control plane, and a daemon if the test starts one.
    pub scenario: Scenario<'lab>,
    /// `--kubeconfig FILE`.
    pub arguments: Vec<String>,
}

impl<'lab> Stage<'lab> {
    /// Starts the control plane, on a node whose settings are [`SETTINGS`].
    pub fn start(lab: &'lab Lab) -> Result<Self> {
        let scenario = Scenario::start(lab, Variant::Simulated, &[1, 2, 3])?;
        lab.node().sysctls(&SETTINGS)?;
        let kubeconfig = scenario.plane.kubeconfig()?.display().to_string();
        Ok(Self { lab, scenario, arguments: vec!["--kubeconfig".to_owned(), kubeconfig] })
    }

    /// Checks the node.
    pub fn check(&self) -> Result<Checked> {
        check(self.lab.node(), self.lab.dir(), &self.arguments)
    }

    /// Checks it with more arguments.
    pub fn check_with(&self, more: &[&str]) -> Result<Checked> {
        let more = more.iter().map(|word| (*word).to_owned());
        check(
            self.lab.node(),
            self.lab.dir(),
            &self.arguments.iter().cloned().chain(more).collect::<Vec<_>>(),
        )
    }
}
