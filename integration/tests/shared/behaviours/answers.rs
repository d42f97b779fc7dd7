//! Whom an apiserver knows, and what it says to whom it does not.
//!
//! Seen: over HTTP/2 each answer to somebody unknown, be it 200, 401 or 403, comes with GOAWAY (no error), and the
//! connection takes no second request (feature gate UnauthenticatedHTTP2DOSMitigation). Over HTTP/1.1 it does. Paths
//! and resources that a user may not read are 403, whether they exist or not.
//!
//! `OPTIONS *` is answered 200 without a body by the HTTP server of Go itself: nobody is sent away for it.

use anyhow::{Result, ensure};
use integration::wire::{self, Answer, Server};

const MISSING: [&str; 4] = [
    "/nonsense",
    "/api/v1/namespaces/default/secrets",
    "/api/v1/namespaces/default/nonsense",
    "/apis/nonsense.io/v1/nonsense",
];

pub(super) async fn are_those_of_kubernetes(server: &Server) -> Result<()> {
    strangers_are_sent_away(server).await?;
    known_clients_stay(server).await?;
    anybody_may_ping(server).await?;
    refusals_are_status_objects(server).await?;
    http1_connections_stay(server).await
}

async fn strangers_are_sent_away(server: &Server) -> Result<()> {
    for (token, status, body) in [(None, 200, "ok"), (Some("nonsense"), 401, "Unauthorized")] {
        let mut connection = server.http2().await?;
        connection.ping().await?;
        let answer = connection.get("/readyz", token).await?;
        ensure!(answer.status == status && answer.body.contains(body), "with {token:?}: {answer:?}");
        let seen = connection.until("GOAWAY for a stranger", |seen| seen.goaway.is_some()).await?;
        ensure!(seen.goaway == Some(0), "with {token:?}: {seen:?}");
        ensure!(connection.get("/readyz", token).await.is_err(), "a second answer with {token:?}");
    }
    Ok(())
}

async fn known_clients_stay(server: &Server) -> Result<()> {
    let mut connection = server.http2().await?;
    for _ in 0..2 {
        connection.ping().await?;
        let answer = connection.get("/readyz", server.token()).await?;
        ensure!((answer.status, answer.body.as_str()) == (200, "ok"), "{answer:?}");
    }
    // Its answer comes after anything that the server said before.
    connection.ping().await?;
    ensure!(connection.seen() == Default::default(), "a known client was sent away: {:?}", connection.seen());
    Ok(())
}

async fn anybody_may_ping(server: &Server) -> Result<()> {
    let mut connection = server.http2().await?;
    for _ in 0..3 {
        ensure!(connection.options().await? == 200, "OPTIONS * over HTTP/2");
    }
    connection.ping().await?;
    ensure!(connection.seen() == Default::default(), "sent away for OPTIONS *: {:?}", connection.seen());
    let mut stream = server.http1().await?;
    for _ in 0..3 {
        let answer = wire::options_http1(&mut stream).await?;
        ensure!(answer.starts_with("HTTP/1.1 200 "), "OPTIONS * over HTTP/1.1: {answer:?}");
    }
    Ok(())
}

async fn refusals_are_status_objects(server: &Server) -> Result<()> {
    for path in MISSING {
        for (token, code, reason) in [
            (Some("nonsense"), 401, "Unauthorized"),
            (None, 403, "Forbidden"),
            (server.token(), 403, "Forbidden"),
        ] {
            let answer = server.http2().await?.get(path, token).await?;
            refused(&answer, code, reason)?;
        }
    }
    let answer = server.http2().await?.get(super::SERVICES, None).await?;
    refused(&answer, 403, "Forbidden")?;
    ensure!(
        answer.json()?["message"]
            == "services \"kubernetes\" is forbidden: User \"system:anonymous\" cannot list resource \"services\" \
                in API group \"\" in the namespace \"default\"",
        "{answer:?}"
    );
    Ok(())
}

pub(super) fn refused(answer: &Answer, code: u16, reason: &str) -> Result<()> {
    let status = answer.json()?;
    let expected = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code,
    });
    let fields = expected.as_object().into_iter().flatten();
    let differs: Vec<_> = fields.filter(|(key, value)| status[key.as_str()] != **value).collect();
    ensure!(differs.is_empty(), "{answer:?} has not {differs:?}");
    ensure!(answer.status == code && answer.content_type == "application/json", "{answer:?}");
    Ok(())
}

async fn http1_connections_stay(server: &Server) -> Result<()> {
    let mut stream = server.http1().await?;
    for (token, status) in [(None, 200), (Some("nonsense"), 401), (server.token(), 200)] {
        let answer = wire::get_http1(&mut stream, "/readyz", token).await?;
        ensure!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "with {token:?}: {answer}");
    }
    Ok(())
}
