//! Connections of clients: the API server of each, and whether ending it was right.

use super::Fleet;
use super::queue::Event;
use super::tally::seconds;
use super::world::{Dialed, End, MS, NEVER, Peer, SECOND, SERVERS, Time};

/// Connections of each node, a third of them to each API server at first.
pub const FLOWS: usize = 6;
/// A connection that is of no use for so long has failed for its client, whatever comes later.
const FAILED: Time = 60 * SECOND;
/// The daemon's `--silence-timeout`.
const TIMEOUT: Time = 5 * SECOND;

/// A connection of a client.
#[derive(Clone, Debug)]
pub struct Flow {
    pub node: usize,
    /// How often data arrive from the API server; an idle connection has none.
    pub period: Option<Time>,
    pub peer: Option<Peer>,
    pub since: Time,
    /// Each new connection has another number.
    pub number: u64,
}

/// A silent API server gets the next request within this time.
const NEXT_REQUEST: Time = 1300 * MS;

/// The state of a connection that the daemon ended.
enum Truth {
    /// It was of no use from then on.
    Failed(Time),
    /// Its API server was away from then until then.
    Away(Time, Time),
    /// It worked.
    Working,
}

impl Fleet {
    /// What is open from a node to an API server, as its conntrack has it.
    pub fn open(&self, node: usize, server: usize) -> Vec<usize> {
        let flows = node * FLOWS..(node + 1) * FLOWS;
        flows.filter(|flow| self.flows[*flow].peer.is_some_and(|peer| peer.server == server)).collect()
    }

    /// The share of all connections that an API server has.
    pub fn load(&self, server: usize) -> f64 {
        self.loads[server] as f64 / self.flows.len() as f64
    }

    pub fn connect(&mut self, now: Time, flow: usize) {
        let node = self.flows[flow].node;
        let chosen = self.nodes[node].chosen.clone();
        let server = chosen[self.rng.pick(chosen.len())];
        self.nodes[node].probers[server].in_use(now);
        self.wake(now, node, server);
        match self.world.dial(node, server, now, false) {
            Dialed::Connected(at, peer) if at < now + SECOND => self.opened(at, flow, peer),
            Dialed::Refused(at) => {
                self.tally.delayed += 1;
                self.queue.push(at + 100 * MS, Event::Connect { flow });
            }
            // Its next SYN is translated again if the daemon has deleted the entry; otherwise it waits.
            _ => {
                self.tally.delayed += 1;
                self.queue.push(now + SECOND, Event::Connect { flow });
            }
        }
    }

    pub fn opened(&mut self, at: Time, flow: usize, peer: Peer) {
        self.tally.connections += 1;
        if at > SECOND {
            self.count_connection(at, peer.server);
        }
        self.loads[peer.server] += 1;
        self.numbers += 1;
        let (node, number) = (self.flows[flow].node, self.numbers);
        (self.flows[flow].peer, self.flows[flow].since, self.flows[flow].number) = (Some(peer), at, number);
        let life = self.world.life(peer);
        let notified = match life.how {
            _ if life.end >= NEVER => None,
            End::Power => None,
            End::Killed => self.world.end_arrives(node, peer),
            End::Graceful => {
                // It ends requests and watches from then on, the last ones when its process ends.
                let from = life.stop.max(at);
                let close =
                    if self.rng.chance(0.3) { life.end } else { self.rng.between(from, life.end + 1) };
                self.world.close_arrives(node, peer, close)
            }
        };
        if let Some(notified) = notified {
            self.queue.push(notified.max(at), Event::Closed { flow, number });
        }
        let observed = self.nodes[node].observed[peer.server];
        if let Some(watch) = observed {
            self.schedule_data(at, flow, watch);
        }
    }

    fn count_connection(&mut self, now: Time, server: usize) {
        let second = now / SECOND;
        if self.seconds[server].0 != second {
            self.seconds[server] = (second, 0);
        }
        self.seconds[server].1 += 1;
        let peak = self.seconds[server].1 as f64 / self.nodes.len() as f64;
        self.tally.peak = self.tally.peak.max(peak);
    }

    /// The client is notified, and connects again.
    fn reconnect(&mut self, now: Time, flow: usize) -> Option<Peer> {
        let peer = self.flows[flow].peer.take()?;
        self.loads[peer.server] -= 1;
        let at = now + self.rng.between(MS, 200 * MS);
        self.queue.push(at, Event::Connect { flow });
        Some(peer)
    }

    /// A kernel ended a connection at its client.
    pub fn closed(&mut self, now: Time, flow: usize, number: u64) {
        if self.flows[flow].number != number {
            return;
        }
        let Some(peer) = self.reconnect(now, flow) else { return };
        let life = self.world.life(peer);
        if life.how == End::Killed && life.end <= now {
            self.tally.by_kernel.note(now - life.end);
        }
    }

    /// A challenge SYN makes each client send an ACK to the API server's host, which resets what it does not know.
    pub fn challenged(&mut self, now: Time, node: usize, server: usize) {
        use super::world::Way::{Down, Up};
        for flow in self.open(node, server) {
            let Some(peer) = self.flows[flow].peer else { continue };
            let at = now + self.rng.between(0, 20 * MS);
            let passes = |way| self.world.passes(node, server, way, at + flow as u64, false);
            let unknown = self.world.life(peer).end <= at || self.world.boot(server, at) != peer.boot;
            if unknown && self.world.host_is_up(server, at) && passes(Up) && passes(Down) {
                // Its host may have been away for a while.
                let end = self.world.life(peer).end;
                let back = self.world.servers[server]
                    .without_power
                    .iter()
                    .find(|span| span.has(end))
                    .map(|span| span.to);
                self.reconnect(at, flow);
                self.tally.by_challenge.note(at.saturating_sub(back.unwrap_or(end)));
            }
        }
    }

