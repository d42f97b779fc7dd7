//! Every check of the audit, with its severity, its background and what to set: the text of `--explain`. Pure.

use crate::check::report::{ConnectionPath, Finding, Section, Severity, Verdict};

/// One question of the audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditCheck {
    /// A stable name.
    pub id: &'static str,
    pub path: ConnectionPath,
    /// The question, in a few words.
    pub title: &'static str,
    /// How much a failure matters.
    pub severity: Severity,
    /// What is true by default, and what may come of it.
    pub background: &'static str,
    /// What to set.
    pub setting: &'static str,
}

const fn check(
    path: ConnectionPath,
    id: &'static str,
    severity: Severity,
    title: &'static str,
    background: &'static str,
    setting: &'static str,
) -> AuditCheck {
    AuditCheck { id, path, title, severity, background, setting }
}

impl AuditCheck {
    /// It is as it should be.
    pub fn pass(&self, evidence: impl Into<String>) -> Finding {
        self.finding(Verdict::Pass, evidence.into(), None)
    }

    /// Why it cannot be known, and what permission or file would let it be.
    pub fn unknown(&self, why: impl Into<String>, needed: impl Into<String>) -> Finding {
        self.finding(Verdict::Unknown, why.into(), Some(needed.into()))
    }

    /// It is not as it should be; the check's own setting fixes it.
    pub fn fail(&self, evidence: impl Into<String>) -> Finding {
        self.finding(Verdict::Fail, evidence.into(), Some(self.setting.to_owned()))
    }

    fn finding(&self, verdict: Verdict, evidence: String, fix: Option<String>) -> Finding {
        let Self { id, path, title, severity, .. } = *self;
        let section = Section::Path(path);
        Finding { id, section, title, subject: None, verdict, severity: Some(severity), evidence, fix }
    }
}

/// Each, in the order in which they are shown.
pub fn all() -> impl Iterator<Item = &'static AuditCheck> {
    let parts = [apiserver::ALL, requests::ALL, kubelet::ALL, proxy::ALL, redirect::ALL];
    parts.into_iter().flatten().copied()
}

/// The check of this name.
pub fn find(id: &str) -> Option<&'static AuditCheck> {
    all().find(|check| check.id == id)
}

/// Cluster to apiserver: certificates, TLS, and whom both sides trust.
pub mod apiserver {
    use super::{AuditCheck, ConnectionPath, Severity, check};

    pub const ALL: &[&AuditCheck] = &[&ISSUER, &NAMES, &EXPIRY, &VERSION, &CIPHERS, &TRUSTED, &FOREIGN];

    pub const ISSUER: AuditCheck = check(
        ConnectionPath::Apiserver,
        "apiserver-certificate-issuer",
        Severity::High,
        "the cluster CA signed its certificate",
        "Clients have the root certificate of the cluster, and must reject any server whose certificate does not chain \
     to it. An address that presents a certificate of another CA is another server, or an attacker in the middle. \
     Clients that do not verify would send it their tokens.",
        "--tls-cert-file and --tls-private-key-file of kube-apiserver: a certificate that the cluster CA signed; do \
     not terminate TLS at a load balancer",
    );

    pub const NAMES: AuditCheck = check(
        ConnectionPath::Apiserver,
        "apiserver-certificate-names",
        Severity::Medium,
        "its certificate contains the names that clients dial",
        "Pods dial the virtual IP of the Service (KUBERNETES_SERVICE_HOST) or kubernetes.default.svc. If a certificate \
     lacks either, clients fail, and users disable verification to make them work.",
        "renew the certificate of the API server with kubernetes.default.svc and the address of the Service among its \
     names (kubeadm: certSANs, then kubeadm init phase certs apiserver)",
    );

    pub const EXPIRY: AuditCheck = check(
        ConnectionPath::Apiserver,
        "apiserver-certificate-expiry",
        Severity::High,
        "its certificate is valid",
        "Every client that verifies certificates rejects a certificate that has expired or is not valid yet. kubeadm \
     issues certificates for one year and renews them only with each upgrade.",
        "renew it (kubeadm certs renew apiserver, then restart kube-apiserver); or correct the clock of this node or \
     of the issuer",
    );

