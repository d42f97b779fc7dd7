//! The kinds of faults, and how one of each is drawn.

use super::chance::Dice;
use super::world::{End, Life, Loss, NEVER, Nodes, SECOND, SERVERS, Span, Time, Way, World};

/// Before the first fault.
const BEGIN: Time = 30 * SECOND;
/// After the last one: time for all decisions, and for dead connections to be noticed.
const REST: Time = 120 * SECOND;

/// What goes wrong in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The process of an apiserver stands still.
    ProcessStall,
    /// Its machine does.
    MachineStall,
    /// An apiserver has too little processor time.
    Starvation,
    /// Its answers take the longer the more clients it has.
    Overload,
    /// Packets are lost by chance.
    RandomLoss,
    /// All packets of one direction are.
    OneWayLoss,
    /// Each node is cut off from one apiserver, at a time of its own.
    NodeCutFromOne,
    /// Half of the nodes are cut off from one apiserver.
    HalfCutFromOne,
    /// Each node is cut off from all, at a time of its own.
    OwnLink,
    /// A firewall on the nodes drops what the daemon itself opens.
    OwnDialsDropped,
    /// An apiserver is cut off from all.
    CableOut,
    /// Its host loses power.
    PowerLost,
    /// Its host loses power and comes back.
    PowerCycle,
    /// Its process is killed, and another one begins.
    Killed,
    /// Its process is stopped in good order.
    GracefulStop,
    /// All three are, one after the other.
    RollingUpgrade,
    /// No apiserver is ready.
    EtcdOutage,
    /// No node verifies certificates.
    WrongClock,
    /// All nodes stand still in the middle of another fault.
    NodeStall,
    /// All daemons start anew in the middle of another fault.
    DaemonCrash,
    /// Two of those that come first.
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
            Self::ProcessStall => "process stands still, 0.1 to 30 s",
            Self::MachineStall => "machine stands still, 0.1 to 30 s",
            Self::Starvation => "starved: answers take 0.3 to 4 s in the mean, up to 12 s",
            Self::Overload => "overload: answers take the longer the more clients",
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
            Self::GracefulStop => "stopped in good order, lives on for 1 to 60 s",
            Self::RollingUpgrade => "rolling upgrade of all three",
            Self::EtcdOutage => "etcd out: /readyz red everywhere",
            Self::WrongClock => "wrong clock: certificates not verified",
            Self::NodeStall => "node stands still, in the middle of another fault",
            Self::DaemonCrash => "daemon crashes, in the middle of another fault",
            Self::TwoAtOnce => "two of these at the same time",
        }
    }

    /// Those that are combined.
    fn simple(dice: &mut Dice) -> Self {
        Self::ALL[dice.pick(Self::ALL.len() - 3)]
    }
}

/// Draws `faults` of a kind, one after the other. Returns when the run ends, too.
pub fn draw(kind: Kind, seed: u64, nodes: usize, faults: usize) -> (World, Time) {
    let seed = seed.wrapping_mul(100) + kind as u64;
    let mut dice = Dice::new(seed);
    let mut world = World::new(seed);
    let mut at = BEGIN + dice.between(0, 10 * SECOND);
    for _ in 0..faults {
        at = one(kind, &mut dice, &mut world, nodes, at) + REST + dice.between(0, 10 * SECOND);
    }
    world.settle(nodes);
    (world, at)
}

