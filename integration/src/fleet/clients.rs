//! Connections of clients: where each leads, and what truth says of its end.

use super::Fleet;
use super::queue::Event;
use super::tally::seconds;
use super::world::{Dialled, End, MS, NEVER, Peer, SECOND, SERVERS, Time};

/// Each node has so many connections, a third of them to each apiserver at first.
pub const FLOWS: usize = 6;
/// A connection that is of no use for so long is dead to its client, whatever comes later.
const DEAD: Time = 60 * SECOND;
/// The daemon's.
const TIMEOUT: Time = 5 * SECOND;

/// A connection of a client.
#[derive(Clone, Debug)]
pub struct Flow {
    pub node: usize,
    /// Data come from the apiserver so often; an idle one has none.
    pub period: Option<Time>,
    pub peer: Option<Peer>,
    pub since: Time,
    /// Each that is opened has another number.
    pub number: u64,
}

/// A silent one is asked again within this.
const QUESTION: Time = 1300 * MS;

/// What it was like to be ended.
enum Truth {
    /// It was of no use for good from then on.
    Dead(Time),
    /// Its apiserver was away from then until then.
    Away(Time, Time),
    /// It worked.
    Sound,
}

impl Fleet {
    /// What is open from a node to an apiserver, as its conntrack has it.
    pub fn open(&self, node: usize, server: usize) -> Vec<usize> {
        let flows = node * FLOWS..(node + 1) * FLOWS;
        flows.filter(|flow| self.flows[*flow].peer.is_some_and(|peer| peer.server == server)).collect()
    }

    /// The part of all connections that an apiserver has.
    pub fn load(&self, server: usize) -> f64 {
        self.loads[server] as f64 / self.flows.len() as f64
    }

