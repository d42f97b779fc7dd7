//! A fleet in one process: nodes that decide by the daemon's own code, against apiservers, hosts, networks and clients that are
//! modelled, in virtual time.
//!
//! In: a kind of fault, a seed, how many nodes and faults. Out: a [`Tally`]. The same seed is the same run. There are no sockets
//! and no threads, and quiet time costs nothing: it is driven by events.

use std::time::{Duration, Instant};

pub use fault::Kind;
pub use node::options;
pub use tally::{Tally, table};

use chance::Dice;
use clients::{FLOWS, Flow};
use node::Node;
use queue::{Event, Queue};
use world::{MS, NEVER, SECOND, SERVERS, Time, World};

mod chance;
mod clients;
mod daemon;
mod fault;
mod node;
mod prober;
mod queue;
mod tally;
mod world;

/// After this a connection that is of no use should have been told so.
const TOLD: Time = 60 * SECOND;

/// See the module.
struct Fleet {
    world: World,
    begin: Instant,
    queue: Queue,
    dice: Dice,
    nodes: Vec<Node>,
    flows: Vec<Flow>,
    numbers: u64,
    /// Open connections of each apiserver.
    loads: [usize; SERVERS],
    /// New connections of each in the second that runs.
    seconds: [(Time, u64); SERVERS],
    tally: Tally,
}

/// Plays one run.
pub fn play(kind: Kind, seed: u64, nodes: usize, faults: usize) -> Tally {
    let (world, end) = fault::draw(kind, seed, nodes, faults);
    let mut dice = Dice::new(seed ^ 0x5eed);
    let flows = (0..nodes * FLOWS).map(|flow| Flow {
        node: flow / FLOWS,
        // Half of them are idle, and on every fourth node all.
        period: (flow % FLOWS >= SERVERS && !(flow / FLOWS).is_multiple_of(4))
            .then(|| dice.between(SECOND / 2, 4 * SECOND)),
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
        dice,
        world,
    };
    fleet.run(end);
    fleet.tally
}

impl Fleet {
    fn run(&mut self, end: Time) {
        self.foresee();
        self.begin();
        for node in 0..self.nodes.len() {
            // Daemons do not begin in step.
            let at = self.dice.between(0, 5 * SECOND);
            self.queue.push(at, Event::Publish { node });
        }
        while let Some((at, event)) = self.queue.pop().filter(|(at, _)| *at < end) {
            // Who stands still hears of it later, and of what was received first.
            match self.concerned(event).and_then(|node| self.world.sleeps(node, at)) {
                Some(later) => self.queue.push(later, event),
                None => self.happens(at, event),
            }
        }
    }

    /// What the world has drawn and others hear of.
    fn foresee(&mut self) {
        for (server, it) in self.world.servers.iter().enumerate() {
            for (life, ended) in it.lives.iter().enumerate().filter(|(_, life)| life.end < NEVER) {
                let check = Event::Check { server, life: Some(life), died: ended.end };
                self.queue.push(ended.end + TOLD, check);
            }
            for still in it.stopped.iter().chain(&it.frozen) {
                self.queue.push(still.to, Event::GoesOn { server, since: still.from });
            }
            for gone in &it.withdrawn {
                for node in 0..self.nodes.len() {
                    let late = self.dice.between(MS, 100 * MS);
                    self.queue.push(gone.from + late, Event::Publish { node });
                    self.queue.push(gone.to + late, Event::Publish { node });
                }
            }
        }
        for loss in self.world.losses.iter().filter(|loss| loss.share >= 1.0 && !loss.own_dials) {
            if let Some(server) = loss.server.filter(|_| loss.span.to - loss.span.from > TOLD) {
                let check = Event::Check { server, life: None, died: loss.span.from };
                self.queue.push(loss.span.from + TOLD - MS, check);
            }
        }
        for (nodes, at) in &self.world.crashes {
            for node in (0..self.nodes.len()).filter(|node| nodes.has(*node)) {
                let later = self.dice.between(0, SECOND);
                self.queue.push(*at + later, Event::Crash { node });
            }
        }
    }

    /// Whose daemon it happens to. What the kernel does for clients, and what is theirs, is not delayed.
    fn concerned(&self, event: Event) -> Option<usize> {
        match event {
            Event::Received { node, .. }
            | Event::Wake { node, .. }
            | Event::Look { node, .. }
            | Event::Deadline { node, .. }
            | Event::End { node, .. }
            | Event::Ask { node, .. }
            | Event::Publish { node }
            | Event::Crash { node } => Some(node),
            Event::Told { flow, .. } | Event::Connect { flow } | Event::Data { flow, .. } => {
                Some(self.flows[flow].node)
            }
            Event::Check { .. } | Event::GoesOn { .. } => None,
        }
    }

    fn happens(&mut self, now: Time, event: Event) {
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
            Event::Look { node, server, kept, crashes } => {
                if self.nodes[node].crashes == crashes {
                    self.look(now, node, server, kept);
                }
            }
            Event::Deadline { node, number } => {
                if self.nodes[node].deadlines == number {
                    self.nodes[node].deadline = None;
                    self.pass(now, node);
                }
            }
            Event::End { node, server, round } => {
                if self.nodes[node].dead[server] {
                    self.ended(now, node, server);
                    if round < 3 {
                        self.queue.push(now + 550 * MS, Event::End { node, server, round: round + 1 });
                    }
                }
            }
            Event::Ask { node, server, round } => {
                self.asked(now, node, server);
                if round < 2 {
                    self.queue.push(now + 550 * MS, Event::Ask { node, server, round: round + 1 });
                }
            }
            Event::Told { flow, number } => self.told(now, flow, number),
            Event::Connect { flow } => self.connect(now, flow),
            Event::Data { flow, number, watch } => self.data(now, flow, number, watch),
            Event::Publish { node } => self.published(now, node),
            Event::Crash { node } => {
                let seed = self.dice.between(0, u64::MAX / 2);
                self.nodes[node].crash(seed, now);
                self.published(now, node);
            }
            Event::Check { server, life, died } => self.check(server, life, died),
            Event::GoesOn { server, since } => {
                for node in &mut self.nodes {
                    let accepted = &mut node.probers[server].accepted;
                    let found = accepted.drain(..).filter(|at| *at >= since).count();
                    self.tally.storm = self.tally.storm.max(found);
                }
            }
        }
    }

    fn at(&self, time: Time) -> Instant {
        self.begin + Duration::from_micros(time)
    }
}
