//! The schedule on a synthetic clock.

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

const INTERVAL: Duration = Duration::from_secs(1);
const READYZ: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_millis(300);
const QUIET: ConnectionState = ConnectionState {
    can_ping: false,
    readyz_pending: false,
    blocks_readyz: false,
    ping_only: false,
    renew: None,
};
const OPEN: Option<ConnectionState> = Some(ConnectionState { can_ping: true, ..QUIET });

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn directive(pace: Pace) -> Directive {
    Directive {
        pace,
        limit: LIMIT,
        not_before: None,
        fresh_connection: false,
        ping_not_before: None,
        watch_flows: false,
    }
}

fn fresh_table() -> (ProbeSchedule, Instant) {
    let now = Instant::now();
    let intervals = Intervals { probe: INTERVAL, readyz: READYZ };
    (ProbeSchedule::new(PingTicker::new(INTERVAL, now, 0.25), intervals, now), now)
}

/// There is room for a fresh probe all the time.
fn slot(schedule: &ProbeSchedule) -> Option<NextSlot> {
    let long_ago = schedule.regular.checked_sub(Duration::from_secs(3600))?.into();
    Some(NextSlot { urgent: long_ago, later: long_ago })
}

fn next(
    schedule: &ProbeSchedule,
    directive: Directive,
    connection: Option<ConnectionState>,
) -> (Instant, Action) {
    let plan = schedule.plan(directive, connection, slot(schedule), false);
    // Looks at the kernel's keepalive come between all others.
    Plan { keepalive_check: None, ..plan }.next().unwrap()
}

#[test]
fn a_burst_begins_at_once_and_goes_on_each_50_ms() {
    let (mut schedule, now) = fresh_table();
    assert_eq!(next(&schedule, directive(Pace::Burst), None), (now, Action::FreshProbe));
    schedule.started(Action::FreshProbe, OPEN, now, 0.5);
    assert_eq!(next(&schedule, directive(Pace::Burst), None), (now + ms(50), Action::FreshProbe));
    assert_eq!(next(&schedule, directive(Pace::Rush), None), (now + ms(10), Action::FreshProbe));
    assert_eq!(next(&schedule, directive(Pace::Steady), None), (now + INTERVAL, Action::FreshProbe));
    assert_eq!(schedule.plan(directive(Pace::Burst), None, None, false).next(), None, "crowded");
}

#[test]
fn kept_connection_is_pinged_each_interval_and_probed_each_ten() {
    let (mut schedule, now) = fresh_table();
    schedule.started(Action::FreshProbe, OPEN, now, 0.5);
    schedule.kept(now, LIMIT, false, 0.25);
    let (first, action) = next(&schedule, directive(Pace::Steady), OPEN);
    assert_eq!(action, Action::Ping);
    assert!((ms(250)..=ms(350)).contains(&(first - now)), "{:?}", first - now);
    let mut at = now;
    let (mut pings, mut asked) = (0, 0);
    while at < now + Duration::from_secs(60) {
        let (due, action) = next(&schedule, directive(Pace::Steady), OPEN);
        at = due;
        schedule.started(action, OPEN, at, 0.5);
        pings += u32::from(action == Action::Ping);
        asked += u32::from(action == Action::Readyz);
    }
    assert!((59..=61).contains(&pings) && (5..=7).contains(&asked), "{pings} {asked}");
}

#[test]
fn readyz_requests_are_an_interval_apart_with_ten_percent_jitter() {
    let asked_only = Some(QUIET);
    for (chance, expected) in [(0.0, 9_000), (0.5, 10_000), (0.999_999, 10_999)] {
        let (mut schedule, now) = fresh_table();
        schedule.kept(now, LIMIT, false, chance);
        schedule.started(Action::Readyz, OPEN, now, chance);
        let (at, action) = next(&schedule, directive(Pace::Steady), asked_only);
        assert_eq!(((at - now).as_millis(), action), (expected, Action::Readyz));
    }
}

