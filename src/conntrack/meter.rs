//! What open connections through rules have carried, as conntrack counts it.
//!
//! Reads only. In: virtual IPs, and the ports of their backends. Out: [`Traffic`]. The kernel counts bytes only while
//! `net.netfilter.nf_conntrack_acct` is 1 in this network namespace; the setting is the operator's, and is left alone.

use std::collections::BTreeSet;
use std::fs;

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::kernel::is_no_filter;
use crate::conntrack::entries::{self, State};
use crate::model::traffic::Traffic;
use crate::model::types::Vip;
use crate::netlink::netlink::{Channel, NetlinkError};

const ACCOUNTING: &str = "/proc/sys/net/netfilter/nf_conntrack_acct";

/// Asks for the open connections of each of these virtual IPs to backends with these ports. Blocks: the kernel looks at
/// every entry for each of them, some 10 ms for 100,000. Needs CAP_NET_ADMIN.
pub fn read(wanted: &BTreeSet<(Vip, u16)>) -> Result<Traffic, NetlinkError> {
    let mut traffic = Traffic::new(fs::read_to_string(ACCOUNTING).is_ok_and(|text| text.trim() == "1"));
    let mut channel = Channel::open(NETLINK_NETFILTER, "conntrack")?;
    for (vip, port) in wanted {
        let select = |body: &[u8]| {
            let entry = entries::entry(body).ok().flatten()?;
            let is_wanted = entry.flow.vip == *vip && entry.answers.port() == *port;
            (is_wanted && entry.state == State::Open).then_some((entry.answers, entry.bytes))
        };
        let open = match channel.dump(entries::GET, &entries::dump_port(*vip, *port), select) {
            Err(error) if is_no_filter(&error) => {
                channel.dump(entries::GET, &entries::dump_all(vip.ip()), select)?
            }
            open => open?,
        };
        open.into_iter().for_each(|(backend, bytes)| traffic.add(*vip, backend, bytes));
    }
    Ok(traffic)
}
