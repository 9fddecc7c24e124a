//! The node proxy: captures the TCP connections of the pods of its node and carries them over HBONE.
//!
//! | module | purpose |
//! |---|---|
//! | [`worker`], [`turns`] | the threads that carry connections, and what new ones take of them |
//! | [`node`] | pods come and go: the handover from the node agent, listeners in the pods' namespaces |
//! | [`state`] | what the control plane sent |
//! | [`outbound`] | connections that pods open |
//! | [`inbound`] | connections to pods: HBONE and plain text |
//! | [`dns`] | names that pods ask for |
//! | [`local`] | connections whose two ends are pods of this node |
//! | [`endpoints`] | what this proxy has itself seen of endpoints: load, failures, host names |
//! | [`telemetry`] | one access-log line and one set of metrics for each connection |
//! | [`peer`] | what is wrong with a peer, as a reason |
//! | [`sources`] | how many connections each client has to a pod |
//! | [`descriptors`] | file descriptors, of which the last are kept |

#![forbid(unsafe_code)]

mod admin;
mod bulk;
pub mod config;
pub mod descriptors;
mod discovery;
pub mod dns;
pub mod endpoints;
mod error;
pub mod inbound;
pub mod known;
pub mod local;
pub mod node;
pub mod outbound;
pub mod peer;
pub mod proxy;
pub mod sources;
pub mod state;
pub mod telemetry;
#[cfg(test)]
mod test_support;
pub mod turns;
pub mod worker;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ambit_hbone::{Pool, PoolConfig};
use ambit_runtime::{
    admin::{Reply, Server},
    drain, readiness, rest, signal,
    socket::{ListenOptions, listen},
    sys,
    telemetry::{AccessLog, Destination, SeriesLimit, Spans, metrics_handle},
};
use ambit_tls::{Retirements, StoreConfig, SvidSource, SvidStore, follow_roots};
use ambit_xds::client::Target;
use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle};

pub use config::Config;
use config::Limits;
use descriptors::Descriptors;
use discovery::Discovery;
use endpoints::{Endpoints, Names};
pub use error::Error;
use node::pods::Pods;
use proxy::Proxy;
use state::{Shared, kept::Kept};
use telemetry::Telemetry;
use worker::Workers;

/// How long tasks other than connections may take to end.
const LAST_TASKS: Duration = Duration::from_secs(2);

/// Runs the proxy until SIGTERM or SIGINT, then drains it.
///
/// # Errors
/// When a setting cannot be used, or a listener or the surroundings cannot be set up; or when only a start anew can serve
/// ([`Error::Outdated`]).
pub async fn run(config: Config) -> Result<(), Error> {
    let source = config.control_plane.source(true)?;
    let target = Target::tls(&config.control_plane.xds_address, &config.control_plane.ca_root);
    let shutdown = signal::shutdown()?;
    let stop = async { tracing::info!(signal = %shutdown.await, "draining") };
    run_with(config, source, target, stop).await
}

/// As [`run`], with another source of certificates, another way to the control plane, and another end.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    config: Config,
    source: Arc<dyn SvidSource>,
    target: Target,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let mut checked = config.check()?;
    raise_open_files(&mut checked.limits);
    ambit_hbone::limit_unread(checked.limits.buffered);
    let mut tasks = Tasks::default();
    let mut metrics = metrics_handle()?;
    let log = AccessLog::open(&Destination::from(config.access_log.clone()))?.with_style(checked.log_style);
    let series = SeriesLimit::new(config.max_metric_series, Duration::from_secs(config.metric_series_idle_seconds));
    let telemetry = Telemetry::limited(log, series, spans(&config, &mut tasks));
    let store = StoreConfig { trust_domain_aliases: checked.aliases, ..StoreConfig::default() };
    if let Some(lists) = config.control_plane.revocations(&store.trust).await {
        tasks.spawn(lists.run());
    }
    let proxy = Proxy {
        state: Arc::new(Shared::default()),
        certificates: SvidStore::new(source, store),
        pool: Pool::new(PoolConfig::default()),
        telemetry,
        places: Arc::new(Semaphore::new(checked.limits.connections)),
        limits: checked.limits,
        cluster: config.control_plane.cluster_id.clone(),
        near: Arc::new(local::Neighbours::new(config.same_node)),
        endpoints: Endpoints::new(Names::of_node(dns::Lookup::new(&config.dns_resolvers, config.dns_resolv_conf.clone()))),
        turns: Arc::default(),
    };
    let telemetry = proxy.telemetry.clone();
    metrics.before_render(move || telemetry.report());
    let workers = Arc::new(Workers::start(proxy, config.workers).map_err(Error::Worker)?);
    let proxy = Arc::clone(&workers.first().shared);
    let dns = checked.dns.as_ref().map(|settings| Arc::new(dns::Dns::new(settings)));
    let pods = Arc::new(Pods::new(Arc::clone(&workers), checked.trust_domain).with_dns(dns));
    let ready = readiness::Readiness::new();
    let (trigger, watch) = drain::channel();

    let discovery = Discovery::new(&config, Arc::clone(&proxy.state), target);
    let mut admin = admin::pages(config.node.clone(), Arc::clone(&workers), Arc::clone(&pods))
        .with_logging()
        .with_profiles()
        .with_readiness(ready.clone());
    let kept = discovery.kept();
    if let Some(kept) = kept.clone() {
        admin = admin.get("/kept_state", move |_| Reply::json(&kept.status()));
    }
    for (address, server) in [
        (config.admin, admin.with_metrics(metrics.clone())),
        (config.metrics, Server::new().with_metrics(metrics)),
        (config.ready, Server::new().with_readiness(ready.clone())),
    ] {
        tasks.spawn(server.run(bind(address)?, watch.clone()));
    }
    discovery.start(&ready, |task| tasks.spawn(task));
    tasks.spawn(retire(Arc::clone(&workers)));
    tasks.spawn(follow_roots(config.control_plane.ca_root.clone(), proxy.certificates.clone()));
    let handover = node::client::run(config.zds_socket.clone(), Arc::clone(&pods), ready.task("pods of the node"), watch);
    let stand_by = discovery::stand_by(kept.clone(), Arc::clone(&proxy.state));
    tasks.spawn(async move {
        stand_by.await;
        handover.await;
    });
    tasks.spawn(rest::give_back_at_rest(ready));
    tasks.spawn(expire(Arc::clone(&proxy)));
    tracing::info!(node = config.node, "the node proxy runs");

    let ended = tokio::select! {
        () = stop => Ok(()),
        outdated = discovery::outdated(kept.clone()) => Err(outdated),
    };
    end(trigger, kept, &pods, &workers, tasks).await;
    ended
}

