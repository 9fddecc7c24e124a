//! The node proxy: captures the TCP connections of the pods of its node and carries them over HBONE.
//!
//! | module | purpose |
//! |---|---|
//! | [`worker`] | the threads that carry connections |
//! | [`node`] | pods come and go: the handover from the node agent, listeners in the pods' namespaces |
//! | [`state`] | what the control plane sent |
//! | [`outbound`] | connections that pods open |
//! | [`inbound`] | connections to pods: HBONE and plain text |
//! | [`dns`] | names that pods ask for |
//! | [`local`] | connections whose two ends are pods of this node |
//! | [`telemetry`] | one access-log line and one set of metrics for each connection |
//! | [`peer`] | what is wrong with a peer, as a reason |

#![forbid(unsafe_code)]

mod admin;
mod awake;
pub mod config;
pub mod dns;
mod error;
pub mod inbound;
pub mod known;
pub mod local;
pub mod node;
pub mod outbound;
pub mod peer;
pub mod proxy;
mod rest;
pub mod state;
pub mod telemetry;
#[cfg(test)]
mod test_support;
pub mod worker;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ambit_api::type_url;
use ambit_hbone::{Pool, PoolConfig};
use ambit_runtime::{
    admin::Server,
    drain, readiness, signal,
    socket::{ListenOptions, listen},
    telemetry::{AccessLog, Destination, metrics_handle},
};
use ambit_tls::{
    CaClient, CaConfig, StoreConfig, SvidSource, SvidStore,
    control_plane::{ControlPlane, Credentials},
};
use ambit_xds::client::{self, DeltaClient, Subscription, Subscriptions, Target};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle};

pub use config::Config;
pub use error::Error;
use node::pods::Pods;
use proxy::Proxy;
use state::Shared;
use telemetry::Telemetry;
use worker::Workers;

/// How long tasks other than connections may take to end.
const LAST_TASKS: Duration = Duration::from_secs(2);

/// Runs the proxy until SIGTERM or SIGINT, then drains it.
///
/// # Errors
/// When a setting cannot be used, or a listener or the surroundings cannot be set up.
pub async fn run(config: Config) -> Result<(), Error> {
    let control_plane = ControlPlane::new(config.ca_address.as_ref().unwrap_or(&config.xds_address), &config.ca_root);
    let credentials = Credentials::new(&config.token, &config.cluster_id);
    let source = Arc::new(CaClient::new(CaConfig::new(control_plane, credentials, true))?);
    let target = Target::tls(&config.xds_address, &config.ca_root);
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
    let checked = config.check()?;
    // Each connection takes two or more descriptors.
    match ambit_runtime::sys::raise_open_files() {
        Ok(limit) => tracing::debug!(?limit, "open files"),
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it is"),
    }
    let mut metrics = metrics_handle()?;
    let log = AccessLog::open(&Destination::from(config.access_log.clone()))?;
    let store = StoreConfig { trust_domain_aliases: checked.aliases, ..StoreConfig::default() };
    let proxy = Proxy {
        state: Arc::new(Shared::default()),
        certificates: SvidStore::new(source, store),
        pool: Pool::new(PoolConfig::default()),
        telemetry: Telemetry::new(log),
        places: Arc::new(Semaphore::new(checked.limits.connections)),
        limits: checked.limits,
        cluster: config.cluster_id.clone(),
        near: Arc::new(local::Neighbours::new(config.same_node)),
    };
    let telemetry = proxy.telemetry.clone();
    metrics.before_render(move || telemetry.report());
    let workers = Arc::new(Workers::start(proxy, config.workers).map_err(Error::Worker)?);
    let proxy = Arc::clone(&workers.first().proxy);
    let dns = checked.dns.as_ref().map(|settings| Arc::new(dns::Dns::new(settings)));
    let pods = Arc::new(Pods::new(Arc::clone(&workers), checked.trust_domain).with_dns(dns));
    let ready = readiness::Readiness::new();
    let (trigger, watch) = drain::channel();
    let mut tasks = Tasks::default();

    let admin = admin::pages(config.node.clone(), Arc::clone(&workers), Arc::clone(&pods)).with_readiness(ready.clone());
    for (address, server) in [
        (config.admin, admin.with_metrics(metrics.clone())),
        (config.metrics, Server::new().with_metrics(metrics)),
        (config.ready, Server::new().with_readiness(ready.clone())),
    ] {
        tasks.0.push(tokio::spawn(server.run(bind(address)?, watch.clone())));
    }
    let discovery = discovery(&config, &proxy, target);
    for (type_url, note) in [
        (type_url::ADDRESS, (|c| c.addresses_synced = true) as fn(&mut state::Changes)),
        (type_url::AUTHORIZATION, |c| c.policies_synced = true),
    ] {
        let (mut synced, task, state) = (discovery.synced(type_url), ready.task(type_url), Arc::clone(&proxy.state));
        tasks.0.push(tokio::spawn(async move {
            if synced.wait_for(|synced| *synced).await.is_ok() {
                state.note(note);
                task.done();
            }
        }));
    }
    tasks.0.push(tokio::spawn(discovery.run()));
    let handover = node::client::run(config.zds_socket.clone(), Arc::clone(&pods), ready.task("pods of the node"), watch);
    tasks.0.push(tokio::spawn(handover));
    tasks.0.push(tokio::spawn(rest::give_back_at_rest(ready)));
    tracing::info!(node = config.node, "the node proxy runs");

    stop.await;
    trigger.begin();
    pods.shutdown(proxy.limits.drain).await;
    futures::future::join_all(workers.proxies().map(|proxy| proxy.pool.drain(LAST_TASKS))).await;
    trigger.drain(LAST_TASKS).await;
    drop(tasks);
    proxy.certificates.shutdown();
    workers.stop();
    proxy.telemetry.flush();
    Ok(())
}

/// Tasks that end with the program.
#[derive(Default)]
struct Tasks(Vec<JoinHandle<()>>);

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

/// The discovery client for the types of the node proxy (wire contract, section 2).
fn discovery(config: &Config, proxy: &Proxy, target: Target) -> DeltaClient {
    let (pod, namespace) = (&config.pod_name, &config.pod_namespace);
    let id = format!("ztunnel~{}~{pod}.{namespace}~{namespace}.svc.cluster.local", config.instance_ip);
    let metadata =
        [("NAME", pod.as_str()), ("NAMESPACE", namespace), ("INSTANCE_IPS", &config.instance_ip), ("NODE_NAME", &config.node)];
    let credentials = client::Credentials::new(&config.token, &config.cluster_id);
    let types = vec![
        Subscription::wildcard(type_url::ADDRESS, state::addresses(Arc::clone(&proxy.state))),
        Subscription::wildcard(type_url::AUTHORIZATION, state::policies(Arc::clone(&proxy.state))),
    ];
    DeltaClient::new(target, ambit_xds::node(id, &metadata), credentials, types, Subscriptions::new())
}