    pub const VERSION: AuditCheck = check(
        ConnectionPath::Apiserver,
        "apiserver-tls-version",
        Severity::High,
        "it supports only TLS 1.2 or newer",
        "TLS 1.0 and 1.1 are deprecated (RFC 8996): they depend on MD5 and SHA-1. The default minimum of \
     kube-apiserver is TLS 1.2. A load balancer or an old setting can lower it. The audit offers older versions in its \
     own client, and only in the first message of a handshake.",
        "--tls-min-version=VersionTLS12 of kube-apiserver, or the same at the load balancer that terminates TLS",
    );

    pub const CIPHERS: AuditCheck = check(
        ConnectionPath::Apiserver,
        "apiserver-tls-ciphers",
        Severity::Medium,
        "it accepts no weak cipher",
        "With TLS 1.2, the server selects from the ciphers that a client offers. RC4, 3DES (SWEET32), NULL, EXPORT and \
     anonymous suites can be broken or give no protection at all. Suites with RSA key exchange have no forward \
     secrecy: an attacker who records traffic now and gets the key of the server later can read it. By default, \
     kube-apiserver accepts the ciphers of its Go release.",
        "--tls-cipher-suites of kube-apiserver: only ECDHE suites with AES-GCM or ChaCha20; TLS 1.3 needs no setting",
    );

    pub const TRUSTED: AuditCheck = check(
        ConnectionPath::Apiserver,
        "trusted-cas",
        Severity::High,
        "this node trusts only the cluster CA",
        "A CA in the bundle of a client can issue a certificate that impersonates the API server to that client. A \
     cluster has a CA of its own, and two during a rotation. A public CA in the bundle allows everyone who can prove a \
     name to that CA to impersonate the API server.",
        "certificate-authority of the kubeconfig: only the cluster CA (/etc/kubernetes/pki/ca.crt)",
    );

    pub const FOREIGN: AuditCheck = check(
        ConnectionPath::Apiserver,
        "foreign-client-certificate",
        Severity::High,
        "a client certificate of an unknown CA is rejected",
        "An API server reads the user name and groups of a client from a certificate that its --client-ca-file \
     verifies. If that file contains a CA that others control, or if a proxy forwards certificates without \
     verification, everyone who can issue a certificate for the group system:masters is an administrator. The audit \
     creates such a certificate with an unknown CA and presents it.",
        "--client-ca-file of kube-apiserver: only the cluster CA; --requestheader-client-ca-file: a separate CA, never \
     the same",
    );
}

/// Cluster to apiserver: whom it lets in, and to what.
pub mod requests {
    use super::{AuditCheck, ConnectionPath, Severity, check};

