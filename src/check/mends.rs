//! What a mend begins with: a command that an operator can run. Every finding that a unit test makes is looked at.

/// The programs.
const PROGRAMS: [&str; 31] = [
    "apivip",
    "bpftool",
    "chronyc",
    "cilium-dbg",
    "curl",
    "dmesg",
    "ethtool",
    "firewall-cmd",
    "getent",
    "grep",
    "helm",
    "ip",
    "ip6tables-legacy",
    "iptables-legacy",
    "ipvsadm",
    "journalctl",
    "kube-proxy",
    "kubeadm",
    "kubectl",
    "ls",
    "modprobe",
    "mount",
    "nft",
    "openssl",
    "ps",
    "sudo",
    "sysctl",
    "systemctl",
    "timedatectl",
    "ufw",
    "uname",
];

/// Fails where there is a mend, and it begins with something else.
pub(super) fn must_begin_with_a_command(id: &str, mend: Option<&str>) {
    let Some(mend) = mend else { return };
    let program = mend.split_whitespace().next().unwrap_or_default();
    assert!(PROGRAMS.contains(&program.trim_end_matches([',', ';', ':'])), "{id}: {mend:?} is no command");
}

#[test]
#[should_panic(expected = "no command")]
fn words_are_no_command() {
    must_begin_with_a_command("x", Some("mend what the line names"));
}
