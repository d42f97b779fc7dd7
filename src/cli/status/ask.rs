//! One question to the daemon's socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::lock::SOCKET_FILE;

/// One HTTP/1.0 request: the answer ends with the connection.
pub(in crate::cli) fn ask(run_dir: &Path, path: &str, timeout: Duration) -> anyhow::Result<String> {
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
