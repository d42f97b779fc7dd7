//! Apiserver to kubelet.

use crate::audit::finding::{Check, Severity, Way};

/// Each of them.
pub const ALL: &[&Check] =
    &[&VERIFIED, &ISSUER, &NAMES, &EXPIRY, &ROTATION, &VERSION, &ANONYMOUS, &AUTHORIZATION, &READ_ONLY];

/// `kubelet-verified`.
pub const VERIFIED: Check = Way::Kubelet.check(
    "kubelet-verified",
    Severity::High,
    "apiservers verify kubelets",
    "For logs, exec and port-forward the apiserver dials the kubelet, and does not verify its serving certificate unless \
     it is told which CA to trust: somebody in the middle can answer instead, and read and change what passes.",
    "--kubelet-certificate-authority of kube-apiserver (the CA that signs kubelets' serving certificates), after \
     serverTLSBootstrap: true on the kubelets",
);

/// `kubelet-certificate-issuer`.
pub const ISSUER: Check = Way::Kubelet.check(
    "kubelet-certificate-issuer",
    Severity::Medium,
    "its certificate is from the cluster's CA",
    "A kubelet that is told nothing makes its certificate itself, with a CA of its own (HOST-ca@TIME) whose key it throws \
     away. Nobody can verify that: not the apiserver, and not metrics-server or Prometheus, which then send their tokens \
     to whoever answers. Where another CA signs kubelets' certificates on purpose, every client of theirs must know it.",
    "serverTLSBootstrap: true in the kubelet's configuration, and approve its requests: kubectl get csr",
);

/// `kubelet-certificate-names`.
pub const NAMES: Check = Way::Kubelet.check(
    "kubelet-certificate-names",
    Severity::Medium,
    "its certificate names this node",
    "The apiserver dials the first of the Node's addresses in the order of --kubelet-preferred-address-types: Hostname \
     first by default, InternalIP first with kubeadm. A certificate that lacks it cannot be verified. One that has the \
     node's name and one of its addresses is good either way.",
    "serverTLSBootstrap: true in the kubelet's configuration: the kubelet asks for all of its node's names and addresses",
);

/// `kubelet-certificate-expiry`.
pub const EXPIRY: Check = Way::Kubelet.check(
    "kubelet-certificate-expiry",
    Severity::Medium,
    "its certificate is valid now",
    "An apiserver that verifies kubelets refuses one whose certificate has expired: no logs, no exec. One that does not \
     verify takes it, which hides that nobody renews it.",
    "approve the kubelet's pending request (kubectl get csr), or renew the files of tlsCertFile and tlsPrivateKeyFile",
);

/// `kubelet-certificate-rotation`.
pub const ROTATION: Check = Way::Kubelet.check(
    "kubelet-certificate-rotation",
    Severity::Low,
    "it renews its serving certificate",
    "With serverTLSBootstrap (--rotate-server-certificates) the kubelet asks for a new serving certificate before the old \
     one ends; somebody has to approve each request, which Kubernetes itself does not. A certificate from a file \
     (tlsCertFile) is renewed by whoever writes that file; one that the kubelet made itself, for a year, by nobody. \
     rotateCertificates is about its client certificate.",
    "serverTLSBootstrap: true in the kubelet's configuration, and something that approves its requests",
);

/// `kubelet-tls-version`.
pub const VERSION: Check = Way::Kubelet.check(
    "kubelet-tls-version",
    Severity::Medium,
    "it speaks TLS 1.2 or newer only",
    "TLS 1.0 and 1.1 are deprecated (RFC 8996): their integrity rests on MD5 and SHA-1. A kubelet's own minimum is TLS \
     1.2, unless tlsMinVersion says otherwise.",
    "tlsMinVersion: VersionTLS12 in the kubelet's configuration",
);

/// `kubelet-anonymous`.
pub const ANONYMOUS: Check = Way::Kubelet.check(
    "kubelet-anonymous",
    Severity::High,
    "anonymous requests are refused",
    "Started by flags alone a kubelet serves anonymous requests (--anonymous-auth defaults to true), and with the \
     authorization mode AlwaysAllow, its default then, they may do everything: run commands in every container of the \
     node. A configuration file has better defaults. Where Webhook refuses them (403, low severity), one binding to \
     system:anonymous opens the node.",
    "authentication.anonymous.enabled: false in the kubelet's configuration",
);

/// `kubelet-authorization`.
pub const AUTHORIZATION: Check = Way::Kubelet.check(
    "kubelet-authorization",
    Severity::High,
    "it asks the apiserver who may do what",
    "With authorization.mode AlwaysAllow every client that the kubelet knows may run commands in every container. Webhook \
     asks the apiserver about nodes/proxy, nodes/log, nodes/stats and nodes/metrics. That a request is allowed proves \
     nothing; that somebody is refused shows that there is somebody who decides.",
    "authorization.mode: Webhook and authentication.webhook.enabled: true in the kubelet's configuration",
);

/// `kubelet-read-only-port`.
pub const READ_ONLY: Check = Way::Kubelet.check(
    "kubelet-read-only-port",
    Severity::High,
    "the read-only port is closed",
    "Port 10255 serves the node's Pods, with the environment of their containers, to everybody, without TLS. \
     --read-only-port defaults to 10255 for a kubelet that is started by flags alone, and to 0 with a configuration file.",
    "readOnlyPort: 0 in the kubelet's configuration",
);
