//! The node, its control plane and its daemon, and what must hold of them once a fault is over.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};
use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::control_plane::{ControlPlane, SERVICE_PORT, Variant};
use integration::daemon::{Daemon, backends_of};
use integration::lab::{Families, Lab, LabOptions};
use integration::load::Load;
use integration::netns::Namespace;
use rand::RngExt;
use serde_json::Value;

use crate::credentials::Credentials;

/// Between two looks at the table, and how often it may differ from the last.
const TABLE_PAUSE: Duration = Duration::from_millis(150);
const TABLE_LOOKS: usize = 20;
/// API servers of the lab.
pub const APISERVERS: [u8; 3] = [1, 2, 3];
/// Two virtual IPs with two ports each.
const FRONTENDS: usize = 4;
/// Lets any program change the table.
const OPEN: &str = "--table-owner=off";

/// Longest until a node has settled. It takes a second or two, and 15 s until the API is dialed again after an outage.
const LIMIT: Duration = Duration::from_secs(60);
/// Connections a second from each client, and how long they must all succeed.
const CHECK: (u32, Duration) = (100, Duration::from_millis(500));
/// Descriptors that a daemon may hold more at the end than after its first settling: connections of its own that are
/// just being replaced.
const DESCRIPTORS: usize = 16;

pub fn lab() -> Result<Lab> {
    let families = Families::Dual;
    Lab::start(LabOptions { pods: 2, families, client_certificates: true, ..LabOptions::default() })
}

/// How the next daemon is started.
#[derive(Clone, Copy, Debug)]
pub struct Next {
    /// The table has an owner; else any program may change it.
    owned: bool,
    /// It shows a client certificate; else a token.
    certified: bool,
}

impl Next {
    /// Chooses.
    pub fn choose(chance: &mut impl RngExt) -> Self {
        Self { owned: chance.random(), certified: chance.random() }
    }
}

impl Display for Next {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let owner = if self.owned { "the table has an owner" } else { "any program may change the table" };
        write!(
            f,
            "{owner}, it authenticates with {}",
            if self.certified { "a certificate" } else { "a token" }
        )
    }
}

pub struct Stage<'lab> {
    pub lab: &'lab Lab,
    pub plane: ControlPlane<'lab>,
    pub daemon: Daemon,
    files: Credentials,
    /// How the current daemon authenticates.
    certified: bool,
    vips: Vec<SocketAddr>,
    /// The table, as it was first seen with these backends in use.
    tables: BTreeMap<Vec<Vec<SocketAddr>>, String>,
    descriptors: Option<usize>,
    loads: Cell<u32>,
}

impl<'lab> Stage<'lab> {
    pub fn start(lab: &'lab Lab) -> Result<Self> {
        let plane = ControlPlane::serving(lab, Variant::Simulated)?;
        let files = Credentials::new(lab, &plane)?;
        let daemon = Daemon::start(lab.node(), lab.dir(), &files.options(false).arg(OPEN))?;
        let vips = lab.vips().into_iter().map(|vip| SocketAddr::new(vip, SERVICE_PORT)).collect();
        let tables = BTreeMap::new();
        let (descriptors, loads) = (None, Cell::new(0));
        let certified = false;
        let mut stage = Self { lab, plane, daemon, files, certified, vips, tables, descriptors, loads };
        stage.settle().context("before the first step")?;
        Ok(stage)
    }

    /// Starts the next daemon, as the service manager would, and does not wait for it.
    pub fn respawn(&mut self, next: Next) -> Result<()> {
        let options = self.files.options(next.certified);
        let options = if next.owned { options } else { options.arg(OPEN) };
        self.daemon = Daemon::spawn(self.lab.node(), self.lab.dir(), &options)?;
        self.certified = next.certified;
        self.descriptors = None;
        Ok(())
    }

    /// Another CA is also trusted.
    pub fn renew_ca(&mut self, half: bool) -> Result<()> {
        let before = self.said("event=ca_renewed");
        self.files.renew_ca(&self.plane, half)?;
        self.wait_until_said("event=ca_renewed", before)
    }

    /// What the daemon shows is replaced by another that is as good.
    pub fn renew_credentials(&mut self, half: bool) -> Result<()> {
        let before = self.said("event=credentials_renewed");
        self.files.renew(&self.plane, self.certified, half)?;
        // A token is read again for each request, and nothing is logged.
        if self.certified { self.wait_until_said("event=credentials_renewed", before) } else { Ok(()) }
    }

    /// How often the daemons have said this.
    fn said(&self, message: &str) -> usize {
        self.daemon.log().lines().filter(|line| line.contains(message)).count()
    }

    fn wait_until_said(&mut self, message: &str, before: usize) -> Result<()> {
        self.daemon.process().wait_until(message, LIMIT, |process| {
            let count = process.stderr().lines().filter(|line| line.contains(message)).count();
            Ok((count > before).then_some(()))
        })
    }

