//! What a kubelet is configured to do: from its files and command line, or as it says itself. Pure.
//!
//! Defaults are those of KubeletConfiguration v1beta1. A kubelet without a configuration file has others, and flags win over
//! files.

use std::net::IpAddr;

use serde_json::Value;

use super::flags::Flags;

/// What counts of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeletConfiguration {
    /// Where that was read.
    pub source: String,
    /// `authentication.anonymous.enabled`.
    pub anonymous: bool,
    /// `authentication.webhook.enabled`: whether it authenticates bearer tokens.
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

/// An input that could not be read, and what would make it readable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingInput {
    /// One line.
    pub why: String,
    /// The file, flag or permission.
    pub needed: String,
}

/// How much of the configuration could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KnownConfiguration {
    /// All that decides.
    All(KubeletConfiguration),
    /// Files, but not the command line, which wins over them.
    Files(KubeletConfiguration, MissingInput),
    /// Nothing.
    Nothing(MissingInput),
}

impl KnownConfiguration {
    /// The configuration, if all of it could be read.
    pub fn all(&self) -> Result<&KubeletConfiguration, &MissingInput> {
        match self {
            Self::All(configuration) => Ok(configuration),
            Self::Files(_, missing) | Self::Nothing(missing) => Err(missing),
        }
    }

    /// Why it is not conclusive, with what the files say as far as they could be read.
    pub fn why(&self, said: impl Fn(&KubeletConfiguration) -> String) -> String {
        match self {
            Self::All(_) => String::new(),
            Self::Files(configuration, missing) => {
                format!("{} says {}, but {}", configuration.source, said(configuration), missing.why)
            }
            Self::Nothing(missing) => missing.why.clone(),
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

impl KubeletConfiguration {
    /// Reads a KubeletConfiguration.
    ///
    /// # Errors
    /// One line that names the field which has a value of the wrong kind.
    pub fn read(value: &Value, source: impl Into<String>) -> Result<Self, String> {
        if !value.is_object() {
            return Err("it is not a KubeletConfiguration".to_owned());
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
        _ => Err(format!("{path} is not a string")),
    }
}

fn port(value: &Value, path: &str) -> Result<u16, String> {
    match field(value, path) {
        Value::Null => Ok(0),
        number => number
            .as_u64()
            .and_then(|port| u16::try_from(port).ok())
            .ok_or_else(|| format!("{path} is not a port")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn missing_fields_have_file_defaults() {
        let read = KubeletConfiguration::read(
            &json!({"kind": "KubeletConfiguration", "authentication": null}),
            "FILE",
        );
        let read = read.unwrap();
        assert!(!read.anonymous && read.webhook && !read.bootstrap);
        assert_eq!((read.mode.as_str(), read.read_only_port, read.certificate_file), ("Webhook", 0, None));
    }

    #[test]
    fn flags_override_configuration_file() {
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
        let read = KubeletConfiguration::read(&value, "FILE").unwrap();
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
    fn kubelet_without_file_has_insecure_defaults() {
        let read = KubeletConfiguration::by_flags_alone().with(&Flags::default());
        assert!(read.anonymous && read.mode == "AlwaysAllow" && read.read_only_port == 10_255);
    }

    #[test]
    fn field_of_wrong_type_is_named() {
        for (value, words) in [
            (json!([]), "not a KubeletConfiguration"),
            (json!({"serverTLSBootstrap": "yes"}), "serverTLSBootstrap is neither"),
            (json!({"authorization": {"mode": 1}}), "authorization.mode is not a string"),
            (json!({"readOnlyPort": 70_000}), "readOnlyPort is not a port"),
            (json!({"authentication": {"anonymous": {"enabled": 1}}}), "authentication.anonymous.enabled"),
        ] {
            let error = KubeletConfiguration::read(&value, "FILE").unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
