//! The client of the daemon's socket: one HTTP/1.0 request, and why there is no answer.

use std::io;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::process::lock::SOCKET_FILE;

/// The body of the answer to a GET of `path`. Each step takes `timeout` at most.
pub fn get(run_dir: &Path, path: &str, timeout: Duration) -> anyhow::Result<String> {
    let socket = run_dir.join(SOCKET_FILE);
    let answer = exchange(&socket, path, timeout).map_err(|error| describe(error, &socket, timeout))?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        bail!("the response of the daemon on {} is incomplete", socket.display());
    };
    if head.split(' ').nth(1) != Some("200") {
        bail!("the daemon on {} answered: {}", socket.display(), head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}

/// Whether an error of [`get`] means that nobody listens there. Another one may come of a daemon that does its work.
pub fn is_absent(error: &anyhow::Error) -> bool {
    error.root_cause().downcast_ref::<io::Error>().is_some_and(|error| means_absent(error.kind()))
}

fn means_absent(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::ConnectionRefused)
}

fn exchange(socket: &Path, path: &str, timeout: Duration) -> io::Result<String> {
    let stream = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Of a daemon that accepts nothing, the queue may be full: connecting waits then, as writing would.
    stream.set_write_timeout(Some(timeout))?;
    stream.set_read_timeout(Some(timeout))?;
    stream.connect(&SockAddr::unix(socket)?)?;
    let mut stream = UnixStream::from(stream);
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: apivip\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn describe(error: io::Error, socket: &Path, timeout: Duration) -> anyhow::Error {
    let socket = socket.display();
    let text = match error.kind() {
        kind if means_absent(kind) => format!("no daemon answers on {socket}; is apivip running?"),
        ErrorKind::PermissionDenied => format!("cannot connect to the daemon on {socket}: run as root"),
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            let seconds = timeout.as_secs();
            return anyhow::anyhow!("a daemon listens on {socket} and does not answer within {seconds} s");
        }
        _ => format!("query the daemon on {socket}"),
    };
    anyhow::Error::new(error).context(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn absent_and_silent_daemons_have_different_errors() {
        let folder = tempfile::tempdir().unwrap();
        let error = || get(folder.path(), "/status", Duration::from_millis(50)).unwrap_err();
        let absent = error();
        assert!(is_absent(&absent) && absent.to_string().contains("is apivip running?"), "{absent:#}");
        let listener = UnixListener::bind(folder.path().join(SOCKET_FILE)).unwrap();
        let silent = error();
        assert!(!is_absent(&silent) && silent.to_string().contains("does not answer within"), "{silent:#}");
        // The one that left is still in the queue, which has no room for another.
        socket2::SockRef::from(&listener).listen(0).unwrap();
        assert_eq!(error().to_string(), silent.to_string());
        drop(listener);
        let refused = error();
        assert!(is_absent(&refused), "{refused:#}");
    }
}