    /// Waits until the node has settled, and checks its state. All API servers run by now, and all are published.
    pub fn settle(&mut self) -> Result<()> {
        self.plane.publish_apiservers(&APISERVERS)?;
        let all: BTreeSet<SocketAddr> = APISERVERS.iter().flat_map(|i| self.plane.apiservers(*i)).collect();
        let deadline = Instant::now() + LIMIT;
        loop {
            let status = self.daemon.wait_for_status("a settled node", LIMIT, |status| {
                let published = |backend: &&Value| backend["source"] == "published";
                let listed = status["frontends"].as_array().into_iter().flatten();
                let listed = listed.filter_map(|frontend| frontend["backends"].as_array());
                status["phase"] == "programmed"
                    && status["api"]["state"] == "synced"
                    && listed.clone().count() == FRONTENDS
                    && listed.into_iter().all(|l| l.iter().filter(published).count() == APISERVERS.len())
            })?;
            let used = self.used(&status);
            let outcome = self.check(&used, &all);
            // What flapped is let in again while this looks, and changes of the endpoints are still on their way.
            let now = self.daemon.status()?;
            let moved = self.used(&now) != used || now["generation"] != status["generation"];
            match outcome {
                Ok(true) => return self.note_descriptors(),
                Ok(false) => {
                    ensure!(
                        Instant::now() < deadline,
                        "other API servers are in use at each look\n{status:#}"
                    )
                }
                Err(_) if moved && Instant::now() < deadline => {}
                Err(error) => return Err(error.context(format!("{status:#}"))),
            }
        }
    }

    /// Who serves each of the virtual IPs.
    fn used(&self, status: &Value) -> Vec<Vec<SocketAddr>> {
        self.vips.iter().map(|vip| backends_of(status, *vip)).collect()
    }

    /// Whether it could be checked: not if others are in use by the time that the table is complete.
    fn check(&mut self, used: &[Vec<SocketAddr>], all: &BTreeSet<SocketAddr>) -> Result<bool> {
        let right = |used: &Vec<_>| !used.is_empty() && used.iter().all(|backend| all.contains(backend));
        ensure!(used.iter().all(right), "in use: {used:?}");
        let table = self.standing_table();
        // Else the table is that of others: right after a start only those that were probed first are in use.
        if self.used(&self.daemon.status()?) != used {
            return Ok(false);
        }
        let known = self.tables.entry(used.to_vec()).or_insert_with(|| table.clone());
        ensure!(*known == table, "the table is\n{table}\ninstead of\n{known}");
        for (name, from) in self.clients() {
            let load = self.load(name, from, CHECK.0)?;
            thread::sleep(CHECK.1);
            let report = load.finish()?;
            ensure!(report.clean(), "connections from {name} failed\n{report}");
            for vip in &self.vips {
                let answer = self.plane.fetch(from, vip.ip())?;
                ensure!(answer == "ok", "{name} got the answer {answer:?} from {vip}");
            }
        }
        Ok(true)
    }

    /// Connects to the virtual IPs in turn, again and again.
    pub fn load(&self, name: &str, from: &Namespace, rate: u32) -> Result<Load> {
        // What an earlier one of the same name printed must not be taken for this one's.
        let name = format!("{name}-{}", self.loads.replace(self.loads.get() + 1));
        Load::start(from, self.lab.dir(), &name, "tcp", &self.vips, rate)
    }

    /// Who keeps connecting while something happens.
    pub fn clients(&self) -> [(&'static str, &'lab Namespace); 3] {
        [("pod-1", self.lab.pod(1)), ("pod-2", self.lab.pod(2)), ("host", self.lab.node())]
    }

    /// The table once it is complete: the status shows a decision a few milliseconds before the kernel has it.
    fn standing_table(&self) -> String {
        let mut table = self.table();
        for _ in 0..TABLE_LOOKS {
            thread::sleep(TABLE_PAUSE);
            let later = self.table();
            if later == table {
                break;
            }
            table = later;
        }
        table
    }

    /// The lines of the table without what packets change, and without what ends the flows of those who are held down
    /// for a while. In which order the kernel lists objects, depends on how it came to them.
    fn table(&self) -> String {
        let text = self.lab.node().nft_text("table inet apivip").unwrap_or_default();
        let passing = [
            "packets ",
            "progname",
            "dead-",
            "reset-",
            "flags owner",
            "table inet",
            "does not answer",
            "counter backend-",
            "connections sent to apiserver",
            "resets sent in place of",
        ];
        let lines = text.lines().filter(|line| !passing.iter().any(|word| line.contains(word)));
        let mut lines: Vec<&str> = lines.map(str::trim).filter(|line| line.len() > 1).collect();
        lines.sort_unstable();
        lines.join("\n")
    }

    fn note_descriptors(&mut self) -> Result<()> {
        let open = descriptors(self.daemon.pid())?;
        let first = *self.descriptors.get_or_insert(open);
        ensure!(open <= first + DESCRIPTORS, "the daemon holds {open} descriptors, {first} at first");
        Ok(())
    }

    /// Prints what the last daemon holds.
    pub fn finish(&mut self) -> Result<()> {
        let pid = self.daemon.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).context("read its status")?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("unknown");
        let events = self.daemon.metric("apivip_api_events_total")?;
        let reconnects = self.daemon.metric("apivip_api_reconnects_total")?;
        println!(
            "the last daemon: {} resident, {} descriptors, {events} watch events, {reconnects} reconnects",
            resident.trim(),
            descriptors(pid)?
        );
        Ok(())
    }

    /// The end of the daemon's log.
    pub fn log(&self) -> String {
        let log = self.daemon.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

fn descriptors(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd")).context("list its descriptors")?.count())
}
