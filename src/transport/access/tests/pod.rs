//! The access of a Pod, from an environment and a folder that tests make up.

use super::*;

#[test]
fn a_pod_has_what_it_needs_or_is_told_what_is_missing() {
    install_provider();
    let case = Case::new();
    let environment = |name: &str| match name {
        "KUBERNETES_SERVICE_HOST" => Some("fd00:10:96::1".to_owned()),
        "KUBERNETES_SERVICE_PORT" => Some("443".to_owned()),
        _ => None,
    };
    let fails = |error: AccessError, parts: &[&str]| {
        case.check(&error.to_string(), parts);
        case.check(&error.to_string(), &["name a kubeconfig with --kubeconfig FILE"]);
    };
    let folder = case.folder.path();
    fails(incluster::load(|_| None, folder, None).unwrap_err(), &["KUBERNETES_SERVICE_HOST is not set"]);
    fails(
        incluster::load(|_| Some("x".into()), folder, None).unwrap_err(),
        &["KUBERNETES_SERVICE_PORT is \"x\", not a port"],
    );
    fails(
        incluster::load(environment, &folder.join("none"), None).unwrap_err(),
        &["CA FOLDER/none/ca.crt: no such file"],
    );
    fails(incluster::load(environment, folder, None).unwrap_err(), &["token FOLDER/token: no such file"]);
    std::fs::write(folder.join("token"), "secret\n").unwrap();
    let access = incluster::load(environment, folder, None).unwrap();
    assert_eq!(access.server().to_string(), "[fd00:10:96::1]:443");
    let token = access.token().unwrap();
    assert_eq!(token.header(), "Bearer secret");
    std::fs::write(folder.join("token"), "renewed\n").unwrap();
    assert_eq!(token.header(), "Bearer renewed");
    std::fs::remove_file(folder.join("token")).unwrap();
    assert_eq!(token.header(), "Bearer renewed", "the last one is kept");
    assert!(!format!("{access:?}").contains("renewed"));
}