    pub const ALL: &[&AuditCheck] = &[
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

    pub const ANONYMOUS_DISCOVERY: AuditCheck = check(
        ConnectionPath::Apiserver,
        "anonymous-discovery",
        Severity::Low,
        "anonymous requests can read only version and health",
        "By default, kube-apiserver serves requests without credentials as system:anonymous, and ClusterRole \
     system:public-info-viewer allows /version, /healthz, /livez and /readyz. Since 1.14, discovery (/api, /apis, \
     /openapi) requires system:authenticated, but an older cluster may still have the old binding. It shows an \
     attacker what is installed.",
        "kubectl edit clusterrolebinding system:discovery and system:basic-user: remove the group \
     system:unauthenticated; or --anonymous-auth=false if nothing probes /readyz without credentials",
    );

    pub const ANONYMOUS_OBJECTS: AuditCheck = check(
        ConnectionPath::Apiserver,
        "anonymous-objects",
        Severity::High,
        "anonymous requests can read no objects",
        "A RoleBinding to system:anonymous or system:unauthenticated, or the authorization mode AlwaysAllow, opens the \
     cluster to everyone who reaches the API server. The audit ignores ConfigMap cluster-info in kube-public, which \
     kubeadm opens on purpose. It requests at most one object of a kind and keeps nothing. For Secrets it uses a \
     namespace that does not exist.",
        "kubectl get clusterrolebindings,rolebindings -A -o wide, and remove the bindings to system:anonymous and \
     system:unauthenticated; --authorization-mode=Node,RBAC",
    );

    pub const BASIC: AuditCheck = check(
        ConnectionPath::Apiserver,
        "basic-auth",
        Severity::High,
        "it accepts no passwords",
        "--basic-auth-file (removed in 1.19) contains passwords in clear text that never expire. An attacker who \
     captures one of them on an unverified connection can use it permanently.",
        "remove --basic-auth-file from kube-apiserver; use OIDC or short-lived client certificates for people",
    );

    pub const STATIC_TOKENS: AuditCheck = check(
        ConnectionPath::Apiserver,
        "static-tokens",
        Severity::Medium,
        "it accepts no tokens from a file",
        "--token-auth-file contains tokens in clear text that never expire and cannot be revoked without a restart.",
        "remove --token-auth-file from kube-apiserver; use service accounts for programs and OIDC for people",
    );

    pub const PLAIN_HTTP: AuditCheck = check(
        ConnectionPath::Apiserver,
        "plain-http",
        Severity::High,
        "no port serves the API without TLS",
        "The insecure port (--insecure-port, 8080; removed in 1.24) has neither TLS nor authentication: everyone who \
     reaches it is an administrator. kubectl proxy (8001) is the same if it listens on more than loopback.",
        "--insecure-port=0 of kube-apiserver; stop kubectl proxy, or bind it to 127.0.0.1",
    );

    pub const CREDENTIALS: AuditCheck = check(
        ConnectionPath::Apiserver,
        "credentials",
        Severity::Medium,
        "it accepts the credentials of this node",
        "A node whose credentials are rejected continues with its last state until its leases expire. Each API server \
     authenticates for itself: one with a different service account key or client CA rejects some of the requests.",
        "renew the credentials; the same --service-account-key-file and --client-ca-file on every API server",
    );

    pub const DAMAGED_TOKEN: AuditCheck = check(
        ConnectionPath::Apiserver,
        "damaged-token",
        Severity::High,
        "a token with a wrong signature is rejected",
        "Tokens of service accounts are signed. If a proxy or webhook (--authentication-token-webhook-config-file) \
     reads the claims without verifying the signature, everyone can write their own token. The audit sends the token \
     of this node with one character of the signature changed, or an invented token if the node has none.",
        "check what authenticates tokens: --service-account-key-file, the token webhook, or a proxy in front of the \
     API server",
    );

    pub const TOKEN_LIFETIME: AuditCheck = check(
        ConnectionPath::Apiserver,
        "token-lifetime",
        Severity::Medium,
        "the token expires soon",
        "Tokens from Secrets (before 1.24) never expire. Projected tokens expire after about an hour, and the kubelet \
     renews them. --service-account-extend-token-expiration extends that to a year for clients that do not read their \
     token again.",
        "use a projected volume with expirationSeconds, not a Secret of type kubernetes.io/service-account-token",
    );

    pub const TOKEN_AUDIENCE: AuditCheck = check(
        ConnectionPath::Apiserver,
        "token-audience",
        Severity::Low,
        "the token is only for the API server",
        "If a token names several audiences, each of them can present it to the API server. A token without an \
     audience is valid everywhere.",
        "use a separate projected token for each other audience (serviceAccountToken.audience)",
    );

    pub const TOKEN_BINDING: AuditCheck = check(
        ConnectionPath::Apiserver,
        "token-binding",
        Severity::Low,
        "the token is bound to its Pod",
        "The API server rejects a token that is bound to a Pod once that Pod is deleted, so a stolen token is of \
     little use. Tokens from Secrets are bound to the Secret at most. Since 1.30, tokens also name the node.",
        "use the projected token of the Pod (automountServiceAccountToken), not a Secret",
    );

    pub const AUTHORIZATION: AuditCheck = check(
        ConnectionPath::Apiserver,
        "authorization-mode",
        Severity::High,
        "RBAC authorizes requests, and not everyone is allowed everything",
        "--authorization-mode=AlwaysAllow is the default of a bare kube-apiserver: every authenticated user is allowed \
     everything. An access review for a verb and a resource that do not exist detects it, if the reason in the answer \
     tells which authorizer allowed it.",
        "--authorization-mode=Node,RBAC of kube-apiserver",
    );
}

/// Apiserver to kubelet.
pub mod kubelet {
    use super::{AuditCheck, ConnectionPath, Severity, check};

    pub const ALL: &[&AuditCheck] =
        &[&VERIFIED, &ISSUER, &NAMES, &EXPIRY, &ROTATION, &VERSION, &ANONYMOUS, &AUTHORIZATION, &READ_ONLY];

    pub const VERIFIED: AuditCheck = check(
        ConnectionPath::Kubelet,
        "kubelet-verified",
        Severity::High,
        "API servers verify kubelets",
        "For logs, exec and port-forward, the API server dials the kubelet. It does not verify the serving certificate \
     of the kubelet unless you set a CA: an attacker in the middle can answer instead, and read and change the \
     traffic.",
        "--kubelet-certificate-authority of kube-apiserver (the CA that signs the serving certificates of kubelets), \
     after serverTLSBootstrap: true on the kubelets",
    );

