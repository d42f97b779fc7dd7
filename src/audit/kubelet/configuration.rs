//! What a kubelet is configured to do: from its files and command line, or as it says itself. Pure.
//!
//! Defaults are those of KubeletConfiguration v1beta1. A kubelet without a configuration file has others, and flags win
//! over files.

use std::net::IpAddr;

use serde_json::Value;

use crate::audit::flags::Flags;

/// What counts of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// Where that was read.
    pub source: String,
    /// `authentication.anonymous.enabled`.
    pub anonymous: bool,
    /// `authentication.webhook.enabled`: whether it knows tokens.
    pub webhook: bool,
    /// `authorization.mode`.
    pub mode: String,
    /// `readOnlyPort`; 0 is closed.
    pub read_only_port: u16,
    /// `serverTLSBootstrap`, unless its feature gate is off.
    pub bootstrap: bool,
    /// `tlsCertFile`.
    pub certificate_file: Option<String>,
}

/// What is missing, and what would help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// One line.
    pub why: String,
    /// The file, flag or permission.
    pub needed: String,
}

/// How much of the configuration was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// All that decides.
    All(Configuration),
    /// Files, but not the command line, which wins over them.
    Files(Configuration, Lack),
    /// Nothing.
    Nothing(Lack),
}

impl Known {
    /// It, if all was seen.
    pub fn all(&self) -> Result<&Configuration, &Lack> {
        match self {
            Self::All(configuration) => Ok(configuration),
            Self::Files(_, lack) | Self::Nothing(lack) => Err(lack),
        }
    }

    /// Why it does not decide, after what the files say as far as they were seen.
    pub fn why(&self, said: impl Fn(&Configuration) -> String) -> String {
        match self {
            Self::All(_) => String::new(),
            Self::Files(configuration, lack) => {
                format!("{} says {}, but {}", configuration.source, said(configuration), lack.why)
            }
            Self::Nothing(lack) => lack.why.clone(),
        }
    }
}

/// Puts `over` into `base`, field by field, as the kubelet does with the files of --config-dir.
pub fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (name, value) in over {
                merge(base.entry(name).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (base, over) => *base = over,
    }
}

impl Configuration {
    /// Reads a KubeletConfiguration.
    ///
    /// # Errors
    /// One line that names the field which has a value of the wrong kind.
    pub fn read(value: &Value, source: impl Into<String>) -> Result<Self, String> {
        if !value.is_object() {
            return Err("it is no KubeletConfiguration".to_owned());
        }
        let rotates = switch(value, "featureGates.RotateKubeletServerCertificate", true)?;
        let mode = text(value, "authorization.mode")?;
        Ok(Self {
            source: source.into(),
            anonymous: switch(value, "authentication.anonymous.enabled", false)?,
            webhook: switch(value, "authentication.webhook.enabled", true)?,
            mode: mode.unwrap_or_else(|| "Webhook".to_owned()),
            read_only_port: port(value, "readOnlyPort")?,
            bootstrap: switch(value, "serverTLSBootstrap", false)? && rotates,
            certificate_file: text(value, "tlsCertFile")?,
        })
    }

    /// That of a kubelet without a file and without flags.
    pub fn by_flags_alone() -> Self {
        Self {
            source: "its command line".to_owned(),
            anonymous: true,
            webhook: false,
            mode: "AlwaysAllow".to_owned(),
            read_only_port: 10_255,
            bootstrap: false,
            certificate_file: None,
        }
    }

    /// The same with these flags.
    #[must_use]
    pub fn with(mut self, flags: &Flags) -> Self {
        let gate = "RotateKubeletServerCertificate=false";
        let gated = flags.get("feature-gates").is_some_and(|gates| gates.split(',').any(|one| one == gate));
        self.anonymous = flags.switch("anonymous-auth").unwrap_or(self.anonymous);
        self.webhook = flags.switch("authentication-token-webhook").unwrap_or(self.webhook);
        self.mode = flags.get("authorization-mode").map_or(self.mode, str::to_owned);
        let port = flags.get("read-only-port").and_then(|port| port.parse().ok());
        self.read_only_port = port.unwrap_or(self.read_only_port);
        self.bootstrap = flags.switch("rotate-server-certificates").unwrap_or(self.bootstrap) && !gated;
        self.certificate_file = flags.get("tls-cert-file").map(str::to_owned).or(self.certificate_file);
        self
    }
}

