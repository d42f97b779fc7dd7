//! Promises that hold for whatever the sources say.

use super::*;

fn address() -> impl Strategy<Value = Backend> {
    // Few enough to collide, with virtual IPs and useless addresses among them.
    prop_oneof![
        4 => (1..20_u8, 6443..6445_u16).prop_map(|(last, port)| ([192, 0, 2, last], port).into()),
        2 => (1..20_u16).prop_map(six),
        1 => (1..4_u8).prop_map(vip),
        1 => Just(Backend::from(([127, 0, 0, 1], 6443))),
    ]
}

fn vips() -> impl Strategy<Value = Vec<Vip>> {
    proptest::collection::btree_set((1..4_u8).prop_map(vip), 0..3).prop_map(|vips| vips.into_iter().collect())
}

/// What a daemon writes: all of it is what the API said, or none.
fn state() -> impl Strategy<Value = LastGood> {
    let published = Just(Learnt::Published).boxed();
    prop_oneof![state_of(published), state_of("[a-c]:6443".prop_map(Learnt::Configured).boxed())]
}

fn state_of(learnt: BoxedStrategy<Learnt>) -> impl Strategy<Value = LastGood> {
    let backends =
        proptest::collection::btree_map(address(), (learnt.clone(), 0..9_u64), 1..6).prop_map(|all| {
            let backend = |(address, (learnt, at))| GoodBackend { address, learnt, at };
            all.into_iter().map(backend).collect()
        });
    let frontend = ("(https|metrics|)", learnt, 0..9_u64, backends);
    proptest::collection::btree_map(1..4_u8, frontend, 0..4).prop_map(|all| {
        let frontend = |(last, (port_name, learnt, at, backends))| GoodFrontend {
            vip: vip(last),
            port_name,
            affinity: Affinity::None,
            learnt,
            at,
            backends,
        };
        LastGood { frontends: all.into_iter().map(frontend).collect() }
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
        vips in vips(),
        seeds in proptest::collection::vec(address(), 0..6),
        state in state(),
        name in proptest::option::of(proptest::collection::btree_set(address(), 1..4)),
    ) {
        let texts: Vec<String> = seeds.iter().map(ToString::to_string).chain(["a:6443".into()]).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let mut merge = Merge::new(configured(&vips, &texts), state, 100);
        if let Some(addresses) = name {
            merge.resolve(&"a:6443".parse().unwrap(), &addresses, 101);
        }
        let alternatives = merge.alternatives();
        // A configured virtual IP is refused as a seed; a saved one is not.
        let usable = |seed: &&Backend| !seed.ip().is_loopback() && vips.iter().all(|vip| vip.ip() != seed.ip());
        for seed in seeds.iter().filter(usable) {
            prop_assert!(alternatives.addresses.contains(seed), "{seed} cannot be dialled");
            for vip in vips.iter().filter(|vip| vip.is_ipv4() == seed.is_ipv4()) {
                prop_assert!(used(&merge, *vip).contains(seed), "a file keeps {seed} from {vip}");
            }
        }
        prop_assert!(alternatives.addresses.iter().all(|address| !alternatives.vips.contains(&address.ip())));
        if let Some(snapshot) = merge.boot_snapshot() {
            let addresses = snapshot.vip_addresses();
            for frontend in &snapshot.frontends {
                prop_assert!(!frontend.backends.is_empty() && frontend.backends.is_sorted_by(|a, b| a < b));
                for backend in &frontend.backends {
                    prop_assert!(!addresses.contains(&backend.ip()), "{backend} would loop");
                    prop_assert_eq!(backend.is_ipv4(), frontend.vip.is_ipv4());
                    prop_assert!(merge.origins().of(*backend).is_some(), "nobody knows {}", backend);
                }
            }
        }
    }

    #[test]
    fn a_full_list_alone_decides_what_is_remembered(
        vips in vips(),
        seeds in proptest::collection::vec((1..20_u8).prop_map(at), 0..6),
        state in state(),
        list in full_list(),
    ) {
        let texts: Vec<String> = seeds.iter().map(ToString::to_string).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let mut merge = Merge::new(configured(&vips, &texts), state, 100);
        let before = merge.last_good().clone();
        merge.publish(Arc::clone(&list), 200);
        prop_assert!(merge.boot_snapshot().is_none());
        if list.backends().is_empty() && !list.frontends.iter().any(|f| before.frontend(f.vip).is_some()) {
            prop_assert_eq!(merge.last_good(), &before);
        }
        for listed in list.frontends.iter().filter(|frontend| !frontend.backends.is_empty()) {
            let good = merge.last_good().frontends.iter().filter(|good| good.vip == listed.vip);
            let found = good.map(|good| good.backends.iter().map(|b| b.address).collect::<Vec<_>>());
            prop_assert!(found.into_iter().any(|backends| backends == listed.backends));
        }
        let restarted = Merge::new(configured(&vips, &texts), merge.last_good().clone(), 300);
        prop_assert_eq!(restarted.last_good(), merge.last_good(), "a restart alone changes nothing");
    }
}
