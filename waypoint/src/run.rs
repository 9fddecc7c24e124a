//! Start-up, and the end.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ambit_identity::SpiffeId;
use ambit_runtime::{
    admin::Server,
    drain::{self, Outcome, Trigger, Watch},
    readiness::{Readiness, Task},
    rest,
    signal::{self, Reopen},
    socket::{ListenOptions, listen},
    telemetry::{AccessLog, Destination, metrics_handle},
    workers::Settings,
};
use ambit_tls::{StoreConfig, SvidStore, follow_roots};
use ambit_xds::client::{Credentials, Subscriptions, Target};
use futures::future::join_all;
use tokio::{net::TcpListener, task::JoinSet};

use crate::{
    Config, Error,
    admin::Pages,
    carriers, edge, health,
    observe::{self, Telemetry},
    proxy::{Limits, Proxy},
    terminate, upstream,
    xds::{self, Store},
};

/// How long to wait before the first certificate is asked for again.
const CERTIFICATE_RETRY: Duration = Duration::from_millis(500);
/// How long tunnels that have outlasted the drain may take to end with their reason, before all is cut without one.
const CUT: Duration = Duration::from_millis(500);
/// How long copies of requests may go on after the last request has ended.
const MIRROR_DRAIN: Duration = Duration::from_secs(1);
/// How long the last spans may take to be sent.
const SPANS_DRAIN: Duration = Duration::from_secs(2);
/// How long the admin pages may take to end.
const ADMIN_DRAIN: Duration = Duration::from_secs(1);
/// How long records of the access log are waited for that are on their way to a collector.
const LOG_DRAIN: Duration = Duration::from_secs(2);

