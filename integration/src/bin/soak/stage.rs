//! The node, its control plane and its daemon, and what must hold of them once a fault is over.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::control_plane::{ControlPlane, SERVICE_PORT, Variant};
use integration::daemon::{Daemon, DaemonOptions, backends_of};
use integration::kubeconfig::{Authority, Kubeconfig, User};
use integration::lab::{Lab, LabOptions};
use integration::load::Load;
use integration::netns::Namespace;

use crate::files::Rotated;

/// Between two looks at the table, and how often it may differ from the last.
const TABLE_PAUSE: Duration = Duration::from_millis(150);
const TABLE_LOOKS: usize = 20;
/// Apiservers of the lab.
pub const APISERVERS: [u8; 3] = [1, 2, 3];
/// Lets anybody change the table.
const OPEN: &str = "--table-owner=off";

/// Longest until a node has settled. It takes a second or two, and 15 s until the API is dialled again after an outage.
const LIMIT: Duration = Duration::from_secs(60);
/// Connections a second from each client, and how long they must all succeed.
const CHECK: (u32, Duration) = (100, Duration::from_millis(500));
/// Descriptors that a daemon may hold more at the end than after its first settling: connections of its own that are
/// just being replaced.
const DESCRIPTORS: usize = 16;

pub fn lab() -> Result<Lab> {
    Lab::start(LabOptions { pods: 2, ..LabOptions::default() })
}

pub struct Stage<'lab> {
    pub lab: &'lab Lab,
    pub plane: ControlPlane<'lab>,
    pub daemon: Daemon,
    pub ca: Rotated,
    pub token: Rotated,
    options: DaemonOptions,
    vip: SocketAddr,
    /// The table, as it was first seen with these backends in use.
    tables: BTreeMap<Vec<SocketAddr>, String>,
    descriptors: Option<usize>,
    loads: Cell<u32>,
}

impl<'lab> Stage<'lab> {
    pub fn start(lab: &'lab Lab) -> Result<Self> {
        let plane = ControlPlane::serving(lab, Variant::SimulatedSlices)?;
        let ca = fs::read_to_string(plane.authority()).context("read the CA")?;
        let folder = lab.dir().join("rotated");
        fs::create_dir(&folder).context("make a folder")?;
        let ca = Rotated::new(&folder, "ca.crt", ca)?;
        let token = Rotated::new(&folder, "token", format!("{}\n", plane.token()))?;
        let server = SocketAddr::new(lab.apiserver_addresses(1)[0], plane.apiservers(1)[0].port());
        let mut config = Kubeconfig::new(
            format!("https://{server}"),
            Authority::File(ca.path()),
            User::TokenFile(token.path()),
        );
        config.server_name = Some("kubernetes.default.svc".to_owned());
        let path = lab.dir().join("soak.kubeconfig");
        config.write(&path)?;
        let options = DaemonOptions::kubeconfig(path);
        let daemon = Daemon::start(lab.node(), lab.dir(), &options.clone().arg(OPEN))?;
        let vip = SocketAddr::new(lab.vips()[0], SERVICE_PORT);
        let tables = BTreeMap::new();
        let (descriptors, loads) = (None, Cell::new(0));
        let mut stage = Self { lab, plane, daemon, ca, token, options, vip, tables, descriptors, loads };
        stage.settle().context("before the first step")?;
        Ok(stage)
    }

    /// Starts the next daemon, as the service manager would; its table has an owner, or anybody may change it. Nobody waits
    /// for it here.
    pub fn respawn(&mut self, owned: bool) -> Result<()> {
        let options = self.options.clone();
        let options = if owned { options } else { options.arg(OPEN) };
        self.daemon = Daemon::spawn(self.lab.node(), self.lab.dir(), &options)?;
        self.descriptors = None;
        Ok(())
    }

    /// Waits until the node has settled, and holds it to what it must be then. All apiservers live by now, and all are
    /// published.
    pub fn settle(&mut self) -> Result<()> {
        self.plane.publish_apiservers(&APISERVERS)?;
        let all: BTreeSet<SocketAddr> = APISERVERS.iter().flat_map(|i| self.plane.apiservers(*i)).collect();
        let vip = self.vip;
        let deadline = Instant::now() + LIMIT;
        loop {
            let status = self.daemon.wait_for_status("a settled node", LIMIT, |status| {
                let listed = &status["frontends"][0]["backends"];
                status["phase"] == "programmed"
                    && status["api"]["state"] == "synced"
                    && listed
                        .as_array()
                        .is_some_and(|l| l.iter().filter(|b| b["source"] == "published").count() == all.len())
            })?;
            let used = backends_of(&status, vip);
            let outcome = self.check(&used, &all);
            // What flapped is let in again while this looks, and changes of the endpoints are still on their way.
            let now = self.daemon.status()?;
            let moved = backends_of(&now, vip) != used || now["generation"] != status["generation"];
            match outcome {
                Ok(true) => return self.note_descriptors(),
                Ok(false) => {
                    ensure!(Instant::now() < deadline, "other apiservers are in use at each look\n{status:#}")
                }
                Err(_) if moved && Instant::now() < deadline => {}
                Err(error) => return Err(error.context(format!("{status:#}"))),
            }
        }
    }

    /// Whether it could be checked: not if others are in use by the time that the table stands.
    fn check(&mut self, used: &[SocketAddr], all: &BTreeSet<SocketAddr>) -> Result<bool> {
        ensure!(!used.is_empty() && used.iter().all(|backend| all.contains(backend)), "in use: {used:?}");
        let table = self.standing_table();
        // Else the table is that of others: right after a start only those that were probed first are in use.
        if backends_of(&self.daemon.status()?, self.vip) != used {
            return Ok(false);
        }
        let known = self.tables.entry(used.to_vec()).or_insert_with(|| table.clone());
        ensure!(*known == table, "the table is\n{table}\ninstead of\n{known}");
        for (name, from) in self.clients() {
            let load = self.load(name, from, CHECK.0)?;
            thread::sleep(CHECK.1);
            let report = load.finish()?;
            ensure!(report.clean(), "connections from {name} failed\n{report}");
            let answer = self.plane.fetch(from, self.vip.ip())?;
            ensure!(answer == "ok", "{name} got the answer {answer:?}");
        }
        Ok(true)
    }

    /// Connects to the virtual IP again and again.
    pub fn load(&self, name: &str, from: &Namespace, rate: u32) -> Result<Load> {
        // What an earlier one of the same name printed must not be taken for this one's.
        let name = format!("{name}-{}", self.loads.replace(self.loads.get() + 1));
        Load::start(from, self.lab.dir(), &name, "tcp", &[self.vip], rate)
    }

    /// Who keeps connecting while something happens.
    pub fn clients(&self) -> [(&'static str, &'lab Namespace); 3] {
        [("pod-1", self.lab.pod(1)), ("pod-2", self.lab.pod(2)), ("host", self.lab.node())]
    }

    /// The table once it stands: the status tells of a decision a few milliseconds before the kernel has taken it.
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
