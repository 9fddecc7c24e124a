//! The settings of the node proxy, from flags and environment, read here and nowhere else.

mod limits;

use std::{net::SocketAddr, num::NonZero, path::PathBuf, time::Duration};

use ambit_identity::TrustDomain;
use ambit_runtime::telemetry::{Collector, LogFormat, SeriesLimit, Style};
use ambit_tls::ControlPlaneFlags;

pub use limits::{LimitArgs, Limits};

use crate::{
    dns::{self, Resolver},
    local::SameNode,
};

/// Settings of the node proxy.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// Name of the node this proxy serves.
    #[arg(long, env = "NODE_NAME")]
    pub node: String,
    /// Name of this proxy's own pod.
    #[arg(long, env = "POD_NAME", default_value = "ztunnel")]
    pub pod_name: String,
    /// Namespace of this proxy's own pod.
    #[arg(long, env = "POD_NAMESPACE", default_value = "istio-system")]
    pub pod_namespace: String,
    /// Address of this proxy's own pod, as it is told to the control plane.
    #[arg(long, env = "INSTANCE_IP", default_value = "127.0.0.1")]
    pub instance_ip: String,
    /// The control plane, and certificates.
    #[command(flatten)]
    pub control_plane: ControlPlaneFlags,
    /// The node agent's socket.
    #[arg(long, env = "ZDS_SOCKET", default_value = "/var/run/ztunnel/ztunnel.sock")]
    pub zds_socket: PathBuf,
    /// Where the admin pages are served; keep it on the loopback device.
    #[arg(long, default_value = "127.0.0.1:15000")]
    pub admin: SocketAddr,
    /// Where metrics are served.
    #[arg(long, default_value = "[::]:15020")]
    pub metrics: SocketAddr,
    /// Where readiness is served.
    #[arg(long, default_value = "[::]:15021")]
    pub ready: SocketAddr,
    /// File for the access log; standard output if not set.
    #[arg(long, env = "ACCESS_LOG")]
    pub access_log: Option<PathBuf>,
    /// How the access log is written: text, or json with an object on each line.
    #[arg(long, env = "ACCESS_LOG_FORMAT", default_value = "text")]
    pub access_log_format: LogFormat,
    /// The share, 0 to 1, of connections that end well that is written to the access log; what is refused or breaks always is.
    #[arg(long, env = "ACCESS_LOG_SAMPLE", default_value_t = 1.0)]
    pub access_log_sample: f64,
    /// Collector that spans of connections are sent to over OTLP/HTTP, http://host:port; none are sent if not set.
    #[arg(long, env = "OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<Collector>,
    /// The share, 0 to 1, of connections of which spans are sent. At the destination's node, what the client's proxy has chosen counts.
    #[arg(long, env = "TRACE_SAMPLE", default_value_t = 0.01)]
    pub trace_sample: f64,
    /// Sets of labels that are kept in the metrics of connections. For one more, the sets leave that were not used for longest.
    #[arg(long, env = "MAX_METRIC_SERIES", default_value_t = SeriesLimit::DEFAULT)]
    pub max_metric_series: usize,
    /// Seconds for which a set of labels stays that no open connection uses. When none may leave, what is new is counted under `other`.
    #[arg(long, env = "METRIC_SERIES_IDLE_SECONDS", default_value_t = SeriesLimit::IDLE.as_secs())]
    pub metric_series_idle_seconds: u64,
    /// The trust domain of the mesh.
    #[arg(long, env = "TRUST_DOMAIN", default_value = "cluster.local")]
    pub trust_domain: String,
    /// Further trust domains whose workloads are accepted.
    #[arg(long, env = "TRUST_DOMAIN_ALIASES", value_delimiter = ',')]
    pub trust_domain_aliases: Vec<String>,
    /// Which program logs to write, in the syntax of RUST_LOG.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    pub log: String,
    /// How connections between two pods of this node are carried.
    #[arg(long, env = "SAME_NODE", value_enum, default_value_t)]
    pub same_node: SameNode,
    /// Serve the DNS of pods: names of the mesh are answered by the proxy, others forwarded.
    #[arg(long, env = "DNS_PROXY", default_value_t = true, action = clap::ArgAction::Set)]
    pub dns_proxy: bool,
    /// Resolvers to forward DNS to, IP or IP:port; those of --dns-resolv-conf if not set.
    #[arg(long, env = "DNS_RESOLVERS", value_delimiter = ',')]
    pub dns_resolvers: Vec<Resolver>,
    /// File that names the resolvers to forward DNS to. Those on the loopback device are asked from the node, others from the pod.
    #[arg(long, env = "DNS_RESOLV_CONF", default_value = "/etc/resolv.conf")]
    pub dns_resolv_conf: PathBuf,
    /// The domain below which Kubernetes names services.
    #[arg(long, env = "CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// DNS queries of all pods together that wait for a resolver; more are answered with SERVFAIL.
    #[arg(long, env = "MAX_DNS_QUERIES", default_value_t = 4096)]
    pub max_dns_queries: usize,
    /// DNS queries of one pod that wait for a resolver; more are answered with SERVFAIL.
    #[arg(long, env = "MAX_DNS_QUERIES_PER_POD", default_value_t = 512)]
    pub max_dns_queries_per_pod: usize,
    /// Threads that carry connections, at most; one for each core if not set. If more than one, a further one carries bulk beside small requests.
    #[arg(long, env = "WORKERS")]
    pub workers: Option<NonZero<usize>>,
    /// Microseconds that a thread stays awake in wait for the next bytes, while they keep coming within that time; 0 lets it sleep at once.
    #[arg(long, env = "STAY_AWAKE_MICROS", default_value_t = 100)]
    pub stay_awake_micros: u64,
    /// Directory in which the last good state (workloads, services, policies; no keys) is kept, so that a proxy that starts while the
    /// control plane is away serves the peers it knew. Certificates are not kept: the certificate service has to answer. Nothing is kept
    /// if not set.
    #[arg(long, env = "STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Hours after which a kept state that the control plane has not stood behind is too old to be used.
    #[arg(long, env = "STATE_MAX_AGE_HOURS", default_value_t = 24)]
    pub state_max_age_hours: u64,
    /// What connections are held to.
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// Settings that were checked: all that is wrong is said at once.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The trust domain of the mesh.
    pub trust_domain: TrustDomain,
    /// Further ones that are accepted.
    pub aliases: Vec<TrustDomain>,
    /// What connections are held to.
    pub limits: Limits,
    /// What the DNS proxy is told; nothing when there is to be none.
    pub dns: Option<dns::Settings>,
    /// Which lines of the access log are written, and how.
    pub log_style: Style,
}