/// Has connections end, and then what they need.
async fn end(trigger: drain::Trigger, kept: Option<Arc<Kept>>, pods: &Pods, workers: &Workers, tasks: Tasks) {
    let proxy = &workers.first().shared;
    trigger.begin();
    // The proxy that takes over keeps the state from now on.
    let leave = async {
        if let Some(kept) = kept {
            kept.leave().await;
        }
    };
    tokio::join!(leave, pods.shutdown(proxy.limits.drain));
    futures::future::join_all(workers.proxies().map(|proxy| proxy.pool.drain(LAST_TASKS))).await;
    trigger.drain(LAST_TASKS).await;
    proxy.telemetry.flush_spans(LAST_TASKS).await;
    drop(tasks);
    proxy.certificates.shutdown();
    workers.stop();
    proxy.telemetry.flush();
}

/// Each connection takes two or more descriptors.
fn raise_open_files(limits: &mut Limits) {
    match sys::raise_open_files() {
        Ok(limit) => {
            limits.descriptors = Descriptors::of(limit);
            tracing::debug!(limit, "open files");
        }
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it is"),
    }
}

/// Where spans go, if there is a collector.
fn spans(config: &Config, tasks: &mut Tasks) -> Option<Spans> {
    let collector = config.otlp_endpoint.clone()?;
    let resource = [
        ("service.name", "ztunnel"),
        ("service.namespace", &*config.pod_namespace),
        ("service.instance.id", &*config.pod_name),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("k8s.cluster.name", &*config.control_plane.cluster_id),
        ("k8s.node.name", &*config.node),
    ];
    let (spans, task) = Spans::new(collector, config.trace_sample, &resource);
    tasks.spawn(task);
    Some(spans)
}

/// Has new tunnels take new connections when a certificate is renewed or whom we believe has changed, and ends those to a peer whose
/// certificate was taken back.
async fn retire(workers: Arc<Workers>) {
    let proxy = Arc::clone(&workers.first().shared);
    // The second of grace is for what a dial does besides.
    let dial = proxy.limits.connect + proxy.limits.handshake + Duration::from_secs(1);
    let mut retirements = Retirements::new(proxy.certificates.clone(), dial);
    while let Some(retired) = retirements.next().await {
        for proxy in workers.proxies() {
            retired.identities.iter().for_each(|identity| proxy.pool.forget(identity));
            if !retired.trust {
                continue;
            }
            let ended = proxy.pool.cut(|peer| peer.is_some_and(|peer| proxy.certificates.trust().revokes(peer)));
            if ended > 0 {
                tracing::warn!(connections = ended, "connections were ended, because their peers' certificates are revoked");
            }
        }
    }
}

/// Ends connections that carry nothing. No connection has a timer of its own for that.
async fn expire(proxy: Arc<Proxy>) {
    let (idle, half_open) = (proxy.limits.idle, proxy.limits.half_open);
    let mut looks = tokio::time::interval((idle.min(half_open) / 8).clamp(Duration::from_millis(500), Duration::from_mins(1)));
    loop {
        looks.tick().await;
        proxy.telemetry.expire(idle, half_open);
    }
}

/// Tasks that end with the program.
#[derive(Default)]
struct Tasks(Vec<JoinHandle<()>>);

impl Tasks {
    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.push(tokio::spawn(task));
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    listen(address, &ListenOptions { reuse_port: true, ..ListenOptions::default() }).map_err(|source| Error::Listen {
        address: address.to_string(),
        place: "the node".to_owned(),
        source,
    })
}
