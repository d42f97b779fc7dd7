//! What a lab looks like: the choices a test makes.

use apivip::model::types::Family;

/// The choices. Take the default and change what the test is about.
#[derive(Clone, Copy, Debug)]
pub struct LabOptions {
    /// Which IP versions the lab has.
    pub families: Families,
    /// How many pod namespaces, at most 200.
    pub pods: u8,
    /// How pods hang on the node.
    pub attachment: PodAttachment,
    /// How many apiservers, at most 200.
    pub apiservers: u8,
    /// Whether apiserver 1 runs on the node itself and has the node's address.
    pub node_is_apiserver: bool,
    /// Whether the node has a second interface, eth1, on a second network.
    pub second_network: bool,
    /// Where the node's default route points.
    pub default_route: DefaultRoute,
    /// Whether simulated apiservers let clients in by certificates of their authority as well, not by tokens alone.
    pub client_certificates: bool,
    /// Whether the cables of apiservers can be made longer: see [`Lab::set_delay`](super::Lab::set_delay).
    pub long_cables: bool,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self {
            families: Families::V4,
            pods: 1,
            attachment: PodAttachment::Routed,
            apiservers: 3,
            node_is_apiserver: false,
            second_network: false,
            default_route: DefaultRoute::Fabric,
            client_certificates: false,
            long_cables: false,
        }
    }
}

/// Which IP versions a lab has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// Both.
    Dual,
}

impl Families {
    /// The families, IPv4 first.
    pub fn list(self) -> &'static [Family] {
        match self {
            Self::V4 => &[Family::V4],
            Self::V6 => &[Family::V6],
            Self::Dual => &[Family::V4, Family::V6],
        }
    }
}

/// How pods hang on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodAttachment {
    /// One routed veth per pod, `podN` on the node, without an IPv4 address there.
    Routed,
    /// The bridge `cni0` on the node.
    Bridged {
        /// Whether bridged packets pass the IP hooks of netfilter, as kubeadm requires.
        netfilter: bool,
    },
}

/// Where the node's default route points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultRoute {
    /// To the router of its own network.
    Fabric,
    /// To the router of the second network.
    SecondNetwork,
    /// Nowhere: there is none.
    Absent,
}
