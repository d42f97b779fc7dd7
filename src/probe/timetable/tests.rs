use super::*;

const INTERVAL: Duration = Duration::from_secs(1);
const READYZ: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_millis(300);
const OPEN: Option<Link> = Some(Link { may_ping: true, asking: false });

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn directive(pace: Pace) -> Directive {
    Directive { pace, timeout: LIMIT, not_before: None, afresh: false }
}

fn fresh_table() -> (Timetable, Instant) {
    let now = Instant::now();
    (Timetable::new(Beat::new(INTERVAL, now, 0.25), READYZ, now), now)
}

fn next(times: &Timetable, directive: Directive, link: Option<Link>) -> (Instant, Action) {
    times.plan(directive, link, false).next().unwrap()
}

#[test]
fn a_burst_begins_at_once_and_goes_on_each_50_ms() {
    let (mut times, now) = fresh_table();
    assert_eq!(next(&times, directive(Pace::Burst), None), (now, Action::Fresh));
    times.started(Action::Fresh, now, 0.5);
    assert_eq!(next(&times, directive(Pace::Burst), None), (now + ms(50), Action::Fresh));
    assert_eq!(next(&times, directive(Pace::Steady), None), (now + INTERVAL, Action::Fresh));
    assert_eq!(times.plan(directive(Pace::Burst), None, true).next(), None, "crowded");
}

#[test]
fn a_kept_connection_is_pinged_each_interval_and_asked_each_ten() {
    let (mut times, now) = fresh_table();
    times.started(Action::Fresh, now, 0.5);
    times.kept(now, 0.25);
    let (first, action) = next(&times, directive(Pace::Steady), OPEN);
    assert_eq!(action, Action::Ping);
    assert!((ms(250)..=ms(350)).contains(&(first - now)), "{:?}", first - now);
    let mut at = now;
    let (mut pings, mut asked) = (0, 0);
    while at < now + Duration::from_secs(60) {
        let (due, action) = next(&times, directive(Pace::Steady), OPEN);
        at = due;
        times.started(action, at, 0.5);
        pings += u32::from(action == Action::Ping);
        asked += u32::from(action == Action::Ask);
    }
    assert!((59..=61).contains(&pings) && (5..=7).contains(&asked), "{pings} {asked}");
}

#[test]
fn questions_are_an_interval_apart_give_or_take_a_tenth() {
    let asked_only = Some(Link { may_ping: false, asking: false });
    for (chance, expected) in [(0.0, 9_000), (0.5, 10_000), (0.999_999, 10_999)] {
        let (mut times, now) = fresh_table();
        times.kept(now, chance);
        times.started(Action::Ask, now, chance);
        let (at, action) = next(&times, directive(Pace::Steady), asked_only);
        assert_eq!(((at - now).as_millis(), action), (expected, Action::Ask));
    }
}

#[test]
fn pings_to_all_backends_are_due_at_the_same_instants() {
    let (mut one, now) = fresh_table();
    let mut other = one.clone();
    one.kept(now, 0.1);
    other.kept(now + ms(20), 0.9);
    let asked = Some(Link { may_ping: true, asking: true });
    for _ in 0..100 {
        let (due, action) = next(&one, directive(Pace::Steady), asked);
        assert_eq!(next(&other, directive(Pace::Steady), asked), (due, Action::Ping));
        one.started(action, due, 0.5);
        other.started(action, due + ms(3), 0.5);
    }
}

#[test]
fn a_watched_one_is_asked_each_interval() {
    let (mut times, now) = fresh_table();
    times.started(Action::Ask, now, 0.5);
    let answered = Some(Link { may_ping: false, asking: false });
    assert_eq!(next(&times, directive(Pace::Watchful), answered), (now + INTERVAL, Action::Ask));
    let asking = Some(Link { may_ping: false, asking: true });
    assert_eq!(times.plan(directive(Pace::Watchful), asking, false).next(), None);
}

#[test]
fn a_witness_is_asked_at_once_and_once() {
    let (mut times, now) = fresh_table();
    times.started(Action::Ask, now, 0.5);
    times.kept(now, 0.5);
    let demanded = now + ms(20);
    let demand = Directive { not_before: Some(demanded), ..directive(Pace::Steady) };
    let asking = Some(Link { may_ping: true, asking: true });
    assert_eq!(next(&times, demand, asking), (demanded, Action::Ask), "an older question does not count");
    assert_eq!(next(&times, demand, None), (demanded, Action::Fresh));
    times.started(Action::Ask, demanded, 0.5);
    assert_eq!(next(&times, demand, OPEN).1, Action::Ping);
}

#[test]
fn a_witness_of_certificates_shakes_hands_once() {
    let (mut times, now) = fresh_table();
    times.started(Action::Fresh, now, 0.5);
    times.kept(now, 0.5);
    let demanded = now + ms(20);
    let demand = Directive { not_before: Some(demanded), afresh: true, ..directive(Pace::Steady) };
    times.started(Action::Ask, demanded, 0.5);
    assert_eq!(next(&times, demand, OPEN), (demanded, Action::Fresh), "an open connection does not count");
    times.started(Action::Fresh, demanded, 0.5);
    assert_eq!(next(&times, demand, OPEN).1, Action::Ping);
}

#[test]
fn after_the_kept_connection_only_a_burst_is_due_at_once() {
    let (mut times, begin) = fresh_table();
    times.started(Action::Fresh, begin, 0.5);
    let now = begin + Duration::from_secs(5);
    times.lost(now, 0.5);
    assert_eq!(next(&times, directive(Pace::Steady), None), (now + INTERVAL, Action::Fresh));
    assert!(next(&times, directive(Pace::Burst), None).0 < now);
}

#[test]
fn one_that_keeps_no_connection_is_asked_at_once_and_no_more_often_than_each_interval() {
    let (mut times, begin) = fresh_table();
    times.started(Action::Fresh, begin, 0.5);
    times.lost_again(begin + ms(20), 0.5);
    assert_eq!(next(&times, directive(Pace::Steady), None), (begin + INTERVAL, Action::Fresh));
    let now = begin + Duration::from_secs(2);
    times.lost_again(now, 0.5);
    assert_eq!(next(&times, directive(Pace::Steady), None), (now, Action::Fresh));
}
