//! Asks the daemon's admin listener, from inside the node.
//! In: a namespace and a path. Out: an [`Answer`].

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::command;
use crate::netns::Namespace;

/// Where the daemon answers unless it is told otherwise.
pub const ADDRESS: SocketAddr =
    SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 10299));

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    /// All of the body.
    pub body: String,
}

/// `GET` of a path.
pub fn get(node: &Namespace, path: &str) -> Result<Answer> {
    ask(node, &[], path)
}

/// Any request, by arguments of curl.
pub fn ask(node: &Namespace, arguments: &[&str], path: &str) -> Result<Answer> {
    let mut curl = node.command("curl");
    curl.args(["-sS", "-i", "-m", "20", "--noproxy", "*"]).args(arguments);
    curl.arg(format!("http://{ADDRESS}{path}"));
    let text = command::run(curl, "").with_context(|| format!("ask the daemon for {path}"))?;
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("no answer but {text:?}"))?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.with_context(|| format!("no status in {head:?}"))?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// Asks for a path until the answer is as `wanted` says; `what` names that in an error.
pub fn wait_for(
    node: &Namespace,
    path: &str,
    what: &str,
    limit: Duration,
    wanted: impl Fn(&Answer) -> bool,
) -> Result<Answer> {
    let end = Instant::now() + limit;
    loop {
        let answer = get(node, path);
        match answer {
            Ok(answer) if wanted(&answer) => return Ok(answer),
            answer if Instant::now() > end => bail!("no sign of {what} at {path}, but {answer:#?}"),
            _ => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Waits until `/readyz` says 200: an apiserver answered through the virtual IP.
pub fn wait_until_ready(node: &Namespace, limit: Duration) -> Result<()> {
    wait_for(node, "/readyz", "readiness", limit, |answer| answer.status == 200).map(drop)
}
