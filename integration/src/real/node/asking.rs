//! A Pod that asks the API as any Pod may: by its service account, and by the environment that the kubelet gives it.
//! In: a cluster. Out: what the Pod wrote.

use std::path::Path;

use anyhow::Result;

use super::cluster::Cluster;
use super::image::{Image, on_this_machine};
use crate::real::cached;

const IMAGE: &str = "apivip.test/tools:1";

/// It needs the right to read this Service, and is given nothing else.
const POD: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: view, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{kind: ServiceAccount, name: default, namespace: default}]
---
apiVersion: v1
kind: Pod
metadata: {name: asking, namespace: default}
spec:
  restartPolicy: Never
  containers:
  - name: asking
    image: apivip.test/tools:1
    command: [sh, -e, -c]
    args:
    - |
      account=/var/run/secrets/kubernetes.io/serviceaccount
      kubectl get service kubernetes --output name
      curl --silent --show-error --fail --max-time 30 --cacert $account/ca.crt \
          --header "Authorization: Bearer $(cat $account/token)" \
          https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT/api/v1/namespaces/default/services/kubernetes
"#;

/// Makes its image known to the node, starts it, and waits for its end.
pub fn asks(cluster: &mut Cluster<'_>, folder: &Path) -> Result<String> {
    let mut tools =
        Image::new(folder, "tools", IMAGE)?.program(&cached("kubectl")?, "/usr/local/bin/kubectl")?;
    for tool in ["sh", "cat", "curl"] {
        tools = tools.program(&on_this_machine(tool)?, &format!("/bin/{tool}"))?;
    }
    cluster.node.import(tools)?;
    cluster.kubectl_reading(&["apply", "-f", "-"], POD)?;
    cluster.outcome("default", "asking")
}
