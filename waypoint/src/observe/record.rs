//! The record of one request or connection: filled in on the way, written exactly once, when it is dropped.

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ambit_identity::SpiffeId;
use ambit_model::{Reason, Refusal, balance::Outcome, measure::MetricChanges, policy::PolicyKey};
use http::Method;

use super::{Beside, Logged, Span, Telemetry, hashed};
use crate::{
    compiled::{Admitted, Cluster, ServiceInfo, Suffering, WorkloadNames},
    http::Phase,
    terminate::Peer,
    upstream::Host,
};

/// The endpoint that was reached.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Its address.
    pub address: SocketAddr,
    /// Its identity, unless it was reached in clear.
    pub identity: Option<SpiffeId>,
    /// Its workload.
    pub workload: WorkloadNames,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// The identity as it is logged.
    pub uri: Option<Arc<str>>,
    /// Of all that metrics say of it.
    pub hash: u64,
}

impl Upstream {
    /// An endpoint at this address, which is to prove this identity.
    pub fn new(address: SocketAddr, identity: Option<SpiffeId>, workload: WorkloadNames, namespace: Arc<str>) -> Self {
        let hash = hashed(&(workload.workload_name(), workload.canonical_name(), &namespace, &identity));
        let uri = identity.as_ref().map(|id| id.to_string().into());
        Self { address, identity, workload, namespace, uri, hash }
    }
}

/// Why a request was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Given {
    /// It was sent as often as its route says.
    Exhausted,
    /// Too many requests to the cluster were under way for another time.
    OverBudget,
}

/// What is known of one request or connection.
#[derive(Debug)]
pub struct Record {
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) started: Instant,
    /// Who asks; unknown when the handshake failed.
    pub peer: Arc<Peer>,
    /// The address asked for.
    pub destination: SocketAddr,
    /// `http`, `grpc` or `tcp`.
    pub protocol: &'static str,
    /// The method and the path of a request.
    pub request: Option<(Method, String)>,
    /// The status answered.
    pub status: Option<u16>,
    /// The status of a gRPC call.
    pub grpc_status: Option<u32>,
    /// How it ended.
    pub reason: Reason,
    /// The policy that decided.
    pub policy: Option<PolicyKey>,
    /// What policies that are not enforced would have decided, where all that are let it pass.
    pub dry_run: Vec<Refusal>,
    /// The route taken.
    pub route: Option<Arc<str>>,
    /// The cluster chosen.
    pub cluster: Option<Arc<str>>,
    /// The service asked for.
    pub service: Option<Arc<ServiceInfo>>,
    /// The endpoint reached.
    pub upstream: Option<Arc<Upstream>>,
    /// How often it was sent, or was to be.
    pub attempts: u32,
    /// Why it was not sent once more, where its route asks for that.
    pub given: Option<Given>,
    /// It was made to wait.
    pub delayed: bool,
    /// Its place among those that suffer by a fault, until its end.
    pub suffering: Option<Suffering>,
    /// Its place among those that were let in, until its end.
    pub admitted: Option<Box<Admitted>>,
    /// The endpoint whose connection or answer is awaited, where it matters how that ends.
    pub awaiting: Option<(Arc<Cluster>, Arc<Host>)>,
    /// What went wrong.
    pub error: Option<String>,
    /// Bytes from the client.
    pub sent: Arc<AtomicU64>,
    /// Set once the rest of its body is not sent on, as it is longer than its route lets pass.
    pub cut: Option<Arc<OnceLock<Refusal>>>,
    /// Bytes to the client.
    pub received: u64,
    /// The client's connection, where requests on it may end without it.
    pub on: Option<Phase>,
    /// Where it is noted what becomes of it, for an administrator who has asked.
    pub beside: Option<Arc<Beside>>,
    /// Its place in a trace, where it has one.
    pub span: Option<Box<Span>>,
    /// What formats that were asked for need, where its line is in one.
    pub logged: Option<Box<Logged>>,
    /// What of its metrics is another, where somebody asks for that.
    pub metrics: Option<Arc<MetricChanges>>,
}

impl Record {
    /// A record that begins now. Until somebody says otherwise, the client is the one who ended it.
    pub fn new(telemetry: Arc<Telemetry>, peer: Arc<Peer>, destination: SocketAddr, protocol: &'static str) -> Self {
        Self {
            telemetry,
            started: Instant::now(),
            peer,
            destination,
            protocol,
            request: None,
            status: None,
            grpc_status: None,
            reason: Reason::ClientReset,
            policy: None,
            dry_run: Vec::new(),
            route: None,
            cluster: None,
            service: None,
            upstream: None,
            attempts: 0,
            given: None,
            delayed: false,
            suffering: None,
            admitted: None,
            awaiting: None,
            error: None,
            sent: Arc::default(),
            cut: None,
            received: 0,
            on: None,
            beside: None,
            span: None,
            logged: None,
            metrics: None,
        }
    }

    /// Notes a refusal. Of what a policy in force refuses, be it at the endpoint's node, no policy in dry run is told: so do node proxies.
    pub fn refused(&mut self, refusal: &Refusal) {
        if refusal.reason.is_policy() {
            self.dry_run.clear();
        }
        self.reason = refusal.reason;
        self.policy.clone_from(&refusal.policy);
        self.error = Some(refusal.to_string());
        self.refusal_logged(refusal);
    }

    /// The answer that is awaited did not come in time.
    pub fn timed_out(&mut self) {
        if let Some((cluster, host)) = self.awaiting.take() {
            cluster.note(&host, Outcome::TimedOut);
        }
    }

    /// How long ago it began.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Bytes from the client so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // Who leaves takes the connection along. Where that goes on, the client has taken back the one request (so Envoy tells them apart).
        if self.reason == Reason::ClientReset && self.on.as_ref().is_some_and(|on| !on.is_gone()) {
            self.reason = Reason::ClientStreamReset;
        }
        if let Some(place) = self.admitted.as_mut().filter(|_| !self.reason.is_of_client()) {
            place.whole();
        }
        self.tell();
        let record: &Self = self;
        record.telemetry.write(record);
        if let Some(span) = self.span.take() {
            span.end(self);
        }
    }
}

#[cfg(test)]
mod tests {
    use ambit_runtime::telemetry::{AccessLog, Destination};

    use super::*;

    #[test]
    fn of_what_a_policy_in_force_refuses_no_dry_run_is_told() {
        let telemetry = Arc::new(Telemetry::new(AccessLog::open(&Destination::Off).unwrap()));
        let peer = Arc::new(Peer::new("10.0.0.1:4000".parse().unwrap(), None));
        let tried = Refusal::new(Reason::PolicyDeniedExplicit, "").by(PolicyKey::new("shop", "tried"), Some(0));
        for reason in Reason::ALL {
            let mut record = Record::new(telemetry.clone(), peer.clone(), "10.96.0.7:80".parse().unwrap(), "tcp");
            record.dry_run = vec![tried.clone()];
            record.refused(&Refusal::new(*reason, ""));
            assert_eq!(record.dry_run.is_empty(), reason.is_policy(), "{reason}");
        }
    }
}
