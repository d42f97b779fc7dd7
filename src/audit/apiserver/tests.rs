use std::collections::BTreeSet;

use super::super::finding::Verdict::{self, Fail, Pass, Unknown};
use super::*;

const NOW: i64 = 1_000_000_000;
const DAY: i64 = 86_400;

fn shown() -> Shown {
    Shown {
        subject: "CN=kube-apiserver".to_owned(),
        issuer: "CN=kubernetes".to_owned(),
        self_signed: false,
        names: BTreeSet::from(["kubernetes.default.svc".to_owned()]),
        addresses: BTreeSet::from(["10.96.0.1".parse().unwrap()]),
        begin: NOW - 100 * DAY,
        end: NOW + 265 * DAY,
        trusted: Ok(()),
    }
}

fn face(shown: Result<Shown, String>) -> Face {
    let address = "192.0.2.11:6443".parse().unwrap();
    Face { address, shown, old: Ok(Some(Reply::Alert(70))), broken: Ok(None), fixed: Ok(None) }
}

fn verdicts(face: &Face) -> Vec<(Verdict, Severity)> {
    let names = ["kubernetes.default.svc".to_owned(), "10.96.0.1".to_owned()];
    findings(face, &names, NOW).iter().map(|finding| (finding.verdict, finding.severity)).collect()
}

fn chosen(version: u16, suite: u16) -> Offered {
    Ok(Some(Reply::Chosen { version, suite }))
}

#[test]
fn an_apiserver_as_it_should_be() {
    assert!(verdicts(&face(Ok(shown()))).iter().all(|(verdict, _)| *verdict == Pass));
}

#[test]
fn one_that_does_not_answer_is_unknown() {
    let silent = || Err("no answer within 3 s".to_owned());
    let face = Face { old: silent(), broken: silent(), fixed: silent(), ..face(Err("refused".to_owned())) };
    assert_eq!(verdicts(&face).iter().map(|(verdict, _)| *verdict).collect::<Vec<_>>(), [Unknown; 5]);
}

#[test]
fn what_is_wrong_with_a_certificate_is_found() {
    let at = |shown: Shown, place: usize| verdicts(&face(Ok(shown)))[place];
    let foreign = || Err("the cluster's CA did not sign it".to_owned());
    assert_eq!(at(Shown { trusted: foreign(), ..shown() }, 0), (Fail, Severity::High));
    assert_eq!(at(Shown { trusted: foreign(), self_signed: true, ..shown() }, 0), (Fail, Severity::High));
    assert_eq!(at(Shown { trusted: Err("no CA is known".to_owned()), ..shown() }, 0).0, Unknown);
    assert_eq!(at(Shown { addresses: BTreeSet::new(), ..shown() }, 1), (Fail, Severity::Medium));
    assert_eq!(at(Shown { names: BTreeSet::new(), ..shown() }, 1), (Fail, Severity::Medium));
    assert_eq!(at(Shown { end: NOW - 1, ..shown() }, 2), (Fail, Severity::High));
    assert_eq!(at(Shown { begin: NOW + 1, ..shown() }, 2), (Fail, Severity::High));
    assert_eq!(at(Shown { end: NOW + DAY, ..shown() }, 2), (Fail, Severity::Low));
}

#[test]
fn what_is_wrong_with_its_tls_is_found() {
    let good = || face(Ok(shown()));
    assert_eq!(verdicts(&Face { old: chosen(0x0301, 5), ..good() })[3], (Fail, Severity::High));
    assert_eq!(verdicts(&Face { old: chosen(0x0303, 5), ..good() })[3].0, Pass);
    assert_eq!(verdicts(&Face { broken: chosen(0x0303, 10), ..good() })[4], (Fail, Severity::Medium));
    assert_eq!(verdicts(&Face { fixed: chosen(0x0303, 0x9c), ..good() })[4], (Fail, Severity::Low));
}

#[test]
fn the_nodes_own_bundle_is_judged() {
    let all = ["a", "b", "c"].map(|name| format!("CN={name}"));
    let of = |count: usize, public: Option<&[String]>| {
        let finding = trusted(&all[..count], public);
        (finding.verdict, finding.severity)
    };
    assert_eq!(of(0, None).0, Unknown);
    assert_eq!((of(1, Some(&[])).0, of(2, None).0), (Pass, Pass));
    assert_eq!(of(3, None), (Fail, Severity::Low));
    assert_eq!(of(1, Some(&all[..1])), (Fail, Severity::High));
}
