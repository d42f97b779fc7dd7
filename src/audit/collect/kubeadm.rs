//! What kubeadm was told about the apiservers that it starts: its ClusterConfiguration, which stands in a ConfigMap that
//! every node may read.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::audit::started::Started;

/// Its place below the namespace `kube-system`.
pub(super) const PATH: &str = "/api/v1/namespaces/kube-system/configmaps/kubeadm-config";
const PLACE: &str = "ClusterConfiguration in ConfigMap kube-system/kubeadm-config";

/// What all of its apiservers are started with, if the ConfigMap says so.
pub(super) fn started(map: &Value) -> Option<Started> {
    let text = map["data"]["ClusterConfiguration"].as_str()?;
    let configuration: Value = super::files::yaml(text).ok()?;
    if configuration["kind"] != "ClusterConfiguration" {
        return None;
    }
    let arguments = &configuration["apiServer"]["extraArgs"];
    // kubeadm sets this one itself (`getAPIServerCommand`), unless it is told another.
    let mut flags = BTreeMap::from([("authorization-mode".to_owned(), "Node,RBAC".to_owned())]);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match arguments {
        // Until v1beta3.
        Value::Object(by_name) => {
            flags.extend(by_name.iter().filter_map(|(name, value)| Some((name.clone(), text(value)?))));
        }
        // Since v1beta4.
        Value::Array(list) => {
            let pair = |entry: &Value| Some((text(&entry["name"])?, text(&entry["value"])?));
            flags.extend(list.iter().filter_map(pair));
        }
        Value::Null => {}
        _ => return None,
    }
    Some(Started::new(PLACE.to_owned(), flags.into_iter().collect()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(text: &str) -> Option<Started> {
        started(&json!({"data": {"ClusterConfiguration": text}}))
    }

    #[test]
    fn extra_arguments_are_read_in_both_forms() {
        for arguments in [
            "{kubelet-certificate-authority: /ca, ssh-user: core}",
            "[{name: kubelet-certificate-authority, value: /ca}, {name: ssh-user, value: core}, {name: 1}]",
        ] {
            let found = of(&format!("kind: ClusterConfiguration\napiServer: {{extraArgs: {arguments}}}\n"));
            let flags = found.unwrap().flags;
            let seen = ["kubelet-certificate-authority", "ssh-user", "authorization-mode"];
            assert_eq!(seen.map(|name| flags.get(name)), [Some("/ca"), Some("core"), Some("Node,RBAC")]);
        }
        let bare = of("kind: ClusterConfiguration").unwrap();
        assert_eq!(bare.flags.get("authorization-mode"), Some("Node,RBAC"));
        let other =
            of("{kind: ClusterConfiguration, apiServer: {extraArgs: {authorization-mode: AlwaysAllow}}}");
        assert_eq!(other.unwrap().flags.get("authorization-mode"), Some("AlwaysAllow"));
    }

    #[test]
    fn anything_else_tells_nothing() {
        for text in
            ["", "{{", "kind: InitConfiguration", "{kind: ClusterConfiguration, apiServer: {extraArgs: x}}"]
        {
            assert_eq!(of(text), None, "{text}");
        }
        assert_eq!(started(&Value::Null), None);
    }
}
