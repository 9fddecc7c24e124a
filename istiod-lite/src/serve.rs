//! The control plane as a running program: its tasks, its listeners, its end.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use ambit_runtime::{
    drain,
    readiness::Readiness,
    socket::{ListenOptions, listen},
    telemetry,
};
use ambit_xds::server::{AdsServer, Cache, ServerConfig, Status};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tonic::service::Routes;

use crate::{
    accept::Acceptor,
    authority::Signing,
    ca::{CertificateService, Issuing, Refusals, Rules, Serving},
    config::Config,
    deploy,
    error::Error,
    jwks,
    leader::{Candidacy, Leadership},
    mesh::Mesh,
    monitoring,
    push::{self, Pusher, XdsAuthenticator},
    roots::Roots,
    source::{Directory, Kubernetes, kubernetes},
    validation,
};

/// Names that the certificate of the discovery server always bears.
const SERVING_NAMES: [&str; 8] = [
    "istiod.istio-system.svc",
    "istiod.istio-system.svc.cluster.local",
    "istiod.istio-system",
    "istiod-lite.istio-system.svc",
    "istiod-lite",
    "localhost",
    "127.0.0.1",
    "::1",
];
/// Batches of the source that may wait.
const BATCHES: usize = 16;
/// How long open streams and requests may take to end.
const DRAIN: Duration = Duration::from_secs(2);

/// Runs the control plane until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start, or one of its parts ends by itself.
pub async fn run(config: Config) -> Result<(), Error> {
    let mut shutdown = std::pin::pin!(ambit_runtime::signal::shutdown()?);
    // An API server that is away is waited for.
    let control_plane = tokio::select! {
        started = ControlPlane::start(config) => started?,
        signal = &mut shutdown => {
            tracing::info!(%signal, "stopping before it began");
            return Ok(());
        }
    };
    control_plane.run(async { tracing::info!(signal = %shutdown.await, "stopping") }).await
}

/// A control plane that holds its listeners but serves nothing yet.
pub struct ControlPlane {
    config: Config,
    /// The API server, when it is the source.
    cluster: Option<kube::Client>,
    signing: Signing,
    serving: Arc<Serving>,
    discovery: TcpListener,
    monitoring: TcpListener,
    validation: Option<TcpListener>,
}

