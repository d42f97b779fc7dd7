use super::*;
use crate::audit::catalogue::AuditCheck;
use crate::audit::catalogue::kubelet::READ_ONLY;
use crate::audit::kubelet_config::{KubeletConfiguration, MissingInput};
use crate::check::report::{Severity, Verdict};
use Verdict::{Fail, Pass, Unknown};

const NOW: i64 = 1_000_000_000;
const DAY: i64 = 86_400;

fn served() -> ServedCertificate {
    ServedCertificate {
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
fn own() -> ServedCertificate {
    ServedCertificate {
        subject: "CN=node-1@1700000000".to_owned(),
        issuer: "CN=node-1-ca@1700000000".to_owned(),
        addresses: BTreeSet::new(),
        trusted: untrusted(),
        ..served()
    }
}

fn untrusted() -> Result<(), String> {
    Err("the cluster CA did not sign it".to_owned())
}

fn set() -> KubeletConfiguration {
    KubeletConfiguration {
        source: "FILE".to_owned(),
        anonymous: false,
        webhook: true,
        mode: "Webhook".to_owned(),
        read_only_port: 0,
        bootstrap: true,
        certificate_file: None,
    }
}

fn missing() -> MissingInput {
    MissingInput { why: "FILE: permission denied".to_owned(), needed: "FILE readable".to_owned() }
}

fn error(reason: HttpErrorKind) -> StatusResult {
    Err(HttpError { reason, text: format!("{reason:?}") })
}

fn probe() -> KubeletProbe {
    KubeletProbe {
        address: "127.0.0.1:10250".parse().unwrap(),
        served: Ok(served()),
        old: Ok(Some(Reply::Alert(70))),
        anonymous: vec![("/pods", Ok(401)), ("/healthz", Ok(401))],
        credentialed: Ok(Ok(403)),
        read_only: vec![("127.0.0.1:10255".parse().unwrap(), error(HttpErrorKind::Refused))],
        configuration: KnownConfiguration::All(set()),
        name: "node-1".to_owned(),
        addresses: BTreeSet::from(["192.0.2.1".parse().unwrap(), "10.244.0.1".parse().unwrap()]),
    }
}

/// One that does not answer, on a node of which nothing can be read.
fn dark() -> KubeletProbe {
    let silent = || Err("no handshake within 3 s".to_owned());
    KubeletProbe {
        served: silent().map(|()| served()),
        old: silent().map(|()| None),
        anonymous: vec![("/pods", error(HttpErrorKind::Silent)), ("/healthz", error(HttpErrorKind::Silent))],
        credentialed: Err("no credentials are configured".to_owned()),
        read_only: vec![("127.0.0.1:10255".parse().unwrap(), error(HttpErrorKind::Silent))],
        configuration: KnownConfiguration::Nothing(missing()),
        ..probe()
    }
}

fn of(check: &AuditCheck, probe: &KubeletProbe) -> Finding {
    let all = findings(probe, NOW);
    let mut found = all.into_iter().filter(|finding| finding.id == check.id);
    let finding = found.next().unwrap();
    assert!(found.next().is_none(), "one for each check");
    finding
}

fn expect(check: &AuditCheck, probe: &KubeletProbe, verdict: Verdict, words: &str) -> Severity {
    let finding = of(check, probe);
    assert_eq!(finding.verdict, verdict, "{finding:?}");
    assert!(finding.evidence.contains(words), "{finding:?}");
    finding.severity.unwrap()
}

#[test]
fn hardened_kubelet_passes() {
    let all = findings(&probe(), NOW);
    assert_eq!(all.len(), 8);
    assert!(all.iter().all(|finding| finding.verdict == Pass), "{all:?}");
}

#[test]
fn silent_apiserver_is_unknown() {
    let all = findings(&dark(), NOW);
    assert_eq!(all.len(), 8);
    assert!(all.iter().all(|finding| finding.verdict == Unknown && finding.fix.is_some()), "{all:?}");
}

#[test]
fn without_kubelet_only_the_closed_port_passes() {
    let refused = || error(HttpErrorKind::Refused);
    let probe = KubeletProbe { anonymous: vec![("/pods", refused()), ("/healthz", refused())], ..probe() };
    for finding in findings(&probe, NOW) {
        let expected = if finding.id == "kubelet-read-only-port" { Pass } else { Unknown };
        assert_eq!(finding.verdict, expected, "{finding:?}");
    }
    let elsewhere = KubeletProbe { configuration: KnownConfiguration::Nothing(missing()), ..probe };
    expect(&READ_ONLY, &elsewhere, Unknown, "but no kubelet listens on 127.0.0.1:10250 either");
}

#[test]
fn certificate_issuer_has_its_verdicts() {
    let with = |served| KubeletProbe { served: Ok(served), ..probe() };
    expect(&ISSUER, &with(own()), Fail, "self-signed: CN=node-1@1700000000");
    let alone =
        ServedCertificate { self_signed: true, trusted: Err("no CA is known".to_owned()), ..served() };
    expect(&ISSUER, &with(alone), Fail, "self-signed");
    expect(
        &ISSUER,
        &with(ServedCertificate { trusted: untrusted(), ..served() }),
        Fail,
        "CN=kubernetes: the cluster CA",
    );
    let unknown = ServedCertificate { trusted: Err("no CA is known".to_owned()), ..served() };
    expect(&ISSUER, &with(unknown), Unknown, "no CA is known");
    let waiting = KubeletProbe { served: Err("received fatal alert: InternalError".to_owned()), ..probe() };
    expect(&ISSUER, &waiting, Unknown, "is not approved yet");
    let old = KubeletProbe { served: Err("received fatal alert: protocolversion".to_owned()), ..probe() };
    expect(&ISSUER, &old, Unknown, "not support TLS 1.2 or newer");
    assert!(of(&ISSUER, &waiting).fix.unwrap().contains("kubectl get csr"));
}

#[test]
fn certificate_names_have_their_verdicts() {
    let with = |names: &[&str], ips: &[&str]| KubeletProbe {
        served: Ok(ServedCertificate {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            addresses: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            ..served()
        }),
        ..probe()
    };
    expect(&NAMES, &with(&["node-1"], &["192.0.2.1", "192.0.2.9"]), Pass, "node-1 and for 192.0.2.1 of");
    expect(&NAMES, &with(&["node-1"], &[]), Unknown, "wrong if it dials InternalIP first");
    expect(&NAMES, &with(&["other"], &["192.0.2.1"]), Unknown, "wrong if it dials Hostname first");
    expect(&NAMES, &with(&["other"], &["192.0.2.9"]), Fail, "other, 192.0.2.9, neither for node-1");
    expect(&NAMES, &with(&[], &[]), Fail, "no name");
    let blind = KubeletProbe { addresses: BTreeSet::new(), ..with(&["other"], &["192.0.2.1"]) };
    expect(&NAMES, &blind, Unknown, "no address of this node is visible");
}

#[test]
fn certificate_dates_have_their_verdicts() {
    let with =
        |begin, end| KubeletProbe { served: Ok(ServedCertificate { begin, end, ..served() }), ..probe() };
    assert_eq!(expect(&EXPIRY, &with(NOW - DAY, NOW - 7200), Fail, "expired 2"), Severity::Medium);
    assert_eq!(
        expect(&EXPIRY, &with(NOW + 7200, NOW + DAY), Fail, "not valid yet, for another"),
        Severity::Medium
    );
    assert_eq!(
        expect(&EXPIRY, &with(NOW - 300 * DAY, NOW + DAY), Fail, "and not renewed yet"),
        Severity::Low
    );
    expect(&EXPIRY, &with(NOW - DAY, NOW + DAY), Pass, "valid for another");
}

#[test]
fn certificate_rotation_has_its_verdicts() {
    let with = |set| KubeletProbe { configuration: KnownConfiguration::All(set), ..probe() };
    expect(&ROTATION, &with(KubeletConfiguration { bootstrap: false, ..set() }), Fail, "off, set by FILE");
    let file = Some("/x.crt".to_owned());
    let external = KubeletConfiguration { bootstrap: false, certificate_file: file, ..set() };
    expect(&ROTATION, &with(external), Unknown, "from /x.crt");
    expect(&ROTATION, &KubeletProbe { served: Ok(own()), ..dark() }, Fail, "created its certificate itself");
    let alone = ServedCertificate { self_signed: true, subject: "CN=node-1".to_owned(), ..own() };
    expect(&ROTATION, &KubeletProbe { served: Ok(alone), ..dark() }, Unknown, "FILE: permission");
    let files = KubeletProbe { configuration: KnownConfiguration::Files(set(), missing()), ..probe() };
    expect(&ROTATION, &files, Unknown, "FILE says serverTLSBootstrap: true, but FILE: permission");
}

#[test]
fn old_tls_versions_fail() {
    let chosen = Reply::Chosen { version: 0x0301, suite: 0xc013 };
    let none = || Err("received fatal alert: ProtocolVersion".to_owned());
    let old = KubeletProbe { old: Ok(Some(chosen)), served: none(), ..probe() };
    expect(&VERSION, &old, Fail, "it accepts TLS 1.0");
    expect(&VERSION, &KubeletProbe { old: Ok(None), ..probe() }, Pass, "rejects");
    expect(&VERSION, &KubeletProbe { served: none(), ..probe() }, Pass, "rejects");
    expect(
        &VERSION,
        &KubeletProbe { old: Ok(None), served: none(), ..probe() },
        Unknown,
        "neither old nor new",
    );
}

#[test]
fn anonymous_requests_have_their_verdicts() {
    let with =
        |pods, health| KubeletProbe { anonymous: vec![("/pods", pods), ("/healthz", health)], ..probe() };
    assert_eq!(expect(&ANONYMOUS, &with(Ok(200), Ok(200)), Fail, "GET /pods"), Severity::High);
    assert_eq!(expect(&ANONYMOUS, &with(Ok(401), Ok(200)), Fail, "GET /healthz"), Severity::High);
    let forbidden = with(Ok(403), Ok(403));
    assert_eq!(expect(&ANONYMOUS, &forbidden, Fail, "only authorization"), Severity::Low);
    expect(
        &ANONYMOUS,
        &with(Ok(401), error(HttpErrorKind::Tls)),
        Pass,
        "is false, set by FILE; GET /healthz",
    );
    expect(&ANONYMOUS, &with(Ok(500), Ok(401)), Pass, "without credentials: 500");
    let open = KubeletConfiguration { anonymous: true, ..set() };
    let silent = |set| KubeletProbe { configuration: KnownConfiguration::All(set), ..dark() };
    assert_eq!(expect(&ANONYMOUS, &silent(open.clone()), Fail, "is true, set by FILE"), Severity::Low);
    let mode = "AlwaysAllow".to_owned();
    let open = KubeletConfiguration { mode, ..open };
    assert_eq!(expect(&ANONYMOUS, &silent(open), Fail, "is true, set by FILE"), Severity::High);
    let files = KubeletProbe { configuration: KnownConfiguration::Files(set(), missing()), ..dark() };
    expect(&ANONYMOUS, &files, Unknown, "FILE says authentication.anonymous.enabled: false, but");
}

#[test]
fn authorization() {
    let with = |set| KubeletProbe { configuration: KnownConfiguration::All(set), ..probe() };
    let allowing = KubeletConfiguration { mode: "AlwaysAllow".to_owned(), ..set() };
    assert_eq!(
        expect(&AUTHORIZATION, &with(allowing.clone()), Fail, "AlwaysAllow, set by FILE"),
        Severity::High
    );
    expect(
        &AUTHORIZATION,
        &with(KubeletConfiguration { webhook: false, ..set() }),
        Pass,
        "it accepts no tokens",
    );
    let odd = KubeletConfiguration { mode: "Other".to_owned(), ..set() };
    expect(
        &AUTHORIZATION,
        &KubeletProbe { credentialed: Ok(Ok(200)), ..with(odd) },
        Unknown,
        "mode is Other",
    );
    let asked = |credentialed| KubeletProbe {
        configuration: KnownConfiguration::Nothing(missing()),
        credentialed,
        ..probe()
    };
    expect(&AUTHORIZATION, &asked(Ok(Ok(403))), Pass, "403: an authorizer decides");
    expect(&AUTHORIZATION, &asked(Ok(Ok(401))), Unknown, "rejects them");
    expect(&AUTHORIZATION, &asked(Ok(Ok(200))), Unknown, "RBAC may allow");
    expect(
        &AUTHORIZATION,
        &asked(Ok(error(HttpErrorKind::Tls))),
        Unknown,
        "with the credentials of this node: Tls",
    );
    expect(
        &AUTHORIZATION,
        &asked(Err("no credentials are configured".to_owned())),
        Unknown,
        "credentials: no credentials are configured",
    );
    let files =
        KubeletProbe { configuration: KnownConfiguration::Files(allowing, missing()), ..asked(Ok(Ok(200))) };
    expect(&AUTHORIZATION, &files, Unknown, "FILE says authorization.mode: AlwaysAllow, but");
    let refused = KubeletProbe { anonymous: vec![("/pods", Ok(403))], ..asked(Ok(Ok(200))) };
    expect(&AUTHORIZATION, &refused, Pass, "without credentials: 403: an authorizer decides");
}

#[test]
fn read_only_port_has_its_verdicts() {
    let at = |asked| vec![("127.0.0.1:10255".parse().unwrap(), error(HttpErrorKind::Refused)), asked];
    let other = "192.0.2.1:10255".parse().unwrap();
    let with =
        |asked, configuration| KubeletProbe { read_only: at((other, asked)), configuration, ..probe() };
    let nothing = || KnownConfiguration::Nothing(missing());
    let open = with(Ok(200), nothing());
    assert_eq!(expect(&READ_ONLY, &open, Fail, "plain HTTP at 192.0.2.1:10255"), Severity::High);
    expect(&READ_ONLY, &with(Ok(404), nothing()), Unknown, "192.0.2.1:10255: 404; FILE: permission");
    expect(
        &READ_ONLY,
        &with(error(HttpErrorKind::Silent), KnownConfiguration::All(set())),
        Pass,
        "readOnlyPort is 0",
    );
    let refused = || error(HttpErrorKind::Refused);
    expect(&READ_ONLY, &with(refused(), nothing()), Pass, "127.0.0.1:10255, 192.0.2.1:10255");
    let configured = KubeletConfiguration { read_only_port: 10_255, ..set() };
    let meant = with(refused(), KnownConfiguration::All(configured));
    assert_eq!(expect(&READ_ONLY, &meant, Fail, "is 10255, set by FILE"), Severity::Medium);
    expect(&READ_ONLY, &KubeletProbe { read_only: Vec::new(), ..probe() }, Unknown, "it was not queried");
}
