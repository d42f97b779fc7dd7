use super::super::control::Control;
use super::super::finding::Verdict::{self, Fail, Pass, Unknown};
use super::super::flags::Flags;
use super::super::started::Started;
use super::*;

fn door() -> Door {
    let closed = Unanswered { reason: Reason::Refused, text: "refused".to_owned() };
    Door {
        address: "192.0.2.11:6443".parse().unwrap(),
        open: open(&[]),
        foreign: Ok(Who::Nobody),
        damaged: Ok(Who::Nobody),
        own: Some(Ok(Who::User("system:node:a".to_owned()))),
        basic: Ok(false),
        plain: vec![(6443, Ok(Plain::Other(400))), (8080, Err(closed))],
    }
}

/// These paths are served, and all others refused.
fn open(served: &[&str]) -> Vec<(&'static str, Asked<u16>)> {
    paths()
        .map(|path| (path, Ok(if served.contains(&path) || path == "/version" { 200 } else { 403 })))
        .collect()
}

fn of(door: &Door, id: &str) -> Verdict {
    findings(door).iter().find(|finding| finding.id == id).unwrap().verdict
}

#[test]
fn an_apiserver_as_it_should_be() {
    let all = findings(&door());
    assert_eq!(all.len(), 7);
    assert!(all.iter().all(|finding| finding.verdict == Pass), "{all:?}");
    let said = |id| all.iter().find(|finding| finding.id == id).unwrap().evidence.clone();
    assert_eq!(said("plain-http"), "6443 answers 400 and is no apiserver, 8080 is closed");
    assert_eq!(said("anonymous-discovery"), "they read /version, no discovery");
}

#[test]
fn one_that_does_not_answer_is_unknown() {
    let no = || Err("no answer within 3 s".to_owned());
    let silent = Door {
        foreign: no(),
        damaged: no(),
        own: Some(no()),
        basic: Err("x".to_owned()),
        open: Vec::new(),
        ..door()
    };
    for finding in findings(&silent).iter().filter(|finding| finding.id != "plain-http") {
        assert_eq!(finding.verdict, Unknown, "{finding:?}");
    }
    let unclear = || Ok(Who::Unclear(500));
    let odd = Door { foreign: unclear(), damaged: unclear(), own: Some(unclear()), ..door() };
    for id in ["foreign-client-certificate", "damaged-token", "credentials"] {
        assert_eq!(of(&odd, id), Unknown, "{id}");
    }
    assert_eq!(of(&Door { own: None, ..door() }, "credentials"), Unknown);
}

#[test]
fn whoever_is_let_in_is_noticed() {
    for who in [Who::Allowed, Who::User("apivip-audit".to_owned())] {
        assert_eq!(of(&Door { foreign: Ok(who.clone()), ..door() }, "foreign-client-certificate"), Fail);
        assert_eq!(of(&Door { damaged: Ok(who.clone()), ..door() }, "damaged-token"), Fail);
    }
    assert_eq!(of(&Door { damaged: Ok(Who::Anonymous), ..door() }, "damaged-token"), Pass);
    assert_eq!(of(&Door { own: Some(Ok(Who::Anonymous)), ..door() }, "credentials"), Fail);
    assert_eq!(of(&Door { basic: Ok(true), ..door() }, "basic-auth"), Fail);
    let open = |path| Door { open: open(&[path]), ..door() };
    assert_eq!(of(&open("/apis"), "anonymous-discovery"), Fail);
    assert_eq!(of(&open("/apis"), "anonymous-objects"), Pass);
    assert_eq!(of(&open(OBJECTS[4]), "anonymous-objects"), Fail);
    assert_eq!(of(&Door { plain: vec![(8080, Ok(Plain::Api))], ..door() }, "plain-http"), Fail);
    let silent = Err(Unanswered { reason: Reason::Silent, text: String::new() });
    assert_eq!(of(&Door { plain: vec![(8080, silent)], ..door() }, "plain-http"), Unknown);
    let mut broken = door();
    broken.open.retain(|(path, _)| *path != OBJECTS[1]);
    broken.open.push((OBJECTS[1], Ok(503)));
    assert_eq!(of(&broken, "anonymous-objects"), Unknown);
    broken.open.push((OBJECTS[2], Ok(200)));
    broken.open.retain(|(path, status)| *path != OBJECTS[2] || *status == Ok(200));
    assert_eq!(of(&broken, "anonymous-objects"), Fail, "what was seen counts");
}

#[test]
fn tokens_from_a_file_are_seen_in_the_flags() {
    let with = |line: &str| Control {
        started: vec![Started::new("here".to_owned(), Flags::read(&[line]))],
        all_flags: true,
        ..Control::default()
    };
    assert_eq!(static_tokens(&with("--token-auth-file=/etc/tokens"), None).verdict, Fail);
    assert_eq!(static_tokens(&with("--secure-port=6443"), Some(false)).verdict, Pass);
    let some = Control { all_flags: false, ..with("--secure-port=6443") };
    assert_eq!(static_tokens(&some, Some(false)).verdict, Unknown);
    assert_eq!(static_tokens(&Control::default(), Some(false)).verdict, Unknown);
    assert_eq!(static_tokens(&Control::default(), Some(true)).verdict, Fail);
}
