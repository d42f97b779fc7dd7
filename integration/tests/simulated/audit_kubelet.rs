//! `apivip-audit` on nodes whose kubelet is good, and bad in one way after the other. The kubelet is simulated.

use anyhow::{Context, Result, ensure};
use integration::audit::LIMIT;
use integration::check::Checked;
use integration::pki::{Authority, KeyFiles, Validity};
use integration::process::Spawned;
use integration::sim::kubelet::{Manner, Mode, Options};
use serde_json::json;

mod stage;

use stage::{NODE, Stage, TOKEN};

const IDS: [&str; 8] = [
    "kubelet-certificate-issuer",
    "kubelet-certificate-names",
    "kubelet-certificate-expiry",
    "kubelet-certificate-rotation",
    "kubelet-tls-version",
    "kubelet-anonymous",
    "kubelet-authorization",
    "kubelet-read-only-port",
];

/// What one bad way changes: the check, its verdict and severity, and words of its evidence.
type Expected = (&'static str, &'static str, &'static str, &'static str);

/// Fails unless these checks say so, and all others of the kubelet pass.
fn expect(checked: &Checked, expected: &[Expected]) -> Result<()> {
    for id in IDS {
        let Some((_, verdict, severity, words)) = expected.iter().find(|(of, ..)| *of == id) else {
            checked.expect(id, "pass", &[])?;
            continue;
        };
        checked.expect(id, verdict, &[words])?;
        let finding = checked.findings().find(|finding| finding["id"] == id).context("find it")?;
        ensure!(*verdict == "unknown" || finding["severity"] == *severity, "{finding:#}");
        ensure!(finding["fix"].is_string(), "nothing is said to help: {finding:#}");
    }
    Ok(())
}

const WEBHOOK: &str = "kind: KubeletConfiguration\nserverTLSBootstrap: true\n";

#[test]
fn a_good_kubelet_passes_and_a_stranger_is_shown_no_credentials() -> Result<()> {
    let stage = Stage::start()?;
    stage.configured(WEBHOOK, &[])?;
    let kubelet = stage.kubelet(stage.good()?)?;
    let checked = stage.audit(&[])?;
    expect(&checked, &[])?;
    let asked = kubelet.asked();
    ensure!(asked.len() <= 4 && asked.iter().any(|asked| asked.authorized), "{asked:?}");
    ensure!(asked.iter().all(|asked| asked.what.starts_with("GET ")), "{asked:?}");
    drop(kubelet);

    let foreign = Authority::new(stage.lab.dir(), "foreign-ca")?;
    let files = stage.certificate(&foreign, "stranger", &[NODE])?;
    let kubelet = stage.kubelet(Options { files, ..stage.good()? })?;
    let words = "signed by CN=foreign-ca: the cluster CA did not sign it";
    expect(&stage.audit(&[])?, &[("kubelet-certificate-issuer", "fail", "medium", words)])?;
    ensure!(kubelet.asked().iter().all(|asked| !asked.authorized), "{:?}", kubelet.asked());
    // Nor is one that the same CA made for another node.
    drop(kubelet);
    let other = ["192.0.2.77".parse()?];
    let files = stage.certificate_of(&stage.authority, "other", &["node-2"], &other, Validity::Now)?;
    let kubelet = stage.kubelet(Options { files, ..stage.good()? })?;
    let words = "node-2, 192.0.2.77, neither for node-1 nor for an address";
    expect(&stage.audit(&[])?, &[("kubelet-certificate-names", "fail", "medium", words)])?;
    ensure!(kubelet.asked().iter().all(|asked| !asked.authorized), "{:?}", kubelet.asked());
    Ok(())
}

