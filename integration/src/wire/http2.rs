//! One HTTP/2 connection.
//!
//! In: a TLS stream. Out: answers, lines of watches, PINGs that were answered, and what was [`Seen`] meanwhile.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Ping, PingPong, RecvStream};
use http::{Request, Uri, header};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::client::TlsStream;

use super::soon;
use super::tap::{Seen, Tap};

/// The connection. It is driven by a task of its own, and dropping this ends it.
pub struct Http2 {
    sender: SendRequest<Bytes>,
    pings: PingPong,
    seen: watch::Receiver<Seen>,
    authority: SocketAddr,
}

/// An answer as a whole.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The header `content-type`.
    pub content_type: String,
    /// The body.
    pub body: String,
}

/// A watch that was answered with 200.
pub struct Watch {
    body: RecvStream,
    ahead: Vec<u8>,
}

/// How a watch went on.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// An event: its type and its object.
    Event(String, Value),
    /// The stream ended cleanly, with so many bytes after the last newline.
    End(usize),
    /// It was torn.
    Torn(String),
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("parse {self:?}"))
    }
}

impl Http2 {
    pub(super) async fn open(stream: TlsStream<TcpStream>, authority: SocketAddr) -> Result<Self> {
        let (tap, seen) = Tap::new(stream);
        let shaken = soon("HTTP/2 settings", h2::client::handshake(tap)).await?;
        let (sender, mut connection) = shaken.context("exchange settings")?;
        let pings = connection.ping_pong().context("take the PINGs")?;
        // How it ends is seen in its bytes and by its requests.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, pings, seen, authority })
    }

    /// Asks, as the bearer of `token` or as a stranger.
    pub async fn get(&mut self, path: &str, token: Option<&str>) -> Result<Answer> {
        let (head, mut body) = self.start(path, token).await?.into_parts();
        let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let mut bytes = Vec::new();
        while let Some(data) = soon("the rest of an answer", body.data()).await? {
            let data = data.context("read an answer")?;
            body.flow_control().release_capacity(data.len()).context("make room for an answer")?;
            bytes.extend_from_slice(&data);
        }
        Ok(Answer {
            status: head.status.as_u16(),
            content_type: content_type.unwrap_or_default().to_owned(),
            body: String::from_utf8_lossy(&bytes).into_owned(),
        })
    }

    /// Starts a watch, which must be answered with 200.
    pub async fn watch(&mut self, path: &str, token: Option<&str>) -> Result<Watch> {
        let answer = self.start(path, token).await?;
        anyhow::ensure!(answer.status() == 200, "{path} was answered {}", answer.status());
        Ok(Watch { body: answer.into_body(), ahead: Vec::new() })
    }

    /// Sends `OPTIONS *` as a stranger, and returns the status of the answer.
    pub async fn options(&mut self) -> Result<u16> {
        let uri = Uri::builder().scheme("https").authority(self.authority.to_string()).path_and_query("*");
        let request = Request::options(uri.build().context("name the server as a whole")?);
        Ok(self.send("OPTIONS *", request.body(())?).await?.status().as_u16())
    }

    async fn start(&mut self, path: &str, token: Option<&str>) -> Result<http::Response<RecvStream>> {
        let mut request = Request::get(format!("https://{}{path}", self.authority));
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        self.send(path, request.body(())?).await
    }

    async fn send(&mut self, what: &str, request: Request<()>) -> Result<http::Response<RecvStream>> {
        let sender = soon("a free stream", self.sender.clone().ready()).await?;
        let mut sender = sender.with_context(|| format!("send {what} after {:?}", self.seen()))?;
        let (answer, _) = sender.send_request(request, true).with_context(|| format!("send {what}"))?;
        let answer = soon(&format!("an answer to {what}"), answer).await?;
        answer.with_context(|| format!("read the answer to {what} after {:?}", self.seen()))
    }

    /// Sends a PING and waits for its answer.
    pub async fn ping(&mut self) -> Result<()> {
        let pong = soon("the answer to a PING", self.pings.ping(Ping::opaque())).await?;
        pong.map(drop).with_context(|| format!("ping after {:?}", self.seen()))
    }

    /// What was seen so far.
    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Waits until `question` is true of what was seen. The end of the client's own task ends that, too.
    pub async fn until(&mut self, what: &str, question: impl FnMut(&Seen) -> bool) -> Result<Seen> {
        let found = soon(what, self.seen.wait_for(question)).await?.map(|seen| seen.clone());
        found.with_context(|| format!("{what}: not seen before the end: {:?}", self.seen()))
    }
}

impl Watch {
    /// Waits for what comes next, as long as that takes.
    pub async fn next(&mut self) -> Next {
        loop {
            if let Some(end) = self.ahead.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.ahead.drain(..=end).collect();
                return match serde_json::from_slice::<Value>(&line) {
                    Ok(mut event) => {
                        let kind = event["type"].as_str().unwrap_or_default().to_owned();
                        Next::Event(kind, event["object"].take())
                    }
                    Err(error) => Next::Torn(format!("{error}: {}", String::from_utf8_lossy(&line))),
                };
            }
            match self.body.data().await {
                None => return Next::End(self.ahead.len()),
                Some(Err(error)) => return Next::Torn(error.to_string()),
                Some(Ok(data)) => {
                    // Fails only for a stream that has ended, and then there is nothing to make room for.
                    let _ = self.body.flow_control().release_capacity(data.len());
                    self.ahead.extend_from_slice(&data);
                }
            }
        }
    }
}
