use super::*;

fn key() -> ServiceKey {
    "default/kubernetes".parse().unwrap()
}

fn slice(name: &str, label: &str) -> String {
    format!(
        r#"{{"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1","metadata":{{"name":"{name}",
        "namespace":"default","resourceVersion":"8","labels":{{"kubernetes.io/service-name":"{label}"}}}},
        "addressType":"IPv4","endpoints":null,"ports":null}}"#
    )
}

fn line(kind: &str, object: &str) -> Vec<u8> {
    format!(r#"{{"type":"{kind}","object":{object}}}"#).into_bytes()
}

#[test]
fn a_list_keeps_only_what_was_selected() {
    let body = br#"{"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":"7"},"items":[
        {"metadata":{"name":"other","namespace":"default"}},
        {"metadata":{"name":"kubernetes","namespace":"default"},"spec":{"clusterIP":"10.96.0.1"}}]}"#;
    let listed = list(Resource::Service, &key(), body).unwrap();
    assert_eq!(listed.version, "7");
    let Change::Service(Some(service)) = listed.change else { panic!("{:?}", listed.change) };
    assert_eq!(service.spec.cluster_ip, "10.96.0.1");
}

#[test]
fn an_empty_list_says_that_nothing_exists() {
    for items in [r#","items":null"#, r#","items":[]"#, ""] {
        let body = format!(
            r#"{{"kind":"ServiceList","apiVersion":"v1","metadata":{{"resourceVersion":"7"}}{items}}}"#
        );
        let listed = list(Resource::Service, &key(), body.as_bytes()).unwrap();
        assert_eq!(listed.change, Change::Service(None));
    }
}

#[test]
fn lists_that_are_not_what_was_asked_for_are_refused() {
    let refused = [
        ("<html>nope</html>", "begins with \"<html>nope"),
        (r#"{"kind":"PodList","apiVersion":"v1"}"#, "sent a v1 PodList where a v1 ServiceList"),
        ("{}", "sent an object without kind"),
        (r#"{"kind":"ServiceList","apiVersion":"v1","items":[]}"#, "without resourceVersion"),
        (
            r#"{"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":"7","continue":"x"}}"#,
            "only a part of the list",
        ),
        (
            r#"{"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":"7"},"items":[{"spec":5}]}"#,
            "invalid type: integer `5`",
        ),
        (r#"{"kind":"ServiceList","apiVersion":"v1","metadata":{"reso"#, "EOF"),
    ];
    for (body, expected) in refused {
        let error = list(Resource::Service, &key(), body.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error} lacks {expected}");
    }
}

#[test]
fn slices_come_change_and_go() {
    let ours = slice("kubernetes-a", "kubernetes");
    let Event::Changed(Some(Change::Slice(found)), version) =
        event(Resource::Slices, &key(), &line("ADDED", &ours)).unwrap()
    else {
        panic!("not a slice")
    };
    assert_eq!((found.metadata.name.as_str(), version.as_str()), ("kubernetes-a", "8"));
    let gone = Event::Changed(Some(Change::SliceGone("kubernetes-a".into())), "8".into());
    assert_eq!(event(Resource::Slices, &key(), &line("DELETED", &ours)).unwrap(), gone);
    let relabelled = slice("kubernetes-a", "other");
    assert_eq!(event(Resource::Slices, &key(), &line("MODIFIED", &relabelled)).unwrap(), gone);
}

#[test]
fn another_service_changes_nothing_but_the_version() {
    let other = r#"{"kind":"Service","apiVersion":"v1","metadata":{"name":"other","namespace":"default","resourceVersion":"9"}}"#;
    let found = event(Resource::Service, &key(), &line("ADDED", other)).unwrap();
    assert_eq!(found, Event::Changed(None, "9".into()));
}

#[test]
fn bookmarks_and_failures_are_told_apart() {
    let bookmark = r#"{"kind":"Service","apiVersion":"v1","metadata":{"resourceVersion":"11"}}"#;
    let found = event(Resource::Service, &key(), &line("BOOKMARK", bookmark)).unwrap();
    assert_eq!(found, Event::Bookmark("11".into()));
    let status = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"code":410,"reason":"Expired","message":"too old"}"#;
    let found = event(Resource::Service, &key(), &line("ERROR", status)).unwrap();
    assert_eq!(found, Event::Failed { code: 410, message: "too old".into() });
}

#[test]
fn events_that_are_not_what_was_asked_for_are_refused() {
    let pod = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"kubernetes"}}"#;
    let service = r#"{"kind":"Service","apiVersion":"v1","metadata":{}}"#;
    let refused = [
        (line("ADDED", pod), "sent a v1 Pod where a v1 Service"),
        (line("MODIFIED", r#"{"kind":"Service","apiVersion":"v1","spec":5}"#), "does not parse"),
        (line("RENAMED", service), "type \"RENAMED\""),
        (br#"{"type":"ADDED""#.to_vec(), "EOF"),
        (line("ADDED", "null"), "does not parse"),
        (b"\xff\xfe".to_vec(), "does not parse"),
    ];
    for (line, expected) in refused {
        let error = event(Resource::Service, &key(), &line).unwrap_err().to_string();
        assert!(error.contains(expected), "{error} lacks {expected}");
    }
}