#[test]
fn what_is_wrong_with_its_certificate_is_found() -> Result<()> {
    let stage = Stage::start()?;
    stage.configured(WEBHOOK, &[])?;
    let audit = |files: KeyFiles| -> Result<Checked> {
        let _kubelet = stage.kubelet(Options { files, ..stage.good()? })?;
        stage.audit(&[])
    };
    let own = [stage.node_address()];
    for (validity, words) in
        [(Validity::Expired, "expired 1h"), (Validity::NotYet, "not valid yet, for another")]
    {
        let files = stage.certificate_of(&stage.authority, "dated", &[NODE], &own, validity)?;
        expect(&audit(files)?, &[("kubelet-certificate-expiry", "fail", "medium", words)])?;
    }
    let files = stage.certificate_of(&stage.authority, "nameless", &["elsewhere"], &own, Validity::Now)?;
    let words = "wrong if it dials Hostname first";
    expect(&audit(files)?, &[("kubelet-certificate-names", "unknown", "", words)])?;

    // What the kubelet makes when nobody gives it one: a certificate for its name, by a CA that it forgets.
    stage.configured("kind: KubeletConfiguration\n", &[])?;
    let forgotten = Authority::new(stage.lab.dir(), "node-1-ca@1700000000")?;
    let files = stage.certificate_of(&forgotten, "node-1@1700000000", &[NODE], &[], Validity::Now)?;
    expect(
        &audit(files)?,
        &[
            ("kubelet-certificate-issuer", "fail", "medium", "self-signed: CN=node-1@1700000000"),
            ("kubelet-certificate-names", "unknown", "", "wrong if it dials InternalIP first"),
            ("kubelet-certificate-rotation", "fail", "low", "created its certificate itself"),
        ],
    )
}

#[test]
fn whom_it_lets_in_is_found() -> Result<()> {
    let stage = Stage::start()?;
    stage.configured(WEBHOOK, &[])?;
    let audit = |options: Options| -> Result<Checked> {
        let _kubelet = stage.kubelet(options)?;
        stage.audit(&[])
    };
    let open = Options { anonymous: true, ..stage.good()? };
    let words = "403: it authenticates anonymous requests";
    expect(&audit(open.clone())?, &[("kubelet-anonymous", "fail", "low", words)])?;
    let words = "it answers unauthenticated requests over plain HTTP at 127.0.0.1:10255, 192.0.2.1:10255";
    let plain = Options { read_only: true, ..stage.good()? };
    expect(&audit(plain)?, &[("kubelet-read-only-port", "fail", "high", words)])?;

    // Flags win over the file, and a kubelet without a file is open.
    let open = Options { mode: Mode::AlwaysAllow, read_only: true, ..open };
    let all = |by: &'static str| {
        [
            ("kubelet-anonymous", "fail", "high", "GET /pods without credentials: 200"),
            ("kubelet-authorization", "fail", "high", by),
            ("kubelet-read-only-port", "fail", "high", "plain HTTP"),
        ]
    };
    stage.configured(WEBHOOK, &["--authorization-mode=AlwaysAllow"])?;
    expect(&audit(open.clone())?, &all("kubelet.yaml and its command line"))?;
    stage.processes(&["kubelet", "--rotate-server-certificates"])?;
    expect(&audit(open)?, &all("AlwaysAllow, set by its command line"))
}

#[test]
fn what_cannot_be_read_is_unknown_unless_the_kubelet_says_it() -> Result<()> {
    let stage = Stage::start()?;
    let file = stage.lab.dir().join("nowhere.yaml").display().to_string();
    let missing = ["--kubelet-config", file.as_str()];
    let words = "nowhere.yaml: no such file";
    let rotation: Expected = ("kubelet-certificate-rotation", "unknown", "", words);
    let kubelet = stage.kubelet(stage.good()?)?;
    // Its authorizer refuses these credentials, so there is one.
    expect(&stage.audit(&missing)?, &[rotation])?;
    stage.processes(&["kubelet", "--config=/nowhere.yaml"])?;
    expect(&stage.audit(&[])?, &[rotation])?;
    drop(kubelet);
    stage.processes(&[])?;
    // Those of a client that may do everything prove nothing.
    let allowed = Options {
        allowed: vec![TOKEN.to_owned()],
        configuration: json!({"serverTLSBootstrap": true, "authorization": {"mode": "AlwaysAllow"}}),
        ..stage.good()?
    };
    let kubelet = stage.kubelet(allowed.clone())?;
    let by: Expected = ("kubelet-authorization", "fail", "high", "AlwaysAllow, set by its /configz");
    expect(&stage.audit(&missing)?, &[by])?;
    drop(kubelet);
    let kubelet = stage.kubelet(Options { configuration: json!(null), ..allowed })?;
    let authorization = ("kubelet-authorization", "unknown", "", "200, which RBAC may allow");
    expect(&stage.audit(&missing)?, &[rotation, authorization])?;
    drop(kubelet);
    // A token that it does not know, and a file without the command line that wins over it.
    stage.configured("authorization: {mode: AlwaysAllow}", &[])?;
    stage.processes(&[])?;
    let _kubelet = stage.kubelet(Options { known: Vec::new(), ..stage.good()? })?;
    let file = stage.lab.dir().join("kubelet.yaml").display().to_string();
    let words = "says authorization.mode: AlwaysAllow, but the command line of the kubelet is not in";
    let rotation = ("kubelet-certificate-rotation", "unknown", "", "says serverTLSBootstrap: false, but");
    let authorization = ("kubelet-authorization", "unknown", "", words);
    expect(&stage.audit(&["--kubelet-config", &file])?, &[rotation, authorization])
}

