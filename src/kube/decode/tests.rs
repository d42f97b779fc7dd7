use proptest::prelude::*;

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
fn list_keeps_only_selected_objects() {
    let body = br#"{"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":"7"},"items":[
        {"metadata":{"name":"other","namespace":"default"}},
        {"metadata":{"name":"kubernetes","namespace":"default"},"spec":{"clusterIP":"10.96.0.1"}}]}"#;
    let listed = list(Resource::Service, &key(), body).unwrap();
    assert_eq!(listed.version, "7");
    let Change::Service(Some(service)) = listed.change else { panic!("{:?}", listed.change) };
    assert_eq!(service.spec.cluster_ip, "10.96.0.1");
}

#[test]
fn empty_list_means_nothing_exists() {
    for items in [r#","items":null"#, r#","items":[]"#, ""] {
        let body = format!(
            r#"{{"kind":"ServiceList","apiVersion":"v1","metadata":{{"resourceVersion":"7"}}{items}}}"#
        );
        let listed = list(Resource::Service, &key(), body.as_bytes()).unwrap();
        assert_eq!(listed.change, Change::Service(None));
    }
}

#[test]
fn lists_of_another_kind_are_refused() {
    let refused = [
        ("<html>nope</html>", "begins with \"<html>nope"),
        (
            r#"{"kind":"PodList","apiVersion":"v1"}"#,
            "sent a v1 PodList instead of the requested v1 ServiceList",
        ),
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
fn slice_events_add_change_and_delete() {
    let ours = slice("kubernetes-a", "kubernetes");
    let WatchEvent::Changed(Some(Change::Slice(found)), version) =
        event(Resource::EndpointSlices, &key(), &line("ADDED", &ours)).unwrap()
    else {
        panic!("not a slice")
    };
    assert_eq!((found.metadata.name.as_str(), version.as_str()), ("kubernetes-a", "8"));
    let gone = WatchEvent::Changed(Some(Change::SliceDeleted("kubernetes-a".into())), "8".into());
    assert_eq!(event(Resource::EndpointSlices, &key(), &line("DELETED", &ours)).unwrap(), gone);
    let relabelled = slice("kubernetes-a", "other");
    assert_eq!(event(Resource::EndpointSlices, &key(), &line("MODIFIED", &relabelled)).unwrap(), gone);
}

#[test]
fn event_of_another_service_changes_only_the_version() {
    let other = r#"{"kind":"Service","apiVersion":"v1","metadata":{"name":"other","namespace":"default","resourceVersion":"9"}}"#;
    let found = event(Resource::Service, &key(), &line("ADDED", other)).unwrap();
    assert_eq!(found, WatchEvent::Changed(None, "9".into()));
}

#[test]
fn bookmarks_and_errors_are_decoded() {
    let bookmark = r#"{"kind":"Service","apiVersion":"v1","metadata":{"resourceVersion":"11"}}"#;
    let found = event(Resource::Service, &key(), &line("BOOKMARK", bookmark)).unwrap();
    assert_eq!(found, WatchEvent::Bookmark("11".into()));
    let status = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"code":410,"reason":"Expired","message":"too old"}"#;
    let found = event(Resource::Service, &key(), &line("ERROR", status)).unwrap();
    assert_eq!(found, WatchEvent::Error { code: 410, message: "too old".into() });
}

#[test]
fn events_of_another_kind_are_refused() {
    let pod = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"kubernetes"}}"#;
    let service = r#"{"kind":"Service","apiVersion":"v1","metadata":{}}"#;
    let refused = [
        (line("ADDED", pod), "sent a v1 Pod instead of the requested v1 Service"),
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

fn lines(chunks: &[&[u8]], limit: usize) -> (Vec<Vec<u8>>, usize, Result<(), LineTooLong>) {
    let mut buffer = LineBuffer::new(limit);
    let mut found = Vec::new();
    for chunk in chunks {
        let result = buffer.push(chunk, |line| {
            found.push(line.to_vec());
            Ok::<(), LineTooLong>(())
        });
        if result.is_err() {
            return (found, buffer.unfinished(), result);
        }
    }
    (found, buffer.unfinished(), Ok(()))
}

#[test]
fn lines_span_chunks_and_blank_ones_are_skipped() {
    let (found, unfinished, result) = lines(&[b"a\n\r\nb", b"c", b"\nd\n", b"half"], 16);
    assert_eq!(found, [b"a".to_vec(), b"bc".to_vec(), b"d".to_vec()]);
    assert_eq!(unfinished, 4);
    assert_eq!(result, Ok(()));
}

#[test]
fn line_over_the_limit_is_refused_before_it_is_buffered() {
    let (found, unfinished, result) = lines(&[b"ok\n123", b"456", b"7890"], 8);
    assert_eq!(found, [b"ok".to_vec()]);
    assert_eq!(unfinished, 6);
    assert_eq!(result, Err(LineTooLong { limit: 8 }));
    assert_eq!(lines(&[b"123456789\n"], 8).2, Err(LineTooLong { limit: 8 }));
}

proptest! {
    #[test]
    fn chunk_boundaries_do_not_change_the_lines(text in "[ab\n]{0,60}", cuts in proptest::collection::vec(0usize..60, 0..6)) {
        let bytes = text.as_bytes();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.sort_unstable();
        let mut chunks = Vec::new();
        let mut start = 0;
        for cut in cuts {
            chunks.push(&bytes[start..cut]);
            start = cut;
        }
        chunks.push(&bytes[start..]);
        prop_assert_eq!(lines(&chunks, 64), lines(&[bytes], 64));
    }
}
