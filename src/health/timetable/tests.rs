use super::*;

const INTERVAL: Duration = Duration::from_secs(1);
const READYZ: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_millis(300);
const QUIET: Link = Link { may_ping: false, asking: false, busy: false, mute: false, renew: None };
const OPEN: Option<Link> = Some(Link { may_ping: true, ..QUIET });

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn directive(pace: Pace) -> Directive {
    Directive { pace, limit: LIMIT, not_before: None, afresh: false, ping_not_before: None, watch: false }
}

fn fresh_table() -> (Timetable, Instant) {
    let now = Instant::now();
    let intervals = Intervals { probe: INTERVAL, readyz: READYZ };
    (Timetable::new(Beat::new(INTERVAL, now, 0.25), intervals, now), now)
}

/// There is room for a fresh probe all the time.
fn free(times: &Timetable) -> Option<Free> {
    let long_ago = times.regular.checked_sub(Duration::from_secs(3600))?.into();
    Some(Free { hasty: long_ago, patient: long_ago })
}

fn next(times: &Timetable, directive: Directive, link: Option<Link>) -> (Instant, Action) {
    let plan = times.plan(directive, link, free(times), false);
    // Looks at the kernel's keepalive come between all others.
    Plan { look: None, ..plan }.next().unwrap()
}

#[test]
fn a_burst_begins_at_once_and_goes_on_each_50_ms() {
    let (mut times, now) = fresh_table();
    assert_eq!(next(&times, directive(Pace::Burst), None), (now, Action::Fresh));
    times.started(Action::Fresh, OPEN, now, 0.5);
    assert_eq!(next(&times, directive(Pace::Burst), None), (now + ms(50), Action::Fresh));
    assert_eq!(next(&times, directive(Pace::Rush), None), (now + ms(10), Action::Fresh));
    assert_eq!(next(&times, directive(Pace::Steady), None), (now + INTERVAL, Action::Fresh));
    assert_eq!(times.plan(directive(Pace::Burst), None, None, false).next(), None, "crowded");
}

#[test]
fn a_kept_connection_is_pinged_each_interval_and_asked_each_ten() {
    let (mut times, now) = fresh_table();
    times.started(Action::Fresh, OPEN, now, 0.5);
    times.kept(now, LIMIT, false, 0.25);
    let (first, action) = next(&times, directive(Pace::Steady), OPEN);
    assert_eq!(action, Action::Ping);
    assert!((ms(250)..=ms(350)).contains(&(first - now)), "{:?}", first - now);
    let mut at = now;
    let (mut pings, mut asked) = (0, 0);
    while at < now + Duration::from_secs(60) {
        let (due, action) = next(&times, directive(Pace::Steady), OPEN);
        at = due;
        times.started(action, OPEN, at, 0.5);
        pings += u32::from(action == Action::Ping);
        asked += u32::from(action == Action::Ask);
    }
    assert!((59..=61).contains(&pings) && (5..=7).contains(&asked), "{pings} {asked}");
}

#[test]
fn questions_are_an_interval_apart_give_or_take_a_tenth() {
    let asked_only = Some(QUIET);
    for (chance, expected) in [(0.0, 9_000), (0.5, 10_000), (0.999_999, 10_999)] {
        let (mut times, now) = fresh_table();
        times.kept(now, LIMIT, false, chance);
        times.started(Action::Ask, OPEN, now, chance);
        let (at, action) = next(&times, directive(Pace::Steady), asked_only);
        assert_eq!(((at - now).as_millis(), action), (expected, Action::Ask));
    }
}

#[test]
fn pings_to_all_backends_are_due_at_the_same_instants() {
    let (mut one, now) = fresh_table();
    let mut other = one.clone();
    one.kept(now, LIMIT, false, 0.1);
    other.kept(now + ms(20), LIMIT, false, 0.9);
    let asked = Some(Link { may_ping: true, asking: true, ..QUIET });
    for _ in 0..100 {
        let (due, action) = next(&one, directive(Pace::Steady), asked);
        assert_eq!(next(&other, directive(Pace::Steady), asked), (due, Action::Ping));
        one.started(action, OPEN, due, 0.5);
        other.started(action, OPEN, due + ms(3), 0.5);
    }
}

