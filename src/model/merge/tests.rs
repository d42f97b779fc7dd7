//! Which source counts when, by example and for arbitrary sources.

use proptest::prelude::*;

use super::*;
use crate::model::snapshot::{Affinity, Frontend, ServiceStatus};

mod arbitrary;

fn vip(last: u8) -> Vip {
    ([10, 96, 0, last], 443).into()
}

fn at(last: u8) -> Backend {
    ([192, 0, 2, last], 6443).into()
}

fn six(last: u16) -> Backend {
    Backend::new(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).into(), 6443)
}

fn configured(vips: &[Vip], seeds: &[&str]) -> Configured {
    let seeds = seeds.iter().map(|seed| seed.parse().unwrap()).collect();
    Configured { vips: vips.to_vec(), seeds, ..Configured::default() }
}

fn frontend(vip: Vip, name: &str, backends: &[Backend]) -> Frontend {
    Frontend { vip, port_name: name.into(), affinity: Affinity::None, backends: backends.to_vec() }
}

fn published(service: ServiceStatus, frontends: &[Frontend]) -> Arc<Snapshot> {
    let frontends = frontends.to_vec();
    Arc::new(Snapshot { generation: 1, service, frontends, rejected: BTreeSet::new() })
}

/// What a daemon that read this from the API at the time 1000 leaves behind.
fn saved(frontends: &[Frontend]) -> LastGood {
    let mut merge = Merge::new(Configured::default(), LastGood::default(), 1000);
    merge.publish(published(ServiceStatus::Found, frontends), 1000);
    merge.last_good().clone()
}

fn used(merge: &Merge, vip: Vip) -> Vec<Backend> {
    let snapshot = merge.boot_snapshot();
    let frontends = snapshot.iter().flat_map(|snapshot| &snapshot.frontends);
    frontends.filter(|frontend| frontend.vip == vip).flat_map(|frontend| frontend.backends.clone()).collect()
}

fn origin(merge: &Merge, backend: Backend) -> Option<(Source, u64)> {
    merge.origins().of(backend).map(|origin| (origin.source, origin.since))
}

fn resolve(merge: &mut Merge, name: &str, addresses: &[Backend], now: u64) {
    merge.resolve(&name.parse().unwrap(), &addresses.iter().copied().collect(), now);
}

#[test]
fn a_seed_and_a_virtual_ip_are_enough() {
    let merge = Merge::new(
        configured(&[vip(1)], &["192.0.2.11:6443", "[2001:db8::11]:6443"]),
        LastGood::default(),
        7,
    );
    let snapshot = merge.boot_snapshot().unwrap();
    assert_eq!(snapshot.frontends, [frontend(vip(1), "https", &[at(11)])]);
    assert!(!snapshot.is_published() && snapshot.service == ServiceStatus::Found);
    assert_eq!(origin(&merge, at(11)), Some((Source::Seed, 7)));
    let dialled: Vec<_> = merge.alternatives().addresses.into_iter().collect();
    assert_eq!(dialled, [at(11), six(0x11)], "the other family can be dialled all the same");
}

#[test]
fn without_a_virtual_ip_or_an_apiserver_there_is_nothing_to_program() {
    let seeds = Merge::new(configured(&[], &["192.0.2.11:6443"]), LastGood::default(), 0);
    assert_eq!((seeds.boot_snapshot(), seeds.alternatives().exist), (None, true));
    let vip_only = Merge::new(configured(&[vip(1)], &[]), LastGood::default(), 0);
    assert_eq!((vip_only.boot_snapshot(), vip_only.alternatives().exist), (None, false));
    assert_eq!(vip_only.last_good(), &LastGood::default());
}

