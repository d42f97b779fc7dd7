//! Servers whose certificate must not be trusted: each refused with what was wanted and what came.

use super::cluster::Cluster;
use super::fake::Fake;
use super::running::{Running, start};
use crate::kube::{State, TLS_NAME};
use crate::transport::pki::Pki;

async fn refused(server: &Pki, trusted: &Pki, name: &str, expired: bool) -> (Fake, Running) {
    let cluster = Cluster::new(&[]);
    let fake = Fake::start(1, 0, server.server(name, expired, &["h2"]), cluster).await;
    let running = start(fake.address, &trusted.ca_pem()).await;
    (fake, running)
}

#[tokio::test]
async fn a_foreign_ca() {
    // Once with another name, once with the same: rustls reports these differently.
    for name in ["foreign", "cluster"] {
        let (fake, mut running) = refused(&Pki::new(name), &Pki::new("cluster"), TLS_NAME, false).await;
        let address = format!("{}: its certificate is not signed by the cluster CA", fake.address);
        running.error(&[&address, "certificate-authority /", "ca.crt"]).await;
    }
}

#[tokio::test]
async fn an_expired_certificate() {
    let pki = Pki::new("cluster");
    let (fake, mut running) = refused(&pki, &pki, TLS_NAME, true).await;
    running.error(&[&fake.address.to_string(), "its certificate has expired"]).await;
}

#[tokio::test]
async fn a_certificate_without_the_name() {
    let pki = Pki::new("cluster");
    let (fake, mut running) = refused(&pki, &pki, "apiserver.example", false).await;
    let address = fake.address.to_string();
    running
        .error(&[
            &address,
            "does not carry the name kubernetes.default.svc",
            "it carries",
            "apiserver.example",
        ])
        .await;
}

#[tokio::test]
async fn a_server_without_tls() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let plain = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ =
                tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let mut running = start(address, &Pki::new("cluster").ca_pem()).await;
    running.error(&[&address.to_string(), "does not speak TLS"]).await;
    plain.abort();
}

#[tokio::test]
async fn a_ca_that_was_replaced_on_disk_is_trusted_by_the_next_session() {
    let (old, new) = (Pki::new("old"), Pki::new("new"));
    let (_fake, mut running) = refused(&new, &old, TLS_NAME, false).await;
    running.error(&["not signed by the cluster CA"]).await;
    std::fs::write(running.folder().join("ca.crt"), new.ca_pem()).unwrap();
    running.connection(|c| c.state == State::Synced).await;
}
