//! Kubeconfigs and certificates as people and tools write them: what kubectl takes, a daemon takes, or says in one true line
//! why not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::prelude::{BASE64_STANDARD, Engine};
use integration::command::{self, COMMAND_LIMIT, program};
use integration::control_plane::{ControlPlane, Variant};
use integration::daemon::{Daemon, DaemonOptions};
use integration::lab::{Lab, LabOptions};
use integration::pki::Validity;
use integration::real::{ADMIN_TOKEN, PORT, cached};
use integration::refusal::{self, MISUSED};

const SERVICE: &str = "/api/v1/namespaces/default/services/kubernetes";
const LIMIT: Duration = Duration::from_secs(60);

/// What a daemon makes of a kubeconfig.
enum Daemons {
    /// It reads the API.
    Read,
    /// It reads the API and says this once.
    ReadAndSay(&'static str),
    /// It ends with one line that holds these words.
    Refuse(&'static [&'static str]),
}

struct Case {
    name: &'static str,
    kubectl_takes: bool,
    text: String,
    daemons: Daemons,
}

/// The parts of the file, with the words of YAML that stand below `cluster:` and `user:`.
fn kubeconfig(server: &str, cluster: &str, user: &str, others: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: a\nclusters:\n{others}- name: a\n  cluster:\n    server: {server}\n{cluster}\
         users:\n{others}- name: a\n  user:\n{user}contexts:\n{others}- name: a\n  context: {{cluster: a, user: a}}\n"
    )
}

/// Base64 in lines, as `base64` without an option writes it.
fn in_lines(pem: &str) -> String {
    let text = BASE64_STANDARD.encode(pem);
    let lines: Vec<&str> =
        text.as_bytes().chunks(76).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("|\n      {}", lines.join("\n      "))
}

fn run_openssl(words: &[&str]) -> Result<()> {
    let mut openssl = Command::new("openssl");
    openssl.args(words);
    command::run(openssl, "").map(drop)
}

/// A client certificate of this kind of key, as `openssl x509 -req` makes them: version 1 without `extensions`. Returns the
/// names of certificate and key.
fn openssl(
    folder: &Path,
    ca: &Path,
    ca_key: &Path,
    name: &str,
    key: &[&str],
    hash: &str,
) -> Result<(String, String)> {
    let at = |end: &str| folder.join(format!("{name}.{end}")).display().to_string();
    let (request, certificate, private) = (at("csr"), at("crt"), at("key"));
    let subject =
        ["-nodes", "-subj", "/O=system:masters/CN=made-by-openssl", "-keyout", &private, "-out", &request];
    run_openssl(&[&["req", "-newkey"], key, &subject].concat())?;
    let (ca, ca_key) = (ca.display().to_string(), ca_key.display().to_string());
    run_openssl(&[
        "x509",
        "-req",
        "-in",
        &request,
        "-CA",
        &ca,
        "-CAkey",
        &ca_key,
        "-CAcreateserial",
        "-days",
        "30",
        hash,
        "-out",
        &certificate,
    ])?;
    Ok((certificate, private))
}