    pub fn ended(&mut self, now: Time, node: usize, server: usize) {
        for flow in self.open(node, server) {
            let Some(peer) = self.flows[flow].peer else { continue };
            let truth = self.truth(now, node, peer);
            self.reconnect(now, flow);
            let heard = self.nodes[node].heard[server].is_some_and(|at| now - at < TIMEOUT);
            let data = self.data_arrived(now, node, server);
            let away = match truth {
                Truth::Failed(since) => {
                    self.tally.by_daemon.note(now - since);
                    continue;
                }
                Truth::Away(from, to) => Some((from, to)),
                Truth::Working => None,
            };
            // Answers to earlier requests are still late.
            let slow = self.world.is_slow(server, now) || self.world.is_slow(server, now - 2 * TIMEOUT);
            let alive = away.map_or(!slow, |(from, to)| to - from <= TIMEOUT);
            if !(alive || heard || data) {
                self.tally.healed += 1;
                continue;
            }
            self.tally.alive += u64::from(alive);
            self.tally.heard += u64::from(heard);
            self.tally.data += u64::from(data);
            let away = away.map(|(from, to)| (seconds(from), seconds(to)));
            self.tally.wrong.push(format!(
                "node {node} ended a connection to {server} at {:.3} s, which was away {away:?}; alive {alive}, heard {heard}, data {data}",
                seconds(now),
            ));
        }
    }

    fn is_working(&self, at: Time, node: usize, peer: Peer) -> bool {
        self.world.is_open(node, peer.server, at)
            && self.world.is_running(peer, at)
            && self.world.boot(peer.server, at) == peer.boot
    }

    fn truth(&self, now: Time, node: usize, peer: Peer) -> Truth {
        let end = self.world.life(peer).end;
        if end <= now {
            return Truth::Failed(end);
        }
        let (mut from, mut to) = (now, now);
        if self.is_working(now, node, peer) {
            // It may just be back: the next request is on its way.
            let since = self
                .world
                .changes_before(node, now)
                .find(|at| !self.is_working(at.saturating_sub(1), node, peer));
            match since.filter(|at| now - at < NEXT_REQUEST) {
                Some(at) => (from, to) = (at - 1, at - 1),
                None => return Truth::Working,
            }
        }
        let now = from;
        for change in self.world.changes_before(node, now) {
            from = change;
            if change == 0 || self.is_working(change - 1, node, peer) {
                break;
            }
        }
        while to < NEVER && !self.is_working(to, node, peer) {
            to = self.world.next_change(node, to);
        }
        if to - from >= FAILED { Truth::Failed(from) } else { Truth::Away(from, to) }
    }

    /// Whether data of an API server arrived at a client of the node within the timeout.
    fn data_arrived(&self, now: Time, node: usize, server: usize) -> bool {
        self.open(node, server).into_iter().any(|flow| {
            let Flow { period: Some(period), peer: Some(peer), since, .. } = self.flows[flow] else {
                return false;
            };
            let last = (now - since) / period;
            let times = (1..=last).rev().map(|n| since + n * period).take_while(|at| now - at < TIMEOUT);
            times.into_iter().any(|at| self.data_arrives(at, node, peer))
        })
    }

    fn data_arrives(&self, at: Time, node: usize, peer: Peer) -> bool {
        self.world.is_running(peer, at)
            && self.world.passes(node, peer.server, super::world::Way::Down, at, false)
    }

    /// Where the daemon observes connections to the API server, it sees the data of a flow.
    pub fn schedule_data(&mut self, now: Time, flow: usize, watch: u64) {
        let Flow { period, since, number, .. } = self.flows[flow];
        let Some(period) = period else { return };
        let next = since + (now.saturating_sub(since) / period + 1) * period;
        self.queue.push(next, Event::Data { flow, number, watch });
    }

    pub fn data(&mut self, now: Time, flow: usize, number: u64, watch: u64) {
        let Flow { node, peer: Some(peer), number: current, .. } = self.flows[flow] else { return };
        if current != number || self.nodes[node].observed[peer.server] != Some(watch) {
            return;
        }
        if self.data_arrives(now, node, peer) {
            self.segment(now, node, peer.server, true);
        }
        self.schedule_data(now, flow, watch);
    }

    /// Those that are still open a minute after their end.
    pub fn check(&mut self, server: usize, life: Option<usize>, failed_at: Time) {
        let failed = |fleet: &Self, flow: &Flow| {
            let Some(peer) = flow.peer else { return false };
            peer.server == server
                && match life {
                    Some(life) => peer.life == life,
                    None => flow.since < failed_at && !fleet.is_working(failed_at, flow.node, peer),
                }
        };
        let left = self.flows.iter().filter(|flow| failed(self, flow)).count();
        self.tally.not_reset += left as u64;
    }

    /// All connect at the beginning.
    pub fn begin(&mut self) {
        for flow in 0..self.flows.len() {
            if let Dialed::Connected(at, peer) =
                self.world.dial(self.flows[flow].node, flow % SERVERS, 0, false)
            {
                self.opened(at, flow, peer);
            }
        }
    }
}
