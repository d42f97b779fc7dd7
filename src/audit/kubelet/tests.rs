use super::super::catalogue::kubelet::READ_ONLY;
use super::super::finding::{Check, Severity, Verdict};
use super::configuration::{Configuration, Lack};
use super::*;
use Verdict::{Fail, Pass, Unknown};

const NOW: i64 = 1_000_000_000;
const DAY: i64 = 86_400;

fn shown() -> Shown {
    Shown {
        subject: "O=system:nodes, CN=system:node:node-1".to_owned(),
        issuer: "CN=kubernetes".to_owned(),
        self_signed: false,
        names: BTreeSet::from(["node-1".to_owned()]),
        addresses: BTreeSet::from(["192.0.2.1".parse().unwrap()]),
        begin: NOW - 100 * DAY,
        end: NOW + 265 * DAY,
        trusted: Ok(()),
    }
}

/// What the kubelet makes when it is told nothing.
fn own() -> Shown {
    Shown {
        subject: "CN=node-1@1700000000".to_owned(),
        issuer: "CN=node-1-ca@1700000000".to_owned(),
        addresses: BTreeSet::new(),
        trusted: foreign(),
        ..shown()
    }
}

fn foreign() -> Result<(), String> {
    Err("the cluster's CA did not sign it".to_owned())
}

fn set() -> Configuration {
    Configuration {
        source: "FILE".to_owned(),
        anonymous: false,
        webhook: true,
        mode: "Webhook".to_owned(),
        read_only_port: 0,
        bootstrap: true,
        certificate_file: None,
    }
}

fn lack() -> Lack {
    Lack { why: "FILE: permission denied".to_owned(), needed: "FILE readable".to_owned() }
}

fn unanswered(reason: Reason) -> Asked {
    Err(Unanswered { reason, text: format!("{reason:?}") })
}

fn seen() -> Seen {
    Seen {
        address: "127.0.0.1:10250".parse().unwrap(),
        shown: Ok(shown()),
        old: Ok(Some(Reply::Alert(70))),
        anonymous: vec![("/pods", Ok(401)), ("/healthz", Ok(401))],
        credentialed: Ok(Ok(403)),
        read_only: vec![("127.0.0.1:10255".parse().unwrap(), unanswered(Reason::Refused))],
        configuration: Known::All(set()),
        name: "node-1".to_owned(),
        addresses: BTreeSet::from(["192.0.2.1".parse().unwrap(), "10.244.0.1".parse().unwrap()]),
    }
}

/// One that does not answer, on a node of which nothing can be read.
fn dark() -> Seen {
    let silent = || Err("no handshake within 3 s".to_owned());
    Seen {
        shown: silent().map(|()| shown()),
        old: silent().map(|()| None),
        anonymous: vec![("/pods", unanswered(Reason::Silent)), ("/healthz", unanswered(Reason::Silent))],
        credentialed: Err("there are none".to_owned()),
        read_only: vec![("127.0.0.1:10255".parse().unwrap(), unanswered(Reason::Silent))],
        configuration: Known::Nothing(lack()),
        ..seen()
    }
}

fn of(check: &Check, seen: &Seen) -> Finding {
    let all = findings(seen, NOW);
    let mut found = all.into_iter().filter(|finding| finding.id == check.id);
    let finding = found.next().unwrap();
    assert!(found.next().is_none(), "one for each check");
    finding
}

fn expect(check: &Check, seen: &Seen, verdict: Verdict, words: &str) -> Severity {
    let finding = of(check, seen);
    assert_eq!(finding.verdict, verdict, "{finding:?}");
    assert!(finding.evidence.contains(words), "{finding:?}");
    finding.severity
}

#[test]
fn a_kubelet_as_it_should_be() {
    let all = findings(&seen(), NOW);
    assert_eq!(all.len(), 8);
    assert!(all.iter().all(|finding| finding.verdict == Pass), "{all:?}");
}

#[test]
fn of_a_silent_one_nothing_is_known() {
    let all = findings(&dark(), NOW);
    assert_eq!(all.len(), 8);
    assert!(all.iter().all(|finding| finding.verdict == Unknown && finding.mend.is_some()), "{all:?}");
}

#[test]
fn where_none_listens_nothing_passes_but_the_closed_port() {
    let refused = || unanswered(Reason::Refused);
    let seen = Seen { anonymous: vec![("/pods", refused()), ("/healthz", refused())], ..seen() };
    for finding in findings(&seen, NOW) {
        let expected = if finding.id == "kubelet-read-only-port" { Pass } else { Unknown };
        assert_eq!(finding.verdict, expected, "{finding:?}");
    }
    let elsewhere = Seen { configuration: Known::Nothing(lack()), ..seen };
    expect(&READ_ONLY, &elsewhere, Unknown, "but no kubelet listens on 127.0.0.1:10250 either");
}

