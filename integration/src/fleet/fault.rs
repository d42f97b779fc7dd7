//! The kinds of faults, and how one of each is drawn.

use super::random::Rng;
use super::world::{End, Life, Loss, NEVER, Nodes, SECOND, SERVERS, Span, Time, Way, World};

/// Before the first fault.
const BEGIN: Time = 30 * SECOND;
/// After the last one: time for all decisions, and for failed connections to be noticed.
const REST: Time = 120 * SECOND;

/// What goes wrong in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The process of an API server is stopped for a while.
    ProcessStall,
    /// Its machine is.
    MachineStall,
    /// An API server has too little processor time.
    Starvation,
    /// Its answers take longer with more clients.
    Overload,
    /// Packets are lost at random.
    RandomLoss,
    /// All packets of one direction are lost.
    OneWayLoss,
    /// Each node is cut off from one API server, at a time of its own.
    NodeCutFromOne,
    /// Half of the nodes are cut off from one API server.
    HalfCutFromOne,
    /// Each node is cut off from all, at a time of its own.
    OwnLink,
    /// A firewall on the nodes drops what the daemon itself opens.
    OwnDialsDropped,
    /// An API server is cut off from all nodes.
    CableOut,
    /// Its host loses power.
    PowerLost,
    /// Its host loses power and comes back.
    PowerCycle,
    /// Its process is killed, and another one begins.
    Killed,
    /// Its process is terminated in order.
    GracefulStop,
    /// All three are, in turn.
    RollingUpgrade,
    /// No API server is ready.
    EtcdOutage,
    /// No node verifies certificates.
    WrongClock,
    /// All nodes are suspended in the middle of another fault.
    NodeStall,
    /// All daemons restart in the middle of another fault.
    DaemonCrash,
    /// Two of the kinds above, but for the two before this one.
    TwoAtOnce,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::ProcessStall,
        Self::MachineStall,
        Self::Starvation,
        Self::Overload,
        Self::RandomLoss,
        Self::OneWayLoss,
        Self::NodeCutFromOne,
        Self::HalfCutFromOne,
        Self::OwnLink,
        Self::OwnDialsDropped,
        Self::CableOut,
        Self::PowerLost,
        Self::PowerCycle,
        Self::Killed,
        Self::GracefulStop,
        Self::RollingUpgrade,
        Self::EtcdOutage,
        Self::WrongClock,
        Self::NodeStall,
        Self::DaemonCrash,
        Self::TwoAtOnce,
    ];

    /// For the table.
    pub fn label(self) -> &'static str {
        match self {
            Self::ProcessStall => "process stops, 0.1 to 30 s",
            Self::MachineStall => "machine stops, 0.1 to 30 s",
            Self::Starvation => "starved: answers take 0.3 to 4 s in the mean, up to 12 s",
            Self::Overload => "overload: answers take longer with more clients",
            Self::RandomLoss => "5 to 30 % of packets lost",
            Self::OneWayLoss => "one direction lost, 0.5 to 30 s",
            Self::NodeCutFromOne => "a node cut off from one, 0.5 to 30 s",
            Self::HalfCutFromOne => "half of the nodes cut off from one, 0.5 to 30 s",
            Self::OwnLink => "a node's own link out, 0.5 to 30 s",
            Self::OwnDialsDropped => "a node's own dials dropped by its firewall",
            Self::CableOut => "cable out for good",
            Self::PowerLost => "power lost for good",
            Self::PowerCycle => "power lost and back after 3 to 60 s",
            Self::Killed => "process killed, back after 1 to 10 s",
            Self::GracefulStop => "terminated in order, keeps running for 1 to 60 s",
            Self::RollingUpgrade => "rolling upgrade of all three",
            Self::EtcdOutage => "etcd down: /readyz fails on all",
            Self::WrongClock => "wrong clock: certificates not verified",
            Self::NodeStall => "node stops, in the middle of another fault",
            Self::DaemonCrash => "daemon crashes, in the middle of another fault",
            Self::TwoAtOnce => "two of these at the same time",
        }
    }

    /// Those that are combined.
    fn simple(rng: &mut Rng) -> Self {
        Self::ALL[rng.pick(Self::ALL.len() - 3)]
    }
}

/// Draws `faults` of a kind, one after the other. Returns when the run ends, too.
pub fn draw(kind: Kind, seed: u64, nodes: usize, faults: usize) -> (World, Time) {
    let seed = seed.wrapping_mul(100) + kind as u64;
    let mut rng = Rng::new(seed);
    let mut world = World::new(seed);
    let mut at = BEGIN + rng.between(0, 10 * SECOND);
    for _ in 0..faults {
        at = one(kind, &mut rng, &mut world, nodes, at) + REST + rng.between(0, 10 * SECOND);
    }
    world.settle(nodes);
    (world, at)
}

