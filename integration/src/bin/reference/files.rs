//! The table of what apivip makes on a node, named by the daemon's own constants.

use std::fmt::Write;

use apivip::bootstrap::saved_state::{NEW_FILE, STATE_FILE};
use apivip::config::{DEFAULT_RUN_DIR, DEFAULT_STATE_DIR};
use apivip::nftables::table::TABLE_NAME;
use apivip::process::handover::HANDOVER_FILE;
use apivip::process::lock::{LOCK_FILE, SOCKET_FILE};
use apivip::routes::ROUTE_PROTOCOL;
use apivip::routes::local_vip::DEVICE;

/// One row for each thing.
pub fn table() -> String {
    let (run, state, number) = (DEFAULT_RUN_DIR, DEFAULT_STATE_DIR, ROUTE_PROTOCOL);
    let device = DEVICE.replace("%d", "0");
    let rows = [
        (
            format!("`table inet {TABLE_NAME}`"),
            "the rules, with the flags owner and persist where the kernel has them; nothing in any other table".to_owned(),
            "with the first virtual IP",
            "`apivip cleanup`, or a stop with `--cleanup-on-exit`",
        ),
        (
            format!("a host route, protocol {number}"),
            format!("the way to a virtual IP to which the node has none (`ip route show proto {number}`)"),
            "where the node has no route",
            "the same, and when the virtual IP is no longer served",
        ),
        (
            format!("the tun device `{device}`"),
            format!(
                "or the next free number; on it a route of type `local` for each virtual IP in the tables `local` and {number}, \
                 and a routing rule to table {number}, all with protocol {number}"
            ),
            "while the forwarder is in use, or its connections drain",
            "the kernel, with the last daemon that holds it",
        ),
        (
            format!("`{run}/{LOCK_FILE}`"),
            "holds the daemon's pid, and is locked while it runs (`--run-dir`)".to_owned(),
            "at each start",
            "`apivip cleanup`",
        ),
        (
            format!("`{run}/{SOCKET_FILE}`"),
            "what `apivip status` asks, mode 0600 (`--run-dir`)".to_owned(),
            "at each start",
            "`apivip cleanup`; a start replaces it",
        ),
        (
            format!("`{run}/{HANDOVER_FILE}`"),
            "by which the next daemon takes the listeners over (`--run-dir`)".to_owned(),
            "while a daemon drains",
            "`apivip cleanup`; the next one that drains replaces it",
        ),
        (
            format!("`{state}/{STATE_FILE}`"),
            format!("the last good state, and `{NEW_FILE}` while it is written (`--state-dir`)"),
            "when it changes",
            "`apivip cleanup`, and the folder if nothing else is in it",
        ),
    ];
    let mut table = "| what | for | made | removed by |\n|---|---|---|---|\n".to_owned();
    for (what, purpose, made, removed) in rows {
        let _ = writeln!(table, "| {what} | {purpose} | {made} | {removed} |");
    }
    table
}
