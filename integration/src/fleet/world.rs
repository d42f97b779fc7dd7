//! What happens to API servers, hosts, networks and nodes, drawn in advance, and what follows for a packet and a request.
//!
//! In: the seed, what was drawn (`fault`). Out: whether a packet arrives, when a request is answered. Time is in microseconds
//! from the beginning.

use super::random::hashed;

/// Microseconds from the beginning.
pub type Time = u64;

/// A millisecond.
pub const MS: Time = 1000;
/// A second.
pub const SECOND: Time = 1000 * MS;
/// Later than anything.
pub const NEVER: Time = u64::MAX / 4;
/// Number of API servers.
pub const SERVERS: usize = 3;

/// Latency of the network in one direction.
const LATENCY: Time = 250;
/// When a SYN is sent again (RFC 6298: 1 s, doubled), the kernel's patience with a connect() being limited.
const SYN: [Time; 5] = [0, SECOND, 3 * SECOND, 7 * SECOND, 15 * SECOND];
/// When a segment is sent again: from TCP_RTO_MIN, doubled.
const SEGMENT: [Time; 9] =
    [0, 200 * MS, 600 * MS, 1400 * MS, 3 * SECOND, 6200 * MS, 12_600 * MS, 25_400 * MS, 51 * SECOND];

/// From one instant up to another one.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub from: Time,
    pub to: Time,
}

impl Span {
    pub fn has(&self, at: Time) -> bool {
        (self.from..self.to).contains(&at)
    }
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its kernel resets all its clients.
    Killed,
    /// It closes each connection in order before.
    Graceful,
    /// No client is notified.
    Power,
}

/// One process.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    pub start: Time,
    /// It closes its listener.
    pub stop: Time,
    pub end: Time,
    pub how: End,
}

/// One API server and its host.
#[derive(Clone, Debug, Default)]
pub struct Server {
    pub lives: Vec<Life>,
    /// Without power.
    pub without_power: Vec<Span>,
    /// The machine is stopped, and continues where it was.
    pub frozen: Vec<Span>,
    /// The process is stopped.
    pub stopped: Vec<Span>,
    /// Each answer takes this long in the mean.
    pub slow: Vec<(Span, Time)>,
    /// Each answer takes longer with more clients: with this share of all of them its capacity is used up.
    pub overloaded: Vec<(Span, f64)>,
    /// `/readyz` fails.
    pub not_ready: Vec<Span>,
    /// It is not published.
    pub withdrawn: Vec<Span>,
}

/// Which nodes.
#[derive(Clone, Copy, Debug)]
pub enum Nodes {
    All,
    One(usize),
    /// Every second one.
    Half,
}

impl Nodes {
    pub fn has(self, node: usize) -> bool {
        match self {
            Self::All => true,
            Self::One(one) => one == node,
            Self::Half => node.is_multiple_of(2),
        }
    }
}

/// Which direction: from node to API server, or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Up,
    Down,
}

/// Packets are lost.
#[derive(Clone, Copy, Debug)]
pub struct Loss {
    pub span: Span,
    pub nodes: Nodes,
    /// Of this API server, or all.
    pub server: Option<usize>,
    /// In this direction, or both.
    pub way: Option<Way>,
    /// This share of them.
    pub share: f64,
    /// Only packets of connections that the daemon opens.
    pub own_dials: bool,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub seed: u64,
    pub servers: [Server; SERVERS],
    pub losses: Vec<Loss>,
    /// The node's clock is wrong: it verifies no certificate.
    pub wrong: Vec<(Nodes, Span)>,
    /// The node is suspended.
    pub suspended: Vec<(Nodes, Span)>,
    /// The daemon restarts.
    pub crashes: Vec<(Nodes, Time)>,
    /// What is lost by one node alone, by its number.
    own: Vec<Vec<Loss>>,
    /// When anything changes for each node, in order.
    changes: Vec<Vec<Time>>,
}

/// A connection's other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub server: usize,
    /// Which of its lives.
    pub life: usize,
    /// After so many losses of power.
    pub boot: usize,
}

/// The result of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Answered(Time),
    /// The other end does not know the connection any more, and resets it.
    Reset(Time),
    Nothing,
}

/// The result of a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialed {
    Connected(Time, Peer),
    Refused(Time),
    Nothing,
}

impl World {
    /// Nothing happens, and one process runs on each host.
    pub fn new(seed: u64) -> Self {
        let mut world = Self { seed, ..Self::default() };
        for server in &mut world.servers {
            server.lives.push(Life { start: 0, stop: NEVER, end: NEVER, how: End::Killed });
        }
        world
    }

