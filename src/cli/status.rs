//! `apivip status`: asks the daemon of this node through its socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};

use super::Failure;
use crate::config::StatusArgs;
use crate::lock::SOCKET_FILE;
use crate::status::Status;

/// The daemon answers at once, or within two seconds if the kernel keeps it waiting.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn status(args: &StatusArgs) -> Result<(), Failure> {
    let path = if args.metrics { "/metrics" } else { "/status" };
    let body = ask(&args.run_dir, path, TIMEOUT).map_err(Failure::Runtime)?;
    let text = if args.json || args.metrics { body } else { readable(&body).map_err(Failure::Runtime)? };
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    std::io::stdout()
        .write_all(format!("{text}{newline}").as_bytes())
        .context("write to stdout")
        .map_err(Failure::Runtime)
}

fn readable(body: &str) -> anyhow::Result<String> {
    let status: Status =
        serde_json::from_str(body).context("read the daemon's answer; is it of another version?")?;
    Ok(status.to_string())
}

/// One HTTP/1.0 request: the answer ends with the connection.
pub(super) fn ask(run_dir: &Path, path: &str, timeout: Duration) -> anyhow::Result<String> {
    let socket = run_dir.join(SOCKET_FILE);
    let mut stream = UnixStream::connect(&socket)
        .with_context(|| format!("no daemon answers on {}; is apivip running?", socket.display()))?;
    let mut answer = String::new();
    stream
        .set_read_timeout(Some(timeout))
        .and_then(|()| stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: apivip\r\n\r\n").as_bytes()))
        .and_then(|()| stream.read_to_string(&mut answer))
        .with_context(|| format!("ask the daemon on {}", socket.display()))?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        bail!("the daemon on {} gave half an answer", socket.display());
    };
    if head.split(' ').nth(1) != Some("200") {
        bail!("the daemon on {} answered: {}", socket.display(), head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}