/// The addresses of --node-ip, which the kubelet then publishes as its node's.
pub fn node_addresses(flags: &Flags) -> Vec<IpAddr> {
    let all = flags.get("node-ip").into_iter().flat_map(|all| all.split(','));
    all.filter_map(|ip| ip.trim().parse().ok()).filter(|ip: &IpAddr| !ip.is_unspecified()).collect()
}

/// A field by its path with dots. What is absent or null is `Null`.
fn field<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(value, |value, name| &value[name])
}

fn switch(value: &Value, path: &str, default: bool) -> Result<bool, String> {
    match field(value, path) {
        Value::Null => Ok(default),
        Value::Bool(on) => Ok(*on),
        _ => Err(format!("{path} is neither true nor false")),
    }
}

fn text(value: &Value, path: &str) -> Result<Option<String>, String> {
    match field(value, path) {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        _ => Err(format!("{path} is no text")),
    }
}

fn port(value: &Value, path: &str) -> Result<u16, String> {
    match field(value, path) {
        Value::Null => Ok(0),
        number => number
            .as_u64()
            .and_then(|port| u16::try_from(port).ok())
            .ok_or_else(|| format!("{path} is no port")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_file_does_not_say_has_the_defaults_of_a_file() {
        let read =
            Configuration::read(&json!({"kind": "KubeletConfiguration", "authentication": null}), "FILE");
        let read = read.unwrap();
        assert!(!read.anonymous && read.webhook && !read.bootstrap);
        assert_eq!((read.mode.as_str(), read.read_only_port, read.certificate_file), ("Webhook", 0, None));
    }

    #[test]
    fn a_file_is_read_and_flags_win() {
        let mut value = json!({
            "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
            "authorization": {"mode": "AlwaysAllow"},
            "readOnlyPort": 10255,
            "serverTLSBootstrap": true,
        });
        merge(
            &mut value,
            json!({"authorization": {"mode": "Webhook"}, "tlsCertFile": "/x.crt", "readOnlyPort": null}),
        );
        let read = Configuration::read(&value, "FILE").unwrap();
        assert!(read.anonymous && !read.webhook && read.bootstrap);
        assert_eq!((read.mode.as_str(), read.read_only_port), ("Webhook", 10_255));
        assert_eq!(read.certificate_file.as_deref(), Some("/x.crt"));
        let flags = Flags::read(&[
            "kubelet",
            "--anonymous-auth=false",
            "--authentication-token-webhook",
            "--authorization-mode=AlwaysAllow",
            "--read-only-port=0",
            "--feature-gates=A=true,RotateKubeletServerCertificate=false",
            "--tls-cert-file=/y.crt",
            "--node-ip=192.0.2.1,2001:db8::1,::",
        ]);
        let read = read.with(&flags);
        assert!(!read.anonymous && read.webhook && !read.bootstrap);
        assert_eq!((read.mode.as_str(), read.read_only_port), ("AlwaysAllow", 0));
        assert_eq!(read.certificate_file.as_deref(), Some("/y.crt"));
        assert_eq!(node_addresses(&flags).len(), 2);
    }

    #[test]
    fn a_kubelet_without_a_file_is_open() {
        let read = Configuration::by_flags_alone().with(&Flags::default());
        assert!(read.anonymous && read.mode == "AlwaysAllow" && read.read_only_port == 10_255);
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (value, words) in [
            (json!([]), "no KubeletConfiguration"),
            (json!({"serverTLSBootstrap": "yes"}), "serverTLSBootstrap is neither"),
            (json!({"authorization": {"mode": 1}}), "authorization.mode is no text"),
            (json!({"readOnlyPort": 70_000}), "readOnlyPort is no port"),
            (json!({"authentication": {"anonymous": {"enabled": 1}}}), "authentication.anonymous.enabled"),
        ] {
            let error = Configuration::read(&value, "FILE").unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
