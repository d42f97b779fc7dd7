//! The apiserver as a proxy, and the tunnels that may carry its connections.

use crate::audit::finding::{Check, Severity, Way};

/// Each of them.
pub const ALL: &[&Check] = &[&NODES, &PODS, &SERVICES, &HTTPS, &KONNECTIVITY, &SSH];

const fn proxy(id: &'static str, title: &'static str, background: &'static str) -> Check {
    Check {
        id,
        way: Way::Proxy,
        title,
        severity: Severity::High,
        background,
        setting: "take the rights from ClusterRoles that this subject has: kubectl get clusterrolebindings,rolebindings -A \
                  -o wide, and kubectl auth can-i --list --as SUBJECT",
    }
}

/// `proxy-nodes`.
pub const NODES: Check = proxy(
    "proxy-nodes",
    "who may use nodes/proxy",
    "nodes/proxy is the whole API of every kubelet: with get alone one may read all logs, and, over a WebSocket, run \
     commands in every container, unseen by admission control and by the audit log of exec. To the kubelet's port the \
     apiserver speaks HTTPS, verified if kubelet-verified passes; to any other port of the node plain HTTP, or HTTPS \
     without verification if the path says https:.",
);

/// `proxy-pods`.
pub const PODS: Check = proxy(
    "proxy-pods",
    "who may use pods/proxy",
    "The proxy leads from the apiserver to any port of any Pod, past NetworkPolicies that trust the control plane. It \
     speaks plain HTTP unless the path says https:, and even then it does not verify the certificate.",
);

/// `proxy-services`.
pub const SERVICES: Check = proxy(
    "proxy-services",
    "who may use services/proxy",
    "The proxy leads from the apiserver to any Service, past NetworkPolicies that trust the control plane. It speaks plain \
     HTTP unless the path says https:, and even then it does not verify the certificate.",
);

/// `proxy-https-services`.
pub const HTTPS: Check = Check {
    id: "proxy-https-services",
    way: Way::Proxy,
    title: "Services that have a port for HTTPS",
    severity: Severity::Low,
    background: "What is reached through the proxy of a Service that has no port for HTTPS crosses the network between \
                 control plane and node in the clear. A port counts if it is named https or https-..., is 443, or has an \
                 appProtocol of https.",
    setting: "serve HTTPS and name the port https, or do not use the proxy for these Services: kubectl port-forward goes \
              through the kubelet's TLS instead",
};

/// `tunnel-konnectivity`.
pub const KONNECTIVITY: Check = Check {
    id: "tunnel-konnectivity",
    way: Way::Tunnel,
    title: "apiserver to node traffic goes through a tunnel",
    severity: Severity::Medium,
    background: "With an egress selector for the cluster, kube-apiserver sends its connections to nodes, Pods and Services \
                 through a konnectivity server, and agents on the nodes dial that server with TLS. Without, they cross the \
                 network as they are: to kubelets with TLS that is only as good as kubelet-verified, to Pods and Services \
                 often in the clear.",
    setting: "--egress-selector-config-file of kube-apiserver with an egressSelection named cluster, and konnectivity-agent \
              on the nodes; or a network between control plane and nodes that encrypts (WireGuard, IPsec)",
};

/// `tunnel-ssh`.
pub const SSH: Check = Check {
    id: "tunnel-ssh",
    way: Way::Tunnel,
    title: "no SSH tunnels",
    severity: Severity::Medium,
    background: "SSH tunnels (--ssh-user, --ssh-keyfile; deprecated in 1.9, removed in 1.22) give the apiserver an account \
                 on every node, and do not verify the host keys of nodes.",
    setting: "remove --ssh-user and --ssh-keyfile from kube-apiserver; use konnectivity",
};
