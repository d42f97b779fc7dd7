//! The name of a network interface, as rules can hold it. Pure.

use std::fmt;
use std::str;

/// `IFNAMSIZ`: the kernel's size of a name, with the zero byte that ends it.
const SIZE: usize = 16;

/// A name that nft can print and read: no quote, no blank, no star at its end, which would mean a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceName([u8; SIZE]);

impl InterfaceName {
    /// `None`: no interface has such a name, or nft could not write it down.
    pub fn new(name: &str) -> Option<Self> {
        let is_plain =
            name.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'/' | b'\\'));
        if name.is_empty() || name.len() >= SIZE || !is_plain || name.ends_with('*') {
            return None;
        }
        let mut bytes = [0; SIZE];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Some(Self(bytes))
    }

    /// The name, filled up with zeros.
    pub fn bytes(&self) -> [u8; SIZE] {
        self.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(SIZE);
        f.write_str(str::from_utf8(&self.0[..end]).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_those_that_rules_cannot_hold_are_refused() {
        for name in ["eth0", "bond0.100", "wg-apiserver-15"] {
            assert_eq!(InterfaceName::new(name).map(|name| name.to_string()).as_deref(), Some(name));
        }
        for name in ["", "a\"b", "a b", "eth*", "sixteen-bytes-xx", "a/b", "\u{e9}th0"] {
            assert_eq!(InterfaceName::new(name), None, "{name}");
        }
    }
}
