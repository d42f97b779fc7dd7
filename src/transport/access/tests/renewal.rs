//! What a second look at the files finds.

use super::*;

#[tokio::test]
async fn a_renewal_counts_once_it_is_complete() {
    let case = Case::new();
    let first = case.load(None).await.unwrap();
    assert!(first.connects_like(&first.reload().unwrap()), "nothing was renewed");

    let (certificate, key) = Pki::new("other").leaf("node", false);
    let case = case.write("client.crt", &certificate);
    let error = first.reload().unwrap_err().to_string();
    assert!(error.contains("does not match"), "{error}");
    let case = case.write("client.key", &key[..key.len() / 2]);
    first.reload().unwrap_err();
    first.tls_config().await.expect("the first pair is whole, whatever the files hold");
    let case = case.write("client.key", &key);
    let second = first.reload().unwrap();
    assert!(!second.connects_like(&first) && second.trusts_like(&first));

    let both = format!("{}{}", case.ca(), Pki::new("next").ca_pem());
    let case = case.write("ca.crt", &both[..both.len() - 40]);
    let half = second.reload();
    assert!(half.is_err(), "half a certificate is none");
    let _case = case.write("ca.crt", &both);
    assert!(!second.reload().unwrap().trusts_like(&second));
}

#[test]
fn half_a_token_is_none() {
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
async fn expiry_dates_are_those_of_the_files() {
    let case = Case::new();
    let expiry = case.load(None).await.unwrap().expiry();
    assert!(expiry.ca.is_some() && expiry.client_certificate.is_some() && expiry.token.is_none());
    let (certificate, key) = Pki::new("cluster").leaf("node", true);
    let case = case.write("client.crt", certificate).write("client.key", key);
    let expired = case.load(None).await.unwrap().expiry();
    assert_eq!(expired.client_certificate, Some(1_609_459_200), "2021-01-01");
    assert!(
        expired.remark().contains("client certificate expired at Jan  1 00:00:00 2021"),
        "{}",
        expired.remark()
    );
}
