//! Reads the files that a configuration names, so that a wrong path is an answer and never a daemon that hangs or grows.

use std::io::{Error, ErrorKind, Read};
use std::path::Path;

/// The largest file that is read, in bytes: a bundle of every public CA has a quarter of that.
const LIMIT: u64 = 1 << 20;

/// Reads a regular file. The error says why not and what to do, without the file's name.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let metadata = std::fs::metadata(path).map_err(|error| advise(&error))?;
    if metadata.is_dir() {
        return Err("it is a directory; name a file".to_owned());
    }
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let file = std::fs::File::open(path).map_err(|error| advise(&error))?;
    let mut bytes = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut bytes).map_err(|error| advise(&error))?;
    if bytes.len() as u64 > LIMIT {
        return Err(format!("it is larger than {} MiB; name another file", LIMIT >> 20));
    }
    Ok(bytes)
}

fn advise(error: &Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "no such file; correct the path".to_owned(),
        ErrorKind::PermissionDenied => "permission denied; let this user read it".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_of_a_sensible_size_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let large = folder.path().join("large");
        std::fs::File::create(&large).unwrap().set_len(LIMIT + 1).unwrap();
        let cases = [
            (folder.path(), "it is a directory; name a file"),
            (Path::new("/dev/zero"), "it is not a regular file"),
            (&large, "it is larger than 1 MiB; name another file"),
            (&folder.path().join("none"), "no such file; correct the path"),
        ];
        for (path, cause) in cases {
            assert_eq!(read(path).unwrap_err(), cause);
        }
    }

    /// The tests run as root, whom no permission stops.
    #[test]
    fn a_forbidden_file_says_so() {
        let denied = Error::from(ErrorKind::PermissionDenied);
        assert_eq!(advise(&denied), "permission denied; let this user read it");
    }
}
