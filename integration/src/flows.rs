//! A stage for ending flows: backends behind virtual IPs, clients that hold connections through them, and the table's
//! rules written by hand. In: a lab. Out: a running [`FlowStage`], and what clients say in the end.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use apivip::model::types::Family;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::command::{self, program};
use crate::lab::{Lab, addresses};
use crate::netns::Namespace;
use crate::process::{Signal, Spawned};

/// Where the backends serve.
pub const BACKEND_PORT: u16 = 6443;
/// Where clients dial.
pub const VIP_PORT: u16 = 443;
const READY: Duration = Duration::from_secs(20);

/// How a connection is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// Nothing is sent, an answer is awaited.
    Idle,
    /// Something is sent all the time.
    Busy,
    /// The client has closed its half and reads on.
    HalfClosed,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Idle, Self::Busy, Self::HalfClosed];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::HalfClosed => "half-closed",
        }
    }
}

/// What became of connections of one kind to one backend.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Fate {
    /// Still open.
    pub open: usize,
    /// Idle ones that had an answer when they spoke.
    #[serde(default)]
    pub echoed: usize,
    /// Ended, by what the client's socket said.
    pub ended: BTreeMap<String, usize>,
    /// When each ended, in milliseconds of Unix time.
    pub at_ms: Vec<f64>,
}

/// What a client says in the end: connections by backend and kind.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Held {
    /// See [`Held`].
    pub fates: BTreeMap<String, BTreeMap<Kind, Fate>>,
}

impl Held {
    /// Connections to backend `i` that are still open, and those that ended with one of these errors.
    pub fn count(&self, i: u8, errors: &[&str]) -> (usize, usize) {
        let fates = || self.fates.get(&name(i)).into_iter().flat_map(BTreeMap::values);
        let ended = |fate: &Fate| errors.iter().filter_map(|error| fate.ended.get(*error)).sum::<usize>();
        (fates().map(|fate| fate.open).sum(), fates().map(ended).sum())
    }

    /// Idle connections to backend `i` that had an answer when they spoke.
    pub fn echoed(&self, i: u8) -> usize {
        self.fates.get(&name(i)).into_iter().flat_map(BTreeMap::values).map(|fate| fate.echoed).sum()
    }

    /// How long after `since` the connections to backend `i` ended, in milliseconds, sorted.
    pub fn times(&self, i: u8, since: SystemTime) -> Vec<f64> {
        let since = since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1e3;
        let fates = self.fates.get(&name(i)).into_iter().flat_map(BTreeMap::values);
        let mut times: Vec<f64> = fates.flat_map(|fate| fate.at_ms.iter().map(|at| at - since)).collect();
        times.sort_by(f64::total_cmp);
        times
    }
}

fn name(i: u8) -> String {
    format!("api{i}")
}

/// Running backends, and rules that lead the virtual IPs to them.
#[derive(Debug)]
pub struct FlowStage<'lab> {
    lab: &'lab Lab,
    servers: Vec<Spawned>,
}

impl<'lab> FlowStage<'lab> {
    /// Starts a server on every apiserver of the lab and leads the virtual IPs to all of them.
    pub fn start(lab: &'lab Lab) -> Result<Self> {
        let mut servers = Vec::new();
        for i in 1..=lab.options().apiservers {
            let mut command = lab.apiserver(i).command(program("flow-peer")?);
            command.args(["serve", "--name", &name(i)]);
            for ip in lab.apiserver_addresses(i) {
                command.arg("--listen").arg(SocketAddr::new(ip, BACKEND_PORT).to_string());
            }
            let mut server = Spawned::start(&name(i), command, lab.dir())?;
            server.wait_for_line("ready", READY)?;
            servers.push(server);
        }
        let stage = Self { lab, servers };
        stage.lead(&[], true)?;
        // A host that is gone stays addressable, as one behind a router does: nobody says that it cannot be reached.
        for family in lab.families() {
            for i in 1..=lab.options().apiservers {
                let ip = addresses::apiserver(i, *family);
                let link = lab.apiserver(i).run("cat", &["/sys/class/net/eth0/address"])?;
                let link = link.trim();
                lab.node().ip(&format!("neigh replace {ip} lladdr {link} dev eth0 nud permanent\n"))?;
            }
        }
        Ok(stage)
    }

