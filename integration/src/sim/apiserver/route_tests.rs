//! Request lines as kube, kubectl and curl write them.

use super::*;

fn resource(path: &str, query: &str) -> ResourceRequest {
    match route(&Method::GET, path, query) {
        Route::Resource(request) => *request,
        other => panic!("{path}?{query} gave {other:?}"),
    }
}

#[test]
fn a_watch_by_name() {
    let request = resource(
        "/api/v1/namespaces/default/services",
        "watch=true&fieldSelector=metadata.name%3Dkubernetes&resourceVersion=12&allowWatchBookmarks=true&timeoutSeconds=290",
    );
    assert_eq!(request.verb, Verb::Watch);
    assert_eq!(request.name(), Some("kubernetes"));
    assert_eq!(request.resource_version, 12);
    assert_eq!(request.timeout_seconds, Some(290));
    assert!(request.bookmarks);
    assert_eq!(request.subject(), "services \"kubernetes\"");
}

#[test]
fn a_list_by_label() {
    let request = resource(
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
        "&labelSelector=kubernetes.io%2Fservice-name%3Dkubernetes&limit=500",
    );
    assert_eq!(request.verb, Verb::List);
    assert_eq!(request.asked_version, None);
    assert_eq!(request.subject(), "endpointslices.discovery.k8s.io");
}

#[test]
fn one_object_and_all_namespaces() {
    assert_eq!(resource("/api/v1/namespaces/default/services/kubernetes", "").verb, Verb::Get);
    assert_eq!(resource("/api/v1/services", "").scope.namespace, None);
}

#[test]
fn what_is_not_served() {
    let unknown = |path: &str| route(&Method::GET, path, "") == Route::Unknown;
    assert!(unknown("/apis/discovery.k8s.io/v1beta1/namespaces/default/endpointslices"));
    assert!(unknown("/api/v1/namespaces/default/pods"));
    assert!(unknown("/api/v1/namespaces/default/endpointslices"));
    let services = "/api/v1/namespaces/default/services";
    assert_eq!(route(&Method::POST, services, ""), Route::NotAllowed);
    assert!(matches!(route(&Method::GET, services, "resourceVersion=x"), Route::Bad(_)));
    assert!(matches!(route(&Method::GET, services, "fieldSelector=spec.a%3D1"), Route::Bad(_)));
}

#[test]
fn percent_signs_that_mean_nothing_stay() {
    assert_eq!(percent_decoded("a%3Db+c%zz%"), "a=b c%zz%");
}