    /// To be called when all is drawn, for so many nodes.
    pub fn settle(&mut self, nodes: usize) {
        let mut all: Vec<Time> = Vec::new();
        let mut add = |span: &Span| all.extend([span.from, span.to]);
        for server in &self.servers {
            [&server.without_power, &server.frozen, &server.stopped, &server.not_ready, &server.withdrawn]
                .into_iter()
                .flatten()
                .for_each(&mut add);
            server.slow.iter().map(|(span, _)| span).for_each(&mut add);
            server.overloaded.iter().map(|(span, _)| span).for_each(&mut add);
            server.lives.iter().for_each(|life| {
                add(&Span { from: life.start, to: life.stop });
                add(&Span { from: life.end, to: life.end });
            });
        }
        self.wrong.iter().chain(&self.suspended).map(|(_, span)| span).for_each(&mut add);
        self.own = vec![Vec::new(); nodes];
        for loss in std::mem::take(&mut self.losses) {
            match loss.nodes {
                Nodes::One(node) => self.own[node].push(loss),
                _ => self.losses.push(loss),
            }
        }
        self.losses.iter().map(|loss| &loss.span).for_each(&mut add);
        let of = |own: &Vec<Loss>| {
            let mut changes = all.clone();
            changes.extend(own.iter().flat_map(|loss| [loss.span.from, loss.span.to]));
            changes.retain(|at| *at < NEVER);
            changes.sort_unstable();
            changes.dedup();
            changes
        };
        self.changes = self.own.iter().map(of).collect();
    }

    /// When anything changes for a node next.
    pub fn next_change(&self, node: usize, after: Time) -> Time {
        let changes = &self.changes[node];
        let at = changes.partition_point(|at| *at <= after);
        changes.get(at).copied().unwrap_or(NEVER)
    }

    /// All changes before that time, the latest first.
    pub fn changes_before(&self, node: usize, at: Time) -> impl Iterator<Item = Time> {
        let changes = &self.changes[node];
        changes[..changes.partition_point(|change| *change <= at)].iter().rev().copied()
    }

    fn lossy(&self, node: usize, server: usize, at: Time) -> impl Iterator<Item = &Loss> {
        self.losses.iter().chain(&self.own[node]).filter(move |loss| {
            loss.span.has(at) && loss.nodes.has(node) && loss.server.is_none_or(|only| only == server)
        })
    }

    /// Whether a packet that is sent then arrives.
    pub fn passes(&self, node: usize, server: usize, way: Way, at: Time, own_dial: bool) -> bool {
        self.lossy(node, server, at).enumerate().all(|(n, loss)| {
            if loss.way.is_some_and(|only| only != way) || (loss.own_dials && !own_dial) {
                return true;
            }
            loss.share < 1.0
                && hashed(&[self.seed, node as u64, server as u64, way as u64, at, n as u64]) >= loss.share
        })
    }

    /// Whether packets of clients may arrive, if not all of them.
    pub fn is_open(&self, node: usize, server: usize, at: Time) -> bool {
        self.lossy(node, server, at).all(|loss| loss.share < 1.0 || loss.own_dials)
            && self.host_is_up(server, at)
    }

    /// Whether nothing at all disturbs packets.
    pub fn is_clear(&self, node: usize, server: usize, at: Time) -> bool {
        self.lossy(node, server, at).next().is_none() && self.host_is_up(server, at)
    }

    pub fn host_is_up(&self, server: usize, at: Time) -> bool {
        let server = &self.servers[server];
        !has(&server.without_power, at) && !has(&server.frozen, at)
    }

    /// Whether this process runs.
    pub fn is_running(&self, peer: Peer, at: Time) -> bool {
        self.host_is_up(peer.server, at)
            && !has(&self.servers[peer.server].stopped, at)
            && self.servers[peer.server].lives[peer.life].end > at
    }

    pub fn boot(&self, server: usize, at: Time) -> usize {
        self.servers[server].without_power.iter().filter(|span| span.from <= at).count()
    }

    pub fn life(&self, peer: Peer) -> Life {
        self.servers[peer.server].lives[peer.life]
    }

    fn listener(&self, server: usize, at: Time) -> Option<Peer> {
        let life =
            self.servers[server].lives.iter().position(|life| (life.start..life.stop).contains(&at))?;
        Some(Peer { server, life, boot: self.boot(server, at) })
    }

    pub fn is_published(&self, server: usize, at: Time) -> bool {
        !has(&self.servers[server].withdrawn, at)
    }

    pub fn is_unready(&self, server: usize, at: Time) -> bool {
        has(&self.servers[server].not_ready, at)
    }

    pub fn is_wrong(&self, node: usize, at: Time) -> bool {
        self.wrong.iter().any(|(nodes, span)| nodes.has(node) && span.has(at))
    }

