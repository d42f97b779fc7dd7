//! Access from a kubeconfig or a Pod, with good certificates that a test spoils.

mod certificates;
mod lenient;
mod reload;

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::credentials::prepare;
use super::*;
use crate::transport::pki::Pki;

/// A kubeconfig with good certificates around it, to be spoiled.
struct Case {
    folder: TempDir,
    text: String,
}

impl Case {
    fn new() -> Self {
        let pki = Pki::new("cluster");
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = pki.leaf("node", false);
        for (name, content) in [("ca.crt", pki.ca_pem()), ("client.crt", certificate), ("client.key", key)] {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        let text = "\
apiVersion: v1
kind: Config
current-context: node
contexts:
- name: node
  context: {cluster: here, user: kubelet}
- name: lost
  context: {cluster: nowhere, user: kubelet}
- name: unknown-user
  context: {cluster: here, user: nobody}
clusters:
- name: here
  cluster:
    server: https://[2001:db8::1]:6443
    certificate-authority: ca.crt
users:
- name: kubelet
  user:
    client-certificate: client.crt
    client-key: client.key
";
        Self { folder, text: text.into() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn ca(&self) -> String {
        std::fs::read_to_string(self.path("ca.crt")).unwrap()
    }

    fn replace(mut self, from: &str, to: &str) -> Self {
        assert!(self.text.contains(from), "{from}");
        self.text = self.text.replace(from, to);
        self
    }

    fn write(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        std::fs::write(self.path(name), content).unwrap();
        self
    }

    async fn load(&self, context: Option<&str>) -> Result<Access, AccessError> {
        let path = self.path("kubeconfig");
        std::fs::write(&path, &self.text).unwrap();
        load(Some(&path), context)
    }

    /// The error must be one line with all of `parts`, and `FOLDER` stands for the kubeconfig's.
    async fn fails(&self, context: Option<&str>, parts: &[&str]) {
        let error = self.load(context).await.unwrap_err().to_string();
        self.check(&error, parts);
    }

    fn check(&self, error: &str, parts: &[&str]) {
        println!("{error}");
        assert!(!error.contains('\n'), "{error}");
        for part in parts {
            let part = part.replace("FOLDER", self.folder.path().to_str().unwrap());
            assert!(error.contains(&part), "{error:?} lacks {part:?}");
        }
    }
}

#[tokio::test]
async fn kubeconfig_with_relative_paths_is_loaded() {
    let case = Case::new();
    let access = case.load(None).await.unwrap();
    assert_eq!(access.server().to_string(), "[2001:db8::1]:6443");
    assert_eq!(access.tls_name(), "kubernetes.default.svc");
    assert!(access.ca().ends_with("/ca.crt"), "{}", access.ca());
    access.tls_config().await.unwrap();
}

#[tokio::test]
async fn server_port_defaults_to_443_and_tls_name_can_be_set() {
    let case = Case::new()
        .replace("https://[2001:db8::1]:6443", "https://api.example/\n    tls-server-name: k8s.example");
    let access = case.load(None).await.unwrap();
    assert_eq!((access.server().to_string().as_str(), access.tls_name()), ("api.example:443", "k8s.example"));
}

#[tokio::test]
async fn missing_and_unreadable_files_are_named() {
    let case = Case::new();
    let missing = load(Some(&case.path("nothing")), None).unwrap_err().to_string();
    case.check(&missing, &["read the kubeconfig FOLDER/nothing: no such file"]);
    let folder = load(Some(case.folder.path()), None).unwrap_err().to_string();
    case.check(&folder, &["read the kubeconfig FOLDER: it is a directory"]);
    let device = load(Some(Path::new("/dev/zero")), None).unwrap_err().to_string();
    case.check(&device, &["read the kubeconfig /dev/zero: it is not a regular file"]);
    for (name, what) in [
        ("ca.crt", "certificate-authority"),
        ("client.crt", "client-certificate"),
        ("client.key", "client-key"),
    ] {
        let case = Case::new();
        std::fs::remove_file(case.path(name)).unwrap();
        case.fails(None, &[&format!("read the {what} FOLDER/{name}: no such file")]).await;
    }
    Case::new()
        .replace("    client-certificate: client.crt\n    client-key: client.key\n", "    tokenFile: token\n")
        .fails(None, &["read the token file FOLDER/token: no such file"])
        .await;
    Case::new()
        .replace("    client-certificate: client.crt\n    client-key: client.key\n", "    tokenFile: .\n")
        .fails(None, &["read the token file FOLDER/.: it is a directory"])
        .await;
}

#[tokio::test]
async fn files_that_are_not_a_kubeconfig_are_refused() {
    let texts: [(&[u8], &str); 6] = [
        (b"", "kubeconfig FOLDER/kubeconfig is empty"),
        (b" \n\n", "kubeconfig FOLDER/kubeconfig is empty"),
        (b"\t{a: ]", "FOLDER/kubeconfig is not a kubeconfig in YAML: "),
        (b"hello", "FOLDER/kubeconfig is not a kubeconfig in YAML: "),
        (b"\x7fELF\x02\xff", "FOLDER/kubeconfig is not a kubeconfig in YAML: "),
        (b"\xff\xfea", "FOLDER/kubeconfig is not a kubeconfig in YAML: UTF-16"),
    ];
    for (text, part) in texts {
        let case = Case::new().write("kubeconfig", text);
        let error = load(Some(&case.path("kubeconfig")), None).unwrap_err().to_string();
        case.check(&error, &[part]);
    }
}

#[tokio::test]
async fn unknown_names_are_refused_with_the_known_ones() {
    let case = Case::new();
    case.fails(
        Some("mars"),
        &["kubeconfig FOLDER/kubeconfig has no context named \"mars\"; it has: node, lost"],
    )
    .await;
    case.fails(Some("lost"), &["has no cluster named \"nowhere\"; it has: here"]).await;
    case.fails(Some("unknown-user"), &["has no user named \"nobody\"; it has: kubelet"]).await;
    let case = Case::new().replace("current-context: node\n", "");
    case.fails(None, &["has no current-context; choose one of: node, lost, unknown-user"]).await;
    assert!(case.load(Some("node")).await.is_ok());
}

#[tokio::test]
async fn unusable_clusters_are_refused() {
    let server = "https://[2001:db8::1]:6443";
    let cases = [
        (server, "http://192.0.2.1:8080", "its server http://192.0.2.1:8080 uses http://"),
        (server, "192.0.2.1:6443", "is not a URL of the form https://HOST:PORT"),
        (server, "http://apivip:s3cret@192.0.2.1:6443", "its server contains a user name or a password"),
        (server, "https://a b", "is not a URL of the form https://HOST:PORT"),
        (server, "https://rancher.example/k8s/clusters/c-1", "has a path, so it is a proxy"),
        ("server: https", "other: https", "cluster \"here\": it has no server"),
        (
            "certificate-authority: ca.crt",
            "insecure-skip-tls-verify: true",
            "insecure-skip-tls-verify, which is not",
        ),
        ("certificate-authority: ca.crt", "extra: 1", "cluster \"here\": it has no certificate-authority"),
        (
            "certificate-authority: ca.crt",
            "certificate-authority: ca.crt\n    tls-server-name: 'a b'",
            "tls-server-name \"a b\"",
        ),
        (
            "certificate-authority: ca.crt",
            "certificate-authority-data: '%'",
            "certificate-authority-data is not base64",
        ),
        (server, "https://192.0.2.1:66443", "66443 is not a port"),
    ];
    for (from, to, part) in cases {
        Case::new().replace(from, to).fails(None, &["kubeconfig FOLDER/kubeconfig, ", part]).await;
    }
}

#[tokio::test]
async fn unusable_users_are_refused() {
    let credentials = "    client-certificate: client.crt\n    client-key: client.key\n";
    let cases = [
        ("    auth-provider: {name: gcp}\n", "auth-provider \"gcp\" is not supported"),
        ("    exec: {apiVersion: client.authentication.k8s.io/v1}\n", "its exec plugin has no command"),
        ("    token: \"a\\nb\"\n", "its token is empty or contains invalid characters"),
    ];
    for (user, part) in cases {
        Case::new().replace(credentials, user).fails(None, &["user \"kubelet\": ", part]).await;
    }
    let case = Case::new().replace(credentials, "    tokenFile: token\n").write("token", "\n");
    case.fails(None, &["read the token file FOLDER/token: it does not contain a token"]).await;
}

#[tokio::test]
async fn credential_plugin_is_not_run_before_it_is_needed() {
    let credentials = "    client-certificate: client.crt\n    client-key: client.key\n";
    let exec = "    exec: {apiVersion: client.authentication.k8s.io/v1, command: ./plugin}\n";
    let access = Case::new().replace(credentials, exec).load(None).await.unwrap();
    let error = access.tls_config().await.unwrap_err();
    assert!(error.contains("run the credential plugin"), "{error}");
}

#[tokio::test]
async fn credential_plugin_certificate_is_used() {
    let (certificate, key) = Pki::new("cluster").leaf("node", false);
    let says = serde_json::json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": { "clientCertificateData": certificate, "clientKeyData": key, "expirationTimestamp": "2033-01-01T00:00:00Z" },
    });
    let credentials = "    client-certificate: client.crt\n    client-key: client.key\n";
    let exec = "    exec: {apiVersion: client.authentication.k8s.io/v1, command: cat, args: [FOLDER/says]}\n";
    let case = Case::new().write("says", says.to_string());
    let exec = exec.replace("FOLDER", case.folder.path().to_str().unwrap());
    let case = case.replace(credentials, &exec);
    let access = case.load(None).await.unwrap();
    let prepared = prepare(&access).await.unwrap();
    assert!(prepared.authorization.is_none() && prepared.tls.client_auth_cert_resolver.has_certs());
    assert!(
        prepared.expires.is_some_and(|expires| expires > crate::process::clock::unix_now().cast_signed())
    );
}