/// Runs the waypoint until SIGTERM or SIGINT, then lets open requests finish.
///
/// # Errors
/// When it cannot start.
pub async fn run(config: Config) -> Result<(), Error> {
    // Each client and each endpoint may need a descriptor; where the limit cannot be raised the one in force holds.
    match ambit_runtime::sys::raise_open_files() {
        Ok(limit) => tracing::debug!(?limit, "open files"),
        Err(error) => tracing::debug!(%error, "the limit of open files stays"),
    }
    let started = Instant::now();
    let shutdown = signal::shutdown()?;
    let reopen = signal::reopen()?;
    let identity = config.identity()?;
    let metrics = metrics_handle()?;
    let telemetry = Arc::new(Telemetry::new(AccessLog::open(&Destination::from(config.access_log.clone()))?));
    let readiness = Readiness::new();
    let (certificate_task, xds_task) = (readiness.task("certificate"), readiness.task("configuration"));
    let control_plane = &config.control_plane;
    let source = control_plane.source(false)?;
    let mut tasks = JoinSet::new();
    let certificates = StoreConfig::default();
    if let Some(lists) = control_plane.revocations(&certificates.trust).await {
        tasks.spawn(lists.run());
    }
    let certificates = SvidStore::new(source, certificates);
    let wanted = Subscriptions::new();
    let store = Store::new(wanted.clone());
    let drain = Duration::from_secs(config.drain_seconds);
    let limits = Limits::default().drained_within(drain);
    let proxy = Proxy::new(store.published(), identity.clone(), certificates.clone(), telemetry.clone(), limits);
    // What is done beside the workers has tunnels of its own, as no connection is to be driven by two threads.
    let workers = carriers::start(&proxy, config.workers, Settings::default()).map_err(Error::Worker)?;
    let all: Vec<_> = workers.shared().chain([&proxy]).cloned().collect();
    let (trigger, watch) = drain::channel();
    let (admin_trigger, admin_watch) = drain::channel();
    let (stop, stopped) = drain::channel();

    let node = format!("waypoint~{}~{}.{ns}~{ns}.svc.cluster.local", config.pod_ip, config.pod(), ns = config.namespace);
    proxy.spans.name(&node);
    proxy.spans.send_from(&proxy);
    let metadata = [
        ("NAME", config.pod()),
        ("NAMESPACE", config.namespace.as_str()),
        ("GATEWAY_NAME", &config.name),
        ("CLUSTER_ID", &control_plane.cluster_id),
    ];
    let node = ambit_xds::node(node, &metadata);
    let client = xds::client(
        Target::tls(&control_plane.xds_address, &control_plane.ca_root),
        node.clone(),
        Credentials::new(&control_plane.token, &control_plane.cluster_id),
        &store,
        wanted,
    );
    let awaited = xds::awaited(&client);
    let pages = Pages {
        store: store.clone(),
        proxy: proxy.clone(),
        metrics: metrics.clone(),
        node,
        admin: config.admin,
        hbone: config.hbone,
        roots: control_plane.ca_root.clone(),
        readiness: readiness.clone(),
        connected: client.connection(),
        started,
        stop: stop.starter(),
        drain: trigger.starter(),
    };
    tasks.spawn(client.run());
    tasks.spawn(async move {
        xds::synced(awaited).await;
        xds_task.done();
    });
    tasks.spawn(first_certificate(certificates.clone(), identity.clone(), certificate_task));
    tasks.spawn(follow_roots(control_plane.ca_root.clone(), certificates.clone()));
    tasks.spawn(upstream::retire(all.clone()));
    tasks.spawn(upstream::sweep(all.clone()));
    tasks.spawn(observe::export(proxy.clone()));
    tasks.spawn(reopen_logs(reopen, telemetry.clone()));
    tasks.spawn(health::run(proxy.clone(), store.changes()));
    tasks.spawn(rest::give_back_at_rest(readiness.clone()));
    tasks.spawn(pages.server().run(bind(config.admin)?, admin_watch.clone()));
    tasks.spawn(Server::new().with_metrics(metrics).run(bind(config.metrics)?, admin_watch.clone()));
    tasks.spawn(Server::new().with_readiness(readiness).run(bind(config.ready)?, admin_watch));
    let accepts = workers.first();
    let listener = {
        let _its_own = accepts.enter();
        bind(config.hbone)?
    };
    tasks.spawn_on(until(stopped.clone(), edge::run(workers.clone(), store.ports(), watch.clone())), accepts.handle());
    tasks.spawn_on(until(stopped, terminate::accept_loop(workers.clone(), listener, watch)), accepts.handle());
    tracing::info!(%identity, hbone = %config.hbone, xds = control_plane.xds_address, "waypoint started");

    let shutdown = shutdown.await;
    tracing::info!(%shutdown, linger_seconds = config.linger_seconds, drain_seconds = config.drain_seconds, "draining");
    let outcome = leave(trigger, Duration::from_secs(config.linger_seconds), drain + CUT).await;
    tracing::info!(?outcome, "drained");
    if tokio::time::timeout(MIRROR_DRAIN, proxy.mirrors.close()).await.is_err() {
        tracing::debug!("copies of requests are cut");
    }
    tokio::join!(proxy.spans.flush(SPANS_DRAIN), telemetry.sent(LOG_DRAIN));
    admin_trigger.drain(ADMIN_DRAIN).await;
    tasks.shutdown().await;
    join_all(all.iter().map(|proxy| proxy.tunnels.drain(Duration::ZERO))).await;
    certificates.shutdown();
    // What was not done in time is recorded as it is cut.
    workers.stop();
    telemetry.flush();
    Ok(())
}

/// Goes on as before for `linger`, then has clients go and gives `drain` to what is open. What is still open then is the caller's to cut.
pub async fn leave(trigger: Trigger, linger: Duration, drain: Duration) -> Outcome {
    tokio::time::sleep(linger).await;
    trigger.drain(drain).await
}

/// Opens the files of logs anew as often as it is asked for, as Envoy does.
async fn reopen_logs(mut reopen: Reopen, telemetry: Arc<Telemetry>) {
    loop {
        reopen.asked().await;
        tracing::info!("the files of access logs are opened anew, as somebody has asked for by SIGUSR1");
        telemetry.reopen();
    }
}

/// Accepts connections until nobody is to be accepted any more. Those that are there go on, and are waited for by the drain.
async fn until(stopped: Watch, accepting: impl Future<Output = ()>) {
    tokio::select! {
        () = accepting => {}
        () = stopped.draining() => {}
    }
}

/// Done when the waypoint has a certificate of its own.
async fn first_certificate(certificates: SvidStore, identity: SpiffeId, task: Task) {
    while let Err(error) = certificates.get(&identity).await {
        tracing::warn!(%error, "no certificate yet");
        tokio::time::sleep(CERTIFICATE_RETRY).await;
    }
    task.done();
}

fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    listen(address, &ListenOptions::default()).map_err(|source| Error::Listen { address, source })
}