#[test]
fn a_watched_one_is_asked_each_interval() {
    let (mut times, now) = fresh_table();
    times.started(Action::Ask, OPEN, now, 0.5);
    let answered = Some(QUIET);
    assert_eq!(next(&times, directive(Pace::Watchful), answered), (now + INTERVAL, Action::Ask));
    let asking = Some(Link { asking: true, ..QUIET });
    let Plan { ask, fresh, .. } = times.plan(directive(Pace::Watchful), asking, free(&times), false);
    assert_eq!((ask, fresh), (None, None));
}

#[test]
fn a_witness_is_asked_at_once_and_once() {
    let (mut times, now) = fresh_table();
    times.started(Action::Ask, OPEN, now, 0.5);
    times.kept(now, LIMIT, false, 0.5);
    let demanded = now + ms(20);
    let demand = Directive { not_before: Some(demanded), ..directive(Pace::Steady) };
    let asking = Some(Link { may_ping: true, asking: true, ..QUIET });
    assert_eq!(next(&times, demand, asking), (demanded, Action::Ask), "an older question does not count");
    assert_eq!(next(&times, demand, None), (demanded, Action::Fresh));
    times.started(Action::Ask, OPEN, demanded, 0.5);
    assert_eq!(next(&times, demand, OPEN).1, Action::Ping);
}

#[test]
fn a_witness_of_certificates_shakes_hands_once() {
    let (mut times, now) = fresh_table();
    times.started(Action::Fresh, OPEN, now, 0.5);
    times.kept(now, LIMIT, false, 0.5);
    let demanded = now + ms(20);
    let demand = Directive { not_before: Some(demanded), afresh: true, ..directive(Pace::Steady) };
    times.started(Action::Ask, OPEN, demanded, 0.5);
    assert_eq!(next(&times, demand, OPEN), (demanded, Action::Fresh), "an open connection does not count");
    times.started(Action::Fresh, OPEN, demanded, 0.5);
    assert_eq!(next(&times, demand, OPEN).1, Action::Ping);
}

#[test]
fn after_the_kept_connection_only_a_burst_is_due_at_once() {
    let (mut times, begin) = fresh_table();
    times.started(Action::Fresh, OPEN, begin, 0.5);
    let now = begin + Duration::from_secs(5);
    times.lost(now, 0.5);
    assert_eq!(next(&times, directive(Pace::Steady), None), (now + INTERVAL, Action::Fresh));
    assert!(next(&times, directive(Pace::Burst), None).0 < now);
}

#[test]
fn one_that_keeps_no_connection_is_asked_at_once_and_no_more_often_than_each_interval() {
    let (mut times, begin) = fresh_table();
    times.started(Action::Fresh, OPEN, begin, 0.5);
    times.lost_again(begin + ms(20), 0.5);
    assert_eq!(next(&times, directive(Pace::Steady), None), (begin + INTERVAL, Action::Fresh));
    let now = begin + Duration::from_secs(2);
    times.lost_again(now, 0.5);
    assert_eq!(next(&times, directive(Pace::Steady), None), (now, Action::Fresh));
}

#[test]
fn one_that_is_in_use_is_pinged_at_once_and_no_more_often_than_five_times_a_second() {
    let intervals = Intervals { probe: INTERVAL, readyz: READYZ };
    let now = Instant::now();
    let mut times = Timetable::new(Beat::new(Duration::from_secs(15), now, 0.5), intervals, now);
    times.kept(now, LIMIT, false, 0.5);
    let ping =
        |times: &Timetable| times.plan(directive(Pace::Steady), OPEN, free(times), false).ping.unwrap() - now;
    assert!(ping(&times) > Duration::from_secs(7));
    times.in_use(now + ms(10));
    assert_eq!(ping(&times), ms(10));
    times.started(Action::Ping, OPEN, now + ms(10), 0.5);
    times.in_use(now + ms(100));
    assert_eq!(ping(&times), ms(210));
    times.started(Action::Ping, OPEN, now + ms(210), 0.5);
    assert!(ping(&times) > Duration::from_secs(7), "nobody uses it any more");
}