#[test]
fn pings_to_all_backends_are_due_at_the_same_instants() {
    let (mut one, now) = fresh_table();
    let mut other = one.clone();
    one.kept(now, LIMIT, false, 0.1);
    other.kept(now + ms(20), LIMIT, false, 0.9);
    let asked = Some(ConnectionState { can_ping: true, readyz_pending: true, ..QUIET });
    for _ in 0..100 {
        let (due, action) = next(&one, directive(Pace::Steady), asked);
        assert_eq!(next(&other, directive(Pace::Steady), asked), (due, Action::Ping));
        one.started(action, OPEN, due, 0.5);
        other.started(action, OPEN, due + ms(3), 0.5);
    }
}

#[test]
fn watchful_pace_probes_each_interval() {
    let (mut schedule, now) = fresh_table();
    schedule.started(Action::Readyz, OPEN, now, 0.5);
    let answered = Some(QUIET);
    assert_eq!(next(&schedule, directive(Pace::Watchful), answered), (now + INTERVAL, Action::Readyz));
    let readyz_pending = Some(ConnectionState { readyz_pending: true, ..QUIET });
    let Plan { readyz, fresh, .. } =
        schedule.plan(directive(Pace::Watchful), readyz_pending, slot(&schedule), false);
    assert_eq!((readyz, fresh), (None, None));
}

#[test]
fn required_witness_is_probed_at_once_and_only_once() {
    let (mut schedule, now) = fresh_table();
    schedule.started(Action::Readyz, OPEN, now, 0.5);
    schedule.kept(now, LIMIT, false, 0.5);
    let not_before = now + ms(20);
    let demand = Directive { not_before: Some(not_before), ..directive(Pace::Steady) };
    let readyz_pending = Some(ConnectionState { can_ping: true, readyz_pending: true, ..QUIET });
    assert_eq!(
        next(&schedule, demand, readyz_pending),
        (not_before, Action::Readyz),
        "an older question does not count"
    );
    assert_eq!(next(&schedule, demand, None), (not_before, Action::FreshProbe));
    schedule.started(Action::Readyz, OPEN, not_before, 0.5);
    assert_eq!(next(&schedule, demand, OPEN).1, Action::Ping);
}

#[test]
fn required_witness_of_certificates_opens_one_fresh_connection() {
    let (mut schedule, now) = fresh_table();
    schedule.started(Action::FreshProbe, OPEN, now, 0.5);
    schedule.kept(now, LIMIT, false, 0.5);
    let not_before = now + ms(20);
    let demand =
        Directive { not_before: Some(not_before), fresh_connection: true, ..directive(Pace::Steady) };
    schedule.started(Action::Readyz, OPEN, not_before, 0.5);
    assert_eq!(
        next(&schedule, demand, OPEN),
        (not_before, Action::FreshProbe),
        "an open connection does not count"
    );
    schedule.started(Action::FreshProbe, OPEN, not_before, 0.5);
    assert_eq!(next(&schedule, demand, OPEN).1, Action::Ping);
}

#[test]
fn after_the_kept_connection_only_a_burst_is_due_at_once() {
    let (mut schedule, begin) = fresh_table();
    schedule.started(Action::FreshProbe, OPEN, begin, 0.5);
    let now = begin + Duration::from_secs(5);
    schedule.lost(now, 0.5);
    assert_eq!(next(&schedule, directive(Pace::Steady), None), (now + INTERVAL, Action::FreshProbe));
    assert!(next(&schedule, directive(Pace::Burst), None).0 < now);
}

