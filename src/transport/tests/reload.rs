//! What a second look at the files finds; and the access of a Pod, from an environment and a folder that tests make up.

use super::*;
use crate::transport::authentication::Token;
use crate::transport::load::load_in_cluster;
use crate::transport::tls::install_provider;

#[tokio::test]
async fn renewal_takes_effect_only_when_complete() {
    let case = Case::new();
    let first = case.load(None).await.unwrap();
    assert!(first.has_same_connection(&first.reload().unwrap()), "nothing was renewed");

    let (certificate, key) = Pki::new("other").leaf("node", false);
    let case = case.write("client.crt", &certificate);
    let error = first.reload().unwrap_err().to_string();
    assert!(error.contains("does not match"), "{error}");
    let case = case.write("client.key", &key[..key.len() / 2]);
    first.reload().unwrap_err();
    first.tls_config().await.expect("the first pair is whole, whatever the files hold");
    let case = case.write("client.key", &key);
    let second = first.reload().unwrap();
    assert!(!second.has_same_connection(&first) && second.has_same_ca(&first));

    let both = format!("{}{}", case.ca(), Pki::new("next").ca_pem());
    let case = case.write("ca.crt", &both[..both.len() - 40]);
    let half = second.reload();
    assert!(half.is_err(), "half a certificate is none");
    let _case = case.write("ca.crt", &both);
    assert!(!second.reload().unwrap().has_same_ca(&second));
}

#[test]
fn partially_written_token_is_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let write = |token: &str| std::fs::write(&path, token).unwrap();
    let (old, new) = ("head.old.signature", "head.newer.SIGNATURE");
    write(old);
    let token = Token::open(&path, None).unwrap();
    for end in 0..new.len() {
        write(&new[..end]);
        assert_eq!(token.header(), format!("Bearer {old}"), "{end}");
        let again = Token::open(&path, Some(&token)).unwrap();
        assert_eq!(
            again.header(),
            format!("Bearer {old}"),
            "{end}: a look at all files takes no half either"
        );
    }
    write(new);
    assert_eq!(token.header(), format!("Bearer {new}"));
    write("opaque");
    assert_eq!(token.header(), "Bearer opaque", "another kind of token");
}

#[tokio::test]
async fn expiry_is_read_from_the_files() {
    let case = Case::new();
    let expiry = case.load(None).await.unwrap().expiry();
    assert!(expiry.ca.is_some() && expiry.client_certificate.is_some() && expiry.token.is_none());
    let (certificate, key) = Pki::new("cluster").leaf("node", true);
    let case = case.write("client.crt", certificate).write("client.key", key);
    let expired = case.load(None).await.unwrap().expiry();
    assert_eq!(expired.client_certificate, Some(1_609_459_200), "2021-01-01");
    assert!(
        expired.expired_hint().contains("client certificate expired at Jan  1 00:00:00 2021"),
        "{}",
        expired.expired_hint()
    );
}

#[test]
fn pod_access_is_loaded_or_the_missing_part_is_named() {
    install_provider();
    let case = Case::new();
    let environment = |name: &str| match name {
        "KUBERNETES_SERVICE_HOST" => Some("fd00:10:96::1".to_owned()),
        "KUBERNETES_SERVICE_PORT" => Some("443".to_owned()),
        _ => None,
    };
    let fails = |error: AccessError, parts: &[&str]| {
        case.check(&error.to_string(), parts);
        case.check(&error.to_string(), &["set --kubeconfig FILE"]);
    };
    let folder = case.folder.path();
    fails(load_in_cluster(|_| None, folder, None).unwrap_err(), &["KUBERNETES_SERVICE_HOST is not set"]);
    fails(
        load_in_cluster(|_| Some("x".into()), folder, None).unwrap_err(),
        &["KUBERNETES_SERVICE_PORT is \"x\", which is not a port"],
    );
    fails(
        load_in_cluster(environment, &folder.join("none"), None).unwrap_err(),
        &["CA of the service account FOLDER/none/ca.crt: no such file"],
    );
    fails(
        load_in_cluster(environment, folder, None).unwrap_err(),
        &["token of the service account FOLDER/token: no such file"],
    );
    std::fs::write(folder.join("token"), "secret\n").unwrap();
    let access = load_in_cluster(environment, folder, None).unwrap();
    assert_eq!(access.server().to_string(), "[fd00:10:96::1]:443");
    let token = access.token().unwrap();
    assert_eq!(token.header(), "Bearer secret");
    std::fs::write(folder.join("token"), "renewed\n").unwrap();
    assert_eq!(token.header(), "Bearer renewed");
    std::fs::remove_file(folder.join("token")).unwrap();
    assert_eq!(token.header(), "Bearer renewed", "the last one is kept");
    assert!(!format!("{access:?}").contains("renewed"));
}
