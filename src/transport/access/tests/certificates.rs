//! Certificates and keys that cannot work, found before anything is dialled.

use super::Case;
use crate::transport::pki::Pki;

#[tokio::test]
async fn certificates_that_cannot_be_used() {
    let (other, _) = Pki::new("cluster").leaf("node", false);
    Case::new()
        .write("client.crt", other)
        .fails(None, &["user \"kubelet\": the client key does not match"])
        .await;
    Case::new()
        .write("client.crt", "text")
        .fails(None, &["the client certificate holds no certificate"])
        .await;
    Case::new().write("client.key", "text").fails(None, &["the client key holds no private key"]).await;
    let broken = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    Case::new()
        .write("client.key", broken)
        .fails(None, &["the client key cannot be used: it is damaged, or not RSA"])
        .await;
    Case::new()
        .replace("    client-key: client.key\n", "")
        .fails(None, &["user \"kubelet\": it has a client-certificate but no client-key"])
        .await;
    Case::new()
        .write("ca.crt", "text")
        .fails(None, &["FOLDER/ca.crt: holds no certificate in PEM form"])
        .await;
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    Case::new()
        .write("ca.crt", broken)
        .fails(None, &["FOLDER/ca.crt: holds a certificate that does not parse"])
        .await;
}

#[tokio::test]
async fn a_ca_that_has_expired() {
    let old = Pki::expired("old-ca").ca_pem();
    let access = Case::new().write("ca.crt", &old).load(None).await.expect("perhaps the clock is wrong");
    let warning = access.warnings.first().expect("it is said").to_string();
    for words in ["every certificate in it has expired", "CN=old-ca", "2021", "clock"] {
        assert!(warning.contains(words), "{words}: {warning}");
    }
    let both = format!("{old}{}", Pki::new("new-ca").ca_pem());
    assert!(Case::new().write("ca.crt", both).load(None).await.is_ok(), "one good certificate is enough");
}