#[test]
fn backend_without_kept_connection_is_probed_at_most_once_per_interval() {
    let (mut schedule, begin) = fresh_table();
    schedule.started(Action::FreshProbe, OPEN, begin, 0.5);
    schedule.lost_repeatedly(begin + ms(20), 0.5);
    assert_eq!(next(&schedule, directive(Pace::Steady), None), (begin + INTERVAL, Action::FreshProbe));
    let now = begin + Duration::from_secs(2);
    schedule.lost_repeatedly(now, 0.5);
    assert_eq!(next(&schedule, directive(Pace::Steady), None), (now, Action::FreshProbe));
}

#[test]
fn backend_in_use_is_pinged_at_once_and_at_most_five_times_a_second() {
    let intervals = Intervals { probe: INTERVAL, readyz: READYZ };
    let now = Instant::now();
    let mut schedule = ProbeSchedule::new(PingTicker::new(Duration::from_secs(15), now, 0.5), intervals, now);
    schedule.kept(now, LIMIT, false, 0.5);
    let ping = |schedule: &ProbeSchedule| {
        schedule.plan(directive(Pace::Steady), OPEN, slot(schedule), false).ping.unwrap() - now
    };
    assert!(ping(&schedule) > Duration::from_secs(7));
    schedule.in_use(now + ms(10));
    assert_eq!(ping(&schedule), ms(10));
    schedule.started(Action::Ping, OPEN, now + ms(10), 0.5);
    schedule.in_use(now + ms(100));
    assert_eq!(ping(&schedule), ms(210));
    schedule.started(Action::Ping, OPEN, now + ms(210), 0.5);
    assert!(ping(&schedule) > Duration::from_secs(7), "nobody uses it any more");
}

#[test]
fn connection_without_credentials_carries_pings_only() {
    let (mut schedule, now) = fresh_table();
    let ping_only = Some(ConnectionState { can_ping: true, ping_only: true, ..QUIET });
    schedule.kept(now, LIMIT, true, 0.5);
    assert_eq!(next(&schedule, directive(Pace::Steady), ping_only), (now, Action::Ping));
    let (mut at, mut pings, mut fresh) = (now, 0, 0);
    while at < now + Duration::from_secs(60) {
        let (due, action) = next(&schedule, directive(Pace::Steady), ping_only);
        at = due;
        schedule.started(action, ping_only, at, 0.5);
        pings += u32::from(action == Action::Ping);
        fresh += u32::from(action == Action::FreshProbe);
        assert_ne!(action, Action::Readyz);
    }
    assert!((59..=61).contains(&pings) && (5..=7).contains(&fresh), "{pings} {fresh}");
    let not_before = at + ms(20);
    let demand = Directive { not_before: Some(not_before), ..directive(Pace::Steady) };
    assert_eq!(next(&schedule, demand, ping_only), (not_before, Action::FreshProbe), "a witness asks, too");
}

#[test]
fn ping_connection_retries_back_off_without_credentials() {
    let (mut schedule, now) = fresh_table();
    schedule.started(Action::FreshProbe, None, now, 0.5);
    let ping_connection = |schedule: &ProbeSchedule| {
        schedule.plan(directive(Pace::Steady), None, slot(schedule), true).ping_connection.unwrap()
    };
    assert_eq!(ping_connection(&schedule), now);
    for (ended_soon, seconds) in [(0, 1), (1, 2), (4, 16), (9, 30), (u32::MAX, 30)] {
        schedule.ping_connection_retry(now, ended_soon, 0.5);
        assert_eq!(ping_connection(&schedule) - now, Duration::from_secs(seconds), "{ended_soon}");
    }
    assert_eq!(
        schedule.plan(directive(Pace::Steady), None, slot(&schedule), false).ping_connection,
        None,
        "nor anybody who is known"
    );
}

#[test]
fn connection_is_replaced_when_renewal_is_due() {
    let (mut schedule, now) = fresh_table();
    schedule.started(Action::FreshProbe, None, now, 0.5);
    schedule.kept(now, LIMIT, false, 0.5);
    let connection = ConnectionState { renew: Some(now + ms(20)), ..QUIET };
    assert_eq!(
        next(&schedule, directive(Pace::Steady), Some(connection)),
        (now + ms(20), Action::FreshProbe)
    );
}