#[test]
fn servers_that_hang_flood_or_are_not_there_delay_nothing() -> Result<()> {
    let stage = Stage::start()?;
    let all = |words: &'static str| {
        IDS.map(|id| (id, "unknown", "", words))
            .into_iter()
            .filter(|(id, ..)| *id != "kubelet-read-only-port")
    };
    let file = stage.lab.dir().join("nowhere.yaml").display().to_string();
    let missing = ["--kubelet-config", file.as_str()];
    let nobody = "no kubelet listens on 127.0.0.1:10250";
    let port = ("kubelet-read-only-port", "unknown", "", nobody);
    expect(&stage.audit(&missing)?, &all(nobody).chain([port]).collect::<Vec<_>>())?;
    stage.configured(WEBHOOK, &[])?;
    expect(&stage.audit(&[])?, &all(nobody).collect::<Vec<_>>())?;
    stage.processes(&[])?;

    let kubelet = stage.kubelet(Options { manner: Manner::Hangs, ..stage.good()? })?;
    let checked = stage.audit(&missing)?;
    for (id, verdict, ..) in all("") {
        checked.expect(id, verdict, &[])?;
    }
    checked.expect("kubelet-anonymous", "unknown", &["no answer within 3 s"])?;
    checked.expect("kubelet-certificate-expiry", "unknown", &["no handshake within 3 s"])?;
    drop(kubelet);

    // The status comes before the flood, and says enough.
    let flood = Manner::Floods(100 << 20);
    let kubelet = stage.kubelet(Options { manner: flood, ..stage.good()? })?;
    let rotation = ("kubelet-certificate-rotation", "unknown", "", "nowhere.yaml");
    expect(&stage.audit(&missing)?, &[rotation])?;
    drop(kubelet);
    let open =
        Options { manner: flood, read_only: true, anonymous: true, mode: Mode::AlwaysAllow, ..stage.good()? };
    let _kubelet = stage.kubelet(open)?;
    let checked = stage.audit(&missing)?;
    checked.expect("kubelet-anonymous", "fail", &["200"])?;
    checked.expect("kubelet-read-only-port", "fail", &["plain HTTP"])
}

#[test]
fn a_server_of_old_tls_is_found() -> Result<()> {
    let stage = Stage::start()?;
    stage.configured(WEBHOOK, &[])?;
    let files = stage.certificate(&stage.authority, "old", &[NODE])?;
    let mut server = stage.lab.node().command("openssl");
    server.args(["s_server", "-tls1", "-cipher", "ALL:@SECLEVEL=0", "-accept", "127.0.0.1:10250", "-www"]);
    server.arg("-cert").arg(&files.certificate).arg("-key").arg(&files.key);
    let mut server = Spawned::start("openssl", server, stage.lab.dir())?;
    server.wait_for_line("ACCEPT", LIMIT)?;
    let none = "it does not support TLS 1.2 or newer";
    expect(
        &stage.audit(&[])?,
        &[
            ("kubelet-certificate-issuer", "unknown", "", none),
            ("kubelet-certificate-names", "unknown", "", none),
            ("kubelet-certificate-expiry", "unknown", "", none),
            ("kubelet-tls-version", "fail", "medium", "it accepts TLS 1.0"),
        ],
    )
}
