use std::collections::BTreeMap;
use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::model::address::InterfaceName;
use crate::model::desired::{PreferredSource, SourceAddress, SourcePolicy};

/// States of every shape that the model can produce, and names as strange as the API can send.
pub(in super::super) fn any_state() -> impl Strategy<Value = DesiredState> {
    let address = prop_oneof![
        (1u8..250).prop_map(|n| IpAddr::from([192, 0, 2, n])),
        (1u16..250).prop_map(|n| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n])),
    ];
    let frontend = (
        prop::collection::btree_set((address, prop::sample::select(vec![6443u16, 443])), 1..70),
        any::<bool>(),
        any::<bool>(),
        ".{0,20}",
        prop::sample::select(vec![443u16, 8443]),
        any::<bool>(),
        0usize..3,
    )
        .prop_filter_map(
            "no backend of the family",
            |(backends, affinity, guard, port_name, port, v6, dead)| {
                let ip: IpAddr = if v6 { "fd00:10:96::1".parse().ok()? } else { "10.96.0.1".parse().ok()? };
                let backends: Vec<Backend> =
                    backends.into_iter().filter(|(b, _)| b.is_ipv6() == v6).map(Backend::from).collect();
                let affinity = if affinity { Affinity::ClientIP } else { Affinity::None };
                let vip = SocketAddr::new(ip, port);
                (!backends.is_empty()).then_some(DesiredFrontend {
                    vip,
                    port_name,
                    affinity,
                    failed: backends.iter().take(dead).map(|b| Backend::new(b.ip(), 1)).collect(),
                    backends,
                    local_route_allowed: guard,
                })
            },
        );
    let masquerade = prop::sample::select(vec![Masquerade::Auto, Masquerade::Always, Masquerade::Never]);
    let cidrs = prop::sample::subsequence(
        vec!["10.244.0.0/16", "10.240.0.0/13", "fd00:10:244::/47", "fd00:10:248::/64", "192.0.2.9/32"],
        0..5,
    );
    (prop::collection::vec(frontend, 0..4), masquerade, cidrs, any::<(bool, bool)>()).prop_map(
        |(frontends, masquerade, cidrs, (sources, forwarding))| {
            let mut unique: BTreeMap<SocketAddr, DesiredFrontend> = BTreeMap::new();
            unique.extend(frontends.into_iter().map(|f| (f.vip, f)));
            let frontends: Vec<_> = unique.into_values().collect();
            let preferred = frontends
                .iter()
                .flat_map(|f| &f.backends)
                .filter(|b| sources && b.is_ipv4())
                .map(|b| {
                    let interfaces =
                        InterfaceName::new(&format!("eth{}", b.port() % 3)).into_iter().collect();
                    let (named, certain) = (b.port() % 2 == 0, b.port() % 5 == 0);
                    let address = IpAddr::from([192, 0, 2, 254]);
                    (b.ip(), PreferredSource::Address(SourceAddress { address, interfaces, named, certain }))
                })
                .collect();
            let cluster_cidrs = cidrs.iter().map(|c| c.parse().unwrap()).collect();
            DesiredState {
                service: "default/kubernetes".parse().unwrap(),
                frontends,
                source: SourcePolicy { masquerade, cluster_cidrs, preferred },
                forwarding,
            }
        },
    )
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn names_are_valid_comments_fit_and_every_jump_has_a_target(state in any_state()) {
        let table = table(&state);
        let chains: BTreeSet<&str> = table.chains.iter().map(|c| c.name.as_str()).collect();
        let counters: BTreeSet<&str> = table.counters.iter().map(|c| c.name.as_str()).collect();
        prop_assert_eq!(chains.len(), table.chains.len(), "two chains of one name");
        prop_assert_eq!(counters.len(), table.counters.len(), "two counters of one name");
        prop_assert!(chains.iter().chain(&counters).all(|n| is_name(n)));
        let mut comments: Vec<&str> = vec![table.comment];
        comments.extend(table.counters.iter().map(|c| c.comment.as_str()));
        for chain in &table.chains {
            comments.push(&chain.comment);
            for rule in &chain.rules {
                comments.extend(rule.comment.as_deref());
                prop_assert!(rule.counter.as_deref().is_none_or(|c| counters.contains(c)));
                match &rule.action {
                    Action::Goto(to) => prop_assert!(chains.contains(to.as_str()), "{} is missing", to),
                    Action::Balance { targets, .. } => {
                        prop_assert!(targets.len() > 1);
                        prop_assert!(targets.iter().all(|t| chains.contains(t.chain.as_str())));
                        comments.extend(targets.iter().map(|t| t.comment.as_str()));
                    }
                    _ => {}
                }
            }
        }
        for comment in comments {
            prop_assert!(comment.len() < super::super::table::COMMENT_MAX, "too long: {}", comment);
            prop_assert!(comment.chars().all(|c| c.is_ascii_graphic() || c == ' ') && !comment.contains('"'));
        }
    }

    #[test]
    fn base_chains_come_first(state in any_state()) {
        let table = table(&state);
        let hooks: Vec<bool> = table.chains.iter().map(|c| c.hook.is_some()).collect();
        prop_assert!(hooks.is_sorted_by(|a, b| a >= b));
    }
}

#[test]
fn long_service_name_fits_its_comment() {
    let mut state = DesiredState {
        service: format!("{}/{}", "n".repeat(63), "s".repeat(63)).parse().unwrap(),
        frontends: Vec::new(),
        source: SourcePolicy::default(),
        forwarding: false,
    };
    state.frontends.push(DesiredFrontend {
        vip: "10.96.0.1:443".parse().unwrap(),
        port_name: "quote\"and\nnewline-and-much-more".to_owned(),
        affinity: Affinity::ClientIP,
        backends: vec!["192.0.2.11:6443".parse().unwrap()],
        failed: Vec::new(),
        local_route_allowed: true,
    });
    let table = table(&state);
    let comment = &table.chains.iter().find(|c| c.name == "vip-10.96.0.1-443").unwrap().comment;
    assert!(comment.len() < super::super::table::COMMENT_MAX, "{comment}");
    assert!(comment.contains("port quoteandnewline"), "{comment}");
}