#[test]
fn over_a_connection_without_credentials_only_pings_go_at_once_and_fresh_probes_ask() {
    let (mut times, now) = fresh_table();
    let mute = Some(Link { may_ping: true, mute: true, ..QUIET });
    times.kept(now, LIMIT, true, 0.5);
    assert_eq!(next(&times, directive(Pace::Steady), mute), (now, Action::Ping));
    let (mut at, mut pings, mut fresh) = (now, 0, 0);
    while at < now + Duration::from_secs(60) {
        let (due, action) = next(&times, directive(Pace::Steady), mute);
        at = due;
        times.started(action, mute, at, 0.5);
        pings += u32::from(action == Action::Ping);
        fresh += u32::from(action == Action::Fresh);
        assert_ne!(action, Action::Ask);
    }
    assert!((59..=61).contains(&pings) && (5..=7).contains(&fresh), "{pings} {fresh}");
    let demanded = at + ms(20);
    let demand = Directive { not_before: Some(demanded), ..directive(Pace::Steady) };
    assert_eq!(next(&times, demand, mute), (demanded, Action::Fresh), "a witness asks, too");
}

#[test]
fn a_stranger_without_a_connection_opens_one_ever_more_rarely() {
    let (mut times, now) = fresh_table();
    times.started(Action::Fresh, None, now, 0.5);
    let hold = |times: &Timetable| times.plan(directive(Pace::Steady), None, free(times), true).hold.unwrap();
    assert_eq!(hold(&times), now);
    for (ended_soon, seconds) in [(0, 1), (1, 2), (4, 16), (9, 30), (u32::MAX, 30)] {
        times.hold_again(now, ended_soon, 0.5);
        assert_eq!(hold(&times) - now, Duration::from_secs(seconds), "{ended_soon}");
    }
    assert_eq!(
        times.plan(directive(Pace::Steady), None, free(&times), false).hold,
        None,
        "nor anybody who is known"
    );
}

#[test]
fn a_connection_is_replaced_when_it_says() {
    let (mut times, now) = fresh_table();
    times.started(Action::Fresh, None, now, 0.5);
    times.kept(now, LIMIT, false, 0.5);
    let link = Link { renew: Some(now + ms(20)), ..QUIET };
    assert_eq!(next(&times, directive(Pace::Steady), Some(link)), (now + ms(20), Action::Fresh));
}

#[test]
fn while_a_ping_leaves_no_room_only_who_must_know_asks_and_afresh() {
    let (mut times, now) = fresh_table();
    times.kept(now, LIMIT, false, 0.0);
    let busy = Some(Link { busy: true, ..QUIET });
    let Plan { ask, fresh, .. } = times.plan(directive(Pace::Watchful), busy, free(&times), false);
    assert_eq!((ask, fresh), (None, None));
    let demand = Directive { not_before: Some(now + ms(20)), ..directive(Pace::Steady) };
    assert_eq!(next(&times, demand, busy), (now + ms(20), Action::Fresh));
}

#[test]
fn the_kernel_is_asked_when_the_host_should_have_been_heard_again() {
    let (mut times, now) = fresh_table();
    times.kept(now, LIMIT, false, 0.5);
    let look =
        |times: &Timetable| times.plan(directive(Pace::Steady), OPEN, free(times), false).look.unwrap();
    assert_eq!(look(&times) - now, ms(1300));
    times.looked(now + ms(1300), ms(250), LIMIT);
    assert_eq!(look(&times) - now, ms(1300 + 1050), "1.3 s after it was heard");
    times.looked(now, ms(1299), LIMIT);
    assert_eq!(look(&times) - now, ms(100), "never in haste");
    assert_eq!(times.plan(directive(Pace::Steady), None, free(&times), false).look, None);
}