/// One fault that begins at `at`. Returns when it is over.
fn one(kind: Kind, dice: &mut Dice, world: &mut World, nodes: usize, at: Time) -> Time {
    let who = dice.pick(SERVERS);
    let lasts = dice.scaled(SECOND / 10, 30 * SECOND);
    let span = Span { from: at, to: at + lasts };
    let cut = Loss { span, nodes: Nodes::All, server: Some(who), way: None, share: 1.0, own_dials: false };
    let longer = Span { from: at, to: at + dice.between(10 * SECOND, 60 * SECOND) };
    match kind {
        Kind::ProcessStall => world.servers[who].stopped.push(span),
        Kind::MachineStall => world.servers[who].frozen.push(span),
        Kind::Starvation => {
            let mean = dice.scaled(3 * SECOND / 10, 4 * SECOND);
            world.servers[who].slow.push((longer, mean));
            return longer.to;
        }
        Kind::Overload => {
            // Its share of clients is a third.
            let capacity = 0.2 + 0.2 * dice.draw();
            world.servers[who].weak.push((longer, capacity));
            return longer.to;
        }
        Kind::RandomLoss => {
            let share = 0.05 + 0.25 * dice.draw();
            let server = dice.happens(0.7).then_some(who);
            world.losses.push(Loss { span: longer, share, server, ..cut });
            return longer.to;
        }
        Kind::OneWayLoss => {
            let way = if dice.happens(0.5) { Way::Up } else { Way::Down };
            world.losses.push(Loss { way: Some(way), ..cut });
        }
        Kind::NodeCutFromOne => {
            for node in 0..nodes {
                let nodes = Nodes::One(node);
                world.losses.push(Loss {
                    nodes,
                    server: Some(dice.pick(SERVERS)),
                    span: shifted(dice, span),
                    ..cut
                });
            }
            return span.to + 5 * SECOND;
        }
        Kind::HalfCutFromOne => world.losses.push(Loss { nodes: Nodes::Half, ..cut }),
        Kind::OwnLink => {
            for node in 0..nodes {
                let nodes = Nodes::One(node);
                world.losses.push(Loss { nodes, server: None, span: shifted(dice, span), ..cut });
            }
            return span.to + 5 * SECOND;
        }
        Kind::OwnDialsDropped => {
            let server = dice.happens(0.5).then_some(who);
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
        Kind::PowerLost => power(dice, world, who, at, 100 * SECOND),
        Kind::PowerCycle => {
            let lasts = dice.between(3 * SECOND, 60 * SECOND);
            power(dice, world, who, at, lasts);
            return at + lasts;
        }
        Kind::Killed => {
            let back = at + dice.between(SECOND, 10 * SECOND);
            end(world, who, at, at, End::Killed, back);
        }
        Kind::GracefulStop => return graceful(dice, world, who, at),
        Kind::RollingUpgrade => {
            let mut at = at;
            for who in 0..SERVERS {
                at = graceful(dice, world, who, at) + dice.between(5 * SECOND, 30 * SECOND);
            }
            return at;
        }
        Kind::EtcdOutage => {
            world.servers.iter_mut().for_each(|server| server.red.push(longer));
            return longer.to;
        }
        Kind::WrongClock => {
            world.wrong.push((Nodes::All, longer));
            // So that it has to shake hands.
            world.crashes.push((Nodes::All, at + SECOND));
            return longer.to;
        }
        Kind::NodeStall => {
            let simple = Kind::simple(dice);
            let from = at + dice.between(0, 8 * SECOND);
            world.asleep.push((Nodes::All, Span { from, to: from + lasts }));
            return one(simple, dice, world, nodes, at).max(from + lasts);
        }
        Kind::DaemonCrash => {
            let simple = Kind::simple(dice);
            world.crashes.push((Nodes::All, at + dice.between(0, 10 * SECOND)));
            return one(simple, dice, world, nodes, at);
        }
        Kind::TwoAtOnce => {
            let (first, second) = (Kind::simple(dice), Kind::simple(dice));
            let over = one(first, dice, world, nodes, at);
            let later = at + dice.between(0, 10 * SECOND);
            // A second end of a process would have to know of the first.
            let ends =
                [Kind::PowerLost, Kind::PowerCycle, Kind::Killed, Kind::GracefulStop, Kind::RollingUpgrade];
            let second =
                if ends.contains(&first) && ends.contains(&second) { Kind::RandomLoss } else { second };
            return one(second, dice, world, nodes, later).max(over);
        }
    }
    span.to
}

/// The same, a little later.
fn shifted(dice: &mut Dice, span: Span) -> Span {
    let by = dice.between(0, 5 * SECOND);
    Span { from: span.from + by, to: span.to + by }
}

/// The process that lives ends, and another one begins.
fn end(world: &mut World, who: usize, stop: Time, end: Time, how: End, back: Time) {
    let lives = &mut world.servers[who].lives;
    if let Some(life) = lives.last_mut() {
        (life.stop, life.end, life.how) = (stop, end, how);
    }
    lives.push(Life { start: back, stop: NEVER, end: NEVER, how: End::Killed });
}

fn power(dice: &mut Dice, world: &mut World, who: usize, at: Time, lasts: Time) {
    let back = at + lasts;
    world.servers[who].dark.push(Span { from: at, to: back });
    end(world, who, at, at, End::Power, back + dice.between(2 * SECOND, 10 * SECOND));
}

/// It withdraws itself and says so, serves on, closes its listener, lives on, and another one comes.
fn graceful(dice: &mut Dice, world: &mut World, who: usize, at: Time) -> Time {
    let delay = if dice.happens(0.5) { dice.between(0, 70 * SECOND) } else { 0 };
    let stop = at + delay;
    let over = stop + dice.between(SECOND, 60 * SECOND);
    let back = over + dice.between(2 * SECOND, 15 * SECOND);
    let gone = Span { from: at, to: back };
    world.servers[who].red.push(gone);
    world.servers[who].withdrawn.push(Span { from: at + SECOND / 5, to: back });
    end(world, who, stop, over, End::Graceful, back);
    back
}
