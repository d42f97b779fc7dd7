//! Which source counts when, by example and for arbitrary sources.

use proptest::prelude::*;

use super::*;
use crate::model::snapshot::{Affinity, Frontend, ServiceStatus};

fn vip(last: u8) -> Vip {
    ([10, 96, 0, last], 443).into()
}

fn at(last: u8) -> Backend {
    ([192, 0, 2, last], 6443).into()
}

fn six(last: u16) -> Backend {
    Backend::new(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).into(), 6443)
}

fn configured(vips: &[Vip], seeds: &[&str]) -> SourceConfig {
    let seeds = seeds.iter().map(|seed| seed.parse().unwrap()).collect();
    SourceConfig { vips: vips.to_vec(), seeds, ..SourceConfig::default() }
}

fn frontend(vip: Vip, name: &str, backends: &[Backend]) -> Frontend {
    Frontend { vip, port_name: name.into(), affinity: Affinity::None, backends: backends.to_vec() }
}

fn published(service: ServiceStatus, frontends: &[Frontend]) -> Arc<Snapshot> {
    let frontends = frontends.to_vec();
    Arc::new(Snapshot { generation: 1, service, frontends, rejected: BTreeSet::new() })
}

/// What a daemon that read this from the API at the time 1000 leaves behind.
fn saved(frontends: &[Frontend]) -> LastKnownGood {
    let mut sources = EndpointSources::new(SourceConfig::default(), LastKnownGood::default(), 1000);
    sources.publish(published(ServiceStatus::Found, frontends), 1000);
    sources.last_good().clone()
}

fn used(sources: &EndpointSources, vip: Vip) -> Vec<Backend> {
    let snapshot = sources.bootstrap_snapshot();
    let frontends = snapshot.iter().flat_map(|snapshot| &snapshot.frontends);
    frontends.filter(|frontend| frontend.vip == vip).flat_map(|frontend| frontend.backends.clone()).collect()
}

fn origin(sources: &EndpointSources, backend: Backend) -> Option<(EndpointSource, u64)> {
    sources.origins().of(backend).map(|origin| (origin.source, origin.since))
}

fn resolve(sources: &mut EndpointSources, name: &str, addresses: &[Backend], now: u64) {
    sources.resolve(&name.parse().unwrap(), &addresses.iter().copied().collect(), now);
}

#[test]
fn a_seed_and_a_virtual_ip_are_enough() {
    let sources = EndpointSources::new(
        configured(&[vip(1)], &["192.0.2.11:6443", "[2001:db8::11]:6443"]),
        LastKnownGood::default(),
        7,
    );
    let snapshot = sources.bootstrap_snapshot().unwrap();
    assert_eq!(snapshot.frontends, [frontend(vip(1), "https", &[at(11)])]);
    assert!(!snapshot.is_published() && snapshot.service == ServiceStatus::Found);
    assert_eq!(origin(&sources, at(11)), Some((EndpointSource::Seed, 7)));
    let dialled: Vec<_> = sources.alternatives().addresses.into_iter().collect();
    assert_eq!(dialled, [at(11), six(0x11)], "the other family can be dialled all the same");
}

#[test]
fn without_a_virtual_ip_or_an_apiserver_there_is_nothing_to_program() {
    let seeds = EndpointSources::new(configured(&[], &["192.0.2.11:6443"]), LastKnownGood::default(), 0);
    assert_eq!((seeds.bootstrap_snapshot(), seeds.alternatives().exist), (None, true));
    let vip_only = EndpointSources::new(configured(&[vip(1)], &[]), LastKnownGood::default(), 0);
    assert_eq!((vip_only.bootstrap_snapshot(), vip_only.alternatives().exist), (None, false));
    assert_eq!(vip_only.last_good(), &LastKnownGood::default());
}

#[test]
fn saved_state_is_enough_and_never_excludes_a_seed() {
    let state = saved(&[frontend(vip(1), "https", &[at(11), at(12)])]);
    let sources = EndpointSources::new(configured(&[], &[]), state.clone(), 2000);
    assert_eq!(used(&sources, vip(1)), [at(11), at(12)]);
    assert_eq!(origin(&sources, at(11)), Some((EndpointSource::Saved, 1000)));
    assert_eq!(sources.last_good(), &state, "nothing is written that was not learnt");
    let sources = EndpointSources::new(
        configured(&[vip(1), vip(9)], &["192.0.2.12:6443", "192.0.2.13:6443"]),
        state,
        2000,
    );
    assert_eq!(used(&sources, vip(9)), [at(11), at(12), at(13)]);
    assert_eq!(origin(&sources, at(12)), Some((EndpointSource::Seed, 2000)));
    assert_eq!(origin(&sources, at(11)), Some((EndpointSource::Saved, 1000)));
}