fn cases(folder: &Path, plane: &mut ControlPlane<'_>, server: &str) -> Result<Vec<Case>> {
    let authority = plane.real()?.authority();
    let ca = authority.certificate().to_owned();
    let ca_key = folder.join("ca-of-openssl.key");
    fs::write(&ca_key, authority.key_pem()).context("write the CA's key")?;
    let files = authority.client("by-files", "someone", &["system:masters"], Validity::Now)?;
    let by_ca = format!("    certificate-authority: {}\n", ca.display());
    let by_token = format!("    token: {ADMIN_TOKEN}\n");
    let by_files = format!(
        "    client-certificate: {}\n    client-key: {}\n",
        files.certificate.display(),
        files.key.display()
    );
    let made = |name: &str, key: &[&str], hash: &str| -> Result<String> {
        let (certificate, key) = openssl(folder, &ca, &ca_key, name, key, hash)?;
        Ok(format!("    client-certificate: {certificate}\n    client-key: {key}\n"))
    };
    let p256 = ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
    let version1 = made("version1", &p256, "-sha256")?;
    let sha512 = made("sha512", &p256, "-sha512")?;
    let p521 = made("p521", &["ec", "-pkeyopt", "ec_paramgen_curve:P-521"], "-sha256")?;
    let rsa = made("rsa", &["rsa:2048"], "-sha256")?;
    let encrypted = {
        let (certificate, key) = openssl(folder, &ca, &ca_key, "encrypted", &p256, "-sha256")?;
        let locked = folder.join("locked.key").display().to_string();
        run_openssl(&["pkcs8", "-topk8", "-in", &key, "-out", &locked, "-passout", "pass:secret"])?;
        format!("    client-certificate: {certificate}\n    client-key: {locked}\n")
    };
    let leaf = ca.with_file_name("apiserver-1.crt");
    let by_leaf = format!("    certificate-authority: {}\n", leaf.display());
    let plain = |cluster: &str, user: &str| kubeconfig(server, cluster, user, "");
    let taken = |name, text| Case { name, kubectl_takes: true, text, daemons: Daemons::Read };
    let refused =
        |name, text, says| Case { name, kubectl_takes: false, text, daemons: Daemons::Refuse(says) };
    let data = |path: &Path| fs::read_to_string(path).map(|pem| in_lines(&pem)).context("read a PEM file");
    Ok(vec![
        Case {
            // kubectl trims tokens of files only.
            name: "a token as a block",
            kubectl_takes: false,
            text: plain(&by_ca, &format!("    token: |\n      {ADMIN_TOKEN}\n")),
            daemons: Daemons::Read,
        },
        taken("an empty token", plain(&by_ca, &format!("    token: ''\n    tokenFile: ''\n{by_files}"))),
        taken(
            "empty strings beside what counts",
            plain(
                &format!(
                    "    certificate-authority-data: ''\n    tls-server-name: ''\n    proxy-url: ''\n{by_ca}"
                ),
                &format!(
                    "    client-certificate-data: ''\n    client-key-data: ''\n    username: ''\n{by_files}"
                ),
            ),
        ),
        taken(
            "base64 in lines",
            plain(
                &format!("    certificate-authority-data: {}\n", data(&ca)?),
                &format!(
                    "    client-certificate-data: {}\n    client-key-data: {}\n",
                    data(&files.certificate)?,
                    data(&files.key)?
                ),
            ),
        ),
        taken("other entries without anything", kubeconfig(server, &by_ca, &by_token, "- name: other\n")),
        taken("a certificate of version 1", plain(&by_ca, &version1)),
        taken("a certificate signed with ECDSA and SHA-512", plain(&by_ca, &sha512)),
        taken("an RSA key", plain(&by_ca, &rsa)),
        taken("the server's own certificate as the CA", plain(&by_leaf, &by_token)),
        Case {
            name: "a P-521 key",
            kubectl_takes: true,
            text: plain(&by_ca, &p521),
            daemons: Daemons::Refuse(&["P-521", "P-256"]),
        },
        refused("an encrypted key", plain(&by_ca, &encrypted), &["encrypted"]),
        refused(
            "a port out of range",
            kubeconfig("https://192.0.2.11:70000", &by_ca, &by_token, ""),
            &["70000"],
        ),
        refused("a token of two words", plain(&by_ca, "    token: |\n      one\n      two\n"), &["token"]),
        Case {
            name: "a proxy that is none",
            kubectl_takes: false,
            text: plain(&format!("    proxy-url: http://192.0.2.99:3128\n{by_ca}"), &by_token),
            daemons: Daemons::ReadAndSay("proxy-url"),
        },
    ])
}

fn judge(lab: &Lab, case: &Case, path: &Path) -> Result<()> {
    let mut kubectl = lab.node().command(cached("kubectl")?);
    kubectl.arg("--kubeconfig").arg(path).args(["get", "--raw", SERVICE, "--request-timeout", "3s"]);
    let finished = command::finish(kubectl, "", COMMAND_LIMIT)?;
    ensure!(
        finished.status.success() == case.kubectl_takes,
        "kubectl says\n{}{}",
        finished.stdout,
        finished.stderr
    );
    let folder = path.with_extension("");
    fs::create_dir(&folder).context("make a folder")?;
    let options = DaemonOptions::kubeconfig(path);
    match case.daemons {
        Daemons::Read | Daemons::ReadAndSay(_) => {
            let mut daemon = Daemon::start(lab.node(), &folder, &options)?;
            let synced =
                daemon.wait_for_status("the API", LIMIT, |status| status["api"]["state"] == "synced");
            daemon.explain(synced)?;
            if let Daemons::ReadAndSay(words) = case.daemons {
                ensure!(daemon.log().matches(words).count() == 1, "{words:?} once\n{}", daemon.log());
            }
            daemon.stop().map(drop)
        }
        Daemons::Refuse(says) => {
            let mut apivip = lab.node().command(program("apivip")?);
            refusal::clean_environment(&mut apivip);
            apivip.arg("run").arg("--kubeconfig").arg(path).arg("--run-dir").arg(folder.join("run"));
            refusal::expect(&command::finish(apivip, "", COMMAND_LIMIT)?, MISUSED, says)
        }
    }
}

#[test]
fn what_kubectl_takes_a_daemon_takes_or_says_why_not() -> Result<()> {
    let lab = Lab::start(LabOptions { apiservers: 1, ..LabOptions::default() })?;
    let mut plane = ControlPlane::serving(&lab, Variant::Real)?;
    let server = format!("https://{}:{PORT}", lab.apiserver_addresses(1)[0]);
    let folder: PathBuf = lab.dir().join("kubeconfigs");
    fs::create_dir(&folder).context("make a folder")?;
    for (i, case) in cases(&folder, &mut plane, &server)?.iter().enumerate() {
        let path = folder.join(format!("{i}.yaml"));
        fs::write(&path, &case.text).context("write a kubeconfig")?;
        judge(&lab, case, &path).with_context(|| format!("{}:\n{}", case.name, case.text))?;
    }
    Ok(())
}
