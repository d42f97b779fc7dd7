//! The flags of a Kubernetes component, and what a kube-apiserver's egress selector does with connections to the cluster. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

/// Flags by name, without the dashes. Of one that is given several times the last counts, as it does for the program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    values: BTreeMap<String, String>,
}

impl Flags {
    /// Reads a command line, with or without the program's name. `--flag=value`, `--flag value` and `--flag` are known.
    pub fn read<S: AsRef<str>>(line: &[S]) -> Self {
        let mut values = BTreeMap::new();
        let mut words = line.iter().map(AsRef::as_ref).peekable();
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix("--").filter(|flag| !flag.is_empty()) else { continue };
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, value.to_owned()),
                // A flag that is followed by a word which is none has that for a value; switches come with `=`.
                None => (flag, words.next_if(|next| !next.starts_with('-')).unwrap_or("true").to_owned()),
            };
            values.insert(name.replace('_', "-"), value);
        }
        Self { values }
    }

    /// The value of a flag that is given, and is not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// That of a switch; `None` if it is not given, or says neither.
    pub fn switch(&self, name: &str) -> Option<bool> {
        match self.get(name)?.to_ascii_lowercase().as_str() {
            "true" | "t" | "1" => Some(true),
            "false" | "f" | "0" => Some(false),
            _ => None,
        }
    }
}

impl FromIterator<(String, String)> for Flags {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self { values: pairs.into_iter().collect() }
    }
}

/// Whether a command line is that of `program`: its own name, or the first word of a program that is several.
pub fn is_program<S: AsRef<str>>(line: &[S], program: &str) -> bool {
    let base = |word: &S| word.as_ref().rsplit('/').next().is_some_and(|name| name == program);
    line.first().is_some_and(base)
        || (line.first().is_some_and(|first| first.as_ref().ends_with("hyperkube"))
            && line.get(1).is_some_and(base))
}

/// The flag that names an egress selector's configuration.
pub const EGRESS_FLAG: &str = "egress-selector-config-file";

/// One kube-apiserver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiserverFlags {
    /// Where its flags stand, as evidence names it.
    pub place: String,
    /// Its flags.
    pub flags: Flags,
    /// What the file of [`EGRESS_FLAG`] says, or why it is not known. Without that flag it means nothing.
    pub egress: Result<Egress, String>,
}

/// What becomes of connections to nodes, Pods and Services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Egress {
    /// They leave through a proxy, by this protocol.
    Tunnel(String),
    /// They are dialled as if there were no selector; why.
    Direct(&'static str),
}

impl ApiserverFlags {
    /// Flags whose egress selector configuration was not searched for.
    pub fn new(place: String, flags: Flags) -> Self {
        Self { place, flags, egress: Err("it is on another node".to_owned()) }
    }

    /// The file with its egress selector's configuration.
    pub fn egress_file(&self) -> Option<&str> {
        self.flags.get(EGRESS_FLAG)
    }
}

impl Egress {
    /// Reads an EgressSelectorConfiguration.
    ///
    /// # Errors
    /// It is something else, or names a protocol that is not known.
    pub fn read(file: &Value) -> Result<Self, String> {
        if file["kind"] != "EgressSelectorConfiguration" {
            return Err("it is not an EgressSelectorConfiguration".to_owned());
        }
        let mut selections = file["egressSelections"].as_array().into_iter().flatten();
        let Some(cluster) = selections.find(|selection| selection["name"] == "cluster") else {
            return Ok(Self::Direct("it has no egressSelection named cluster"));
        };
        match cluster["connection"]["proxyProtocol"].as_str() {
            Some("Direct") => Ok(Self::Direct("its egressSelection named cluster has proxyProtocol Direct")),
            Some(protocol @ ("GRPC" | "HTTPConnect")) => Ok(Self::Tunnel(protocol.to_owned())),
            _ => Err("its egressSelection named cluster has an unknown proxyProtocol".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    mod flags {
        use super::super::*;

        #[test]
        fn flags_are_read_in_each_form() {
            let line = [
                "/usr/bin/kubelet",
                "--a=1",
                "--b",
                "two",
                "--c",
                "--d=",
                "--a=3",
                "-v=2",
                "--e_f=FALSE",
                "--",
            ];
            let flags = Flags::read(&line);
            assert_eq!(
                (flags.get("a"), flags.get("b"), flags.get("c")),
                (Some("3"), Some("two"), Some("true"))
            );
            assert_eq!((flags.get("d"), flags.get("v"), flags.switch("e-f")), (None, None, Some(false)));
            assert_eq!((flags.switch("b"), flags.switch("c"), flags.switch("x")), (None, Some(true), None));
        }

        #[test]
        fn program_is_recognised_by_its_name() {
            assert!(is_program(&["/usr/bin/kubelet", "--x"], "kubelet"));
            assert!(is_program(&["/hyperkube", "kubelet"], "kubelet"));
            assert!(!is_program(&["vi", "kubelet"], "kubelet") && !is_program::<&str>(&[], "kubelet"));
        }
    }

    mod egress {
        use serde_json::json;

        use super::super::*;

        #[test]
        fn egress_selector_for_cluster_is_read() {
            let with = |selections: Value| {
                Egress::read(&json!({"kind": "EgressSelectorConfiguration", "egressSelections": selections}))
            };
            let to =
                |name: &str, protocol: &str| json!({"name": name, "connection": {"proxyProtocol": protocol}});
            let grpc = with(json!([to("controlplane", "Direct"), to("cluster", "GRPC")]));
            assert_eq!(grpc, Ok(Egress::Tunnel("GRPC".to_owned())));
            assert!(matches!(with(json!([to("cluster", "Direct")])), Ok(Egress::Direct(_))));
            assert!(matches!(with(json!([to("etcd", "GRPC")])), Ok(Egress::Direct(_))));
            assert!(matches!(with(Value::Null), Ok(Egress::Direct(_))));
            assert!(
                with(json!([to("cluster", "Carrier")])).is_err()
                    && with(json!([{"name": "cluster"}])).is_err()
            );
            assert!(Egress::read(&Value::Null).is_err() && Egress::read(&json!([1])).is_err());
        }
    }
}