#[test]
fn saved_state_is_enough_and_never_excludes_a_seed() {
    let state = saved(&[frontend(vip(1), "https", &[at(11), at(12)])]);
    let merge = Merge::new(configured(&[], &[]), state.clone(), 2000);
    assert_eq!(used(&merge, vip(1)), [at(11), at(12)]);
    assert_eq!(origin(&merge, at(11)), Some((Source::Saved, 1000)));
    assert_eq!(merge.last_good(), &state, "nothing is written that was not learnt");
    let merge =
        Merge::new(configured(&[vip(1), vip(9)], &["192.0.2.12:6443", "192.0.2.13:6443"]), state, 2000);
    assert_eq!(used(&merge, vip(9)), [at(11), at(12), at(13)]);
    assert_eq!(origin(&merge, at(12)), Some((Source::Seed, 2000)));
    assert_eq!(origin(&merge, at(11)), Some((Source::Saved, 1000)));
}

#[test]
fn a_seed_at_the_address_of_a_saved_virtual_ip_is_an_apiserver() {
    let old = Vip::from(([192, 0, 2, 13], 443));
    let state = saved(&[frontend(old, "https", &[at(11)]), frontend(vip(1), "https", &[at(12)])]);
    let merge = Merge::new(configured(&[], &["192.0.2.13:6443"]), state.clone(), 2000);
    assert_eq!(merge.contradicted().map(|(_, vip)| vip).collect::<Vec<_>>(), [old]);
    assert_eq!((used(&merge, old), used(&merge, vip(1))), (vec![], vec![at(12), at(13)]));
    let alternatives = merge.alternatives();
    assert_eq!(alternatives.addresses, [at(11), at(12), at(13)].into(), "and the saved ones may live");
    assert_eq!(alternatives.vips, [vip(1).ip()].into());

    // A name that leads there may well mean the virtual IP.
    let mut named = Merge::new(configured(&[], &["api.example.com:6443"]), state, 2000);
    let rejected = named.resolve(&"api.example.com:6443".parse().unwrap(), &[at(13)].into(), 2001);
    assert_eq!(rejected.first().map(|rejection| rejection.reason), Some(RejectReason::IsVip));
    assert_eq!((named.contradicted().count(), used(&named, old)), (0, vec![at(11)]));
}

#[test]
fn seeds_serve_the_port_of_the_api_only() {
    let other: Vip = ([10, 96, 0, 1], 9443).into();
    let state = saved(&[frontend(vip(1), "https", &[at(11)]), frontend(other, "metrics", &[at(90)])]);
    let merge = Merge::new(configured(&[], &["192.0.2.13:6443"]), state, 2000);
    assert_eq!((used(&merge, vip(1)), used(&merge, other)), (vec![at(11), at(13)], vec![at(90)]));
    assert_eq!(merge.alternatives().addresses, [at(11), at(13)].into());
}

#[test]
fn a_full_list_rules_and_the_others_can_still_be_dialled() {
    let state = saved(&[frontend(vip(2), "https", &[at(11), at(12)])]);
    let mut merge = Merge::new(configured(&[vip(1)], &["192.0.2.13:6443"]), state, 2000);
    merge.publish(published(ServiceStatus::Found, &[frontend(vip(1), "https", &[at(12), at(14)])]), 3000);
    assert!(merge.is_published() && merge.boot_snapshot().is_none());
    let good = merge.last_good();
    let addresses: Vec<Backend> = good.frontends[0].backends.iter().map(|backend| backend.address).collect();
    assert_eq!((good.frontends.len(), addresses), (1, vec![at(12), at(14)]));
    assert_eq!(origin(&merge, at(12)), Some((Source::Published, 1000)), "known from the API since then");
    assert_eq!(origin(&merge, at(14)), Some((Source::Published, 3000)));
    assert_eq!(origin(&merge, at(13)), Some((Source::Seed, 2000)), "it drains, and is still told apart");
    let alternatives = merge.alternatives();
    assert_eq!(alternatives.addresses, [at(11), at(12), at(13)].into());
    assert_eq!(alternatives.vips, [vip(1).ip()].into(), "the API knows which addresses are virtual");
}

#[test]
fn an_empty_list_forgets_nothing() {
    let before = saved(&[frontend(vip(1), "https", &[at(11)])]);
    for (service, frontends) in [
        (ServiceStatus::Missing, vec![]),
        (ServiceStatus::Headless, vec![]),
        (ServiceStatus::Found, vec![frontend(vip(1), "https", &[])]),
        (ServiceStatus::Found, vec![frontend(vip(3), "https", &[])]),
    ] {
        let mut merge = Merge::new(configured(&[], &[]), before.clone(), 2000);
        merge.publish(published(service, &frontends), 3000);
        assert_eq!(merge.last_good(), &before, "{frontends:?}");
        assert!(merge.alternatives().vips.contains(&frontends.first().map_or(vip(1), |f| f.vip).ip()));
    }
}

