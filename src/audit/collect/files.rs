//! Files of the host, in YAML: bounded, and with an error of one line.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::transport::text::errno_text;

/// Of a file, in bytes. What is read here has some thousands.
const MOST: u64 = 1 << 20;

/// Reads one.
///
/// # Errors
/// Says what is wrong with it, without its name.
pub(super) fn read(path: &Path) -> Result<Value, String> {
    let mut text = String::new();
    let file = File::open(path).and_then(|file| file.take(MOST).read_to_string(&mut text));
    match file {
        Ok(bytes) if bytes as u64 == MOST => Err("larger than 1 MiB".to_owned()),
        Ok(_) => yaml(&text),
        Err(error) => Err(errno_text(&error)),
    }
}

/// Parses one.
///
/// # Errors
/// Says what is wrong with it.
pub(super) fn yaml(text: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let text = error.to_string();
        text.lines().next().unwrap_or("no YAML").to_owned()
    })
}
