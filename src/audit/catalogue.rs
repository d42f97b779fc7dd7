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
        "its certificate is from the cluster's CA",
        "Clients hold the cluster's root certificate, and must refuse any server whose certificate does not lead to it. An \
     address that shows another CA's certificate is another server, or somebody in the middle: clients that do not \
     verify would send it their tokens.",
        "--tls-cert-file and --tls-private-key-file of kube-apiserver: a certificate that the cluster's CA signed; no load \
     balancer may end TLS before it",
    );

    pub const NAMES: AuditCheck = check(
        ConnectionPath::Apiserver,
        "apiserver-certificate-names",
        Severity::Medium,
        "its certificate names what clients dial",
        "Pods dial the Service's virtual IP (KUBERNETES_SERVICE_HOST) or kubernetes.default.svc. Where a certificate lacks \
     either, clients fail, and people turn verification off to make them work.",
        "renew the apiserver's certificate with kubernetes.default.svc and the Service's address among its names (kubeadm: \
     certSANs, then kubeadm init phase certs apiserver)",
    );

    pub const EXPIRY: AuditCheck = check(
        ConnectionPath::Apiserver,
        "apiserver-certificate-expiry",
        Severity::High,
        "its certificate is valid now",
        "A certificate that has expired, or is not valid yet, is refused by every client that verifies. kubeadm makes \
     certificates for one year and renews them with each upgrade only.",
        "renew it (kubeadm certs renew apiserver, then restart kube-apiserver); or correct the clock of this node or of \
     whoever signed it",
    );

    pub const VERSION: AuditCheck = check(
        ConnectionPath::Apiserver,
        "apiserver-tls-version",
        Severity::High,
        "it speaks TLS 1.2 or newer only",
        "TLS 1.0 and 1.1 are deprecated (RFC 8996): they rest on MD5 and SHA-1. kube-apiserver's own minimum is TLS 1.2; a \
     load balancer or an old setting may go below. The audit offers older versions by hand, and no more than a \
     handshake's first message.",
        "--tls-min-version=VersionTLS12 of kube-apiserver, or the same at the load balancer that ends TLS",
    );

    pub const CIPHERS: AuditCheck = check(
        ConnectionPath::Apiserver,
        "apiserver-tls-ciphers",
        Severity::Medium,
        "it takes no weak cipher",
        "With TLS 1.2 the server chooses from what a client offers. RC4, 3DES (SWEET32), NULL, EXPORT and anonymous suites \
     can be broken or give no protection at all; suites that exchange keys with RSA have no forward secrecy: who records \
     traffic now and gets the server's key later can read it. kube-apiserver takes what its Go release takes unless it \
     is told otherwise.",
        "--tls-cipher-suites of kube-apiserver: ECDHE suites with AES-GCM or ChaCha20 only; TLS 1.3 needs none",
    );

    pub const TRUSTED: AuditCheck = check(
        ConnectionPath::Apiserver,
        "trusted-cas",
        Severity::High,
        "this node trusts the cluster's CA alone",
        "Whoever can make a certificate that a client's CA bundle verifies can be the apiserver to that client. A cluster has \
     a CA of its own, two while it is replaced. A public CA in the bundle lets anybody be the apiserver who can show that \
     CA a name.",
        "certificate-authority of the kubeconfig: the cluster's CA (/etc/kubernetes/pki/ca.crt), nothing else",
    );

    pub const FOREIGN: AuditCheck = check(
        ConnectionPath::Apiserver,
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
        "anonymous requests see no more than version and health",
        "By default kube-apiserver serves requests without credentials as system:anonymous, and ClusterRole \
     system:public-info-viewer lets it read /version, /healthz, /livez and /readyz. Discovery (/api, /apis, /openapi) is \
     for system:authenticated since 1.14; a cluster that was made before may have kept the old binding. It tells an \
     attacker what is installed.",
        "kubectl edit clusterrolebinding system:discovery and system:basic-user: remove the group system:unauthenticated; or \
     --anonymous-auth=false if nothing probes /readyz without credentials",
    );

    pub const ANONYMOUS_OBJECTS: AuditCheck = check(
        ConnectionPath::Apiserver,
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

    pub const BASIC: AuditCheck = check(
        ConnectionPath::Apiserver,
        "basic-auth",
        Severity::High,
        "it does not take passwords",
        "--basic-auth-file (removed in 1.19) holds passwords in clear text which never expire. Who listens on one connection \
     that is not verified has them for good.",
        "remove --basic-auth-file from kube-apiserver; give people OIDC or short-lived client certificates",
    );

    pub const STATIC_TOKENS: AuditCheck = check(
        ConnectionPath::Apiserver,
        "static-tokens",
        Severity::Medium,
        "it takes no tokens from a file",
        "--token-auth-file holds tokens in clear text which never expire and cannot be revoked without a restart.",
        "remove --token-auth-file from kube-apiserver; give programs service accounts, people OIDC",
    );

    pub const PLAIN_HTTP: AuditCheck = check(
        ConnectionPath::Apiserver,
        "plain-http",
        Severity::High,
        "no port serves the API without TLS",
        "The insecure port (--insecure-port, 8080; gone since 1.24) has neither TLS nor authentication: who reaches it is an \
     administrator. kubectl proxy (8001) is the same if it listens on more than loopback.",
        "--insecure-port=0 of kube-apiserver; end kubectl proxy, or bind it to 127.0.0.1",
    );

    pub const CREDENTIALS: AuditCheck = check(
        ConnectionPath::Apiserver,
        "credentials",
        Severity::Medium,
        "it knows these credentials",
        "A node whose credentials are refused goes on with what it has, until its leases end. Each apiserver judges for \
     itself: one that was given another service account key or client CA than the others refuses now and then.",
        "renew the credentials; the same --service-account-key-file and --client-ca-file on every apiserver",
    );

    pub const DAMAGED_TOKEN: AuditCheck = check(
        ConnectionPath::Apiserver,
        "damaged-token",
        Severity::High,
        "a token with a wrong signature is refused",
        "Tokens of service accounts are signed. A proxy or webhook (--authentication-token-webhook-config-file) in front that \
     looks at the claims alone lets everybody write their own. The audit shows the node's own token with one character of \
     the signature changed, or a made-up one where the node has none.",
        "see what authenticates tokens: --service-account-key-file, the token webhook, or a proxy in front of the apiserver",
    );

    pub const TOKEN_LIFETIME: AuditCheck = check(
        ConnectionPath::Apiserver,
        "token-lifetime",
        Severity::Medium,
        "the token ends soon",
        "Tokens from Secrets (before 1.24) never end. Projected tokens end after an hour or so, and the kubelet renews them; \
     --service-account-extend-token-expiration makes that a year for clients that do not read theirs again.",
        "use a projected volume with expirationSeconds, not a Secret of type kubernetes.io/service-account-token",
    );

    pub const TOKEN_AUDIENCE: AuditCheck = check(
        ConnectionPath::Apiserver,
        "token-audience",
        Severity::Low,
        "the token is for the apiserver alone",
        "A token that names several audiences can be shown to the apiserver by any of them. One without an audience is good \
     everywhere.",
        "give other audiences a projected token of their own (serviceAccountToken.audience)",
    );

    pub const TOKEN_BINDING: AuditCheck = check(
        ConnectionPath::Apiserver,
        "token-binding",
        Severity::Low,
        "the token is bound to its Pod",
        "A token that is bound to a Pod is refused once that Pod is gone, so a stolen one is worth little. Tokens from Secrets \
     are bound to the Secret at most. Since 1.30 tokens name the node as well.",
        "use the projected token of the Pod (automountServiceAccountToken), not a Secret",
    );

    pub const AUTHORIZATION: AuditCheck = check(
        ConnectionPath::Apiserver,
        "authorization-mode",
        Severity::High,
        "it asks RBAC, and not everybody is allowed everything",
        "--authorization-mode=AlwaysAllow is the default of a bare kube-apiserver: whoever is authenticated may do everything. \
     An access review for a verb and a resource that do not exist shows it, as far as the reason that comes with it tells \
     who allowed it.",
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
        "apiservers verify kubelets",
        "For logs, exec and port-forward the apiserver dials the kubelet, and does not verify its serving certificate unless \
     it is told which CA to trust: somebody in the middle can answer instead, and read and change what passes.",
        "--kubelet-certificate-authority of kube-apiserver (the CA that signs kubelets' serving certificates), after \
     serverTLSBootstrap: true on the kubelets",
    );

    pub const ISSUER: AuditCheck = check(
        ConnectionPath::Kubelet,
        "kubelet-certificate-issuer",
        Severity::Medium,
        "its certificate is from the cluster's CA",
        "A kubelet that is told nothing makes its certificate itself, with a CA of its own (HOST-ca@TIME) whose key it throws \
     away. Nobody can verify that: not the apiserver, and not metrics-server or Prometheus, which then send their tokens \
     to whoever answers. Where another CA signs kubelets' certificates on purpose, every client of theirs must know it.",
        "serverTLSBootstrap: true in the kubelet's configuration, and approve its requests: kubectl get csr",
    );

    pub const NAMES: AuditCheck = check(
        ConnectionPath::Kubelet,
        "kubelet-certificate-names",
        Severity::Medium,
        "its certificate names this node",
        "The apiserver dials the first of the Node's addresses in the order of --kubelet-preferred-address-types: Hostname \
     first by default, InternalIP first with kubeadm. A certificate that lacks it cannot be verified. One that has the \
     node's name and one of its addresses is good either way.",
        "serverTLSBootstrap: true in the kubelet's configuration: the kubelet asks for all of its node's names and addresses",
    );

    pub const EXPIRY: AuditCheck = check(
        ConnectionPath::Kubelet,
        "kubelet-certificate-expiry",
        Severity::Medium,
        "its certificate is valid now",
        "An apiserver that verifies kubelets refuses one whose certificate has expired: no logs, no exec. One that does not \
     verify takes it, which hides that nobody renews it.",
        "approve the kubelet's pending request (kubectl get csr), or renew the files of tlsCertFile and tlsPrivateKeyFile",
    );

    pub const ROTATION: AuditCheck = check(
        ConnectionPath::Kubelet,
        "kubelet-certificate-rotation",
        Severity::Low,
        "it renews its serving certificate",
        "With serverTLSBootstrap (--rotate-server-certificates) the kubelet asks for a new serving certificate before the old \
     one ends; somebody has to approve each request, which Kubernetes itself does not. A certificate from a file \
     (tlsCertFile) is renewed by whoever writes that file; one that the kubelet made itself, for a year, by nobody. \
     rotateCertificates is about its client certificate.",
        "serverTLSBootstrap: true in the kubelet's configuration, and something that approves its requests",
    );

    pub const VERSION: AuditCheck = check(
        ConnectionPath::Kubelet,
        "kubelet-tls-version",
        Severity::Medium,
        "it speaks TLS 1.2 or newer only",
        "TLS 1.0 and 1.1 are deprecated (RFC 8996): their integrity rests on MD5 and SHA-1. A kubelet's own minimum is TLS \
     1.2, unless tlsMinVersion says otherwise.",
        "tlsMinVersion: VersionTLS12 in the kubelet's configuration",
    );

    pub const ANONYMOUS: AuditCheck = check(
        ConnectionPath::Kubelet,
        "kubelet-anonymous",
        Severity::High,
        "anonymous requests are refused",
        "Started by flags alone a kubelet serves anonymous requests (--anonymous-auth defaults to true), and with the \
     authorization mode AlwaysAllow, its default then, they may do everything: run commands in every container of the \
     node. A configuration file has better defaults. Where Webhook refuses them (403, low severity), one binding to \
     system:anonymous opens the node.",
        "authentication.anonymous.enabled: false in the kubelet's configuration",
    );

    pub const AUTHORIZATION: AuditCheck = check(
        ConnectionPath::Kubelet,
        "kubelet-authorization",
        Severity::High,
        "it asks the apiserver who may do what",
        "With authorization.mode AlwaysAllow every client that the kubelet knows may run commands in every container. Webhook \
     asks the apiserver about nodes/proxy, nodes/log, nodes/stats and nodes/metrics. That a request is allowed proves \
     nothing; that somebody is refused shows that there is somebody who decides.",
        "authorization.mode: Webhook and authentication.webhook.enabled: true in the kubelet's configuration",
    );

    pub const READ_ONLY: AuditCheck = check(
        ConnectionPath::Kubelet,
        "kubelet-read-only-port",
        Severity::High,
        "the read-only port is closed",
        "Port 10255 serves the node's Pods, with the environment of their containers, to everybody, without TLS. \
     --read-only-port defaults to 10255 for a kubelet that is started by flags alone, and to 0 with a configuration file.",
        "readOnlyPort: 0 in the kubelet's configuration",
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
            setting: "take the rights from ClusterRoles that this subject has: kubectl get clusterrolebindings,rolebindings -A \
                  -o wide, and kubectl auth can-i --list --as SUBJECT",
        }
    }

    pub const NODES: AuditCheck = proxy_right(
        "proxy-nodes",
        "who may use nodes/proxy",
        "nodes/proxy is the whole API of every kubelet: with get alone one may read all logs, and, over a WebSocket, run \
     commands in every container, unseen by admission control and by the audit log of exec. To the kubelet's port the \
     apiserver speaks HTTPS, verified if kubelet-verified passes; to any other port of the node plain HTTP, or HTTPS \
     without verification if the path says https:.",
    );

    pub const PODS: AuditCheck = proxy_right(
        "proxy-pods",
        "who may use pods/proxy",
        "The proxy leads from the apiserver to any port of any Pod, past NetworkPolicies that trust the control plane. It \
     speaks plain HTTP unless the path says https:, and even then it does not verify the certificate.",
    );

    pub const SERVICES: AuditCheck = proxy_right(
        "proxy-services",
        "who may use services/proxy",
        "The proxy leads from the apiserver to any Service, past NetworkPolicies that trust the control plane. It speaks plain \
     HTTP unless the path says https:, and even then it does not verify the certificate.",
    );

    pub const HTTPS: AuditCheck = AuditCheck {
        id: "proxy-https-services",
        path: ConnectionPath::Proxy,
        title: "Services that have a port for HTTPS",
        severity: Severity::Low,
        background: "What is reached through the proxy of a Service that has no port for HTTPS crosses the network between \
                 control plane and node in the clear. A port counts if it is named https or https-..., is 443, or has an \
                 appProtocol of https.",
        setting: "serve HTTPS and name the port https, or do not use the proxy for these Services: kubectl port-forward goes \
              through the kubelet's TLS instead",
    };

    pub const KONNECTIVITY: AuditCheck = AuditCheck {
        id: "tunnel-konnectivity",
        path: ConnectionPath::Tunnel,
        title: "apiserver to node traffic goes through a tunnel",
        severity: Severity::Medium,
        background: "With an egress selector for the cluster, kube-apiserver sends its connections to nodes, Pods and Services \
                 through a konnectivity server, and agents on the nodes dial that server with TLS. Without, they cross the \
                 network as they are: to kubelets with TLS that is only as good as kubelet-verified, to Pods and Services \
                 often in the clear.",
        setting: "--egress-selector-config-file of kube-apiserver with an egressSelection named cluster, and konnectivity-agent \
              on the nodes; or a network between control plane and nodes that encrypts (WireGuard, IPsec)",
    };

    pub const SSH: AuditCheck = AuditCheck {
        id: "tunnel-ssh",
        path: ConnectionPath::Tunnel,
        title: "no SSH tunnels",
        severity: Severity::Medium,
        background: "SSH tunnels (--ssh-user, --ssh-keyfile; deprecated in 1.9, removed in 1.22) give the apiserver an account \
                 on every node, and do not verify the host keys of nodes.",
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
        "apivip leads connections to the virtual IP",
        "Whoever leads the virtual IP decides who the apiserver is to every Pod. Clients that verify the certificate notice a \
     wrong one, those that do not hand over their tokens. The daemon dials the virtual IP every few seconds and finds out \
     from conntrack and its own counters which component led that connection.",
        "apivip status and apivip check name the component that comes first; remove it, or let it leave the virtual IP alone",
    );

    pub const TABLES: AuditCheck = check(
        ConnectionPath::Redirect,
        "redirect-tables",
        Severity::Medium,
        "no other table translates it first",
        "A nat chain that runs before apivip's can send the virtual IP anywhere. One that runs after it never sees the flow.",
        "give that chain a priority above -105, or see that it leaves the virtual IP alone: nft list ruleset",
    );

    pub const SOCKETS: AuditCheck = check(
        ConnectionPath::Redirect,
        "redirect-sockets",
        Severity::Medium,
        "no program translates it at the socket",
        "BPF programs at a cgroup (Cilium's socket load balancer) change the address that a process dials, before there is any \
     packet that a table could see.",
        "socketLB.enabled=false in Cilium's Helm values, or use --listen; bpftool cgroup tree lists such programs",
    );

    pub const LISTENERS: AuditCheck = check(
        ConnectionPath::Redirect,
        "redirect-listeners",
        Severity::High,
        "no process of this node listens on it",
        "A process that has bound the virtual IP and its port takes the connections that are not redirected: all of them while \
     rules are away and the address is local.",
        "ss -ltnp names the process; end it, and see why it could bind the address",
    );

    pub const CLAIMS: AuditCheck = check(
        ConnectionPath::Redirect,
        "redirect-claims",
        Severity::High,
        "no Service claims it for itself",
        "Who may create a Service can name any address under externalIPs, and who may write its status a load balancer's: \
     kube-proxy then leads that address to Pods of their choice, on every node (CVE-2020-8554). While apivip's rules stand \
     they come first.",
        "delete that Service, and enable the admission plugin DenyServiceExternalIPs",
    );

    pub const NONLOCAL: AuditCheck = check(
        ConnectionPath::Redirect,
        "redirect-nonlocal-bind",
        Severity::Low,
        "processes cannot bind addresses that are not the node's",
        "With net.ipv4.ip_nonlocal_bind every process, and every Pod in the host's network, may bind the virtual IP, and wait \
     for a moment in which a route makes it local. Other Pods have a network namespace of their own: what they bind is \
     seen by them alone.",
        "sysctl -w net.ipv4.ip_nonlocal_bind=0 net.ipv6.ip_nonlocal_bind=0, unless a load balancer such as keepalived needs it",
    );

    pub const RP_FILTER: AuditCheck = check(
        ConnectionPath::Redirect,
        "redirect-rp-filter",
        Severity::Low,
        "packets with a false source are dropped",
        "Without a reverse path filter (rp_filter 1, or 2 for nodes with several ways) a Pod or a neighbour may send packets \
     that claim another's address, for instance that of the node or of an apiserver. Many network plugins check Pods' \
     addresses themselves.",
        "sysctl -w net.ipv4.conf.all.rp_filter=2 (loose) or 1 (strict), unless the network plugin checks sources itself",
    );

    pub const ROUTE_LOCALNET: AuditCheck = check(
        ConnectionPath::Redirect,
        "redirect-route-localnet",
        Severity::Medium,
        "listeners on loopback are reached from this node only",
        "With net.ipv4.conf.*.route_localnet, which kube-proxy sets for node ports, hosts of the same network may reach what \
     listens on 127.0.0.1 (CVE-2020-8558): a plain port of an apiserver, or what apivip serves by --listen. kube-proxy's \
     iptables rules drop such packets since 1.18.4.",
        "--iptables-localhost-nodeports=false of kube-proxy (1.26 and newer) and sysctl -w net.ipv4.conf.all.route_localnet=0; \
     or drop packets to 127.0.0.0/8 that do not come from lo",
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
