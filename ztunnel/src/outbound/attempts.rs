//! One connection, tried on the endpoint that is planned for it, and on others while nobody has taken it.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ambit_model::{
    Reason, Refusal,
    plan::{self, Denied, Plan},
    workload::{Uid, Workload},
};
use tokio::net::TcpStream;

use super::{
    Server, gone,
    tunnel::{self, Unopened},
};
use crate::{
    endpoints::Held,
    local::{self, relay},
    proxy::{Pod, Proxy},
    telemetry::Record,
};

/// How many endpoints are tried for one connection before its first byte.
const ATTEMPTS: usize = 3;
/// How many host names of endpoints are resolved for one attempt.
const NAMES: usize = 4;
/// No other endpoint is tried, and no further host name resolved, so long after the first one: the client has waited long enough to be told.
const WITHIN: Duration = Duration::from_secs(8);

/// A connection that an endpoint has taken.
pub(super) struct Taken {
    pub(super) server: Server,
    /// Counts it among those of the endpoint while it lives.
    pub(super) held: Option<Held>,
}

/// Where a connection comes from, and where its client wants it to go.
pub(super) struct Client<'a> {
    pub(super) proxy: &'a Arc<Proxy>,
    pub(super) pod: &'a Pod,
    pub(super) source: &'a Workload,
    pub(super) stream: &'a TcpStream,
    pub(super) from: SocketAddr,
    pub(super) destination: SocketAddr,
}

impl Client<'_> {
    /// Connects to an endpoint of what the client dialled, and to another one if the first is away: in number, in time, and in share of all
    /// connections to the service within bounds.
    ///
    /// # Errors
    /// Why the first decision refuses, or what the last endpoint that was tried said.
    pub(super) async fn connect(&self, record: &mut Record) -> Result<Taken, Refusal> {
        let begun = Instant::now();
        let standings = &self.pod.standings;
        let mut random = self.proxy.near.random(self.from, self.destination);
        let mut avoid: Vec<Uid> = Vec::new();
        let mut failed: Option<Refusal> = None;
        loop {
            let plan = match self.decide(random, &avoid, begun).await {
                Ok(plan) => plan,
                // When every endpoint was tried, what the last one said tells more.
                Err(denied) => {
                    return Err(failed.unwrap_or_else(|| {
                        record.learn(|facts| facts.kind.target = denied.target);
                        denied.refusal
                    }));
                }
            };
            let service = plan.target().service.as_ref().map(|service| &service.key);
            if avoid.is_empty() {
                standings.connection(service);
            }
            let refusal = match self.attempt(&plan, record).await {
                Ok(taken) => return Ok(taken),
                // Bytes of the client may have been processed already.
                Err(Unopened { refusal, last: true }) => return Err(refusal),
                Err(Unopened { refusal, last: false }) => refusal,
            };
            let Some((endpoint, _)) = plan.endpoint().filter(|_| plan.may_go_elsewhere(refusal.reason)) else {
                return Err(refusal);
            };
            avoid.push(endpoint.uid.clone());
            let bounded = avoid.len() < ATTEMPTS && begun.elapsed() < WITHIN;
            if !bounded || !self.others(random, &avoid) || !standings.may_retry(service, refusal.reason) {
                return Err(refusal);
            }
            tracing::debug!(%refusal, "another endpoint is tried");
            random = fastrand::u64(..);
            failed = Some(refusal);
        }
    }

    /// What to try, once the host names that it depends on are resolved.
    async fn decide(&self, random: u64, avoid: &[Uid], begun: Instant) -> Result<Plan, Denied> {
        let mut names = 0;
        loop {
            match self.plan(random, avoid) {
                Plan::Resolve(resolve) if names < NAMES && begun.elapsed() < WITHIN => {
                    names += 1;
                    tokio::select! {
                        () = self.proxy.endpoints.names.resolve(&resolve.hostname) => {}
                        error = gone(self.stream) => {
                            return Err(Denied { refusal: Refusal::new(Reason::ClientReset, error), target: resolve.target });
                        }
                    }
                }
                Plan::Resolve(resolve) => {
                    let refusal = Refusal::new(Reason::DestinationUnresolved, resolve.hostname.to_string());
                    return Err(Denied { refusal, target: resolve.target });
                }
                Plan::Deny(denied) => return Err(*denied),
                plan => return Ok(plan),
            }
        }
    }

    fn plan(&self, random: u64, avoid: &[Uid]) -> Plan {
        let observed = self.proxy.endpoints.seen_by(&self.pod.standings);
        let (source, destination) = (self.source, self.destination);
        self.proxy.state.read(|mesh| plan::plan(mesh, plan::Request { source, destination, random, avoid, observed: &observed }))
    }

    /// Whether there is another endpoint to try.
    fn others(&self, random: u64, avoid: &[Uid]) -> bool {
        !matches!(self.plan(random, avoid), Plan::Deny(_))
    }

    /// Connects as planned, and notes how the endpoint takes it.
    async fn attempt(&self, plan: &Plan, record: &mut Record) -> Result<Taken, Unopened> {
        let Some((endpoint, port)) = plan.endpoint() else {
            return Ok(Taken { server: self.open(plan, record).await?, held: None });
        };
        if endpoint.addresses.is_empty() && !endpoint.hostname.is_empty() {
            // Before its time is over, so that the next connection does not wait for it.
            self.proxy.endpoints.names.refresh(&endpoint.hostname);
        }
        // Of what the client chose itself nothing is remembered: nobody chooses by it.
        let attempt = plan.is_chosen().then(|| self.pod.standings.begin(&endpoint.uid, port));
        let held = self.proxy.endpoints.hold(&endpoint.uid);
        match self.open(plan, record).await {
            Ok(server) => {
                if let Some(attempt) = attempt {
                    attempt.worked();
                }
                Ok(Taken { server, held: Some(held) })
            }
            Err(unopened) => {
                if let Some(attempt) = attempt.filter(|_| plan.is_away(unopened.refusal.reason)) {
                    attempt.failed(unopened.refusal.reason);
                }
                Err(unopened)
            }
        }
    }

    async fn open(&self, plan: &Plan, record: &mut Record) -> Result<Server, Unopened> {
        let Self { proxy, pod, source, stream, from, .. } = *self;
        record.towards(plan.target(), plan.reached());
        match plan {
            Plan::Hbone(plan) => match local::find(proxy, pod, source, from, plan).await {
                Some(near) => {
                    let opened = relay::open((proxy, pod), near, (stream, from), plan, record);
                    Ok(Server::Near(Box::new(Box::pin(opened).await?)))
                }
                None => tunnel::open(proxy, pod, stream, from, plan, record).await.map(Server::Tunnel),
            },
            Plan::Passthrough(plan) => Ok(Server::Plain(proxy.connect(pod, plan.dial, None).await?)),
            Plan::Resolve(_) | Plan::Deny(_) => Err(Refusal::new(Reason::Internal, "nothing to connect to").into()),
        }
    }
}