    /// Replaces the rules: new connections go to the backends that are not dead, and flows to the dead ones are
    /// rejected if `kill`.
    pub fn lead(&self, dead: &[u8], kill: bool) -> Result<()> {
        self.lab.node().nft_load(&table(self.lab, dead, kill))
    }

    /// Opens connections from `from` to the virtual IPs of these families.
    pub fn hold(&self, from: &Namespace, families: &[Family], kinds: &[(Kind, usize)]) -> Result<Holder> {
        let mut holder = self.dial(from, families, kinds)?;
        holder.wait_open()?;
        Ok(holder)
    }

    /// As [`FlowStage::hold`], without waiting until they are open.
    pub fn dial(&self, from: &Namespace, families: &[Family], kinds: &[(Kind, usize)]) -> Result<Holder> {
        let mut command = from.command("sh");
        command.args(["-c", "ulimit -n 20000 && exec \"$0\" \"$@\""]).arg(program("flow-peer")?).arg("hold");
        for family in families {
            command.arg("--target").arg(SocketAddr::new(addresses::vip(*family), VIP_PORT).to_string());
        }
        for (kind, count) in kinds {
            command.args(["--hold", &format!("{}={count}", kind.name())]);
        }
        Ok(Holder(Spawned::start(&format!("hold-{}", from.name()), command, self.lab.dir())?))
    }

    /// Holds an idle connection to this very address.
    pub fn hold_direct(&self, from: &Namespace, target: SocketAddr) -> Result<Holder> {
        let mut command = from.command(program("flow-peer")?);
        command.args(["hold", "--target", &target.to_string(), "--hold", "idle=1"]);
        let mut holder = Holder(Spawned::start(&format!("hold-{}", from.name()), command, self.lab.dir())?);
        holder.wait_open()?;
        Ok(holder)
    }

