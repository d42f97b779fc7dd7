//! The entries of a kubeconfig that one context uses, as client-go reads them: what is not there, null or an empty string
//! is the same, and what is of no use here may hold anything.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::super::discreet;

/// Under `contexts`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Context {
    #[serde(deserialize_with = "text")]
    pub(super) cluster: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) user: Option<String>,
}

/// Under `clusters`.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct Cluster {
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
pub(super) struct User {
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
    /// As whom to act, like the next three.
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
pub(super) fn read<'de, T: Deserialize<'de>>(entry: &'de Value) -> Result<T, String> {
    serde_path_to_error::deserialize(entry)
        .map_err(|error| discreet::of_field(&error.path().to_string(), error.inner()))
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}
