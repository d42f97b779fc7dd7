//! The typed form of `table inet apivip`: what both the nft text and the netlink messages are written from.
//!
//! Values only. The vocabulary is closed on purpose: a match or statement exists here only if `text` and
//! [`super::encode`] can both write it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::uapi::table::{FLAG_DORMANT, FLAG_OWNER, FLAG_PERSIST};
use crate::model::address::Cidr;
use crate::model::address::InterfaceName;
use crate::model::types::{Family, Vip};

/// The table's name; its family is `inet`.
pub const TABLE_NAME: &str = "apivip";

/// The longest comment that nft accepts, in bytes (NFTNL_UDATA_COMMENT_MAXLEN in nft's sources).
pub const COMMENT_MAX: usize = 128;

/// The kernel gives an anonymous set its real name.
pub(super) const ANONYMOUS_MAP: &str = "__map%d";

/// Seed of the hash that ties a client to a backend: fixed, so that replacing the rules moves no client. "apiv".
pub(super) const CLIENT_HASH_SEED: u32 = 0x6170_6976;

/// A whole table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Says what the table is for. It never changes: the kernel does not update the comment of a table that exists.
    pub comment: &'static str,
    /// Named counters, in the order in which they are listed.
    pub counters: Vec<Counter>,
    /// Named sets.
    pub sets: Vec<Set>,
    /// Chains: base chains first, so that they keep their place when all others are replaced.
    pub chains: Vec<Chain>,
}

/// A named counter. Replacing the table leaves its value alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Unique within the table.
    pub name: String,
    /// What is counted.
    pub comment: String,
}

/// A named set of addresses with TCP ports. Replacing the table fills it anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Unique among the table's sets.
    pub name: String,
    /// What is in it.
    pub comment: String,
    /// The family of all its addresses.
    pub family: Family,
    /// An element that is not put there again is gone after this: whole seconds.
    pub timeout: Duration,
    /// What it holds, each once.
    pub elements: Vec<Element>,
}

/// An element of a [`Set`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// The address and port.
    pub address: SocketAddr,
    /// Why it is there.
    pub comment: String,
}

/// A chain and its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Unique within the table.
    pub name: String,
    /// What the chain is for.
    pub comment: String,
    /// Where it is called from, if it is a base chain. All base chains have the policy accept.
    pub hook: Option<Hook>,
    /// The rules, first one first.
    pub rules: Vec<Rule>,
}

/// Where a base chain is called from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// nat: packets that arrive, before routing. Priority dstnat - 5 = -105: ahead of kube-proxy's -100.
    NatPrerouting,
    /// nat: packets of local processes. Priority -105, for the same reason.
    NatOutput,
    /// nat: packets to local processes. Priority 95, as of those that leave.
    NatInput,
    /// nat: packets that leave. Priority srcnat - 5 = 95: ahead of kube-proxy's and the CNI's 100.
    NatPostrouting,
    /// filter: packets that arrive, behind conntrack (-200) and ahead of nat. Priority mangle = -150.
    KillPrerouting,
    /// filter: packets of local processes, at the same place.
    KillOutput,
    /// filter: packets of local processes, ahead of conntrack. Priority raw = -300.
    NotrackOutput,
}

impl Hook {
    /// The chain's type.
    pub fn kind(self) -> &'static str {
        match self {
            Self::NatPrerouting | Self::NatInput | Self::NatOutput | Self::NatPostrouting => "nat",
            Self::KillPrerouting | Self::KillOutput | Self::NotrackOutput => "filter",
        }
    }

    /// `enum nf_inet_hooks` of the kernel's `include/uapi/linux/netfilter.h`.
    pub fn number(self) -> u32 {
        match self {
            Self::NatPrerouting | Self::KillPrerouting => 0,
            Self::NatInput => 1,
            Self::NatOutput | Self::KillOutput | Self::NotrackOutput => 3,
            Self::NatPostrouting => 4,
        }
    }

    /// The priority: lower runs earlier.
    pub fn priority(self) -> i32 {
        match self {
            Self::NatPrerouting | Self::NatOutput => -105,
            Self::NatInput | Self::NatPostrouting => 95,
            Self::KillPrerouting | Self::KillOutput => -150,
            Self::NotrackOutput => -300,
        }
    }
}

/// One rule: if all matches hold, count, then act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// All must hold.
    pub matches: Vec<Match>,
    /// A named counter to count the packet with.
    pub counter: Option<String>,
    /// What is done with the packet.
    pub action: Action,
    /// Why the rule is there.
    pub comment: Option<String>,
}

/// A condition on the packet or its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// `ip daddr` / `ip6 daddr`.
    DestinationAddress(IpAddr),
    /// `tcp dport`, in host byte order.
    TcpDestinationPort(u16),
    /// `meta l4proto tcp`.
    Tcp,
    /// `ip saddr` / `ip6 saddr`.
    SourceAddress(IpAddr),
    /// `ip saddr !=` / `ip6 saddr !=`.
    SourceAddressNot(IpAddr),
    /// `ip saddr RANGE` / `ip6 saddr RANGE`.
    SourceWithin(Cidr),
    /// `fib daddr type local`: the destination is an address of this node, or a local route has it.
    DestinationIsLocal,
    /// `fib saddr type local`: the node itself sent it.
    SourceIsLocal,
    /// `fib saddr type != local`: a Pod or another host sent it.
    SourceIsNotLocal,
    /// `fib saddr . oif type != local`: no address of the interface that the packet leaves by.
    SourceNotOfOutgoingInterface,
    /// `oifname != "lo"`.
    LeavesNode,
    /// `oifname`: it leaves by this interface.
    LeavesBy(InterfaceName),
    /// `ct status dnat`: the flow's destination was translated.
    FlowTranslated,
    /// `ct original ip daddr` / `ct original ip6 daddr`: where the client sent the flow.
    FlowDestinationAddress(IpAddr),
    /// `ct original proto-dst`: its port, in host byte order. Needs [`Match::Tcp`] before it.
    FlowDestinationPort(u16),
    /// `ct state`.
    CtState(CtState),
    /// `ct direction original`: from the client to the server.
    FlowDirectionOriginal,
    /// `ct reply ip saddr . ct reply proto-src @SET` / `ct reply ip6 saddr ...`: who answers the flow is in the set of dead
    /// backends of this virtual IP. Needs a TCP match before it.
    FlowRepliesFromDead(Vip),
    /// `tcp sport`, in host byte order.
    TcpSourcePort(u16),
    /// `tcp flags`.
    TcpFlags(TcpFlags),
    /// `tcp doff 5`: the header has no options.
    TcpWithoutOptions,
}

