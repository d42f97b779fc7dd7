//! A client-go credential plugin, as `exec` of a kubeconfig names one: its environment, how it is run, and what its
//! output means.
//!
//! In: the entry, and what the plugin writes, an ExecCredential. Out: [`PluginCredentials`], checked like what a kubeconfig
//! holds itself; or one line that quotes neither its output nor its arguments.

use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use http::HeaderValue;
use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::authentication::bearer;
use super::certificates::ClientCertificate;
use super::text::{errno_text, one_line, redacted_yaml_error};

/// After how long a credential plugin that has not answered is mentioned in the log.
const SLOW_PLUGIN: Duration = Duration::from_secs(30);

/// The most that a plugin may write, in bytes: two certificates are a hundredth of that.
const MAX_OUTPUT_BYTES: usize = 1 << 20;

/// The command that is run. Its arguments and variables may be secret.
#[derive(Clone, PartialEq)]
pub(crate) struct ExecPlugin {
    pub(crate) command: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    /// `KUBERNETES_EXEC_INFO`.
    pub(crate) info: String,
}

/// The credentials in its output; there is at least one.
#[derive(Clone, Debug)]
pub(crate) struct PluginCredentials {
    pub(crate) token: Option<HeaderValue>,
    pub(crate) certificate: Option<ClientCertificate>,
    /// `expirationTimestamp` in seconds since 1970, if there is one.
    pub(crate) expires: Option<i64>,
}

#[derive(Deserialize)]
struct ExecCredential {
    status: Option<Status>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    expiration_timestamp: Option<String>,
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
}

impl ExecPlugin {
    /// `KUBERNETES_EXEC_INFO` for the plugin. `cluster` is set with `provideClusterInfo`.
    pub(crate) fn info(api_version: Option<&str>, cluster: Option<Value>) -> String {
        let mut spec = serde_json::json!({ "interactive": false });
        if let Some(cluster) = cluster {
            spec["cluster"] = cluster;
        }
        serde_json::json!({ "kind": "ExecCredential", "apiVersion": api_version, "spec": spec }).to_string()
    }

    /// Runs the plugin; blocks the thread.
    pub(crate) fn run(&self) -> Result<PluginCredentials, String> {
        let mut command = Command::new(&self.command);
        command.args(&self.args).env("KUBERNETES_EXEC_INFO", &self.info);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        // A daemon cannot answer a prompt.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let Output { status, stdout, stderr } = run_to_end(&mut command).map_err(|error| {
            format!("run the credential plugin {}: {}", self.command.display(), errno_text(&error))
        })?;
        if stdout.len() > MAX_OUTPUT_BYTES {
            return Err(format!("the credential plugin wrote more than {} MiB", MAX_OUTPUT_BYTES >> 20));
        }
        if !status.success() {
            let said = one_line(&String::from_utf8_lossy(&stderr));
            let separator = if said.is_empty() { "" } else { ": " };
            return Err(format!("the credential plugin failed with {status}{separator}{said}"));
        }
        parse_exec_credential(&stdout)
    }
}

/// Runs a program to its end and keeps the first bytes of what it writes, one more than [`MAX_OUTPUT_BYTES`] at most.
fn run_to_end(command: &mut Command) -> io::Result<Output> {
    let mut child = command.spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr) = std::thread::scope(|scope| {
        let stderr = scope.spawn(|| read_limited(stderr));
        let stdout = read_limited(stdout);
        (stdout, stderr.join().unwrap_or_else(|_| Ok(Vec::new())))
    });
    Ok(Output { status: child.wait()?, stdout: stdout?, stderr: stderr? })
}

fn read_limited(pipe: Option<impl Read>) -> io::Result<Vec<u8>> {
    let (mut kept, Some(mut pipe)) = (Vec::new(), pipe) else { return Ok(Vec::new()) };
    (&mut pipe).take(MAX_OUTPUT_BYTES as u64 + 1).read_to_end(&mut kept)?;
    io::copy(&mut pipe, &mut io::sink())?;
    Ok(kept)
}

/// Reads what a plugin wrote: an ExecCredential in JSON or YAML. An empty string is the same as none.
pub(crate) fn parse_exec_credential(written: &[u8]) -> Result<PluginCredentials, String> {
    let text = std::str::from_utf8(written).map_err(|_| {
        "the output of the credential plugin is not an ExecCredential: it is not valid UTF-8".to_owned()
    })?;
    let read: ExecCredential = serde_saphyr::from_str(text).map_err(|error| {
        format!(
            "the output of the credential plugin is not an ExecCredential: {}",
            redacted_yaml_error(&error)
        )
    })?;
    let status = read.status.ok_or("the output of the credential plugin has no status")?;
    let there = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
    let token = there(status.token)
        .map(|token| bearer(&token).ok_or("the token of the credential plugin contains invalid characters"))
        .transpose()?;
    let identity = match (there(status.client_certificate_data), there(status.client_key_data)) {
        (Some(certificate), Some(key)) => {
            let identity = ClientCertificate::of_pem(certificate.as_bytes(), key.as_bytes());
            Some(identity.map_err(|problem| format!("in the output of the credential plugin, {problem}"))?)
        }
        (None, None) => None,
        (Some(_), None) => {
            return Err("the credential plugin returned a certificate without a key".to_owned());
        }
        (None, Some(_)) => {
            return Err("the credential plugin returned a key without a certificate".to_owned());
        }
    };
    if token.is_none() && identity.is_none() {
        return Err("the credential plugin returned neither a token nor a certificate".to_owned());
    }
    let end = there(status.expiration_timestamp)
        .map(|date| OffsetDateTime::parse(date.trim(), &Rfc3339))
        .transpose()
        .map_err(|_| "the expirationTimestamp of the credential plugin is not an RFC 3339 date".to_owned())?;
    Ok(PluginCredentials { token, certificate: identity, expires: end.map(OffsetDateTime::unix_timestamp) })
}

