//! Kubeconfig files, good ones and deliberately bad ones.
//! In: a [`Kubeconfig`]. Out: its YAML, as `kubectl` reads it.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::prelude::{BASE64_STANDARD, Engine};

use crate::pki::KeyFiles;

/// The version of what plugins are asked and answer.
pub const CREDENTIAL_VERSION: &str = "client.authentication.k8s.io/v1";

/// A kubeconfig with one cluster `lab`, one user `apivip` and one context `lab`.
#[derive(Clone, Debug)]
pub struct Kubeconfig {
    /// The server's URL.
    pub server: String,
    /// What verifies the server.
    pub authority: Authority,
    /// Which name to verify instead of the URL's host.
    pub server_name: Option<String>,
    /// Who the client is.
    pub user: User,
    /// The current context; `lab` exists, any other is a mistake.
    pub context: String,
}

/// What verifies the server.
#[derive(Clone, Debug)]
pub enum Authority {
    /// PEM text, written into the file itself.
    Inline(String),
    /// The path of a PEM file.
    File(PathBuf),
    /// Nothing said: the client has nothing to verify with.
    Unsaid,
}

/// Who the client is.
#[derive(Clone, Debug)]
pub enum User {
    /// A bearer token.
    Token(String),
    /// A file that holds a bearer token.
    TokenFile(PathBuf),
    /// A certificate and a key, as paths.
    Files(KeyFiles),
    /// A certificate and a key, as PEM text of certificate and key, written into the file itself.
    Inline(String, String),
    /// What a credential plugin says, which is asked without arguments.
    Plugin(PathBuf),
    /// Nobody.
    Anonymous,
}

impl Kubeconfig {
    /// A good one.
    pub fn new(server: impl Into<String>, authority: Authority, user: User) -> Self {
        Self { server: server.into(), authority, server_name: None, user, context: "lab".to_owned() }
    }

    /// Writes the file.
    pub fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, self.yaml()).with_context(|| format!("write {}", path.display()))
    }

    /// The file's text.
    pub fn yaml(&self) -> String {
        let mut cluster = format!("    server: {}\n", self.server);
        let mut user = String::new();
        match &self.authority {
            Authority::Inline(pem) => entry(&mut cluster, "certificate-authority-data", base64(pem)),
            Authority::File(path) => entry(&mut cluster, "certificate-authority", path.display()),
            Authority::Unsaid => {}
        }
        if let Some(name) = &self.server_name {
            entry(&mut cluster, "tls-server-name", name);
        }
        match &self.user {
            User::Token(token) => entry(&mut user, "token", token),
            User::TokenFile(path) => entry(&mut user, "tokenFile", path.display()),
            User::Files(files) => {
                entry(&mut user, "client-certificate", files.certificate.display());
                entry(&mut user, "client-key", files.key.display());
            }
            User::Inline(certificate, key) => {
                entry(&mut user, "client-certificate-data", base64(certificate));
                entry(&mut user, "client-key-data", base64(key));
            }
            User::Plugin(path) => {
                let command = path.display();
                let words = format!(
                    "{{apiVersion: {CREDENTIAL_VERSION}, command: {command}, interactiveMode: Never}}"
                );
                entry(&mut user, "exec", words);
            }
            User::Anonymous => {}
        }
        let user = if user.is_empty() { " {}\n".to_owned() } else { format!("\n{user}") };
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: {context}\n\
             clusters:\n- name: lab\n  cluster:\n{cluster}\
             users:\n- name: apivip\n  user:{user}\
             contexts:\n- name: lab\n  context:\n    cluster: lab\n    user: apivip\n",
            context = self.context,
        )
    }
}

fn entry(text: &mut String, key: &str, value: impl std::fmt::Display) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "    {key}: {value}");
}

fn base64(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}