impl ControlPlane {
    /// Reads or makes the keys and takes the addresses.
    ///
    /// # Errors
    /// When one of these cannot be had.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let flags = &config.cluster;
        let cluster = match flags.kubernetes {
            true => Some(kubernetes::connect(flags.kubeconfig.as_deref(), flags.context.as_deref()).await?),
            false => None,
        };
        let signing = match &cluster {
            Some(client) => Signing::in_cluster(&config, client).await?,
            None => Signing::in_files(&config)?,
        };
        let names = SERVING_NAMES.iter().map(ToString::to_string).chain(config.serving_names.iter().cloned()).collect();
        let serving = Arc::new(Serving::new(signing.issuing.clone(), names)?);
        let bind = |address| listen(address, &ListenOptions::default()).map_err(|cause| Error::Listen { address, cause });
        let (discovery, monitoring) = (bind(config.listen)?, bind(config.monitoring)?);
        let validation = config.cluster.validation.map(bind).transpose()?;
        Ok(Self { config, cluster, signing, serving, discovery, monitoring, validation })
    }

    /// Where discovery and certificates are served.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn discovery_address(&self) -> std::io::Result<SocketAddr> {
        self.discovery.local_addr()
    }

    /// Where the monitoring pages are served.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn monitoring_address(&self) -> std::io::Result<SocketAddr> {
        self.monitoring.local_addr()
    }

    /// Where reviews of objects are answered, if they are.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn validation_address(&self) -> std::io::Result<Option<SocketAddr>> {
        self.validation.as_ref().map(TcpListener::local_addr).transpose()
    }

    /// Serves until `stop` completes, then closes streams in order and finishes.
    ///
    /// # Errors
    /// When one of its parts ends by itself.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), Error> {
        let Self { config, cluster, signing, serving, discovery, monitoring, validation } = self;
        let Signing { issuing, tokens, view, roots } = signing;
        let (trigger, watch) = drain::channel();
        let metrics = telemetry::metrics_handle()?;
        let readiness = Readiness::new();
        let listed = readiness.task("the first reading of the source");
        let mesh = Arc::new(Mesh::new(config.mesh()));
        let cache = Cache::new();
        let accounts: BTreeSet<_> = config.node_accounts.iter().cloned().collect();

        let (close, closing) = watch::channel(false);
        let refusals = Refusals::default();
        let pusher = Pusher::new(cache.clone());
        let authenticator = XdsAuthenticator::new(
            tokens.clone(),
            accounts.clone(),
            Arc::clone(&mesh),
            (pusher.clients(), pusher.waypoints()),
            refusals.clone(),
        );
        let ads = AdsServer::new(cache.clone(), authenticator, ServerConfig::default(), closing);
        let status: Status = ads.status();
        let rules = Rules { trust_domain: config.trust_domain.clone(), node_accounts: accounts };
        let ca = CertificateService::new(issuing.clone(), tokens, rules, Arc::clone(&mesh), refusals.clone());

        let acceptor = serving.acceptor()?;
        let mut tasks: JoinSet<Result<(), Error>> = JoinSet::new();
        let pages = monitoring::pages(metrics, readiness.clone(), Arc::clone(&mesh), cache.clone(), status);
        let keys = jwks::View::new(&config.jwks);
        let pages = monitoring::keys(monitoring::authority(pages, view, refusals), keys.clone());
        let admin_watch = watch.clone();
        tasks.spawn(async move {
            pages.run(monitoring, admin_watch).await;
            Ok(())
        });
        let validates = validation.is_some();
        if let Some(listener) = validation {
            let (tls, root_namespace) = (serving.http1_acceptor()?, config.mesh().root_namespace);
            tasks.spawn(validate(listener, tls, root_namespace, Arc::clone(&mesh), watch.clone()));
        }
        let (batches, received) = mpsc::channel(BATCHES);
        let fetcher = jwks::Fetcher::new(Arc::clone(&mesh), batches.clone(), keys, &config.jwks);
        tasks.spawn(fetch_keys(fetcher));
        let mut election = None;
        match &cluster {
            Some(client) => {
                let source = Kubernetes::new(client, kubernetes::Timing::default(), &readiness);
                let source = if config.cluster.no_gateway_secrets { source.without_secrets() } else { source };
                tasks.spawn(push::read(source, batches));
                let first = applied(mesh.generation());
                let candidacy = Candidacy::begin(client, &config.mesh().root_namespace, &config.cluster.replica_name, first);
                if let Some(roots) = roots {
                    tasks.spawn(follow_roots(roots, candidacy.leadership(), Arc::clone(&mesh)));
                }
                tasks.spawn(write_while_leading(
                    client.clone(),
                    candidacy.leadership(),
                    Arc::clone(&mesh),
                    config.cluster.waypoints.clone(),
                ));
                if validates {
                    tasks.spawn(keep_bundle_while_leading(client.clone(), candidacy.leadership(), issuing));
                }
                election = Some(candidacy);
            }
            None => {
                let source = Directory::new(config.source_dirs.clone())?.remembering(config.state_dir.join("last-good"))?;
                tasks.spawn(push::read(source, batches));
            }
        }
        tasks.spawn(follow(Arc::clone(&mesh), pusher, received));
        tasks.spawn(rotate(Arc::clone(&serving)));
        let (generation, awaited) = (mesh.generation(), Arc::clone(&mesh));
        // Before the first batch is in the cache an answer would say that there is nothing, and proxies would believe it.
        let serve = async move {
            applied(generation).await;
            jwks::first_round(&awaited).await;
            listed.done();
            let (incoming, accepting) = Acceptor::new(discovery, acceptor).incoming();
            tokio::join!(ads.serve(incoming, Routes::new(ca.into_service())), accepting);
            drop(watch);
            Ok(())
        };
        tasks.spawn(serve);
        tracing::info!(discovery = %config.listen, monitoring = %config.monitoring, "the control plane runs");

        let ended = tokio::select! {
            () = stop => Ok(()),
            Some(ended) = tasks.join_next() => match ended {
                Ok(Ok(())) => Err(Error::Stopped("a task of the control plane")),
                Ok(Err(error)) => Err(error),
                Err(_) => Err(Error::Stopped("a task of the control plane that panicked")),
            },
            () = election_ended(&mut election) => Err(Error::Stopped("the election of the replica that writes")),
        };
        close.send_replace(true);
        trigger.drain(DRAIN).await;
        tasks.shutdown().await;
        // The writers have ended: another replica may begin.
        if let Some(election) = election {
            election.end().await;
        }
        ended
    }
}

async fn follow(mesh: Arc<Mesh>, pusher: Pusher, batches: mpsc::Receiver<push::Batch>) -> Result<(), Error> {
    push::follow(mesh, pusher, batches).await;
    Ok(())
}

async fn follow_roots(roots: Roots, leadership: Leadership, mesh: Arc<Mesh>) -> Result<(), Error> {
    Box::pin(roots.run(move || leadership.leads(), mesh)).await;
    Ok(())
}

/// Waypoints and status, for as long as this replica leads, each time that it does.
async fn write_while_leading(
    client: kube::Client,
    leadership: Leadership,
    mesh: Arc<Mesh>,
    options: deploy::Options,
) -> Result<(), Error> {
    leadership.while_leading(|| Box::pin(deploy::write(client.clone(), Arc::clone(&mesh), options.clone()))).await;
    Ok(())
}

async fn validate(
    listener: TcpListener,
    tls: TlsAcceptor,
    root_namespace: String,
    mesh: Arc<Mesh>,
    watch: drain::Watch,
) -> Result<(), Error> {
    validation::serve(listener, tls, root_namespace, mesh, watch).await;
    Ok(())
}

/// The roots by which the API server knows every replica's webhook.
async fn keep_bundle_while_leading(client: kube::Client, leadership: Leadership, issuing: Issuing) -> Result<(), Error> {
    leadership.while_leading(|| Box::pin(validation::keep(client.clone(), issuing.clone()))).await;
    Ok(())
}

async fn fetch_keys(fetcher: jwks::Fetcher) -> Result<(), Error> {
    fetcher.run().await;
    Ok(())
}

async fn rotate(serving: Arc<Serving>) -> Result<(), Error> {
    serving.rotate().await;
    Ok(())
}

/// Completes when the first batch is in force, and never if there is none any more.
async fn applied(mut generation: watch::Receiver<u64>) {
    if generation.wait_for(|generation| *generation > 0).await.is_err() {
        std::future::pending().await
    }
}

async fn election_ended(election: &mut Option<Candidacy>) {
    match election {
        Some(election) => election.ended().await,
        None => std::future::pending().await,
    }
}