#[test]
fn a_seed_at_the_address_of_a_saved_virtual_ip_is_an_apiserver() {
    let old = Vip::from(([192, 0, 2, 13], 443));
    let state = saved(&[frontend(old, "https", &[at(11)]), frontend(vip(1), "https", &[at(12)])]);
    let sources = EndpointSources::new(configured(&[], &["192.0.2.13:6443"]), state.clone(), 2000);
    assert_eq!(sources.contradicted().map(|(_, vip)| vip).collect::<Vec<_>>(), [old]);
    assert_eq!((used(&sources, old), used(&sources, vip(1))), (vec![], vec![at(12), at(13)]));
    let alternatives = sources.alternatives();
    assert_eq!(alternatives.addresses, [at(11), at(12), at(13)].into(), "and the saved ones may live");
    assert_eq!(alternatives.vips, [vip(1).ip()].into());

    // A name that leads there may well mean the virtual IP.
    let mut named = EndpointSources::new(configured(&[], &["api.example.com:6443"]), state, 2000);
    let rejected = named.resolve(&"api.example.com:6443".parse().unwrap(), &[at(13)].into(), 2001);
    assert_eq!(rejected.first().map(|rejection| rejection.reason), Some(RejectReason::IsVip));
    assert_eq!((named.contradicted().count(), used(&named, old)), (0, vec![at(11)]));
}

#[test]
fn seeds_serve_the_port_of_the_api_only() {
    let other: Vip = ([10, 96, 0, 1], 9443).into();
    let state = saved(&[frontend(vip(1), "https", &[at(11)]), frontend(other, "metrics", &[at(90)])]);
    let sources = EndpointSources::new(configured(&[], &["192.0.2.13:6443"]), state, 2000);
    assert_eq!((used(&sources, vip(1)), used(&sources, other)), (vec![at(11), at(13)], vec![at(90)]));
    assert_eq!(sources.alternatives().addresses, [at(11), at(13)].into());
}

#[test]
fn full_list_takes_precedence_and_other_sources_can_still_be_dialled() {
    let state = saved(&[frontend(vip(2), "https", &[at(11), at(12)])]);
    let mut sources = EndpointSources::new(configured(&[vip(1)], &["192.0.2.13:6443"]), state, 2000);
    sources.publish(published(ServiceStatus::Found, &[frontend(vip(1), "https", &[at(12), at(14)])]), 3000);
    assert!(sources.is_published() && sources.bootstrap_snapshot().is_none());
    let good = sources.last_good();
    let addresses: Vec<Backend> = good.frontends[0].backends.iter().map(|backend| backend.address).collect();
    assert_eq!((good.frontends.len(), addresses), (1, vec![at(12), at(14)]));
    assert_eq!(
        origin(&sources, at(12)),
        Some((EndpointSource::Published, 1000)),
        "known from the API since then"
    );
    assert_eq!(origin(&sources, at(14)), Some((EndpointSource::Published, 3000)));
    assert_eq!(
        origin(&sources, at(13)),
        Some((EndpointSource::Seed, 2000)),
        "it drains, and is still told apart"
    );
    let alternatives = sources.alternatives();
    assert_eq!(alternatives.addresses, [at(11), at(12), at(13)].into());
    assert_eq!(alternatives.vips, [vip(1).ip()].into(), "the API knows which addresses are virtual");
}

#[test]
fn empty_list_keeps_the_last_known_good_state() {
    let before = saved(&[frontend(vip(1), "https", &[at(11)])]);
    for (service, frontends) in [
        (ServiceStatus::Missing, vec![]),
        (ServiceStatus::Headless, vec![]),
        (ServiceStatus::Found, vec![frontend(vip(1), "https", &[])]),
        (ServiceStatus::Found, vec![frontend(vip(3), "https", &[])]),
    ] {
        let mut sources = EndpointSources::new(configured(&[], &[]), before.clone(), 2000);
        sources.publish(published(service, &frontends), 3000);
        assert_eq!(sources.last_good(), &before, "{frontends:?}");
        assert!(sources.alternatives().vips.contains(&frontends.first().map_or(vip(1), |f| f.vip).ip()));
    }
}