    pub const ISSUER: AuditCheck = check(
        ConnectionPath::Kubelet,
        "kubelet-certificate-issuer",
        Severity::Medium,
        "the cluster CA signed its certificate",
        "By default, a kubelet creates its certificate itself, with its own CA (HOST-ca@TIME) whose key it discards. \
     No client can verify that certificate: neither the API server, nor metrics-server or Prometheus, which then send \
     their tokens to any server that answers. If another CA signs the certificates of kubelets on purpose, every \
     client of the kubelets must know that CA.",
        "serverTLSBootstrap: true in the kubelet configuration, and approve its requests: kubectl get csr",
    );

    pub const NAMES: AuditCheck = check(
        ConnectionPath::Kubelet,
        "kubelet-certificate-names",
        Severity::Medium,
        "its certificate contains the names of this node",
        "The API server dials the first address of the Node in the order of --kubelet-preferred-address-types: \
     Hostname first by default, InternalIP first with kubeadm. A certificate without that address cannot be verified. \
     A certificate with the name and one address of the node is correct in both cases.",
        "serverTLSBootstrap: true in the kubelet configuration: the kubelet requests all names and addresses of its \
     node",
    );

    pub const EXPIRY: AuditCheck = check(
        ConnectionPath::Kubelet,
        "kubelet-certificate-expiry",
        Severity::Medium,
        "its certificate is valid",
        "An API server that verifies kubelets rejects an expired certificate: no logs, no exec. An API server that \
     does not verify them accepts it, which hides that the certificate is not renewed.",
        "approve the pending request of the kubelet (kubectl get csr), or renew the files of tlsCertFile and \
     tlsPrivateKeyFile",
    );

    pub const ROTATION: AuditCheck = check(
        ConnectionPath::Kubelet,
        "kubelet-certificate-rotation",
        Severity::Low,
        "it renews its serving certificate",
        "With serverTLSBootstrap (--rotate-server-certificates), the kubelet requests a new serving certificate before \
     the old one expires. Each request needs an approval, which Kubernetes itself does not give. The program that \
     writes tlsCertFile must renew a certificate from a file. No program renews a certificate that the kubelet created \
     itself, for a year. rotateCertificates is about its client certificate.",
        "serverTLSBootstrap: true in the kubelet configuration, and a controller that approves its requests",
    );

    pub const VERSION: AuditCheck = check(
        ConnectionPath::Kubelet,
        "kubelet-tls-version",
        Severity::Medium,
        "it supports only TLS 1.2 or newer",
        "TLS 1.0 and 1.1 are deprecated (RFC 8996): their integrity depends on MD5 and SHA-1. The default minimum of a \
     kubelet is TLS 1.2, unless tlsMinVersion changes it.",
        "tlsMinVersion: VersionTLS12 in the kubelet configuration",
    );

    pub const ANONYMOUS: AuditCheck = check(
        ConnectionPath::Kubelet,
        "kubelet-anonymous",
        Severity::High,
        "anonymous requests are rejected",
        "A kubelet that starts with flags only serves anonymous requests (--anonymous-auth defaults to true). With the \
     authorization mode AlwaysAllow, which is then the default, they are allowed everything: to run commands in every \
     container of the node. A configuration file has safer defaults. If Webhook rejects them (403, low severity), a \
     single binding to system:anonymous opens the node.",
        "authentication.anonymous.enabled: false in the kubelet configuration",
    );

    pub const AUTHORIZATION: AuditCheck = check(
        ConnectionPath::Kubelet,
        "kubelet-authorization",
        Severity::High,
        "the API server authorizes its requests",
        "With authorization.mode AlwaysAllow, every client that the kubelet authenticates can run commands in every \
     container. Webhook queries the API server for nodes/proxy, nodes/log, nodes/stats and nodes/metrics. An allowed \
     request proves nothing. A denied request proves that an authorizer decides.",
        "authorization.mode: Webhook and authentication.webhook.enabled: true in the kubelet configuration",
    );

    pub const READ_ONLY: AuditCheck = check(
        ConnectionPath::Kubelet,
        "kubelet-read-only-port",
        Severity::High,
        "the read-only port is closed",
        "Port 10255 serves the Pods of the node, with the environment of their containers, to everyone and without \
     TLS. --read-only-port defaults to 10255 for a kubelet that starts with flags only, and to 0 with a configuration \
     file.",
        "readOnlyPort: 0 in the kubelet configuration",
    );
}

/// The apiserver as a proxy, and the tunnels that may carry its connections.
pub mod proxy {
    use super::{AuditCheck, ConnectionPath, Severity};