    pub fn connect(&mut self, now: Time, flow: usize) {
        let node = self.flows[flow].node;
        let chosen = self.nodes[node].chosen.clone();
        let server = chosen[self.dice.pick(chosen.len())];
        self.nodes[node].probers[server].in_use(now);
        self.wake(now, node, server);
        match self.world.dial(node, server, now, false) {
            Dialled::Connected(at, peer) if at < now + SECOND => self.opened(at, flow, peer),
            Dialled::Refused(at) => {
                self.tally.missed += 1;
                self.queue.push(at + 100 * MS, Event::Connect { flow });
            }
            // Its next SYN is translated anew where the backend left the path; where it did not, it waits.
            _ => {
                self.tally.missed += 1;
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
        let told = match life.how {
            _ if life.end >= NEVER => None,
            End::Power => None,
            End::Killed => self.world.end_is_told(node, peer),
            End::Graceful => {
                // It ends requests and watches from then on; the last ones when it ends itself.
                let from = life.stop.max(at);
                let close =
                    if self.dice.happens(0.3) { life.end } else { self.dice.between(from, life.end + 1) };
                self.world.close_is_told(node, peer, close)
            }
        };
        if let Some(told) = told {
            self.queue.push(told.max(at), Event::Told { flow, number });
        }
        let watch = self.nodes[node].watch[peer.server];
        if let Some(watch) = watch {
            self.data_follow(at, flow, watch);
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

    /// The client knows, and connects anew.
    fn over(&mut self, now: Time, flow: usize) -> Option<Peer> {
        let peer = self.flows[flow].peer.take()?;
        self.loads[peer.server] -= 1;
        let at = now + self.dice.between(MS, 200 * MS);
        self.queue.push(at, Event::Connect { flow });
        Some(peer)
    }

    pub fn told(&mut self, now: Time, flow: usize, number: u64) {
        if self.flows[flow].number != number {
            return;
        }
        let Some(peer) = self.over(now, flow) else { return };
        let life = self.world.life(peer);
        if life.how == End::Killed && life.end <= now {
            self.tally.by_kernel.note(now - life.end);
        }
    }

    /// A bare SYN makes each client say something to the apiserver's host, which resets what it does not know.
    pub fn asked(&mut self, now: Time, node: usize, server: usize) {
        use super::world::Way::{Down, Up};
        for flow in self.open(node, server) {
            let Some(peer) = self.flows[flow].peer else { continue };
            let at = now + self.dice.between(0, 20 * MS);
            let passes = |way| self.world.passes(node, server, way, at + flow as u64, false);
            let unknown = self.world.life(peer).end <= at || self.world.boot(server, at) != peer.boot;
            if unknown && self.world.host_is_up(server, at) && passes(Up) && passes(Down) {
                // Its host may have been away for a while.
                let end = self.world.life(peer).end;
                let back =
                    self.world.servers[server].dark.iter().find(|dark| dark.has(end)).map(|dark| dark.to);
                self.over(at, flow);
                self.tally.by_asking.note(at.saturating_sub(back.unwrap_or(end)));
            }
        }
    }

    pub fn ended(&mut self, now: Time, node: usize, server: usize) {
        for flow in self.open(node, server) {
            let Some(peer) = self.flows[flow].peer else { continue };
            let truth = self.truth(now, node, peer);
            self.over(now, flow);
            let heard = self.nodes[node].heard[server].is_some_and(|at| now - at < TIMEOUT);
            let data = self.data_came(now, node, server);
            let away = match truth {
                Truth::Dead(since) => {
                    self.tally.by_daemon.note(now - since);
                    continue;
                }
                Truth::Away(from, to) => Some((from, to)),
                Truth::Sound => None,
            };
            // Answers to what was asked before are late still.
            let slow = self.world.is_slow(server, now) || self.world.is_slow(server, now - 2 * TIMEOUT);
            let lived = away.map_or(!slow, |(from, to)| to - from <= TIMEOUT);
            if !(lived || heard || data) {
                self.tally.price += 1;
                continue;
            }
            self.tally.lived += u64::from(lived);
            self.tally.heard += u64::from(heard);
            self.tally.data += u64::from(data);
            let away = away.map(|(from, to)| (seconds(from), seconds(to)));
            self.tally.wrong.push(format!(
                "node {node} ended a connection to {server} at {:.3} s, which was away {away:?}; lived {lived}, heard {heard}, data {data}",
                seconds(now),
            ));
        }
    }

    fn is_sound(&self, at: Time, node: usize, peer: Peer) -> bool {
        self.world.is_open(node, peer.server, at)
            && self.world.is_running(peer, at)
            && self.world.boot(peer.server, at) == peer.boot
    }

    fn truth(&self, now: Time, node: usize, peer: Peer) -> Truth {
        let end = self.world.life(peer).end;
        if end <= now {
            return Truth::Dead(end);
        }
        let (mut from, mut to) = (now, now);
        if self.is_sound(now, node, peer) {
            // It may be back since a moment ago: the next question is on its way.
            let since = self
                .world
                .changes_before(node, now)
                .find(|at| !self.is_sound(at.saturating_sub(1), node, peer));
            match since.filter(|at| now - at < QUESTION) {
                Some(at) => (from, to) = (at - 1, at - 1),
                None => return Truth::Sound,
            }
        }
        let now = from;
        for change in self.world.changes_before(node, now) {
            from = change;
            if change == 0 || self.is_sound(change - 1, node, peer) {
                break;
            }
        }
        while to < NEVER && !self.is_sound(to, node, peer) {
            to = self.world.next_change(node, to);
        }
        if to - from >= DEAD { Truth::Dead(from) } else { Truth::Away(from, to) }
    }

    /// Whether data of an apiserver arrived at a client of the node within the timeout.
    fn data_came(&self, now: Time, node: usize, server: usize) -> bool {
        self.open(node, server).into_iter().any(|flow| {
            let Flow { period: Some(period), peer: Some(peer), since, .. } = self.flows[flow] else {
                return false;
            };
            let last = (now - since) / period;
            let times = (1..=last).rev().map(|n| since + n * period).take_while(|at| now - at < TIMEOUT);
            times.into_iter().any(|at| self.data_arrive(at, node, peer))
        })
    }

    fn data_arrive(&self, at: Time, node: usize, peer: Peer) -> bool {
        self.world.is_running(peer, at)
            && self.world.passes(node, peer.server, super::world::Way::Down, at, false)
    }

    /// Where its apiserver is watched, the data of a flow are seen.
    pub fn data_follow(&mut self, now: Time, flow: usize, watch: u64) {
        let Flow { period, since, number, .. } = self.flows[flow];
        let Some(period) = period else { return };
        let next = since + (now.saturating_sub(since) / period + 1) * period;
        self.queue.push(next, Event::Data { flow, number, watch });
    }

    pub fn data(&mut self, now: Time, flow: usize, number: u64, watch: u64) {
        let Flow { node, peer: Some(peer), number: current, .. } = self.flows[flow] else { return };
        if current != number || self.nodes[node].watch[peer.server] != Some(watch) {
            return;
        }
        if self.data_arrive(now, node, peer) {
            self.arrives(now, node, peer.server, true);
        }
        self.data_follow(now, flow, watch);
    }

    /// Those that are still open a minute after their end.
    pub fn check(&mut self, server: usize, life: Option<usize>, died: Time) {
        let dead = |fleet: &Self, flow: &Flow| {
            let Some(peer) = flow.peer else { return false };
            peer.server == server
                && match life {
                    Some(life) => peer.life == life,
                    None => flow.since < died && !fleet.is_sound(died, flow.node, peer),
                }
        };
        let untold = self.flows.iter().filter(|flow| dead(self, flow)).count();
        self.tally.untold += untold as u64;
    }

    /// All connect at the beginning.
    pub fn begin(&mut self) {
        for flow in 0..self.flows.len() {
            if let Dialled::Connected(at, peer) =
                self.world.dial(self.flows[flow].node, flow % SERVERS, 0, false)
            {
                self.opened(at, flow, peer);
            }
        }
    }
}
