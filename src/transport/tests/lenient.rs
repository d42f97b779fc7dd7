//! What client-go takes in a kubeconfig, in forms that a strict reader would refuse.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, Method};

use super::*;

const FILES: &str = "    client-certificate: client.crt\n    client-key: client.key\n";

/// Broken into lines of 76 characters, as `base64 FILE` writes it, in a block of YAML.
fn lines(field: &str, content: &[u8]) -> String {
    let encoded = STANDARD.encode(content);
    let lines =
        encoded.as_bytes().chunks(76).map(|line| format!("      {}\n", String::from_utf8_lossy(line)));
    format!("    {field}: |\n{}", lines.collect::<String>())
}

async fn headers(access: &Access) -> HeaderMap {
    let authorization = access.credentials().await.unwrap().authorization;
    let mut request = access.request(Method::GET, "/api").body(()).unwrap();
    request.headers_mut().extend(authorization.map(|value| (http::header::AUTHORIZATION, value)));
    request.into_parts().0.headers
}

#[tokio::test]
async fn white_space_around_a_token_is_trimmed() {
    for token in ["    token: |\n      good\n", "    token: \"\\r\\n good\\t\"\n", "    token: '  good  '\n"]
    {
        let access = Case::new().replace(FILES, token).load(None).await.unwrap();
        assert_eq!(headers(&access).await["authorization"], "Bearer good", "{token}");
    }
    for user in ["    token: \"a\\u0000b\"\n", "    token: \"a\\n b\"\n", "    token: ' '\n"] {
        Case::new()
            .replace(FILES, user)
            .fails(None, &["its token is empty or contains invalid characters"])
            .await;
    }
}

#[tokio::test]
async fn values_invalid_in_headers_are_refused() {
    for (user, says) in [
        ("    as: \"a\\nb\"\n", "its as contains characters"),
        ("    as: a\n    as-uid: \"\\u0007\"\n", "its as-uid contains characters"),
        ("    as: a\n    as-groups: [\"b\\r\\nHost: x\"]\n", "its as-groups contains characters"),
        ("    as: a\n    as-user-extra: {k: [\"\\n\"]}\n", "its as-user-extra contains characters"),
    ] {
        Case::new().replace(FILES, user).fails(None, &[says]).await;
    }
    let user =
        "    username: \"a\\nb\"\n    password: \"c\\n\"\n    as: jane\n    as-user-extra: {\"a b\": [x]}\n";
    let access = Case::new().replace(FILES, user).load(None).await.unwrap();
    let headers = headers(&access).await;
    assert_eq!(headers["authorization"], "Basic YQpiOmMK");
    assert_eq!(
        (&headers["impersonate-user"], &headers["impersonate-extra-a%20b"]),
        (&"jane".parse().unwrap(), &"x".parse().unwrap())
    );
}

#[tokio::test]
async fn empty_string_counts_as_absent() {
    for (from, to) in [
        (FILES, format!("{FILES}    token: ''\n    tokenFile: ''\n    username: ''\n    password: ''\n")),
        (
            FILES,
            format!(
                "{FILES}    client-certificate-data: ''\n    client-key-data: \"\"\n    as: ''\n    as-uid: null\n"
            ),
        ),
        (
            FILES,
            format!("{FILES}    token: ~\n    exec: null\n    auth-provider: null\n    as-groups: null\n"),
        ),
        (
            "certificate-authority: ca.crt",
            "certificate-authority: ca.crt\n    certificate-authority-data: ''".into(),
        ),
        (
            "certificate-authority: ca.crt",
            "certificate-authority: ca.crt\n    tls-server-name: ''\n    proxy-url: ''".into(),
        ),
    ] {
        let access = Case::new().replace(from, &to).load(None).await.unwrap();
        assert!(access.warnings.is_empty() && access.token().is_none(), "{to}");
        let credentials = access.credentials().await.unwrap();
        assert!(credentials.authorization.is_none() && credentials.certificate.is_some(), "{to}");
    }
    let exec = "    exec: {apiVersion: '', command: ./plugin, args: null, env: [{name: '', value: ''}], interactiveMode: ''}\n";
    assert!(Case::new().replace(FILES, exec).load(None).await.unwrap().plugin().is_some());
    Case::new()
        .replace("certificate-authority: ca.crt", "certificate-authority-data: ''")
        .fails(None, &["it has no certificate-authority"])
        .await;
    Case::new()
        .replace("    client-key: client.key\n", "    client-key: ''\n")
        .fails(None, &["no client-key"])
        .await;
}

