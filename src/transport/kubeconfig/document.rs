//! A kubeconfig as YAML: the document with its named entries, and the entries that one context uses, as client-go
//! reads them.
//!
//! What is not there, null or an empty string is the same, and nothing is demanded of entries that nobody asks for.
//! Errors quote nothing of the text.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::transport::text::{one_line, redacted_field_error, redacted_yaml_error};

/// What it holds, from each document of the file in turn.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Document {
    #[serde(rename = "current-context")]
    current_context: Value,
    contexts: Option<Vec<Value>>,
    clusters: Option<Vec<Value>>,
    users: Option<Vec<Value>>,
}

/// One of its lists.
#[derive(Clone, Copy)]
pub(super) enum List {
    Contexts,
    Clusters,
    Users,
}

impl List {
    /// The field that holds the entry itself, beside its name.
    pub(super) fn field(self) -> &'static str {
        match self {
            Self::Contexts => "context",
            Self::Clusters => "cluster",
            Self::Users => "user",
        }
    }
}

impl Document {
    /// Reads it. The error quotes nothing of it.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let parsed: Vec<Value> =
            serde_saphyr::from_multiple(&decode(bytes)?).map_err(|error| redacted_yaml_error(&error))?;
        let mut whole = Self::default();
        for value in parsed.iter().filter(|value| !value.is_null()) {
            if !value.is_object() {
                return Err("it contains no fields".to_owned());
            }
            let next: Self = serde_path_to_error::deserialize(value)
                .map_err(|error| redacted_field_error(&error.path().to_string(), error.inner()))?;
            whole.join(next);
        }
        Ok(whole)
    }

    /// The first to set a value wins.
    fn join(&mut self, next: Self) {
        if self.current_context().is_none() {
            self.current_context = next.current_context;
        }
        let lists = [
            (&mut self.contexts, next.contexts),
            (&mut self.clusters, next.clusters),
            (&mut self.users, next.users),
        ];
        for (own, more) in lists {
            own.get_or_insert_default().extend(more.unwrap_or_default());
        }
    }

    pub(super) fn current_context(&self) -> Option<&str> {
        self.current_context.as_str().filter(|name| !name.is_empty())
    }

    /// The entry of that name; one without content is as good as none.
    pub(super) fn entry(&self, list: List, name: &str) -> Option<&Value> {
        let named = self.list(list).iter().find(|named| name_of(named) == name)?;
        named.get(list.field()).filter(|entry| !entry.is_null())
    }

    /// The names that there are, for messages.
    pub(super) fn names(&self, list: List) -> String {
        let names: Vec<&str> = self.list(list).iter().map(name_of).filter(|name| !name.is_empty()).collect();
        if names.is_empty() { "none".to_owned() } else { one_line(&names.join(", ")) }
    }

    fn list(&self, list: List) -> &[Value] {
        let list = match list {
            List::Contexts => &self.contexts,
            List::Clusters => &self.clusters,
            List::Users => &self.users,
        };
        list.as_deref().unwrap_or_default()
    }
}

fn name_of(named: &Value) -> &str {
    named.get("name").and_then(Value::as_str).unwrap_or_default()
}

/// The text, in the encodings that YAML may have; editors of Windows write UTF-16.
fn decode(bytes: &[u8]) -> Result<String, String> {
    let wide = |bytes: &[u8], unit: fn([u8; 2]) -> u16| -> Result<String, String> {
        let (pairs, rest) = bytes.as_chunks::<2>();
        if !rest.is_empty() {
            return Err("UTF-16 text ends in the middle of a character".to_owned());
        }
        let units: Vec<u16> = pairs.iter().map(|pair| unit(*pair)).collect();
        String::from_utf16(&units).map_err(|_| "it is not valid UTF-16".to_owned())
    };
    match bytes {
        [0xFF, 0xFE, text @ ..] => wide(text, u16::from_le_bytes),
        [0xFE, 0xFF, text @ ..] => wide(text, u16::from_be_bytes),
        [0xEF, 0xBB, 0xBF, text @ ..] | text => {
            std::str::from_utf8(text).map(str::to_owned).map_err(|_| "it is not valid UTF-8".to_owned())
        }
    }
}

/// Under `contexts`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ContextEntry {
    #[serde(deserialize_with = "text")]
    pub(super) cluster: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) user: Option<String>,
}

/// Under `clusters`.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct ClusterEntry {
    #[serde(deserialize_with = "text")]
    pub(super) server: Option<String>,
    pub(super) insecure_skip_tls_verify: Option<bool>,
    #[serde(deserialize_with = "text")]
    pub(super) certificate_authority: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) certificate_authority_data: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) tls_server_name: Option<String>,
    /// Ignored, whatever it is.
    pub(super) proxy_url: Value,
    /// Only what is meant for a credential plugin is looked at.
    pub(super) extensions: Value,
}

/// Under `users`.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct UserEntry {
    #[serde(deserialize_with = "text")]
    pub(super) username: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) password: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) token: Option<String>,
    #[serde(rename = "tokenFile", deserialize_with = "text")]
    pub(super) token_file: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) client_certificate: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) client_certificate_data: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) client_key: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) client_key_data: Option<String>,
    /// Impersonation, like the next three.
    #[serde(rename = "as", deserialize_with = "text")]
    pub(super) impersonate: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) as_uid: Option<String>,
    pub(super) as_groups: Option<Vec<String>>,
    pub(super) as_user_extra: Option<BTreeMap<String, Option<Vec<String>>>>,
    pub(super) auth_provider: Option<AuthProvider>,
    pub(super) exec: Option<Exec>,
}

/// What Kubernetes 1.26 removed.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct AuthProvider {
    #[serde(deserialize_with = "text")]
    pub(super) name: Option<String>,
}

/// A credential plugin.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Exec {
    #[serde(deserialize_with = "text")]
    pub(super) api_version: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) command: Option<String>,
    pub(super) args: Option<Vec<String>>,
    pub(super) env: Option<Vec<Variable>>,
    pub(super) provide_cluster_info: Option<bool>,
}

/// A variable of its environment.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Variable {
    #[serde(deserialize_with = "text")]
    pub(super) name: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) value: Option<String>,
}

/// Reads one entry. The error names the field, and quotes nothing.
pub(super) fn read_entry<'de, T: Deserialize<'de>>(entry: &'de Value) -> Result<T, String> {
    serde_path_to_error::deserialize(entry)
        .map_err(|error| redacted_field_error(&error.path().to_string(), error.inner()))
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}