#[test]
fn a_name_is_followed_and_its_last_meaning_outlives_a_start_without_name_server() {
    let name = "api.example.com:6443";
    let mut merge = Merge::new(configured(&[vip(1)], &[name]), LastGood::default(), 1000);
    assert!(merge.boot_snapshot().is_none() && merge.alternatives().exist);
    resolve(&mut merge, name, &[at(11)], 1001);
    assert_eq!(used(&merge, vip(1)), [at(11)]);
    resolve(&mut merge, name, &[at(11), at(12)], 1005);
    assert_eq!(
        (origin(&merge, at(11)), origin(&merge, at(12))),
        (Some((Source::Seed, 1001)), Some((Source::Seed, 1005)))
    );
    let state = merge.last_good().clone();

    let mut next = Merge::new(configured(&[], &[name]), state.clone(), 2000);
    assert_eq!(used(&next, vip(1)), [at(11), at(12)]);
    assert_eq!((next.last_good(), origin(&next, at(12))), (&state, Some((Source::Saved, 1005))));
    resolve(&mut next, name, &[at(12), at(13)], 2001);
    assert_eq!(used(&next, vip(1)), [at(12), at(13)], "the name knows better");
    assert_eq!(origin(&next, at(12)), Some((Source::Seed, 1005)));

    let other = Merge::new(configured(&[vip(9)], &["192.0.2.20:6443"]), state, 2000);
    assert_eq!(
        (used(&other, vip(9)), used(&other, vip(1))),
        (vec![at(20)], vec![]),
        "the operator's earlier words"
    );
}

#[test]
fn what_cannot_be_an_apiserver_is_left_out_and_named() {
    let name = "api.example.com:6443";
    let mut merge = Merge::new(configured(&[vip(1)], &[name]), LastGood::default(), 0);
    let loopback = Backend::from(([127, 0, 0, 1], 6443));
    let rejected = merge.resolve(&name.parse().unwrap(), &[loopback, vip(1), at(11)].into(), 0);
    let reasons: Vec<RejectReason> = rejected.iter().map(|rejection| rejection.reason).collect();
    assert_eq!(reasons, [RejectReason::IsVip, RejectReason::Loopback]);
    assert_eq!(used(&merge, vip(1)), [at(11)]);
}

#[test]
fn the_server_that_a_pod_is_told_is_a_virtual_ip_unless_the_operator_names_another() {
    let pod = Some(vip(1).ip());
    let told = |vips: &[Vip]| Configured { pod_server: pod, ..configured(vips, &["192.0.2.11:6443"]) };
    let vips = |merge: &Merge| merge.alternatives().vips;
    let mut merge = Merge::new(told(&[]), LastGood::default(), 0);
    assert_eq!(vips(&merge), [vip(1).ip()].into());
    assert!(merge.boot_snapshot().is_none(), "it is never programmed on that ground");
    assert_eq!(vips(&Merge::new(told(&[vip(2)]), LastGood::default(), 0)), [vip(2).ip()].into());
    merge.publish(published(ServiceStatus::Found, &[frontend(vip(2), "https", &[at(11)])]), 1);
    assert_eq!(vips(&merge), [vip(2).ip()].into());
}

#[test]
fn origins_do_not_grow_for_ever() {
    let mut merge = Merge::new(Configured::default(), LastGood::default(), 0);
    for round in 0..2000_u16 {
        let backend = six(round);
        merge
            .publish(published(ServiceStatus::Found, &[frontend(vip(1), "https", &[backend])]), round.into());
        assert_eq!(origin(&merge, backend), Some((Source::Published, round.into())));
    }
    assert!((0..2000).filter(|round| merge.origins().of(six(*round)).is_some()).count() <= 257);
}