#[test]
fn dns_name_is_followed_and_its_last_addresses_survive_a_restart_without_dns() {
    let name = "api.example.com:6443";
    let mut sources = EndpointSources::new(configured(&[vip(1)], &[name]), LastKnownGood::default(), 1000);
    assert!(sources.bootstrap_snapshot().is_none() && sources.alternatives().exist);
    resolve(&mut sources, name, &[at(11)], 1001);
    assert_eq!(used(&sources, vip(1)), [at(11)]);
    resolve(&mut sources, name, &[at(11), at(12)], 1005);
    assert_eq!(
        (origin(&sources, at(11)), origin(&sources, at(12))),
        (Some((EndpointSource::Seed, 1001)), Some((EndpointSource::Seed, 1005)))
    );
    let state = sources.last_good().clone();

    let mut next = EndpointSources::new(configured(&[], &[name]), state.clone(), 2000);
    assert_eq!(used(&next, vip(1)), [at(11), at(12)]);
    assert_eq!((next.last_good(), origin(&next, at(12))), (&state, Some((EndpointSource::Saved, 1005))));
    resolve(&mut next, name, &[at(12), at(13)], 2001);
    assert_eq!(used(&next, vip(1)), [at(12), at(13)], "the name knows better");
    assert_eq!(origin(&next, at(12)), Some((EndpointSource::Seed, 1005)));

    let other = EndpointSources::new(configured(&[vip(9)], &["192.0.2.20:6443"]), state, 2000);
    assert_eq!(
        (used(&other, vip(9)), used(&other, vip(1))),
        (vec![at(20)], vec![]),
        "the operator's earlier words"
    );
}

#[test]
fn unusable_seed_addresses_are_rejected_with_reason() {
    let name = "api.example.com:6443";
    let mut sources = EndpointSources::new(configured(&[vip(1)], &[name]), LastKnownGood::default(), 0);
    let loopback = Backend::from(([127, 0, 0, 1], 6443));
    let rejected = sources.resolve(&name.parse().unwrap(), &[loopback, vip(1), at(11)].into(), 0);
    let reasons: Vec<RejectReason> = rejected.iter().map(|rejection| rejection.reason).collect();
    assert_eq!(reasons, [RejectReason::IsVip, RejectReason::Loopback]);
    assert_eq!(used(&sources, vip(1)), [at(11)]);
}

#[test]
fn pod_environment_address_is_a_vip_unless_another_is_configured() {
    let pod = Some(vip(1).ip());
    let told = |vips: &[Vip]| SourceConfig { pod_server: pod, ..configured(vips, &["192.0.2.11:6443"]) };
    let vips = |sources: &EndpointSources| sources.alternatives().vips;
    let mut sources = EndpointSources::new(told(&[]), LastKnownGood::default(), 0);
    assert_eq!(vips(&sources), [vip(1).ip()].into());
    assert!(sources.bootstrap_snapshot().is_none(), "it is never programmed on that ground");
    assert_eq!(
        vips(&EndpointSources::new(told(&[vip(2)]), LastKnownGood::default(), 0)),
        [vip(2).ip()].into()
    );
    sources.publish(published(ServiceStatus::Found, &[frontend(vip(2), "https", &[at(11)])]), 1);
    assert_eq!(vips(&sources), [vip(2).ip()].into());
}

#[test]
fn origins_do_not_grow_for_ever() {
    let mut sources = EndpointSources::new(SourceConfig::default(), LastKnownGood::default(), 0);
    for round in 0..2000_u16 {
        let backend = six(round);
        sources
            .publish(published(ServiceStatus::Found, &[frontend(vip(1), "https", &[backend])]), round.into());
        assert_eq!(origin(&sources, backend), Some((EndpointSource::Published, round.into())));
    }
    assert!((0..2000).filter(|round| sources.origins().of(six(*round)).is_some()).count() <= 257);
}

fn any_address() -> impl Strategy<Value = Backend> {
    // Few enough to collide, with virtual IPs and useless addresses among them.
    prop_oneof![
        4 => (1..20_u8, 6443..6445_u16).prop_map(|(last, port)| ([192, 0, 2, last], port).into()),
        2 => (1..20_u16).prop_map(six),
        1 => (1..4_u8).prop_map(vip),
        1 => Just(Backend::from(([127, 0, 0, 1], 6443))),
    ]
}

fn any_vips() -> impl Strategy<Value = Vec<Vip>> {
    proptest::collection::btree_set((1..4_u8).prop_map(vip), 0..3).prop_map(|vips| vips.into_iter().collect())
}

/// What a daemon writes: all of it is what the API said, or none.
fn any_state() -> impl Strategy<Value = LastKnownGood> {
    let published = Just(LearnedFrom::Published).boxed();
    prop_oneof![state_of(published), state_of("[a-c]:6443".prop_map(LearnedFrom::Configured).boxed())]
}

