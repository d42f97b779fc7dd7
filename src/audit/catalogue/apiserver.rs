//! Cluster to apiserver: certificates, TLS, and whom both sides trust.

use crate::audit::finding::{Check, Severity, Way};

/// Each of them.
pub const ALL: &[&Check] = &[&ISSUER, &NAMES, &EXPIRY, &VERSION, &CIPHERS, &TRUSTED, &FOREIGN];

/// `apiserver-certificate-issuer`.
pub const ISSUER: Check = Way::Apiserver.check(
    "apiserver-certificate-issuer",
    Severity::High,
    "its certificate is from the cluster's CA",
    "Clients hold the cluster's root certificate, and must refuse any server whose certificate does not lead to it. An \
     address that shows another CA's certificate is another server, or somebody in the middle: clients that do not \
     verify would send it their tokens.",
    "--tls-cert-file and --tls-private-key-file of kube-apiserver: a certificate that the cluster's CA signed; no load \
     balancer may end TLS before it",
);

/// `apiserver-certificate-names`.
pub const NAMES: Check = Way::Apiserver.check(
    "apiserver-certificate-names",
    Severity::Medium,
    "its certificate names what clients dial",
    "Pods dial the Service's virtual IP (KUBERNETES_SERVICE_HOST) or kubernetes.default.svc. Where a certificate lacks \
     either, clients fail, and people turn verification off to make them work.",
    "renew the apiserver's certificate with kubernetes.default.svc and the Service's address among its names (kubeadm: \
     certSANs, then kubeadm init phase certs apiserver)",
);

/// `apiserver-certificate-expiry`.
pub const EXPIRY: Check = Way::Apiserver.check(
    "apiserver-certificate-expiry",
    Severity::High,
    "its certificate is valid now",
    "A certificate that has expired, or is not valid yet, is refused by every client that verifies. kubeadm makes \
     certificates for one year and renews them with each upgrade only.",
    "renew it (kubeadm certs renew apiserver, then restart kube-apiserver); or correct the clock of this node or of \
     whoever signed it",
);

/// `apiserver-tls-version`.
pub const VERSION: Check = Way::Apiserver.check(
    "apiserver-tls-version",
    Severity::High,
    "it speaks TLS 1.2 or newer only",
    "TLS 1.0 and 1.1 are deprecated (RFC 8996): they rest on MD5 and SHA-1. kube-apiserver's own minimum is TLS 1.2; a \
     load balancer or an old setting may go below. The audit offers older versions by hand, and no more than a \
     handshake's first message.",
    "--tls-min-version=VersionTLS12 of kube-apiserver, or the same at the load balancer that ends TLS",
);

/// `apiserver-tls-ciphers`.
pub const CIPHERS: Check = Way::Apiserver.check(
    "apiserver-tls-ciphers",
    Severity::Medium,
    "it takes no weak cipher",
    "With TLS 1.2 the server chooses from what a client offers. RC4, 3DES (SWEET32), NULL, EXPORT and anonymous suites \
     can be broken or give no protection at all; suites that exchange keys with RSA have no forward secrecy: who records \
     traffic now and gets the server's key later can read it. kube-apiserver takes what its Go release takes unless it \
     is told otherwise.",
    "--tls-cipher-suites of kube-apiserver: ECDHE suites with AES-GCM or ChaCha20 only; TLS 1.3 needs none",
);

/// `trusted-cas`.
pub const TRUSTED: Check = Way::Apiserver.check(
    "trusted-cas",
    Severity::High,
    "this node trusts the cluster's CA alone",
    "Whoever can make a certificate that a client's CA bundle verifies can be the apiserver to that client. A cluster has \
     a CA of its own, two while it is replaced. A public CA in the bundle lets anybody be the apiserver who can show that \
     CA a name.",
    "certificate-authority of the kubeconfig: the cluster's CA (/etc/kubernetes/pki/ca.crt), nothing else",
);

/// `foreign-client-certificate`.
pub const FOREIGN: Check = Way::Apiserver.check(
    "foreign-client-certificate",
    Severity::High,
    "a client certificate of a foreign CA is refused",
    "An apiserver takes a client's name and groups from a certificate that its --client-ca-file verifies. If that file \
     holds a CA that others control, or a proxy in front passes certificates on without verifying them, whoever makes a \
     certificate for the group system:masters is an administrator. The audit makes such a certificate, of a CA that no \
     one knows, and shows it.",
    "--client-ca-file of kube-apiserver: the cluster's CA alone; --requestheader-client-ca-file: a CA of its own, never the \
     same",
);