#[test]
fn pending_http1_ping_allows_only_required_fresh_probes() {
    let (mut schedule, now) = fresh_table();
    schedule.kept(now, LIMIT, false, 0.0);
    let blocks_readyz = Some(ConnectionState { blocks_readyz: true, ..QUIET });
    let Plan { readyz, fresh, .. } =
        schedule.plan(directive(Pace::Watchful), blocks_readyz, slot(&schedule), false);
    assert_eq!((readyz, fresh), (None, None));
    let demand = Directive { not_before: Some(now + ms(20)), ..directive(Pace::Steady) };
    assert_eq!(next(&schedule, demand, blocks_readyz), (now + ms(20), Action::FreshProbe));
}

#[test]
fn keepalive_is_checked_when_the_next_segment_is_due() {
    let (mut schedule, now) = fresh_table();
    schedule.kept(now, LIMIT, false, 0.5);
    let keepalive_check = |schedule: &ProbeSchedule| {
        schedule.plan(directive(Pace::Steady), OPEN, slot(schedule), false).keepalive_check.unwrap()
    };
    assert_eq!(keepalive_check(&schedule) - now, ms(1300));
    schedule.keepalive_checked(now + ms(1300), ms(250), LIMIT);
    assert_eq!(keepalive_check(&schedule) - now, ms(1300 + 1050), "1.3 s after it was heard");
    schedule.keepalive_checked(now, ms(1299), LIMIT);
    assert_eq!(keepalive_check(&schedule) - now, ms(100), "never in haste");
    assert_eq!(schedule.plan(directive(Pace::Steady), None, slot(&schedule), false).keepalive_check, None);
}

proptest! {
    #[test]
    fn ticks_are_an_interval_apart_with_ten_percent_jitter_for_every_clone(
        interval in 100_u64..60_000, first in 0.0..1.0_f64, chances in prop::collection::vec(0.0..1.0_f64, 2..50),
    ) {
        let (now, interval) = (Instant::now(), Duration::from_millis(interval));
        let ticker = PingTicker::new(interval, now, first);
        let mut last = ticker.after(now, chances[0]);
        for chance in chances {
            let next = ticker.clone().after(last + interval / 2, chance);
            let share = (next - last).div_duration_f64(interval);
            prop_assert!((0.8999..1.1001).contains(&share), "{share}");
            let between = last + (next - last) / 2;
            prop_assert_eq!(ticker.after(between, 0.5), next);
            last = next;
        }
    }

    #[test]
    fn after_a_silence_the_next_may_come_anywhere_in_the_interval(days in 1_u32..1000, chance in 0.0..1.0_f64) {
        let (now, interval) = (Instant::now(), Duration::from_secs(1));
        let ticker = PingTicker::new(interval, now, 0.5);
        let later = now + Duration::from_secs(86_400) * days;
        let wait = ticker.after(later, chance) - later;
        prop_assert!(wait.abs_diff(interval.mul_f64(chance)) < Duration::from_micros(1), "{wait:?}");
    }
}

/// As one that serves for a second and refuses for a second: whatever the phase, before long a ping comes in the
/// middle of the second that refuses.
#[test]
fn no_fault_of_twice_the_interval_stays_in_step() {
    let (now, interval) = (Instant::now(), Duration::from_secs(1));
    for phase in 0..20 {
        let mut chance = StdRng::seed_from_u64(phase);
        let ticker = PingTicker::new(interval, now, phase as f64 / 20.0);
        let mut at = ticker.after(now, 0.5);
        let seen = (1..=30).find(|_| {
            at = ticker.after(at + interval / 2, chance.random());
            (100..900).contains(&((at - now).as_millis() % 2000))
        });
        assert!(seen.is_some(), "phase {phase}: 30 beats, all within a tenth of an edge or beyond");
    }
}
