//! Kubeconfigs that no daemon can use: `apivip run` ends with exit code 2 and one line, before anything was touched.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use integration::command::{self, COMMAND_LIMIT, program};
use integration::kubeconfig::{Authority as Verify, Kubeconfig, User};
use integration::netns::Namespace;
use integration::pki::{Authority, KeyFiles, Validity};
use integration::refusal::{self, MISUSED};

const SERVER: &str = "https://192.0.2.11:6443";

/// A node without anything, and a folder for kubeconfigs.
struct Node {
    namespace: Namespace,
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Node {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let authority = Authority::new(folder.path(), "ca")?;
        Ok(Self { namespace: Namespace::create("node")?, folder, authority })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn good(&self) -> Kubeconfig {
        Kubeconfig::new(
            SERVER,
            Verify::File(self.authority.certificate().to_owned()),
            User::Token("t".into()),
        )
    }

    /// Runs the daemon with this kubeconfig and expects that it refuses and leaves nothing behind.
    fn refuses(&self, kubeconfig: &Path, more: &[&str], says: &[&str]) -> Result<()> {
        let run_dir = self.path("run");
        let mut command = self.namespace.command(program("apivip")?);
        refusal::clean_environment(&mut command);
        command.arg("run").arg("--kubeconfig").arg(kubeconfig).arg("--run-dir").arg(&run_dir).args(more);
        let finished = command::finish(command, "", COMMAND_LIMIT)?;
        let shown = kubeconfig.display().to_string();
        refusal::expect(&finished, MISUSED, says).with_context(|| shown.clone())?;
        ensure!(!run_dir.exists(), "with {shown} it made {}", run_dir.display());
        let ruleset = self.namespace.nft_text("ruleset")?;
        ensure!(ruleset.is_empty(), "with {shown} it left\n{ruleset}");
        Ok(())
    }

    fn refuses_text(&self, text: &str, says: &[&str]) -> Result<()> {
        let path = self.path("kubeconfig.yaml");
        fs::write(&path, text)?;
        self.refuses(&path, &[], &[&["kubeconfig.yaml"], says].concat())
    }
}

#[test]
fn a_file_that_is_no_kubeconfig() -> Result<()> {
    let node = Node::new()?;
    let missing = node.path("missing.yaml");
    node.refuses(&missing, &[], &["the kubeconfig", &missing.display().to_string(), "no such file"])?;
    node.refuses(node.folder.path(), &[], &["the kubeconfig", "directory"])?;
    for (text, says) in [
        ("", "is empty"),
        ("hello world\n", "not a kubeconfig in YAML"),
        ("clusters: [\n", "not a kubeconfig in YAML"),
        ("\u{0}\u{1}binary", "not a kubeconfig in YAML"),
        ("clusters: 7\n", "not a kubeconfig in YAML"),
        ("apiVersion: v1\nkind: Config\n", "no current-context"),
    ] {
        node.refuses_text(text, &[says])?;
    }
    Ok(())
}

#[test]
fn a_name_that_leads_nowhere() -> Result<()> {
    let node = Node::new()?;
    node.refuses_text(
        &Kubeconfig { context: "production".into(), ..node.good() }.yaml(),
        &["context", "\"production\"", "lab"],
    )?;
    let good = node.good().yaml();
    node.refuses_text(&good.replace("cluster: lab\n", "cluster: other\n"), &["cluster", "\"other\"", "lab"])?;
    node.refuses_text(&good.replace("user: apivip\n", "user: root\n"), &["user", "\"root\"", "apivip"])?;
    let path = node.path("named.yaml");
    node.good().write(&path)?;
    node.refuses(&path, &["--context", "staging"], &["named.yaml", "context", "\"staging\"", "lab"])
}

#[test]
fn a_file_that_it_names_does_not_serve() -> Result<()> {
    let node = Node::new()?;
    let nowhere = node.path("nowhere.pem");
    let named = nowhere.display().to_string();
    let with_ca =
        |path: &Path| Kubeconfig::new(SERVER, Verify::File(path.to_owned()), User::Token("t".into()));
    let with_user = |user: User| Kubeconfig { user, ..node.good() };
    let path = node.path("config");
    let client = node.authority.client("client", "apivip", &[], Validity::Now)?;
    let other = node.authority.client("other", "apivip", &[], Validity::Now)?;
    fs::write(node.path("text.pem"), "no certificate\n")?;
    for (kubeconfig, says) in [
        (with_ca(&nowhere), &["certificate-authority", named.as_str(), "no such file"] as &[&str]),
        (with_ca(node.folder.path()), &["certificate-authority", "directory"]),
        (with_ca(&node.path("text.pem")), &["certificate-authority", "text.pem"]),
        (with_user(User::TokenFile(nowhere.clone())), &["token file", &named, "no such file"]),
        (
            with_user(User::Files(KeyFiles { key: nowhere.clone(), ..client.clone() })),
            &["client-key", &named, "no such file"],
        ),
        (
            with_user(User::Files(KeyFiles { certificate: nowhere.clone(), ..client.clone() })),
            &["client-certificate", &named, "no such file"],
        ),
        (
            with_user(User::Files(KeyFiles { key: other.key, ..client })),
            &["user \"apivip\"", "key does not match"],
        ),
        (
            Kubeconfig::new(SERVER, Verify::Unsaid, User::Anonymous),
            &["cluster \"lab\"", "certificate-authority"],
        ),
        (Kubeconfig { server: "http://192.0.2.11:6443".into(), ..node.good() }, &["http://", "https://"]),
        (
            Kubeconfig { server: "192.0.2.11:6443".into(), ..node.good() },
            &["192.0.2.11:6443", "https://HOST:PORT"],
        ),
        (
            Kubeconfig { server_name: Some("not a name".into()), ..node.good() },
            &["tls-server-name", "not a name"],
        ),
    ] {
        kubeconfig.write(&path)?;
        node.refuses(&path, &[], says)?;
    }
    Ok(())
}

#[test]
fn no_kubeconfig_outside_of_a_pod() -> Result<()> {
    let node = Node::new()?;
    let mut command = node.namespace.command(program("apivip")?);
    refusal::clean_environment(&mut command);
    command.arg("run").arg("--run-dir").arg(node.path("run"));
    let finished = command::finish(command, "", COMMAND_LIMIT)?;
    refusal::expect(&finished, MISUSED, &["KUBERNETES_SERVICE_HOST", "--kubeconfig"])?;
    ensure!(!node.path("run").exists(), "it made the run folder");
    Ok(())
}
