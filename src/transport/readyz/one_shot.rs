//! `GET /readyz` as the only request of a connection, of which the caller decides when and how it ends: hyper would close it as
//! it likes, and the self-test must close first.
//!
//! In: an established TLS stream. Out: the request in HTTP/1.1 on it, and an [`Answer`], of which no more is read than is
//! wanted.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::ReadyzResponse;
use crate::process::clock::unix_now;

/// The longest status line that is read.
pub(crate) const STATUS_LINE_BYTES: usize = 256;
/// The longest head that is read; of a longer one, what is there counts.
const HEAD_BYTES: usize = 8 << 10;

/// The request.
pub(crate) struct OneShotRequest<'a> {
    /// The name of the server, as [`super::authority`] writes it.
    pub(crate) host: &'a str,
    /// The name of the client.
    pub(crate) agent: &'a str,
    /// The server is to close the connection after its answer.
    pub(crate) server_closes: bool,
}

/// How much of the answer is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Its first line, with the status.
    StatusLine,
    /// All of its headers, too.
    Head,
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// HTTP.
    Response(ReadyzResponse),
    /// Something else.
    NotHttp,
    /// Too little: the server closed the connection in good order.
    Ended,
}

impl OneShotRequest<'_> {
    /// Sends it.
    pub(crate) async fn write(&self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let Self { host, agent, server_closes } = self;
        let close = if *server_closes { "Connection: close\r\n" } else { "" };
        let request = format!("GET /readyz HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\n{close}\r\n");
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await
    }
}

/// Reads so much of the answer.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin), extent: Extent) -> io::Result<Answer> {
    let mut head = Vec::with_capacity(STATUS_LINE_BYTES);
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(Answer::Ended);
        }
        match parse_status(&head) {
            None => {}
            Some(None) => return Ok(Answer::NotHttp),
            Some(Some(status)) => {
                let is_complete = extent == Extent::StatusLine
                    || head.windows(4).any(|end| end == b"\r\n\r\n")
                    || head.len() >= HEAD_BYTES;
                if is_complete {
                    let clock_ahead = clock_ahead(&head, unix_now().cast_signed());
                    return Ok(Answer::Response(ReadyzResponse { status, clock_ahead }));
                }
            }
        }
    }
}

/// Reads the status at the beginning of an answer: `None` while there is too little of it, `Some(None)` if it is not HTTP.
pub(crate) fn parse_status(head: &[u8]) -> Option<Option<u16>> {
    const VERSION: &[u8] = b"HTTP/1.";
    let seen = head.len().min(VERSION.len());
    if head[..seen] != VERSION[..seen] {
        return Some(None);
    }
    let Some(end) = head.iter().position(|byte| *byte == b'\n') else {
        return (head.len() >= STATUS_LINE_BYTES).then_some(None);
    };
    let status =
        head[..end].split(|byte| *byte == b' ').nth(1).and_then(|word| std::str::from_utf8(word).ok());
    // Three digits, the first of them from 1 to 5 (RFC 9110, section 15).
    let status = status.and_then(|word| word.trim_end().parse::<u16>().ok());
    Some(status.filter(|status| (100..600).contains(status)))
}

/// By how many seconds the server's clock is ahead of `now`, in seconds since 1970, as far as its `Date` header says.
fn clock_ahead(head: &[u8], now: i64) -> Option<i64> {
    let head = String::from_utf8_lossy(head);
    let date = head.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("date").then(|| value.trim())
    })?;
    Some(http_date(date)? - now)
}

/// Reads a date in the form that HTTP prescribes (RFC 9110, section 5.6.7), as seconds since 1970.
fn http_date(date: &str) -> Option<i64> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let mut words = date.split_once(", ")?.1.split(' ');
    let day: i64 = words.next()?.parse().ok()?;
    let month = words.next().filter(|month| month.len() == 3)?;
    let month = MONTHS.find(month).filter(|at| at % 3 == 0)? / 3 + 1;
    let year: i64 = words.next()?.parse().ok().filter(|year| (1970..10_000).contains(year))?;
    let mut clock = words.next()?.split(':').map(str::parse::<i64>);
    let mut part = || clock.next()?.ok();
    let (hour, minute, second) = (part()?, part()?, part()?);
    // Years begin in March here, so that the leap day comes last.
    let month = i64::try_from(month).ok()?;
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_date_becomes_unix_time() {
        for (text, expected) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Thu, 29 Feb 2024 23:59:59 GMT", 1_709_251_199),
            ("Fri, 01 Mar 2024 00:00:00 GMT", 1_709_251_200),
        ] {
            assert_eq!(http_date(text), Some(expected), "{text}");
        }
        for bad in ["", "yesterday", "Sun, 06 anF 1994 08:49:37 GMT", "Sun, x Nov 1994 1:1:1 GMT"] {
            assert_eq!(http_date(bad), None, "{bad}");
        }
    }

    #[test]
    fn status_is_known_with_the_first_line() {
        for (head, expected) in [
            ("HTTP/1.1 200 OK\r\n", Some(Some(200))),
            ("HTTP/1.1 401 Unauthorized\r\nA: b\r\n", Some(Some(401))),
            ("HTTP/1.0 403\r\n", Some(Some(403))),
            ("HTTP/1.1 500 Internal Server Error\r\n", Some(Some(500))),
            ("HTTP/1.1 \r\n", Some(None)),
            ("HTTP/1.1 2000 OK\r\n", Some(None)),
            ("SSH-2.0-OpenSSH", Some(None)),
            ("HTTP/1.1 20", None),
            ("HT", None),
            ("", None),
        ] {
            assert_eq!(parse_status(head.as_bytes()), expected, "{head:?}");
        }
        let endless = format!("HTTP/1.1 {}", "2".repeat(STATUS_LINE_BYTES));
        assert_eq!(parse_status(endless.as_bytes()), Some(None));
    }

    #[tokio::test]
    async fn answer_is_read_as_far_as_wanted() {
        let line: &[u8] = b"HTTP/1.1 200 OK\r\n";
        let status = |status| Answer::Response(ReadyzResponse { status, clock_ahead: None });
        assert_eq!(read(&mut &line[..], Extent::StatusLine).await.unwrap(), status(200));
        assert_eq!(read(&mut &line[..], Extent::Head).await.unwrap(), Answer::Ended);
        let head: &[u8] = b"HTTP/1.0 500 x\r\n\r\n";
        assert_eq!(read(&mut &head[..], Extent::Head).await.unwrap(), status(500));
        let other: &[u8] = b"SSH-2.0-OpenSSH\r\n";
        assert_eq!(read(&mut &other[..], Extent::Head).await.unwrap(), Answer::NotHttp);
        let endless = [line, &[b'x'; HEAD_BYTES]].concat();
        assert_eq!(read(&mut &endless[..], Extent::Head).await.unwrap(), status(200));
    }

    #[test]
    fn date_header_gives_clock_skew() {
        let head = b"HTTP/1.1 200 OK\r\nX: y\r\ndate: Thu, 01 Jan 1970 00:01:00 GMT\r\n\r\nok";
        assert_eq!(clock_ahead(head, 50), Some(10));
        assert_eq!(clock_ahead(b"HTTP/1.0 500 x\r\n\r\n", 0), None);
    }

    proptest::proptest! {
        #[test]
        fn no_response_panics(head: Vec<u8>, text: String) {
            let _ = parse_status(&head);
            let _ = clock_ahead(&head, 0);
            let _ = http_date(&text);
            let _ = http_date(&format!("x, {text}"));
        }
    }
}
