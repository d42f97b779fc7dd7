//! A fleet in one process, in virtual time: nodes that decide with the daemon's own code, against models of API servers, hosts,
//! networks and clients.
//!
//! In: a kind of fault, a seed, how many nodes and faults. Out: a [`Tally`]. The same seed is the same run. There are no sockets
//! and no threads. It is a discrete-event simulation: time in which nothing happens costs nothing.

use std::time::{Duration, Instant};

pub use fault::Kind;
pub use node::options;
pub use tally::{Tally, table};

use clients::{FLOWS, Flow};
use node::Node;
use queue::{Event, Queue};
use random::Rng;
use world::{MS, NEVER, SECOND, SERVERS, Time, World};

mod clients;
mod daemon;
mod fault;
mod node;
mod prober;
mod queue;
mod random;
mod tally;
mod world;

/// After this the client of a connection that is of no use should have been notified.
const NOTIFIED: Time = 60 * SECOND;

/// See the module.
struct Fleet {
    world: World,
    begin: Instant,
    queue: Queue,
    rng: Rng,
    nodes: Vec<Node>,
    flows: Vec<Flow>,
    numbers: u64,
    /// Open connections of each API server.
    loads: [usize; SERVERS],
    /// New connections of each in the current second.
    seconds: [(Time, u64); SERVERS],
    tally: Tally,
}

/// Simulates one run.
pub fn simulate(kind: Kind, seed: u64, nodes: usize, faults: usize) -> Tally {
    let (world, end) = fault::draw(kind, seed, nodes, faults);
    let mut rng = Rng::new(seed ^ 0x5eed);
    let flows = (0..nodes * FLOWS).map(|flow| Flow {
        node: flow / FLOWS,
        // Half of them are idle, and on every fourth node all.
        period: (flow % FLOWS >= SERVERS && !(flow / FLOWS).is_multiple_of(4))
            .then(|| rng.between(SECOND / 2, 4 * SECOND)),
        peer: None,
        since: 0,
        number: 0,
    });
    let mut fleet = Fleet {
        flows: flows.collect(),
        nodes: (0..nodes).map(|node| Node::new(seed.wrapping_mul(31).wrapping_add(node as u64), 0)).collect(),
        // Far from the beginning of the clock, whatever is subtracted.
        begin: Instant::now() + Duration::from_secs(86_400),
        queue: Queue::default(),
        numbers: 0,
        loads: [0; SERVERS],
        seconds: [(0, 0); SERVERS],
        tally: Tally {
            faults: faults as u64,
            node_seconds: nodes as u64 * (end / SECOND),
            ..Tally::default()
        },
        rng,
        world,
    };
    fleet.run(end);
    fleet.tally
}

impl Fleet {
    fn run(&mut self, end: Time) {
        self.schedule();
        self.begin();
        for node in 0..self.nodes.len() {
            // Daemons do not begin in step.
            let at = self.rng.between(0, 5 * SECOND);
            self.queue.push(at, Event::Publish { node });
        }
        while let Some((at, event)) = self.queue.pop().filter(|(at, _)| *at < end) {
            // A suspended node handles it later, and what was received first.
            match self.node_of(event).and_then(|node| self.world.suspended_until(node, at)) {
                Some(later) => self.queue.push(later, event),
                None => self.handle(at, event),
            }
        }
    }

    /// Schedules what the world has drawn and nodes or clients notice.
    fn schedule(&mut self) {
        for (server, it) in self.world.servers.iter().enumerate() {
            for (life, ended) in it.lives.iter().enumerate().filter(|(_, life)| life.end < NEVER) {
                let check = Event::Check { server, life: Some(life), failed_at: ended.end };
                self.queue.push(ended.end + NOTIFIED, check);
            }
            for pause in it.stopped.iter().chain(&it.frozen) {
                self.queue.push(pause.to, Event::Resumed { server, since: pause.from });
            }
            for withdrawn in &it.withdrawn {
                for node in 0..self.nodes.len() {
                    let delay = self.rng.between(MS, 100 * MS);
                    self.queue.push(withdrawn.from + delay, Event::Publish { node });
                    self.queue.push(withdrawn.to + delay, Event::Publish { node });
                }
            }
        }
        for loss in self.world.losses.iter().filter(|loss| loss.share >= 1.0 && !loss.own_dials) {
            if let Some(server) = loss.server.filter(|_| loss.span.to - loss.span.from > NOTIFIED) {
                let check = Event::Check { server, life: None, failed_at: loss.span.from };
                self.queue.push(loss.span.from + NOTIFIED - MS, check);
            }
        }
        for (nodes, at) in &self.world.crashes {
            for node in (0..self.nodes.len()).filter(|node| nodes.has(*node)) {
                let later = self.rng.between(0, SECOND);
                self.queue.push(*at + later, Event::Crash { node });
            }
        }
    }

    /// The node of an event. A suspended node delays its daemon and its clients, but not the kernels of other hosts.
    fn node_of(&self, event: Event) -> Option<usize> {
        match event {
            Event::Received { node, .. }
            | Event::Wake { node, .. }
            | Event::Keepalive { node, .. }
            | Event::Deadline { node, .. }
            | Event::End { node, .. }
            | Event::Challenge { node, .. }
            | Event::Publish { node }
            | Event::Crash { node } => Some(node),
            Event::Closed { flow, .. } | Event::Connect { flow } | Event::Data { flow, .. } => {
                Some(self.flows[flow].node)
            }
            Event::Check { .. } | Event::Resumed { .. } => None,
        }
    }

    fn handle(&mut self, now: Time, event: Event) {
        match event {
            Event::Received { node, server, crashes, what } => {
                if self.nodes[node].crashes == crashes {
                    self.received(now, node, server, what);
                }
            }
            Event::Wake { node, server, number, crashes } => {
                let this = &self.nodes[node];
                if this.crashes == crashes && this.probers[server].wake == number {
                    self.step(now, node, server);
                }
            }
            Event::Keepalive { node, server, kept, crashes } => {
                if self.nodes[node].crashes == crashes {
                    self.keepalive(now, node, server, kept);
                }
            }
            Event::Deadline { node, number } => {
                if self.nodes[node].deadlines == number {
                    self.nodes[node].deadline = None;
                    self.evaluate(now, node);
                }
            }
            Event::End { node, server, round } => {
                if self.nodes[node].failed[server] {
                    self.ended(now, node, server);
                    if round < 3 {
                        self.queue.push(now + 550 * MS, Event::End { node, server, round: round + 1 });
                    }
                }
            }
            Event::Challenge { node, server, round } => {
                self.challenged(now, node, server);
                if round < 2 {
                    self.queue.push(now + 550 * MS, Event::Challenge { node, server, round: round + 1 });
                }
            }
            Event::Closed { flow, number } => self.closed(now, flow, number),
            Event::Connect { flow } => self.connect(now, flow),
            Event::Data { flow, number, watch } => self.data(now, flow, number, watch),
            Event::Publish { node } => self.published(now, node),
            Event::Crash { node } => {
                let seed = self.rng.between(0, u64::MAX / 2);
                self.nodes[node].crash(seed, now);
                self.published(now, node);
            }
            Event::Check { server, life, failed_at } => self.check(server, life, failed_at),
            Event::Resumed { server, since } => {
                for node in &mut self.nodes {
                    let accepted = &mut node.probers[server].accepted;
                    let found = accepted.drain(..).filter(|at| *at >= since).count();
                    self.tally.handshakes = self.tally.handshakes.max(found);
                }
            }
        }
    }

    fn at(&self, time: Time) -> Instant {
        self.begin + Duration::from_micros(time)
    }
}
