//! The virtual IP on this node, and who might take it.

use crate::audit::finding::{Check, Severity, Way};

/// Each of them.
pub const ALL: &[&Check] =
    &[&ANSWER, &TABLES, &SOCKETS, &LISTENERS, &CLAIMS, &NONLOCAL, &RP_FILTER, &ROUTE_LOCALNET];

/// `redirect-answer`.
pub const ANSWER: Check = Way::Redirect.check(
    "redirect-answer",
    Severity::High,
    "apivip leads connections to the virtual IP",
    "Whoever leads the virtual IP decides who the apiserver is to every Pod. Clients that verify the certificate notice a \
     wrong one, those that do not hand over their tokens. The daemon dials the virtual IP every few seconds and finds out \
     from conntrack and its own counters which component led that connection.",
    "apivip status and apivip check name the component that comes first; remove it, or let it leave the virtual IP alone",
);

/// `redirect-tables`.
pub const TABLES: Check = Way::Redirect.check(
    "redirect-tables",
    Severity::Medium,
    "no other table translates it first",
    "A nat chain that runs before apivip's can send the virtual IP anywhere. One that runs after it never sees the flow.",
    "give that chain a priority above -105, or see that it leaves the virtual IP alone: nft list ruleset",
);

/// `redirect-sockets`.
pub const SOCKETS: Check = Way::Redirect.check(
    "redirect-sockets",
    Severity::Medium,
    "no program translates it at the socket",
    "BPF programs at a cgroup (Cilium's socket load balancer) change the address that a process dials, before there is any \
     packet that a table could see.",
    "socketLB.enabled=false in Cilium's Helm values, or use --listen; bpftool cgroup tree lists such programs",
);

/// `redirect-listeners`.
pub const LISTENERS: Check = Way::Redirect.check(
    "redirect-listeners",
    Severity::High,
    "no process of this node listens on it",
    "A process that has bound the virtual IP and its port takes the connections that are not redirected: all of them while \
     rules are away and the address is local.",
    "ss -ltnp names the process; end it, and see why it could bind the address",
);

/// `redirect-claims`.
pub const CLAIMS: Check = Way::Redirect.check(
    "redirect-claims",
    Severity::High,
    "no Service claims it for itself",
    "Who may create a Service can name any address under externalIPs, and who may write its status a load balancer's: \
     kube-proxy then leads that address to Pods of their choice, on every node (CVE-2020-8554). While apivip's rules stand \
     they come first.",
    "delete that Service, and enable the admission plugin DenyServiceExternalIPs",
);

/// `redirect-nonlocal-bind`.
pub const NONLOCAL: Check = Way::Redirect.check(
    "redirect-nonlocal-bind",
    Severity::Low,
    "processes cannot bind addresses that are not the node's",
    "With net.ipv4.ip_nonlocal_bind every process, and every Pod in the host's network, may bind the virtual IP, and wait \
     for a moment in which a route makes it local. Other Pods have a network namespace of their own: what they bind is \
     seen by them alone.",
    "sysctl -w net.ipv4.ip_nonlocal_bind=0 net.ipv6.ip_nonlocal_bind=0, unless a load balancer such as keepalived needs it",
);

/// `redirect-rp-filter`.
pub const RP_FILTER: Check = Way::Redirect.check(
    "redirect-rp-filter",
    Severity::Low,
    "packets with a false source are dropped",
    "Without a reverse path filter (rp_filter 1, or 2 for nodes with several ways) a Pod or a neighbour may send packets \
     that claim another's address, for instance that of the node or of an apiserver. Many network plugins check Pods' \
     addresses themselves.",
    "sysctl -w net.ipv4.conf.all.rp_filter=2 (loose) or 1 (strict), unless the network plugin checks sources itself",
);

/// `redirect-route-localnet`.
pub const ROUTE_LOCALNET: Check = Way::Redirect.check(
    "redirect-route-localnet",
    Severity::Medium,
    "listeners on loopback are reached from this node only",
    "With net.ipv4.conf.*.route_localnet, which kube-proxy sets for node ports, hosts of the same network may reach what \
     listens on 127.0.0.1 (CVE-2020-8558): a plain port of an apiserver, or what apivip serves by --listen. kube-proxy's \
     iptables rules drop such packets since 1.18.4.",
    "--iptables-localhost-nodeports=false of kube-proxy (1.26 and newer) and sysctl -w net.ipv4.conf.all.route_localnet=0; \
     or drop packets to 127.0.0.0/8 that do not come from lo",
);
