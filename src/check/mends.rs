//! What a mend begins with: a command that an operator can run as it stands. Every finding that a unit test makes is looked
//! at.

/// The programs.
const PROGRAMS: [&str; 32] = [
    "apivip",
    "bpftool",
    "chronyc",
    "cilium-dbg",
    "curl",
    "dmesg",
    "ethtool",
    "firewall-cmd",
    "for",
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

/// What stands for something else in a manual.
const PLACEHOLDERS: [&str; 10] =
    ["ADDRESS", "ADDR", "PORT", "FILE", "DIR", "CIDR", "DEVICE", "NAME", "NAMESPACE", "GATEWAY"];

/// Fails where there is a mend, and it begins with something else, or leaves something to be filled in.
pub(super) fn must_begin_with_a_command(id: &str, mend: Option<&str>) {
    let Some(mend) = mend else { return };
    let program = mend.split_whitespace().next().unwrap_or_default();
    let blank = |word: &str| PLACEHOLDERS.contains(&word);
    let words = mend.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    assert!(!words.into_iter().any(blank), "{id}: {mend:?} leaves something to be filled in");
    assert!(PROGRAMS.contains(&program.trim_end_matches([',', ';', ':'])), "{id}: {mend:?} is no command");
}

#[test]
#[should_panic(expected = "to be filled in")]
fn a_placeholder_is_no_argument() {
    must_begin_with_a_command("x", Some("ethtool -k DEVICE"));
}

#[test]
#[should_panic(expected = "no command")]
fn words_are_no_command() {
    must_begin_with_a_command("x", Some("mend what the line names"));
}