    /// Whether it is slow, for whatever reason.
    pub fn is_slow(&self, server: usize, at: Time) -> bool {
        let server = &self.servers[server];
        server.slow.iter().any(|(span, _)| span.has(at))
            || server.overloaded.iter().any(|(span, _)| span.has(at))
    }

    /// Until when the node is suspended, if it is.
    pub fn suspended_until(&self, node: usize, at: Time) -> Option<Time> {
        self.suspended.iter().find(|(nodes, span)| nodes.has(node) && span.has(at)).map(|(_, span)| span.to)
    }

    /// Opens a connection.
    pub fn dial(&self, node: usize, server: usize, at: Time, own: bool) -> Dialed {
        for again in SYN {
            let sent = at + again;
            let there = sent + LATENCY;
            if !self.passes(node, server, Way::Up, sent, own) || !self.host_is_up(server, there) {
                continue;
            }
            if !self.passes(node, server, Way::Down, there, own) {
                continue;
            }
            return match self.listener(server, there) {
                Some(peer) => Dialed::Connected(there + LATENCY, peer),
                None => Dialed::Refused(there + LATENCY),
            };
        }
        Dialed::Nothing
    }

    /// A request over an open connection. `load` is the share of all connections that the API server has.
    pub fn ask(&self, node: usize, peer: Peer, at: Time, load: f64) -> Fate {
        for again in SEGMENT {
            let sent = at + again;
            let there = sent + LATENCY;
            if !self.passes(node, peer.server, Way::Up, sent, false) || !self.host_is_up(peer.server, there) {
                continue;
            }
            if self.boot(peer.server, there) != peer.boot || self.life(peer).end <= there {
                match self.passes(node, peer.server, Way::Down, there, false) {
                    true => return Fate::Reset(there + LATENCY),
                    false => continue,
                }
            }
            return match self.serve(node, peer, there, load) {
                Some(done) => self.arrival(node, peer.server, done).map_or(Fate::Nothing, Fate::Answered),
                None => self.end_arrives(node, peer).map_or(Fate::Nothing, Fate::Reset),
            };
        }
        Fate::Nothing
    }

    /// When a segment that the API server's kernel sends then, and again until it is acknowledged, arrives.
    fn arrival(&self, node: usize, server: usize, at: Time) -> Option<Time> {
        let boot = self.boot(server, at);
        let mut times = SEGMENT.into_iter().map(|again| at + again);
        times
            .find(|sent| {
                self.host_is_up(server, *sent)
                    && self.boot(server, *sent) == boot
                    && self.passes(node, server, Way::Down, *sent, false)
            })
            .map(|sent| sent + LATENCY)
    }

    /// When the reset of a killed process arrives at a client.
    pub fn end_arrives(&self, node: usize, peer: Peer) -> Option<Time> {
        let Life { end, how, .. } = self.life(peer);
        (how != End::Power && end < NEVER).then(|| self.arrival(node, peer.server, end)).flatten()
    }

    /// When the close of a connection at that time arrives at a client.
    pub fn close_arrives(&self, node: usize, peer: Peer, at: Time) -> Option<Time> {
        self.arrival(node, peer.server, at)
    }

    /// When the process has answered a request that arrives then; `None` if it does not run that long.
    fn serve(&self, node: usize, peer: Peer, at: Time, load: f64) -> Option<Time> {
        let server = &self.servers[peer.server];
        let running = |mut at: Time| {
            while let Some(span) = server.stopped.iter().chain(&server.frozen).find(|span| span.has(at)) {
                at = span.to;
            }
            at
        };
        let mut done = running(at) + 500;
        if let Some((_, mean)) = server.slow.iter().find(|(span, _)| span.has(done)) {
            let chance = hashed(&[self.seed, node as u64, peer.server as u64, done, 7]);
            // Most of them soon, some very late, none later than three times the mean.
            done += (*mean as f64 * (-(1.0 - chance).ln()).min(3.0)) as Time;
        }
        if let Some((_, capacity)) = server.overloaded.iter().find(|(span, _)| span.has(done)) {
            let used = load / capacity;
            let seconds =
                if used < 0.99 { 0.01 / (1.0 - used) } else { (1.0 + (used - 0.99) * 20.0).min(10.0) };
            let chance = hashed(&[self.seed, node as u64, peer.server as u64, done, 8]);
            done += (seconds * (0.5 + chance) * SECOND as f64) as Time;
        }
        done = running(done);
        (done < self.life(peer).end && self.boot(peer.server, done) == peer.boot).then_some(done)
    }
}

fn has(spans: &[Span], at: Time) -> bool {
    spans.iter().any(|span| span.has(at))
}
