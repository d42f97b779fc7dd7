//! What a kube-apiserver was started with, and what its egress selector does with connections to the cluster. Pure.

use serde_json::Value;

use super::flags::Flags;

/// The flag that names an egress selector's configuration.
pub const EGRESS_FLAG: &str = "egress-selector-config-file";

/// One kube-apiserver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
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

impl Started {
    /// Whose file has not been looked for.
    pub fn new(place: String, flags: Flags) -> Self {
        Self { place, flags, egress: Err("it stands on another node".to_owned()) }
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
            return Err("it is no EgressSelectorConfiguration".to_owned());
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
    use serde_json::json;

    use super::*;

    #[test]
    fn a_selector_tells_where_connections_to_the_cluster_go() {
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
            with(json!([to("cluster", "Carrier")])).is_err() && with(json!([{"name": "cluster"}])).is_err()
        );
        assert!(Egress::read(&Value::Null).is_err() && Egress::read(&json!([1])).is_err());
    }
}
