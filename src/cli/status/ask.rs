//! One question to the daemon's socket, and why there is no answer.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::process::lock::SOCKET_FILE;

/// One HTTP/1.0 request: the answer ends with the connection.
pub(crate) fn ask(run_dir: &Path, path: &str, timeout: Duration) -> anyhow::Result<String> {
    let socket = run_dir.join(SOCKET_FILE);
    let answer = exchange(&socket, path, timeout).map_err(|error| explained(error, &socket, timeout))?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        bail!("the daemon on {} gave half an answer", socket.display());
    };
    if head.split(' ').nth(1) != Some("200") {
        bail!("the daemon on {} answered: {}", socket.display(), head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}

/// Whether an error of [`ask`] means that nobody listens there. Another one may come of a daemon that does its work.
pub(super) fn is_absent(error: &anyhow::Error) -> bool {
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

fn explained(error: io::Error, socket: &Path, timeout: Duration) -> anyhow::Error {
    let socket = socket.display();
    let text = match error.kind() {
        kind if means_absent(kind) => format!("no daemon answers on {socket}; is apivip running?"),
        ErrorKind::PermissionDenied => format!("cannot ask the daemon on {socket}: run as root"),
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            let seconds = timeout.as_secs();
            return anyhow::anyhow!("a daemon holds {socket} and does not answer within {seconds} s");
        }
        _ => format!("ask the daemon on {socket}"),
    };
    anyhow::Error::new(error).context(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn who_is_absent_and_who_is_silent_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let said = || ask(folder.path(), "/status", Duration::from_millis(50)).unwrap_err();
        let absent = said();
        assert!(is_absent(&absent) && absent.to_string().contains("is apivip running?"), "{absent:#}");
        let listener = UnixListener::bind(folder.path().join(SOCKET_FILE)).unwrap();
        let silent = said();
        assert!(!is_absent(&silent) && silent.to_string().contains("does not answer within"), "{silent:#}");
        // The one that left is still in the queue, which has no room for another.
        socket2::SockRef::from(&listener).listen(0).unwrap();
        assert_eq!(said().to_string(), silent.to_string());
        drop(listener);
        let refused = said();
        assert!(is_absent(&refused), "{refused:#}");
    }
}