    /// Waits until a connection of this family has sent its SYN to backend `i`, and has no answer.
    pub fn wait_for_syn_sent(&self, i: u8, family: Family) -> Result<()> {
        let name = if family == Family::V4 { "ipv4" } else { "ipv6" };
        let to = format!(" src={} ", addresses::apiserver(i, family));
        let deadline = Instant::now() + READY;
        loop {
            let arguments = ["-L", "-f", name, "-p", "tcp", "--state", "SYN_SENT"];
            let listed = self.lab.node().run("conntrack", &arguments)?;
            if listed.contains(&to) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "no connection to backend {i} is in SYN_SENT:\n{listed}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs an order for backend `i` in this family on the node, behind `wrapper` (another program, or nothing).
    pub fn kill(&self, i: u8, family: Family, wrapper: &[&str], options: &[&str]) -> Result<Value> {
        let mut reports = self.kill_all(&[backend(i, family)], wrapper, options)?;
        reports.pop().context("no report was printed")
    }

    /// Runs an order for each of these backends on the node, all at once.
    pub fn kill_all(
        &self,
        backends: &[SocketAddr],
        wrapper: &[&str],
        options: &[&str],
    ) -> Result<Vec<Value>> {
        let mut command = self.on_node(wrapper)?;
        for backend in backends {
            command.arg("--backend").arg(backend.to_string());
        }
        self.add_vips(&mut command);
        command.args(options);
        let reports = command::run(command, "")?;
        print!("{reports}");
        reports.lines().map(|line| serde_json::from_str(line).context("parse a report")).collect()
    }

    /// Asks backend `i` on its clients' path, and returns what was heard of it.
    pub fn ask_backend(&self, i: u8, family: Family, wrapper: &[&str]) -> Result<Value> {
        let mut command = self.on_node(wrapper)?;
        command.args(["ask-backend", "--backend", &backend(i, family).to_string()]);
        self.add_vips(&mut command);
        let heard = command::run(command, "")?;
        print!("{heard}");
        serde_json::from_str(&heard).context("parse what was heard")
    }

    /// Stops the process of backend `i`, or lets it go on.
    pub fn freeze(&mut self, i: u8, frozen: bool) -> Result<()> {
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        let server = self.servers.get_mut(usize::from(i) - 1).context("no such backend")?;
        server.signal(signal)
    }

    /// The program that works on flows, on the node.
    fn on_node(&self, wrapper: &[&str]) -> Result<Command> {
        let binary = program("flow-kill")?;
        Ok(match wrapper.split_first() {
            Some((first, rest)) => {
                let mut command = self.lab.node().command(first);
                command.args(rest).arg(binary);
                command
            }
            None => self.lab.node().command(binary),
        })
    }

    fn add_vips(&self, command: &mut Command) {
        for family in self.lab.families() {
            command.arg("--vip").arg(SocketAddr::new(addresses::vip(*family), VIP_PORT).to_string());
        }
    }
}

/// Backend `i` in this family.
pub fn backend(i: u8, family: Family) -> SocketAddr {
    SocketAddr::new(addresses::apiserver(i, family), BACKEND_PORT)
}

/// A client that holds connections.
#[derive(Debug)]
pub struct Holder(Spawned);

impl Holder {
    /// Waits until all connections are open.
    pub fn wait_open(&mut self) -> Result<()> {
        self.0.wait_for_line("ready", READY).map(drop)
    }

    /// Has every idle connection send something, and gives it time for the answer.
    pub fn speak(&mut self) -> Result<()> {
        self.0.signal(Signal::USR1)?;
        thread::sleep(Duration::from_millis(500));
        Ok(())
    }

    /// Ends it and returns what became of its connections.
    pub fn finish(mut self) -> Result<Held> {
        self.0.signal(Signal::TERM)?;
        let status = self.0.wait(READY)?;
        ensure!(status.success(), "the client ended with {status}\n{}", self.0.tail());
        let output = self.0.stdout();
        serde_json::from_str(output.lines().last().unwrap_or_default()).context("parse what the client says")
    }
}

fn table(lab: &Lab, dead: &[u8], kill: bool) -> String {
    let mut text = String::from("table inet apivip\ndelete table inet apivip\ntable inet apivip {\n");
    let (mut raw, mut rules, mut nat) = (String::new(), String::new(), String::new());
    for family in lab.families().iter().copied() {
        let (ip, vip) = (if family == Family::V4 { "ip" } else { "ip6" }, addresses::vip(family));
        let endpoint = |i: u8| format!("{} . {BACKEND_PORT}", addresses::apiserver(i, family));
        let elements: Vec<String> = dead.iter().map(|i| endpoint(*i)).collect();
        let elements = match elements.is_empty() {
            true => String::new(),
            false => format!("elements = {{ {} }};", elements.join(", ")),
        };
        let live: Vec<u8> = (1..=lab.options().apiservers).filter(|i| !dead.contains(i)).collect();
        let map: Vec<String> =
            live.iter().enumerate().map(|(n, i)| format!("{n} : {}", endpoint(*i))).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "set dead-{ip} {{ typeof {ip} saddr . tcp sport; {elements} }}");
        let _ = writeln!(
            raw,
            "{ip} saddr {vip} tcp sport {VIP_PORT} tcp flags & (fin|syn|rst|ack) == syn notrack"
        );
        let _ = writeln!(
            rules,
            "meta l4proto tcp ct direction original ct original {ip} daddr {vip} \
             ct original proto-dst {VIP_PORT} ct reply {ip} saddr . ct reply proto-src @dead-{ip} \
             tcp flags & (syn|rst) == 0 counter reject with tcp reset"
        );
        let _ = writeln!(
            nat,
            "{ip} daddr {vip} tcp dport {VIP_PORT} dnat {ip} to numgen random mod {} map {{ {} }}",
            live.len(),
            map.join(", ")
        );
    }
    let _ = writeln!(raw, "tcp dport {BACKEND_PORT} tcp flags & (fin|syn|rst|ack) == syn tcp doff 5 notrack");
    let mut chain = |name: &str, kind: &str, hook: &str, priority: &str, rules: &str| {
        let _ = writeln!(text, "chain {name} {{ type {kind} hook {hook} priority {priority};\n{rules}}}");
    };
    chain("raw-output", "filter", "output", "-300", &raw);
    if kill {
        chain("kill-prerouting", "filter", "prerouting", "-150", &rules);
        chain("kill-output", "filter", "output", "-150", &rules);
    }
    chain("nat-prerouting", "nat", "prerouting", "dstnat - 5", &nat);
    chain("nat-output", "nat", "output", "-105", &nat);
    text.push_str("}\n");
    text
}