#[test]
fn the_issuer_of_its_certificate() {
    let with = |shown| Seen { shown: Ok(shown), ..seen() };
    expect(&ISSUER, &with(own()), Fail, "self-signed: CN=node-1@1700000000");
    let alone = Shown { self_signed: true, trusted: Err("no CA is known".to_owned()), ..shown() };
    expect(&ISSUER, &with(alone), Fail, "self-signed");
    expect(&ISSUER, &with(Shown { trusted: foreign(), ..shown() }), Fail, "CN=kubernetes: the cluster's CA");
    let unknown = Shown { trusted: Err("no CA is known".to_owned()), ..shown() };
    expect(&ISSUER, &with(unknown), Unknown, "no CA is known");
    let waiting = Seen { shown: Err("received fatal alert: InternalError".to_owned()), ..seen() };
    expect(&ISSUER, &waiting, Unknown, "to be approved");
    let old = Seen { shown: Err("received fatal alert: protocolversion".to_owned()), ..seen() };
    expect(&ISSUER, &old, Unknown, "no TLS 1.2 or newer");
    assert!(of(&ISSUER, &waiting).mend.unwrap().contains("kubectl get csr"));
}

#[test]
fn the_names_of_its_certificate() {
    let with = |names: &[&str], ips: &[&str]| Seen {
        shown: Ok(Shown {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            addresses: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            ..shown()
        }),
        ..seen()
    };
    expect(&NAMES, &with(&["node-1"], &["192.0.2.1", "192.0.2.9"]), Pass, "node-1 and for 192.0.2.1 of");
    expect(&NAMES, &with(&["node-1"], &[]), Unknown, "not where it dials InternalIP first");
    expect(&NAMES, &with(&["other"], &["192.0.2.1"]), Unknown, "not where it dials Hostname first");
    expect(&NAMES, &with(&["other"], &["192.0.2.9"]), Fail, "other, 192.0.2.9, neither for node-1");
    expect(&NAMES, &with(&[], &[]), Fail, "no name at all");
    let blind = Seen { addresses: BTreeSet::new(), ..with(&["other"], &["192.0.2.1"]) };
    expect(&NAMES, &blind, Unknown, "no address of this node is seen");
}

#[test]
fn the_dates_of_its_certificate() {
    let with = |begin, end| Seen { shown: Ok(Shown { begin, end, ..shown() }), ..seen() };
    assert_eq!(expect(&EXPIRY, &with(NOW - DAY, NOW - 7200), Fail, "expired 2"), Severity::Medium);
    assert_eq!(
        expect(&EXPIRY, &with(NOW + 7200, NOW + DAY), Fail, "not valid for another"),
        Severity::Medium
    );
    assert_eq!(
        expect(&EXPIRY, &with(NOW - 300 * DAY, NOW + DAY), Fail, "and not renewed yet"),
        Severity::Low
    );
    expect(&EXPIRY, &with(NOW - DAY, NOW + DAY), Pass, "good for another");
}

#[test]
fn who_renews_its_certificate() {
    let with = |set| Seen { configuration: Known::All(set), ..seen() };
    expect(&ROTATION, &with(Configuration { bootstrap: false, ..set() }), Fail, "off, by FILE");
    let file = Some("/x.crt".to_owned());
    let external = Configuration { bootstrap: false, certificate_file: file, ..set() };
    expect(&ROTATION, &with(external), Unknown, "from /x.crt");
    expect(&ROTATION, &Seen { shown: Ok(own()), ..dark() }, Fail, "made its certificate itself");
    let alone = Shown { self_signed: true, subject: "CN=node-1".to_owned(), ..own() };
    expect(&ROTATION, &Seen { shown: Ok(alone), ..dark() }, Unknown, "FILE: permission");
    let files = Seen { configuration: Known::Files(set(), lack()), ..seen() };
    expect(&ROTATION, &files, Unknown, "FILE says serverTLSBootstrap: true, but FILE: permission");
}

#[test]
fn the_versions_of_tls() {
    let chosen = Reply::Chosen { version: 0x0301, suite: 0xc013 };
    let none = || Err("received fatal alert: ProtocolVersion".to_owned());
    let old = Seen { old: Ok(Some(chosen)), shown: none(), ..seen() };
    expect(&VERSION, &old, Fail, "it takes TLS 1.0");
    expect(&VERSION, &Seen { old: Ok(None), ..seen() }, Pass, "refuses");
    expect(&VERSION, &Seen { shown: none(), ..seen() }, Pass, "refuses");
    expect(&VERSION, &Seen { old: Ok(None), shown: none(), ..seen() }, Unknown, "neither old nor new");
}