/// What conntrack takes a packet for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtState {
    /// For a packet of no flow that it knows: far outside of the window, for instance. No rule translates it.
    Invalid,
    /// For one of a flow that has been answered, or for one about a flow, such as an ICMP error.
    EstablishedOrRelated,
}

impl CtState {
    /// `NF_CT_STATE_BIT` of the kernel's `nf_conntrack_common.h`.
    pub fn bits(self) -> u32 {
        match self {
            Self::Invalid => 1 << 0,
            Self::EstablishedOrRelated => 1 << 1 | 1 << 2,
        }
    }
}

/// Conditions on the flags of a TCP header (RFC 9293).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpFlags {
    /// Neither opens nor resets a connection.
    NeitherSynNorRst,
    /// The first packet of a connection: SYN and none of FIN, RST, ACK.
    BareSyn,
    /// Any other packet.
    NotBareSyn,
}

impl TcpFlags {
    /// Which bits of the header's byte 13 are looked at, what they must be, or, if not `equal`, must not be.
    pub fn mask_and_value(self) -> (u8, u8, bool) {
        match self {
            Self::NeitherSynNorRst => (0x06, 0x00, true),
            Self::BareSyn => (0x17, 0x02, true),
            Self::NotBareSyn => (0x17, 0x02, false),
        }
    }
}

/// What a rule does in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Continue in another chain and do not come back.
    Goto(String),
    /// Go on with the next rule.
    Continue,
    /// Leave this chain.
    Return,
    /// Send the flow to this address and port.
    Dnat(SocketAddr),
    /// Give the flow this source address.
    Snat(IpAddr),
    /// Give the flow the address of the interface that it leaves by.
    Masquerade,
    /// Drop the packet and say nothing.
    Drop,
    /// Drop the packet and answer with a TCP reset.
    RejectWithReset,
    /// Keep the packet away from conntrack.
    Notrack,
    /// Choose one chain and continue there.
    Balance {
        /// What chooses.
        by: BalanceKey,
        /// At least two chains; each gets an equal share.
        targets: Vec<Target>,
    },
}

/// What chooses among the targets of [`Action::Balance`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BalanceKey {
    /// A random number for each new flow.
    Random,
    /// A hash of the client's address (family given): one client, one target.
    ClientAddress(Family),
}

/// A target of [`Action::Balance`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The chain to go to.
    pub chain: String,
    /// Who is behind it.
    pub comment: String,
}

impl Rule {
    /// A rule without counter and comment.
    pub fn new(matches: Vec<Match>, action: Action) -> Self {
        Self { matches, counter: None, action, comment: None }
    }

    /// The same rule with a comment.
    pub fn with_comment(mut self, comment: impl Into<String>) -> Self {
        self.comment = Some(comment.into());
        self
    }

    /// The same rule, counting with the named counter.
    pub fn with_counter(mut self, counter: impl Into<String>) -> Self {
        self.counter = Some(counter.into());
        self
    }
}

/// Whose the table is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ownership {
    /// Nobody's: every program with the privilege may change it.
    #[default]
    Plain,
    /// The socket's. Others may read it, and it outlives the socket as an orphan, which anybody may change and the next
    /// owner takes in.
    Owned,
}

impl Ownership {
    /// The flags of such a table. Owner alone would let the table go with its process.
    pub fn flags(self) -> u32 {
        match self {
            Self::Plain => 0,
            Self::Owned => FLAG_OWNER | FLAG_PERSIST,
        }
    }

    /// Whether a table with these flags can take on those of `self` and stay. The kernel never changes the flag persist
    /// of a table that exists, and gives an owner to orphans only (`nf_tables_updtable`).
    pub fn fits(self, flags: u32) -> bool {
        match self {
            Self::Plain => flags & !FLAG_DORMANT == 0,
            Self::Owned => flags & FLAG_PERSIST != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owned_fits_only_persistent_tables_and_plain_only_plain_ones() {
        let (plain, orphan, owned) = (0, FLAG_PERSIST, FLAG_OWNER | FLAG_PERSIST);
        assert!(Ownership::Plain.fits(plain) && Ownership::Plain.fits(FLAG_DORMANT));
        assert!(!Ownership::Plain.fits(orphan) && !Ownership::Plain.fits(owned));
        assert!(Ownership::Owned.fits(orphan) && Ownership::Owned.fits(owned));
        assert!(!Ownership::Owned.fits(plain) && !Ownership::Owned.fits(FLAG_OWNER));
    }

    #[test]
    fn owner_and_persist_flags_come_together() {
        assert_eq!(Ownership::default().flags(), 0);
        assert_eq!(Ownership::Owned.flags(), FLAG_OWNER | FLAG_PERSIST);
    }
}
