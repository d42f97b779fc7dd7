//! The capabilities of this process, read from `/proc/self/status`, which takes no library and no privilege.

use std::io;

/// Bit of CAP_NET_ADMIN (`include/uapi/linux/capability.h`): needed to change nf_tables and routes.
const CAP_NET_ADMIN: u32 = 12;

/// Why nftables and routes cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// The capability is not in the effective set.
    #[error("CAP_NET_ADMIN is missing, which nftables requires: run apivip as root or with that capability")]
    NotNetAdmin,
    /// The capabilities cannot be read.
    #[error("read the capabilities from /proc/self/status")]
    Unknown(#[source] io::Error),
}

/// Fails unless the process has CAP_NET_ADMIN.
pub fn require_net_admin() -> Result<(), PrivilegeError> {
    match effective_set()? {
        set if set & (1 << CAP_NET_ADMIN) != 0 => Ok(()),
        _ => Err(PrivilegeError::NotNetAdmin),
    }
}

/// The effective set of capabilities, a bit for each.
pub fn effective_set() -> Result<u64, PrivilegeError> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(PrivilegeError::Unknown)?;
    effective(&status).ok_or_else(|| PrivilegeError::Unknown(io::Error::from(io::ErrorKind::InvalidData)))
}

fn effective(status: &str) -> Option<u64> {
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(set.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_set_is_read_from_its_line() {
        assert_eq!(
            effective("Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t0000000000001000\n"),
            Some(1 << 12)
        );
        assert_eq!(effective("Name:\tx\n"), None);
        assert_eq!(effective("CapEff:\tzz\n"), None);
    }
}