impl Config {
    /// Checks what clap cannot.
    ///
    /// # Errors
    /// Names every setting that cannot be used.
    pub fn check(&self) -> Result<Checked, crate::Error> {
        let mut wrong = Vec::new();
        let mut domain = |flag: &str, text: &str| match text.parse::<TrustDomain>() {
            Ok(domain) => Some(domain),
            Err(error) => {
                wrong.push(format!("{flag}: {error}"));
                None
            }
        };
        let trust_domain = domain("--trust-domain", &self.trust_domain);
        let aliases = self.trust_domain_aliases.iter().filter_map(|text| domain("--trust-domain-aliases", text)).collect();
        if self.node.is_empty() {
            wrong.push("--node: is empty".to_owned());
        }
        self.limits.check(&mut wrong);
        if self.dns_proxy && (self.max_dns_queries == 0 || self.max_dns_queries_per_pod == 0) {
            wrong.push("--max-dns-queries: 0 would refuse every query".to_owned());
        }
        for resolver in self.dns_resolvers.iter().filter(|resolver| resolver.0.port() == 0 || resolver.0.ip().is_unspecified()) {
            wrong.push(format!("--dns-resolvers: {} cannot be asked", resolver.0));
        }
        for (flag, share) in [("--access-log-sample", self.access_log_sample), ("--trace-sample", self.trace_sample)] {
            if !(0.0..=1.0).contains(&share) {
                wrong.push(format!("{flag}: {share} is not between 0 and 1"));
            }
        }
        if !self.admin.ip().is_loopback() {
            wrong.push(format!("--admin: {} is not on the loopback device", self.admin));
        }
        match trust_domain {
            Some(trust_domain) if wrong.is_empty() => {
                let limits = Limits { awake: Duration::from_micros(self.stay_awake_micros), ..self.limits.limits() };
                let dns = self.dns_proxy.then(|| dns::Settings {
                    resolvers: self.dns_resolvers.clone(),
                    file: self.dns_resolv_conf.clone(),
                    domain: self.cluster_domain.clone(),
                    queries: self.max_dns_queries,
                    queries_per_pod: self.max_dns_queries_per_pod,
                });
                let log_style = Style { format: self.access_log_format, sample: self.access_log_sample };
                Ok(Checked { trust_domain, aliases, limits, dns, log_style })
            }
            _ => Err(crate::Error::Config(wrong.join("; "))),
        }
    }
}
