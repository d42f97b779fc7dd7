//! Cluster to apiserver: whom it lets in, and to what.

use crate::audit::finding::{Check, Severity, Way};

/// Each of them.
pub const ALL: &[&Check] = &[
    &ANONYMOUS_DISCOVERY,
    &ANONYMOUS_OBJECTS,
    &BASIC,
    &STATIC_TOKENS,
    &PLAIN_HTTP,
    &CREDENTIALS,
    &DAMAGED_TOKEN,
    &TOKEN_LIFETIME,
    &TOKEN_AUDIENCE,
    &TOKEN_BINDING,
    &AUTHORIZATION,
];

/// `anonymous-discovery`.
pub const ANONYMOUS_DISCOVERY: Check = Way::Apiserver.check(
    "anonymous-discovery",
    Severity::Low,
    "anonymous requests see no more than version and health",
    "By default kube-apiserver serves requests without credentials as system:anonymous, and ClusterRole \
     system:public-info-viewer lets it read /version, /healthz, /livez and /readyz. Discovery (/api, /apis, /openapi) is \
     for system:authenticated since 1.14; a cluster that was made before may have kept the old binding. It tells an \
     attacker what is installed.",
    "kubectl edit clusterrolebinding system:discovery and system:basic-user: remove the group system:unauthenticated; or \
     --anonymous-auth=false if nothing probes /readyz without credentials",
);

/// `anonymous-objects`.
pub const ANONYMOUS_OBJECTS: Check = Way::Apiserver.check(
    "anonymous-objects",
    Severity::High,
    "anonymous requests read no objects",
    "A RoleBinding to system:anonymous or system:unauthenticated, or the authorization mode AlwaysAllow, opens the cluster \
     to everybody who reaches the apiserver. ConfigMap cluster-info in kube-public is open on purpose with kubeadm, and \
     not looked at. The audit asks for at most one object of a kind and keeps nothing; for Secrets it asks in a namespace \
     that does not exist.",
    "kubectl get clusterrolebindings,rolebindings -A -o wide, and remove those to system:anonymous and \
     system:unauthenticated; --authorization-mode=Node,RBAC",
);

/// `basic-auth`.
pub const BASIC: Check = Way::Apiserver.check(
    "basic-auth",
    Severity::High,
    "it does not take passwords",
    "--basic-auth-file (removed in 1.19) holds passwords in clear text which never expire. Who listens on one connection \
     that is not verified has them for good.",
    "remove --basic-auth-file from kube-apiserver; give people OIDC or short-lived client certificates",
);

/// `static-tokens`.
pub const STATIC_TOKENS: Check = Way::Apiserver.check(
    "static-tokens",
    Severity::Medium,
    "it takes no tokens from a file",
    "--token-auth-file holds tokens in clear text which never expire and cannot be revoked without a restart.",
    "remove --token-auth-file from kube-apiserver; give programs service accounts, people OIDC",
);

/// `plain-http`.
pub const PLAIN_HTTP: Check = Way::Apiserver.check(
    "plain-http",
    Severity::High,
    "no port serves the API without TLS",
    "The insecure port (--insecure-port, 8080; gone since 1.24) has neither TLS nor authentication: who reaches it is an \
     administrator. kubectl proxy (8001) is the same if it listens on more than loopback.",
    "--insecure-port=0 of kube-apiserver; end kubectl proxy, or bind it to 127.0.0.1",
);

/// `credentials`.
pub const CREDENTIALS: Check = Way::Apiserver.check(
    "credentials",
    Severity::Medium,
    "it knows these credentials",
    "A node whose credentials are refused goes on with what it has, until its leases end. Each apiserver judges for \
     itself: one that was given another service account key or client CA than the others refuses now and then.",
    "renew the credentials; the same --service-account-key-file and --client-ca-file on every apiserver",
);

/// `damaged-token`.
pub const DAMAGED_TOKEN: Check = Way::Apiserver.check(
    "damaged-token",
    Severity::High,
    "a token with a wrong signature is refused",
    "Tokens of service accounts are signed. A proxy or webhook (--authentication-token-webhook-config-file) in front that \
     looks at the claims alone lets everybody write their own. The audit shows the node's own token with one character of \
     the signature changed, or a made-up one where the node has none.",
    "see what authenticates tokens: --service-account-key-file, the token webhook, or a proxy in front of the apiserver",
);

/// `token-lifetime`.
pub const TOKEN_LIFETIME: Check = Way::Apiserver.check(
    "token-lifetime",
    Severity::Medium,
    "the token ends soon",
    "Tokens from Secrets (before 1.24) never end. Projected tokens end after an hour or so, and the kubelet renews them; \
     --service-account-extend-token-expiration makes that a year for clients that do not read theirs again.",
    "use a projected volume with expirationSeconds, not a Secret of type kubernetes.io/service-account-token",
);

/// `token-audience`.
pub const TOKEN_AUDIENCE: Check = Way::Apiserver.check(
    "token-audience",
    Severity::Low,
    "the token is for the apiserver alone",
    "A token that names several audiences can be shown to the apiserver by any of them. One without an audience is good \
     everywhere.",
    "give other audiences a projected token of their own (serviceAccountToken.audience)",
);

/// `token-binding`.
pub const TOKEN_BINDING: Check = Way::Apiserver.check(
    "token-binding",
    Severity::Low,
    "the token is bound to its Pod",
    "A token that is bound to a Pod is refused once that Pod is gone, so a stolen one is worth little. Tokens from Secrets \
     are bound to the Secret at most. Since 1.30 tokens name the node as well.",
    "use the projected token of the Pod (automountServiceAccountToken), not a Secret",
);

/// `authorization-mode`.
pub const AUTHORIZATION: Check = Way::Apiserver.check(
    "authorization-mode",
    Severity::High,
    "it asks RBAC, and not everybody is allowed everything",
    "--authorization-mode=AlwaysAllow is the default of a bare kube-apiserver: whoever is authenticated may do everything. \
     An access review for a verb and a resource that do not exist shows it, as far as the reason that comes with it tells \
     who allowed it.",
    "--authorization-mode=Node,RBAC of kube-apiserver",
);