fn state_of(learnt: BoxedStrategy<LearnedFrom>) -> impl Strategy<Value = LastKnownGood> {
    let backends =
        proptest::collection::btree_map(any_address(), (learnt.clone(), 0..9_u64), 1..6).prop_map(|all| {
            let backend = |(address, (learnt, at))| SavedBackend { address, learnt, at };
            all.into_iter().map(backend).collect()
        });
    let frontend = ("(https|metrics|)", learnt, 0..9_u64, backends);
    proptest::collection::btree_map(1..4_u8, frontend, 0..4).prop_map(|all| {
        let frontend = |(last, (port_name, learnt, at, backends))| SavedFrontend {
            vip: vip(last),
            port_name,
            affinity: Affinity::None,
            learnt,
            at,
            backends,
        };
        LastKnownGood { frontends: all.into_iter().map(frontend).collect() }
    })
}

fn full_list() -> impl Strategy<Value = Arc<Snapshot>> {
    let backends = proptest::collection::btree_set((1..20_u8).prop_map(at), 0..5);
    proptest::collection::btree_map(1..4_u8, backends, 0..3).prop_map(|all| {
        let listed = |(last, backends): (u8, BTreeSet<Backend>)| {
            frontend(vip(last), "https", &backends.into_iter().collect::<Vec<_>>())
        };
        published(ServiceStatus::Found, &all.into_iter().map(listed).collect::<Vec<_>>())
    })
}

proptest! {
    #[test]
    fn before_the_api_answers(
        vips in any_vips(),
        seeds in proptest::collection::vec(any_address(), 0..6),
        state in any_state(),
        name in proptest::option::of(proptest::collection::btree_set(any_address(), 1..4)),
    ) {
        let texts: Vec<String> = seeds.iter().map(ToString::to_string).chain(["a:6443".into()]).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let mut sources = EndpointSources::new(configured(&vips, &texts), state, 100);
        if let Some(addresses) = name {
            sources.resolve(&"a:6443".parse().unwrap(), &addresses, 101);
        }
        let alternatives = sources.alternatives();
        // A configured virtual IP is refused as a seed; a saved one is not.
        let usable = |seed: &&Backend| !seed.ip().is_loopback() && vips.iter().all(|vip| vip.ip() != seed.ip());
        for seed in seeds.iter().filter(usable) {
            prop_assert!(alternatives.addresses.contains(seed), "{seed} cannot be dialled");
            for vip in vips.iter().filter(|vip| vip.is_ipv4() == seed.is_ipv4()) {
                prop_assert!(used(&sources, *vip).contains(seed), "a file keeps {seed} from {vip}");
            }
        }
        prop_assert!(alternatives.addresses.iter().all(|address| !alternatives.vips.contains(&address.ip())));
        if let Some(snapshot) = sources.bootstrap_snapshot() {
            let addresses = snapshot.vip_addresses();
            for frontend in &snapshot.frontends {
                prop_assert!(!frontend.backends.is_empty() && frontend.backends.is_sorted_by(|a, b| a < b));
                for backend in &frontend.backends {
                    prop_assert!(!addresses.contains(&backend.ip()), "{backend} would create a loop");
                    prop_assert_eq!(backend.is_ipv4(), frontend.vip.is_ipv4());
                    prop_assert!(sources.origins().of(*backend).is_some(), "nobody knows {}", backend);
                }
            }
        }
    }

    #[test]
    fn full_list_alone_decides_what_is_saved(
        vips in any_vips(),
        seeds in proptest::collection::vec((1..20_u8).prop_map(at), 0..6),
        state in any_state(),
        list in full_list(),
    ) {
        let texts: Vec<String> = seeds.iter().map(ToString::to_string).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let mut sources = EndpointSources::new(configured(&vips, &texts), state, 100);
        let before = sources.last_good().clone();
        sources.publish(Arc::clone(&list), 200);
        prop_assert!(sources.bootstrap_snapshot().is_none());
        if list.backends().is_empty() && !list.frontends.iter().any(|f| before.frontend(f.vip).is_some()) {
            prop_assert_eq!(sources.last_good(), &before);
        }
        for listed in list.frontends.iter().filter(|frontend| !frontend.backends.is_empty()) {
            let good = sources.last_good().frontends.iter().filter(|good| good.vip == listed.vip);
            let found = good.map(|good| good.backends.iter().map(|b| b.address).collect::<Vec<_>>());
            prop_assert!(found.into_iter().any(|backends| backends == listed.backends));
        }
        let restarted = EndpointSources::new(configured(&vips, &texts), sources.last_good().clone(), 300);
        prop_assert_eq!(restarted.last_good(), sources.last_good(), "a restart alone changes nothing");
    }
}