/// A plugin runs on a thread of its own: it may take seconds, and the daemon has one thread.
pub(crate) fn spawn(
    plugin: &ExecPlugin,
) -> impl Future<Output = Result<Result<PluginCredentials, String>, String>> + use<> {
    let plugin = plugin.clone();
    let running = tokio::task::spawn_blocking(move || plugin.run());
    async { running.await.map_err(|error| format!("run the credential plugin: {error}")) }
}

/// Runs the plugin, and logs that it takes long. `source` names the credentials.
pub(crate) async fn run(plugin: &ExecPlugin, source: &str) -> Result<PluginCredentials, String> {
    let mut running = Box::pin(spawn(plugin));
    loop {
        match tokio::time::timeout(SLOW_PLUGIN, &mut running).await {
            Ok(answer) => return answer?,
            Err(_) => {
                tracing::warn!(
                    event = %"credential_plugin_slow", source,
                    "Credential plugin has not answered yet"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::pki::Pki;

    fn credential(status: &Value) -> String {
        serde_json::json!({ "kind": "ExecCredential", "status": status }).to_string()
    }

    #[test]
    fn empty_strings_are_none_and_token_is_trimmed() {
        let (certificate, key) = Pki::new("cluster").leaf("node", false);
        let both = parse_exec_credential(
            credential(&serde_json::json!({ "token": "\n t \r\n", "clientCertificateData": certificate,
                "clientKeyData": key, "expirationTimestamp": "" }))
            .as_bytes(),
        )
        .unwrap();
        assert_eq!(both.token.unwrap(), "Bearer t");
        assert!(both.certificate.is_some() && both.expires.is_none());
        let only =
            serde_json::json!({ "token": "", "clientCertificateData": certificate, "clientKeyData": key });
        assert!(parse_exec_credential(credential(&only).as_bytes()).unwrap().token.is_none());
        let only = serde_json::json!({ "token": "t", "clientCertificateData": "", "clientKeyData": "" });
        assert!(parse_exec_credential(credential(&only).as_bytes()).unwrap().certificate.is_none());
        let yaml = "status: {token: t, expirationTimestamp: '2033-01-01T00:00:00+01:00'}\n";
        assert_eq!(parse_exec_credential(yaml.as_bytes()).unwrap().expires, Some(1_988_146_800));
    }

    #[test]
    fn plugin_that_writes_too_much_is_refused_and_reaped() {
        let run = |words: &str| {
            let (command, args) = (PathBuf::from("/bin/sh"), vec!["-c".to_owned(), words.to_owned()]);
            ExecPlugin { command, args, env: Vec::new(), info: String::new() }.run().unwrap_err()
        };
        assert_eq!(run("head -c 9000000 /dev/zero"), "the credential plugin wrote more than 1 MiB");
        assert!(run("head -c 9000000 /dev/zero >&2; echo no").contains("is not an ExecCredential"));
        assert_eq!(
            run("echo 'ask again' >&2; exit 3"),
            "the credential plugin failed with exit status: 3: ask again"
        );
    }

    #[test]
    fn invalid_exec_credential_is_refused_without_quoting_it() {
        const SECRET: &str = "87654321";
        let (certificate, _) = Pki::new("cluster").leaf("node", false);
        for (status, says) in [
            (serde_json::json!({ "token": "" }), "neither a token nor a certificate"),
            (serde_json::json!({ "token": format!("{SECRET}\n{SECRET}") }), "contains invalid characters"),
            (serde_json::json!({ "token": [SECRET] }), "not an ExecCredential"),
            (serde_json::json!({ "token": "t", "expirationTimestamp": SECRET }), "RFC 3339"),
            (serde_json::json!({ "clientCertificateData": certificate }), "a certificate without a key"),
            (serde_json::json!({ "clientKeyData": SECRET }), "a key without a certificate"),
            (
                serde_json::json!({ "clientCertificateData": certificate, "clientKeyData": SECRET }),
                "no private key in PEM form",
            ),
            (Value::Null, "has no status"),
        ] {
            let error = parse_exec_credential(credential(&status).as_bytes()).unwrap_err();
            assert!(error.contains(says) && !error.contains(SECRET), "{error}");
        }
        assert!(parse_exec_credential(b"\xff").unwrap_err().contains("UTF-8"));
    }
}