#[tokio::test]
async fn base64_in_several_lines_is_accepted() {
    let case = Case::new();
    let read = |name: &str| std::fs::read(case.path(name)).unwrap();
    let ca = lines("certificate-authority-data", &read("ca.crt"));
    let pair = [("client-certificate-data", "client.crt"), ("client-key-data", "client.key")];
    let pair: String = pair.iter().map(|(field, name)| lines(field, &read(name))).collect();
    let case = case.replace("    certificate-authority: ca.crt\n", &ca).replace(FILES, &pair);
    let access = case.load(None).await.unwrap();
    assert!(access.credentials().await.unwrap().certificate.is_some() && access.roots().len() == 1);
    let damaged =
        Case::new().replace(FILES, "    client-certificate-data: 'LS0t*'\n    client-key-data: LS0t\n");
    damaged.fails(None, &["user \"kubelet\": its client-certificate-data is not base64"]).await;
}

#[tokio::test]
async fn unused_entries_may_hold_anything() {
    for (after, more) in [
        ("contexts:\n", "- name: other\n  context: {user: u}\n"),
        ("contexts:\n", "- name: other\n  context: {cluster: null, user: 7}\n"),
        ("contexts:\n", "- context: {cluster: c, user: u}\n- 7\n- null\n"),
        (
            "clusters:\n",
            "- name: other\n  cluster: {server: 7, certificate-authority: [], insecure-skip-tls-verify: x}\n",
        ),
        ("users:\n", "- user: {token: x}\n"),
        ("users:\n", "- name: other\n  user: {auth-provider: {name: gcp, config: null}}\n"),
        ("users:\n", "- name: other\n  user: {exec: {command: x, interactiveMode: ''}}\n"),
        ("users:\n", "- name: other\n  user: {exec: {command: x, provideClusterInfo: null, env: {a: b}}}\n"),
        ("kind: Config\n", "preferences: 7\nextensions: x\nmore: [1, 2]\n"),
        ("    server:", "x: y\n    disable-compression: perhaps\n    extensions: 7\n    server:"),
    ] {
        let more = if after == "    server:" { format!("    {more}") } else { format!("{after}{more}") };
        if let Err(error) = Case::new().replace(after, &more).load(None).await {
            panic!("{more}: {error}");
        }
    }
    Case::new()
        .replace(
            "context: {cluster: here, user: kubelet}\n- name: lost",
            "context: {cluster: 7}\n- name: lost",
        )
        .fails(None, &["context \"node\": cluster: the value is not a string"])
        .await;
}

#[tokio::test]
async fn proxy_url_is_ignored_with_a_warning() {
    for proxy in ["http://proxy.example:3128", "socks5://x y", "'::not a URL::'", "7"] {
        let to = format!("certificate-authority: ca.crt\n    proxy-url: {proxy}");
        let access = Case::new().replace("certificate-authority: ca.crt", &to).load(None).await.unwrap();
        let [Warning::Ignored(warning)] = access.warnings() else { panic!("{:?}", access.warnings()) };
        assert!(warning.contains("proxy-url"), "{warning}");
    }
}

#[tokio::test]
async fn plugin_gives_token_and_certificate_in_one_run() {
    let (certificate, key) = Pki::new("cluster").leaf("node", false);
    let says = serde_json::json!({
        "kind": "ExecCredential", "status": { "token": "t\n", "clientCertificateData": certificate, "clientKeyData": key },
    });
    let case = Case::new().write("says", says.to_string());
    let folder = case.folder.path().display().to_string();
    let script = format!(
        "echo x >>{folder}/runs; cat {folder}/says; test \\\"$KUBERNETES_EXEC_INFO\\\" = '' && exit 1; true"
    );
    let exec = format!("    exec: {{command: sh, args: [-c, \"{script}\"], provideClusterInfo: true}}\n");
    let case = case.replace(FILES, &exec);
    let credentials = case.load(None).await.unwrap().credentials().await.unwrap();
    assert_eq!(credentials.authorization.unwrap(), "Bearer t");
    assert!(credentials.certificate.is_some());
    assert_eq!(std::fs::read_to_string(case.path("runs")).unwrap(), "x\n");
    let case = case.write("says", says.to_string().replace("t\\n", "a\\nb"));
    let error = case.load(None).await.unwrap().credentials().await.unwrap_err();
    assert!(error.contains("contains invalid characters"), "{error}");
}