    pub const ALL: &[&AuditCheck] = &[&NODES, &PODS, &SERVICES, &HTTPS, &KONNECTIVITY, &SSH];

    const fn proxy_right(id: &'static str, title: &'static str, background: &'static str) -> AuditCheck {
        AuditCheck {
            id,
            path: ConnectionPath::Proxy,
            title,
            severity: Severity::High,
            background,
            setting: "remove the permission from the ClusterRoles of this subject: kubectl get clusterrolebindings,rolebindings -A \
                  -o wide, and kubectl auth can-i --list --as SUBJECT",
        }
    }

    pub const NODES: AuditCheck = proxy_right(
        "proxy-nodes",
        "who can use nodes/proxy",
        "nodes/proxy allows the complete API of every kubelet. The verb get is enough to read all logs and, over a \
     WebSocket, to run commands in every container, without admission control and without the audit log of exec. To \
     the port of the kubelet, the API server uses HTTPS, which is verified if kubelet-verified passes. To any other \
     port of the node it uses plain HTTP, or HTTPS without verification if the path contains https:.",
    );

    pub const PODS: AuditCheck = proxy_right(
        "proxy-pods",
        "who can use pods/proxy",
        "The proxy connects the API server to any port of any Pod, and bypasses NetworkPolicies that trust the control \
     plane. It uses plain HTTP unless the path contains https:, and even then it does not verify the certificate.",
    );

    pub const SERVICES: AuditCheck = proxy_right(
        "proxy-services",
        "who can use services/proxy",
        "The proxy connects the API server to any Service, and bypasses NetworkPolicies that trust the control plane. \
     It uses plain HTTP unless the path contains https:, and even then it does not verify the certificate.",
    );

    pub const HTTPS: AuditCheck = AuditCheck {
        id: "proxy-https-services",
        path: ConnectionPath::Proxy,
        title: "Services have an HTTPS port",
        severity: Severity::Low,
        background: "Traffic through the proxy to a Service without an HTTPS port crosses the network between control \
                 plane and node in clear text. A port counts as HTTPS if its name is https or begins with https-, if \
                 its number is 443, or if its appProtocol is https.",
        setting: "serve HTTPS and name the port https, or do not use the proxy for these Services: kubectl \
              port-forward uses the TLS of the kubelet instead",
    };

    pub const KONNECTIVITY: AuditCheck = AuditCheck {
        id: "tunnel-konnectivity",
        path: ConnectionPath::Tunnel,
        title: "traffic from the API server to nodes uses a tunnel",
        severity: Severity::Medium,
        background: "With an egress selector for the cluster, kube-apiserver sends its connections to nodes, Pods and \
                 Services through a konnectivity server, and agents on the nodes dial that server with TLS. Without \
                 it, they cross the network unprotected: to kubelets with TLS that depends on kubelet-verified, to \
                 Pods and Services often in clear text.",
        setting: "--egress-selector-config-file of kube-apiserver with an egressSelection named cluster, and \
              konnectivity-agent on the nodes; or an encrypted network between control plane and nodes (WireGuard, \
              IPsec)",
    };

    pub const SSH: AuditCheck = AuditCheck {
        id: "tunnel-ssh",
        path: ConnectionPath::Tunnel,
        title: "no SSH tunnels",
        severity: Severity::Medium,
        background: "SSH tunnels (--ssh-user, --ssh-keyfile; deprecated in 1.9, removed in 1.22) give the API server \
                 an account on every node, and do not verify the host keys of nodes.",
        setting: "remove --ssh-user and --ssh-keyfile from kube-apiserver; use konnectivity",
    };
}

/// The virtual IP on this node, and who might take it.
pub mod redirect {
    use super::{AuditCheck, ConnectionPath, Severity, check};

    pub const ALL: &[&AuditCheck] =
        &[&ANSWER, &TABLES, &SOCKETS, &LISTENERS, &CLAIMS, &NONLOCAL, &RP_FILTER, &ROUTE_LOCALNET];