/// One fault that begins at `at`. Returns when it is over.
fn one(kind: Kind, rng: &mut Rng, world: &mut World, nodes: usize, at: Time) -> Time {
    let target = rng.pick(SERVERS);
    let lasts = rng.scaled(SECOND / 10, 30 * SECOND);
    let span = Span { from: at, to: at + lasts };
    let cut = Loss { span, nodes: Nodes::All, server: Some(target), way: None, share: 1.0, own_dials: false };
    let longer = Span { from: at, to: at + rng.between(10 * SECOND, 60 * SECOND) };
    match kind {
        Kind::ProcessStall => world.servers[target].stopped.push(span),
        Kind::MachineStall => world.servers[target].frozen.push(span),
        Kind::Starvation => {
            let mean = rng.scaled(3 * SECOND / 10, 4 * SECOND);
            world.servers[target].slow.push((longer, mean));
            return longer.to;
        }
        Kind::Overload => {
            // Its share of clients is a third.
            let capacity = 0.2 + 0.2 * rng.draw();
            world.servers[target].overloaded.push((longer, capacity));
            return longer.to;
        }
        Kind::RandomLoss => {
            let share = 0.05 + 0.25 * rng.draw();
            let server = rng.chance(0.7).then_some(target);
            world.losses.push(Loss { span: longer, share, server, ..cut });
            return longer.to;
        }
        Kind::OneWayLoss => {
            let way = if rng.chance(0.5) { Way::Up } else { Way::Down };
            world.losses.push(Loss { way: Some(way), ..cut });
        }
        Kind::NodeCutFromOne => {
            for node in 0..nodes {
                let nodes = Nodes::One(node);
                world.losses.push(Loss {
                    nodes,
                    server: Some(rng.pick(SERVERS)),
                    span: shifted(rng, span),
                    ..cut
                });
            }
            return span.to + 5 * SECOND;
        }
        Kind::HalfCutFromOne => world.losses.push(Loss { nodes: Nodes::Half, ..cut }),
        Kind::OwnLink => {
            for node in 0..nodes {
                let nodes = Nodes::One(node);
                world.losses.push(Loss { nodes, server: None, span: shifted(rng, span), ..cut });
            }
            return span.to + 5 * SECOND;
        }
        Kind::OwnDialsDropped => {
            let server = rng.chance(0.5).then_some(target);
            world.losses.push(Loss { server, span: longer, own_dials: true, ..cut });
            // And the daemon's connection to it is ended, so that it dials at all.
            world.crashes.push((Nodes::All, at + SECOND));
            return longer.to;
        }
        Kind::CableOut => {
            // A new one is laid before the next fault.
            let span = Span { from: at, to: at + 100 * SECOND };
            world.losses.push(Loss { span, ..cut });
        }
        Kind::PowerLost => power(rng, world, target, at, 100 * SECOND),
        Kind::PowerCycle => {
            let lasts = rng.between(3 * SECOND, 60 * SECOND);
            power(rng, world, target, at, lasts);
            return at + lasts;
        }
        Kind::Killed => {
            let back = at + rng.between(SECOND, 10 * SECOND);
            end(world, target, at, at, End::Killed, back);
        }
        Kind::GracefulStop => return graceful(rng, world, target, at),
        Kind::RollingUpgrade => {
            let mut at = at;
            for target in 0..SERVERS {
                at = graceful(rng, world, target, at) + rng.between(5 * SECOND, 30 * SECOND);
            }
            return at;
        }
        Kind::EtcdOutage => {
            world.servers.iter_mut().for_each(|server| server.not_ready.push(longer));
            return longer.to;
        }
        Kind::WrongClock => {
            world.wrong.push((Nodes::All, longer));
            // So that it has to make a handshake.
            world.crashes.push((Nodes::All, at + SECOND));
            return longer.to;
        }
        Kind::NodeStall => {
            let simple = Kind::simple(rng);
            let from = at + rng.between(0, 8 * SECOND);
            world.suspended.push((Nodes::All, Span { from, to: from + lasts }));
            return one(simple, rng, world, nodes, at).max(from + lasts);
        }
        Kind::DaemonCrash => {
            let simple = Kind::simple(rng);
            world.crashes.push((Nodes::All, at + rng.between(0, 10 * SECOND)));
            return one(simple, rng, world, nodes, at);
        }
        Kind::TwoAtOnce => {
            let (first, second) = (Kind::simple(rng), Kind::simple(rng));
            let over = one(first, rng, world, nodes, at);
            let later = at + rng.between(0, 10 * SECOND);
            // The second end of a process would depend on the first.
            let ends =
                [Kind::PowerLost, Kind::PowerCycle, Kind::Killed, Kind::GracefulStop, Kind::RollingUpgrade];
            let second =
                if ends.contains(&first) && ends.contains(&second) { Kind::RandomLoss } else { second };
            return one(second, rng, world, nodes, later).max(over);
        }
    }
    span.to
}

/// The same, a little later.
fn shifted(rng: &mut Rng, span: Span) -> Span {
    let by = rng.between(0, 5 * SECOND);
    Span { from: span.from + by, to: span.to + by }
}

/// The current process ends, and another one begins.
fn end(world: &mut World, target: usize, stop: Time, end: Time, how: End, back: Time) {
    let lives = &mut world.servers[target].lives;
    if let Some(life) = lives.last_mut() {
        (life.stop, life.end, life.how) = (stop, end, how);
    }
    lives.push(Life { start: back, stop: NEVER, end: NEVER, how: End::Killed });
}

fn power(rng: &mut Rng, world: &mut World, target: usize, at: Time, lasts: Time) {
    let back = at + lasts;
    world.servers[target].without_power.push(Span { from: at, to: back });
    end(world, target, at, at, End::Power, back + rng.between(2 * SECOND, 10 * SECOND));
}

/// It withdraws itself and is not ready, continues to serve, closes its listener, keeps running, and another process begins.
fn graceful(rng: &mut Rng, world: &mut World, target: usize, at: Time) -> Time {
    let delay = if rng.chance(0.5) { rng.between(0, 70 * SECOND) } else { 0 };
    let stop = at + delay;
    let over = stop + rng.between(SECOND, 60 * SECOND);
    let back = over + rng.between(2 * SECOND, 15 * SECOND);
    let withdrawn = Span { from: at, to: back };
    world.servers[target].not_ready.push(withdrawn);
    world.servers[target].withdrawn.push(Span { from: at + SECOND / 5, to: back });
    end(world, target, stop, over, End::Graceful, back);
    back
}
