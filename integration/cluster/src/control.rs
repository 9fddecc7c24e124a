//! What the programs of a control plane are told on their command lines: the same in both variants, except for addresses.

use std::net::IpAddr;
use std::path::Path;

use crate::pki::{Authority, Signed};

/// Who issues the tokens of service accounts: also their default audience.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Addresses of services, IPv4 and IPv6.
pub const SERVICES: &str = "10.96.0.0/16,fd96::/108";

/// The arguments of etcd, which listens on loopback alone, without TLS: nobody else is in its namespace, or it is a test's.
#[must_use]
pub fn etcd(data: &Path, clients: u16, peers: u16) -> Vec<String> {
    let (clients, peers) = (format!("http://127.0.0.1:{clients}"), format!("http://127.0.0.1:{peers}"));
    vec![
        "--name=ambit".to_owned(),
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls={clients}"),
        format!("--advertise-client-urls={clients}"),
        format!("--listen-peer-urls={peers}"),
        format!("--initial-advertise-peer-urls={peers}"),
        format!("--initial-cluster=ambit={peers}"),
        "--initial-cluster-state=new".to_owned(),
        // Kept in memory until then; a test cluster is small, and 10,000 entries of it would be 100 MB.
        "--snapshot-count=2000".to_owned(),
        "--quota-backend-bytes=1073741824".to_owned(),
        "--logger=zap".to_owned(),
        "--log-level=warn".to_owned(),
    ]
}

/// The arguments of kube-apiserver.
#[derive(Debug)]
pub struct ApiServerArguments<'a> {
    /// Its address, also the one in which others find it.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// The port of etcd on loopback.
    pub etcd: u16,
    /// Who signs its clients.
    pub authority: &'a Authority,
    /// Its own certificate.
    pub serving: &'a Signed,
    /// The certificate with which it asks kubelets, if there are any.
    pub kubelets: Option<&'a Signed>,
    /// A directory for what it makes itself.
    pub directory: &'a Path,
}

impl ApiServerArguments<'_> {
    /// The command line.
    #[must_use]
    pub fn list(&self) -> Vec<String> {
        let authority = self.authority;
        let mut list = vec![
            format!("--bind-address={}", self.address),
            format!("--advertise-address={}", self.address),
            format!("--secure-port={}", self.port),
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd),
            format!("--tls-cert-file={}", self.serving.certificate.display()),
            format!("--tls-private-key-file={}", self.serving.key.display()),
            format!("--client-ca-file={}", authority.ca_file().display()),
            format!("--cert-dir={}", self.directory.display()),
            format!("--service-account-issuer={ISSUER}"),
            format!("--service-account-key-file={}", authority.accounts_public_key().display()),
            format!("--service-account-signing-key-file={}", authority.accounts_key().display()),
            format!("--service-cluster-ip-range={SERVICES}"),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--allow-privileged=true".to_owned(),
            // Without a kube-proxy beside it: webhooks and the like are reached at pods' addresses.
            "--enable-aggregator-routing=true".to_owned(),
            // Does not wait for clients to go when it is asked to stop.
            "--shutdown-delay-duration=0s".to_owned(),
            "--profiling=false".to_owned(),
        ];
        match self.kubelets {
            Some(client) => list.extend([
                format!("--kubelet-client-certificate={}", client.certificate.display()),
                format!("--kubelet-client-key={}", client.key.display()),
                format!("--kubelet-certificate-authority={}", authority.ca_file().display()),
                "--kubelet-preferred-address-types=InternalIP".to_owned(),
            ]),
            None => list.extend([
                // Nobody makes the account `default` that it would ask for.
                "--disable-admission-plugins=ServiceAccount".to_owned(),
                // Loopback is no address for an endpoint.
                "--endpoint-reconciler-type=none".to_owned(),
            ]),
        }
        list
    }
}

/// The arguments of kube-controller-manager.
#[must_use]
pub fn controller_manager(authority: &Authority, kubeconfig: &Path) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--authentication-kubeconfig={}", kubeconfig.display()),
        format!("--authorization-kubeconfig={}", kubeconfig.display()),
        format!("--root-ca-file={}", authority.ca_file().display()),
        format!("--service-account-private-key-file={}", authority.accounts_key().display()),
        format!("--cluster-signing-cert-file={}", authority.ca_file().display()),
        format!("--cluster-signing-key-file={}", authority.ca_key_file().display()),
        format!("--service-cluster-ip-range={SERVICES}"),
        "--use-service-account-credentials=true".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
        "--leader-elect=false".to_owned(),
        // Nodes have their ranges from us.
        "--allocate-node-cidrs=false".to_owned(),
        // One node that dies is noticed in seconds.
        "--node-monitor-period=1s".to_owned(),
        "--node-monitor-grace-period=10s".to_owned(),
        "--profiling=false".to_owned(),
    ]
}

/// The arguments of kube-scheduler.
#[must_use]
pub fn scheduler(kubeconfig: &Path) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--authentication-kubeconfig={}", kubeconfig.display()),
        format!("--authorization-kubeconfig={}", kubeconfig.display()),
        "--bind-address=127.0.0.1".to_owned(),
        "--leader-elect=false".to_owned(),
        "--profiling=false".to_owned(),
    ]
}