    pub const ANSWER: AuditCheck = check(
        ConnectionPath::Redirect,
        "redirect-answer",
        Severity::High,
        "apivip handles connections to the virtual IP",
        "The component that handles the virtual IP selects the API server of every Pod. Clients that verify the \
     certificate detect a wrong server. Clients that do not verify it send it their tokens. The daemon dials the \
     virtual IP at each --selftest-interval, and finds out from conntrack and its own counters which component handled \
     that connection.",
        "apivip status and apivip check name the component that runs first; remove it, or exclude the virtual IP from \
     it",
    );

    pub const TABLES: AuditCheck = check(
        ConnectionPath::Redirect,
        "redirect-tables",
        Severity::Medium,
        "no other table translates it first",
        "A nat chain that runs before that of apivip can send the virtual IP anywhere. A chain that runs after it \
     never sees the connection.",
        "set the priority of that chain above -105, or exclude the virtual IP from it: nft list ruleset",
    );

    pub const SOCKETS: AuditCheck = check(
        ConnectionPath::Redirect,
        "redirect-sockets",
        Severity::Medium,
        "no program translates it at the socket",
        "BPF programs at a cgroup (the socket load balancer of Cilium) change the address that a process dials, before \
     any packet exists that a table can match.",
        "socketLB.enabled=false in the Helm values of Cilium, or use --listen; bpftool cgroup tree lists such programs",
    );

    pub const LISTENERS: AuditCheck = check(
        ConnectionPath::Redirect,
        "redirect-listeners",
        Severity::High,
        "no process of this node listens on it",
        "A process that has bound the virtual IP and its port accepts the connections that are not redirected: all of \
     them while the rules do not exist and the address is local.",
        "ss -ltnp names the process; stop it, and find out why it can bind the address",
    );

    pub const CLAIMS: AuditCheck = check(
        ConnectionPath::Redirect,
        "redirect-claims",
        Severity::High,
        "no Service claims it",
        "A user who can create a Service can set any address in externalIPs, and a user who can write its status can \
     set a load balancer address. kube-proxy then sends that address to Pods of their choice, on every node \
     (CVE-2020-8554). While the rules of apivip are in place, they run first.",
        "delete that Service, and enable the admission plugin DenyServiceExternalIPs",
    );

    pub const NONLOCAL: AuditCheck = check(
        ConnectionPath::Redirect,
        "redirect-nonlocal-bind",
        Severity::Low,
        "processes cannot bind addresses of other hosts",
        "With net.ipv4.ip_nonlocal_bind, every process and every Pod in the host network can bind the virtual IP, and \
     wait until a route makes it local. Other Pods have their own network namespace: only they see what they bind.",
        "sysctl -w net.ipv4.ip_nonlocal_bind=0 net.ipv6.ip_nonlocal_bind=0, unless a load balancer such as keepalived \
     needs it",
    );

    pub const RP_FILTER: AuditCheck = check(
        ConnectionPath::Redirect,
        "redirect-rp-filter",
        Severity::Low,
        "packets with a spoofed source are dropped",
        "Without a reverse path filter (rp_filter 1, or 2 for nodes with several paths), a Pod or another host on the \
     network can send packets with the source address of another machine, for example of the node or of an API server. \
     Many network plugins check the addresses of Pods themselves.",
        "sysctl -w net.ipv4.conf.all.rp_filter=2 (loose) or 1 (strict), unless the network plugin checks sources \
     itself",
    );

    pub const ROUTE_LOCALNET: AuditCheck = check(
        ConnectionPath::Redirect,
        "redirect-route-localnet",
        Severity::Medium,
        "only this node reaches listeners on loopback",
        "With net.ipv4.conf.*.route_localnet, which kube-proxy sets for node ports, hosts on the same network can \
     reach listeners on 127.0.0.1 (CVE-2020-8558): a plain port of an API server, or a --listen endpoint of apivip. \
     Since 1.18.4, the iptables rules of kube-proxy drop such packets.",
        "--iptables-localhost-nodeports=false of kube-proxy (1.26 and newer) and sysctl -w \
     net.ipv4.conf.all.route_localnet=0; or drop packets to 127.0.0.0/8 that do not come from lo",
    );
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_unique_and_every_check_says_what_to_set() {
        let ids: Vec<&str> = all().map(|check| check.id).collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
        assert!(all().is_sorted_by_key(|check| check.path));
        for check in all() {
            assert!(check.id.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{}", check.id);
            assert!(check.background.len() > 60 && check.setting.len() > 10, "{}", check.id);
            assert_eq!(find(check.id), Some(check));
        }
        assert_eq!(find("nothing"), None);
    }
}
