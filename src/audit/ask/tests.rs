use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// What a server says to one client, and then it goes on with `more` until the client leaves.
async fn said(head: &'static [u8], more: Option<&'static [u8]>) -> Result<Answer, Unanswered> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server { address: listener.local_addr().unwrap(), tls: None };
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        let mut buffer = [0; 1024];
        let _ = stream.read(&mut buffer).await?;
        stream.write_all(head).await?;
        while let Some(more) = more {
            stream.write_all(more).await?;
        }
        io::Result::Ok(())
    });
    let answer = get(&server, "/version").await;
    serving.abort();
    answer
}

#[tokio::test]
async fn an_answer_is_read_to_its_end() {
    let answer =
        said(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 13\r\n\r\n{\"code\": 403}", None).await.unwrap();
    assert_eq!((answer.status, answer.cut), (403, false));
    assert_eq!(answer.json()["code"], 403);
}

#[tokio::test]
async fn one_without_an_end_is_cut_off() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n";
    let answer = said(head, Some(&[b'x'; 4096])).await.unwrap();
    assert!(answer.cut && answer.body.len() < BODY_BYTES + (1 << 20));
    let endless = said(b"HTTP/1.1 200 OK\r\n", Some(b"x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n")).await;
    assert_eq!(endless.unwrap_err().reason, Reason::Broken);
}

#[tokio::test]
async fn what_is_no_http_is_said_so() {
    assert_eq!(said(b"SSH-2.0-OpenSSH\r\n\r\n", None).await.unwrap_err().reason, Reason::Broken);
    assert_eq!(said(b"", None).await.unwrap_err().reason, Reason::Broken);
}

#[tokio::test]
async fn nobody_is_told_from_somebody_who_says_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server { address: listener.local_addr().unwrap(), tls: None };
    let silent = get(&server, "/").await.unwrap_err();
    assert_eq!((silent.reason, silent.text.as_str()), (Reason::Silent, "no answer within 3 s"));
    drop(listener);
    let refused = get(&server, "/").await.unwrap_err();
    assert_eq!((refused.reason, refused.text.as_str()), (Reason::Refused, "Connection refused"));
}

#[tokio::test]
async fn a_status_counts_before_its_body() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server { address: listener.local_addr().unwrap(), tls: None };
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        stream.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 100\r\n\r\n").await?;
        stream.read_to_end(&mut Vec::new()).await
    });
    let question = Question { path: "/pods", status_only: true, ..Question::default() };
    assert_eq!(ask(&server, question).await.unwrap().status, 401);
    assert!(serving.await.unwrap().is_ok(), "it hung up at once");
}
