use super::*;

/// Programs that a fix may begin with: an operator can run it as it stands.
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

/// Placeholders of manuals.
const PLACEHOLDERS: [&str; 10] =
    ["ADDRESS", "ADDR", "PORT", "FILE", "DIR", "CIDR", "DEVICE", "NAME", "NAMESPACE", "GATEWAY"];

/// Fails where there is a fix, and it begins with something else, or leaves something to be filled in.
pub(in crate::check) fn assert_fix_is_a_command(id: &str, fix: Option<&str>) {
    let Some(fix) = fix else { return };
    let program = fix.split_whitespace().next().unwrap_or_default();
    let blank = |word: &str| PLACEHOLDERS.contains(&word);
    let words = fix.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    assert!(!words.into_iter().any(blank), "{id}: {fix:?} leaves something to be filled in");
    assert!(PROGRAMS.contains(&program.trim_end_matches([',', ';', ':'])), "{id}: {fix:?} is no command");
}

#[test]
#[should_panic(expected = "to be filled in")]
fn fix_with_placeholder_panics() {
    assert_fix_is_a_command("x", Some("ethtool -k DEVICE"));
}

#[test]
#[should_panic(expected = "no command")]
fn fix_without_command_panics() {
    assert_fix_is_a_command("x", Some("correct what the line names"));
}

fn report() -> Report {
    let check = |id, group| Check { id, group, title: "asked" };
    let kernel = check("kernel-tun", Group::Kernel);
    let api = check("apiserver-tcp", Group::Api);
    let findings = vec![
        api.ok("round trip").about("192.0.2.11:6443"),
        kernel.ok("makes a tun device"),
        kernel.unknown("not tried", "modprobe tun"),
        kernel.warning("missing", "modprobe tun"),
    ];
    Report::of_check("1 (commit x)", findings)
}

#[test]
fn columns_align() {
    let expected = "\
apivip 1 (commit x)

kernel features, tested in a separate network namespace
  ok        kernel-tun   makes a tun device
  unknown   kernel-tun   not tried
  warning   kernel-tun   missing
                         -> modprobe tun

Kubernetes API
  ok        apiserver-tcp 192.0.2.11:6443   round trip

2 ok, 0 info, 1 unknown, 1 warning, 0 fail
";
    assert_eq!(text(&report(), Style::default()), expected);
    assert!(text(&report(), Style { colour: true, wide: false }).contains("\x1b[33mwarning\x1b[0m   kernel"));
    assert!(text(&report(), Style { colour: false, wide: true }).contains("  asked: missing\n"));
}

#[derive(Serialize)]
struct CheckCounts {
    ok: usize,
    info: usize,
    unknown: usize,
    warning: usize,
    fail: usize,
}

#[test]
fn report_of_a_check_serialises_group_and_fix() {
    let tun = Check { id: "kernel-tun", group: Group::Kernel, title: "asked" };
    let other = Check { id: "kube-proxy", group: Group::OtherPrograms, title: "asked" };
    let report = Report::of_check("1", vec![other.ok("none"), tun.warning("missing", "modprobe tun")]);
    let json = serde_json::to_string(&report).unwrap();
    let expected = concat!(
        r#"{"version":"1","verdict":"warning","counts":{"ok":1,"info":0,"unknown":0,"warning":1,"fail":0},"findings":["#,
        r#"{"id":"kernel-tun","group":"kernel","title":"asked","subject":null,"verdict":"warning","evidence":"missing","fix":"modprobe tun"},"#,
        r#"{"id":"kube-proxy","group":"other_programs","title":"asked","subject":null,"verdict":"ok","evidence":"none","fix":null}]}"#,
    );
    assert_eq!(json, expected);
}

#[test]
fn report_of_an_audit_serialises_path_and_severity() {
    let finding = Finding {
        id: "basic-auth",
        section: Section::Path(ConnectionPath::Apiserver),
        title: "asked",
        subject: Some("192.0.2.11:6443".to_owned()),
        verdict: Verdict::Fail,
        severity: Some(Severity::High),
        evidence: "it asks".to_owned(),
        fix: Some("remove it".to_owned()),
    };
    let json = serde_json::to_string(&Report::of_audit("1", vec![finding])).unwrap();
    let expected = concat!(
        r#"{"version":"1","counts":{"pass":0,"unknown":0,"fail":1},"findings":[{"id":"basic-auth","path":"apiserver","title":"asked","#,
        r#""subject":"192.0.2.11:6443","verdict":"fail","severity":"high","evidence":"it asks","fix":"remove it"}]}"#,
    );
    assert_eq!(json, expected);
}

#[test]
fn yaml_of_a_report_is_that_of_plain_structs() {
    let tun = Check { id: "kernel-tun", group: Group::Kernel, title: "asked" };
    let report = Report::of_check("1", vec![tun.warning("missing", "modprobe tun").about("a: b")]);
    #[derive(Serialize)]
    struct PlainFinding {
        id: &'static str,
        group: Group,
        title: &'static str,
        subject: Option<String>,
        verdict: Verdict,
        evidence: String,
        fix: Option<String>,
    }
    #[derive(Serialize)]
    struct Plain {
        version: &'static str,
        verdict: Verdict,
        counts: CheckCounts,
        findings: Vec<PlainFinding>,
    }
    let plain = Plain {
        version: "1",
        verdict: Verdict::Warning,
        counts: CheckCounts { ok: 0, info: 0, unknown: 0, warning: 1, fail: 0 },
        findings: vec![PlainFinding {
            id: "kernel-tun",
            group: Group::Kernel,
            title: "asked",
            subject: Some("a: b".to_owned()),
            verdict: Verdict::Warning,
            evidence: "missing".to_owned(),
            fix: Some("modprobe tun".to_owned()),
        }],
    };
    assert_eq!(serde_saphyr::to_string(&report).unwrap(), serde_saphyr::to_string(&plain).unwrap());
}