#[test]
fn anonymous_requests() {
    let with = |pods, health| Seen { anonymous: vec![("/pods", pods), ("/healthz", health)], ..seen() };
    assert_eq!(expect(&ANONYMOUS, &with(Ok(200), Ok(200)), Fail, "GET /pods"), Severity::High);
    assert_eq!(expect(&ANONYMOUS, &with(Ok(401), Ok(200)), Fail, "GET /healthz"), Severity::High);
    let forbidden = with(Ok(403), Ok(403));
    assert_eq!(expect(&ANONYMOUS, &forbidden, Fail, "authorization alone"), Severity::Low);
    expect(&ANONYMOUS, &with(Ok(401), unanswered(Reason::Tls)), Pass, "is false, by FILE; GET /healthz");
    expect(&ANONYMOUS, &with(Ok(500), Ok(401)), Pass, "without credentials: 500");
    let open = Configuration { anonymous: true, ..set() };
    let silent = |set| Seen { configuration: Known::All(set), ..dark() };
    assert_eq!(expect(&ANONYMOUS, &silent(open.clone()), Fail, "is true, by FILE"), Severity::Low);
    let mode = "AlwaysAllow".to_owned();
    let open = Configuration { mode, ..open };
    assert_eq!(expect(&ANONYMOUS, &silent(open), Fail, "is true, by FILE"), Severity::High);
    let files = Seen { configuration: Known::Files(set(), lack()), ..dark() };
    expect(&ANONYMOUS, &files, Unknown, "FILE says authentication.anonymous.enabled: false, but");
}

#[test]
fn authorization() {
    let with = |set| Seen { configuration: Known::All(set), ..seen() };
    let allowing = Configuration { mode: "AlwaysAllow".to_owned(), ..set() };
    assert_eq!(expect(&AUTHORIZATION, &with(allowing.clone()), Fail, "AlwaysAllow, by FILE"), Severity::High);
    expect(&AUTHORIZATION, &with(Configuration { webhook: false, ..set() }), Pass, "it takes no tokens");
    let odd = Configuration { mode: "Other".to_owned(), ..set() };
    expect(&AUTHORIZATION, &Seen { credentialed: Ok(Ok(200)), ..with(odd) }, Unknown, "mode is Other");
    let asked = |credentialed| Seen { configuration: Known::Nothing(lack()), credentialed, ..seen() };
    expect(&AUTHORIZATION, &asked(Ok(Ok(403))), Pass, "403: somebody decides");
    expect(&AUTHORIZATION, &asked(Ok(Ok(401))), Unknown, "does not know them");
    expect(&AUTHORIZATION, &asked(Ok(Ok(200))), Unknown, "may be allowed to");
    expect(&AUTHORIZATION, &asked(Ok(unanswered(Reason::Tls))), Unknown, "with this node's credentials: Tls");
    expect(&AUTHORIZATION, &asked(Err("there are none".to_owned())), Unknown, "credentials: there are none");
    let files = Seen { configuration: Known::Files(allowing, lack()), ..asked(Ok(Ok(200))) };
    expect(&AUTHORIZATION, &files, Unknown, "FILE says authorization.mode: AlwaysAllow, but");
    let refused = Seen { anonymous: vec![("/pods", Ok(403))], ..asked(Ok(Ok(200))) };
    expect(&AUTHORIZATION, &refused, Pass, "without credentials: 403: somebody decides");
}

#[test]
fn the_read_only_port() {
    let at = |asked| vec![("127.0.0.1:10255".parse().unwrap(), unanswered(Reason::Refused)), asked];
    let other = "192.0.2.1:10255".parse().unwrap();
    let with = |asked, configuration| Seen { read_only: at((other, asked)), configuration, ..seen() };
    let nothing = || Known::Nothing(lack());
    let open = with(Ok(200), nothing());
    assert_eq!(expect(&READ_ONLY, &open, Fail, "plain HTTP at 192.0.2.1:10255"), Severity::High);
    expect(&READ_ONLY, &with(Ok(404), nothing()), Unknown, "192.0.2.1:10255: 404; FILE: permission");
    expect(&READ_ONLY, &with(unanswered(Reason::Silent), Known::All(set())), Pass, "readOnlyPort is 0");
    let refused = || unanswered(Reason::Refused);
    expect(&READ_ONLY, &with(refused(), nothing()), Pass, "127.0.0.1:10255, 192.0.2.1:10255");
    let configured = Configuration { read_only_port: 10_255, ..set() };
    let meant = with(refused(), Known::All(configured));
    assert_eq!(expect(&READ_ONLY, &meant, Fail, "is 10255, by FILE"), Severity::Medium);
    expect(&READ_ONLY, &Seen { read_only: Vec::new(), ..seen() }, Unknown, "it was not asked");
}
