//! The table of a kube-proxy in nftables mode with many Services of its own, as one script.
//! In: how many. Out: what `nft -f` takes; none of it concerns the virtual IP of the API.

use std::fmt::Write;

/// Replaces `table ip kube-proxy`: a map of all Services, and for each of them its chain and that of an endpoint.
pub fn script(count: u32) -> String {
    let mut text = "add table ip kube-proxy\ndelete table ip kube-proxy\ntable ip kube-proxy {\n".to_owned();
    let mut elements = Vec::new();
    for i in 0..count {
        let (high, low) = (i / 250, i % 250 + 1);
        let (service, endpoint) = (format!("10.97.{high}.{low}"), format!("10.244.{high}.{low}"));
        // One after the other has one endpoint, or two. Each anonymous map costs the kernel a walk through all others.
        let choice = match i % 2 {
            0 => format!("goto endpoint-{i}"),
            _ => format!("numgen random mod 2 vmap {{ 0 : goto endpoint-{i}, 1 : goto endpoint-{} }}", i - 1),
        };
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "chain endpoint-{i} {{\nip saddr {endpoint} meta mark set meta mark or 0x4000\n\
             meta l4proto tcp dnat to {endpoint}:8080\n}}\n\
             chain service-{i} {{\nip daddr {service} tcp dport 80 ip saddr != 10.244.0.0/16 meta mark set meta mark or 0x4000\n\
             {choice}\n}}\n"
        );
        elements.push(format!("{service} . tcp . 80 : goto service-{i}"));
    }
    let elements = elements.join(",\n");
    text.push_str("map service-ips {\ntype ipv4_addr . inet_proto . inet_service : verdict\n");
    let _ = write!(text, "elements = {{ {elements} }}\n}}\n");
    text.push_str("chain services {\nip daddr . meta l4proto . th dport vmap @service-ips\n}\n");
    for (name, hook) in [("nat-prerouting", "prerouting"), ("nat-output", "output")] {
        let _ = write!(text, "chain {name} {{\ntype nat hook {hook} priority -100\njump services\n}}\n");
    }
    text.push_str("}\n");
    text
}
