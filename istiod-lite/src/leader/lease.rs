//! Takes part in the election: reads and writes the Lease.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::election::{Election, Record, Step};
use super::{Leadership, Terms};

/// No request may take longer to be answered.
const ANSWER: Duration = Duration::from_secs(4);

/// How often in a row our own Lease is written when others touch it in between.
const TRIES: usize = 3;

/// What came of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    /// It was accepted, or none was due.
    Done,
    /// The Lease was other than it was seen, and has been read again.
    Beaten,
}

/// One candidate for a Lease.
pub struct Elector {
    leases: Api<Lease>,
    name: String,
    namespace: String,
    identity: String,
    terms: Terms,
    until: watch::Sender<Option<Instant>>,
    /// Who is known to hold the Lease, and what failed last, so that each is said once.
    holder: String,
    failure: String,
}

impl Elector {
    /// A candidate for the Lease `namespace/name`, and what tells of its success. The identity must be no other candidate's, in this
    /// life or an earlier one: a pod's name with something random.
    #[must_use]
    pub fn new(client: &Client, namespace: &str, name: &str, identity: String, terms: Terms) -> (Self, Leadership) {
        let (until, receiver) = watch::channel(None);
        let elector = Self {
            leases: Api::namespaced(client.clone(), namespace),
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            identity,
            terms,
            until,
            holder: String::new(),
            failure: String::new(),
        };
        (elector, Leadership { until: receiver })
    }

    /// Takes part until `stop` completes, then gives the Lease up if it is ours. End the writers before, so that none is still about
    /// when the next replica leads.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let mut election = Election::new(self.identity.clone(), self.terms, Instant::now());
        loop {
            let attempt = tokio::select! {
                biased;
                () = &mut stop => break,
                attempt = timeout(ANSWER, self.attempt(&mut election)) => attempt,
            };
            let failure = match attempt {
                Ok(Ok(())) => String::new(),
                Ok(Err(error)) => self.explain(&error),
                Err(_) => "the API server does not answer".to_owned(),
            };
            self.tell(&election, failure);
            tokio::select! {
                biased;
                () = &mut stop => break,
                () = sleep_until(self.next(&election)) => {}
            }
        }
        self.until.send_replace(None);
        metrics::gauge!("leader_election_master_status", "name" => self.name.clone()).set(0.0);
        match timeout(ANSWER, self.release(&mut election)).await {
            Ok(Ok(true)) => tracing::info!(lease = self.name, "the Lease is given up"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => tracing::warn!(error = self.explain(&error), "the Lease is not given up and will run out"),
            Err(_) => tracing::warn!("the Lease is not given up and will run out: the API server does not answer"),
        }
    }

    /// When to look again: regularly as the holder, at different times as one of those who wait, and as soon as another's Lease has run
    /// out.
    fn next(&self, election: &Election) -> Instant {
        let now = Instant::now();
        let jitter = if election.until().is_some() { 0.0 } else { 0.5 * fastrand::f64() };
        let regular = now + self.terms.retry.mul_f64(1.0 + jitter);
        election.expires().filter(|expires| *expires > now).map_or(regular, |expires| regular.min(expires))
    }

    /// Looks at the Lease, and writes it if that is our turn.
    pub(super) async fn attempt(&self, election: &mut Election) -> kube::Result<()> {
        // Who holds it knows the version that it wrote itself; it looks only if that is not the last one any more.
        if election.until().is_none() {
            self.read(election).await?;
        }
        // Beaten by somebody who touched it without taking it: it is ours, and is renewed before it runs out.
        for _ in 0..TRIES {
            if self.write(election).await? == Written::Done || !election.is_ours() {
                break;
            }
        }
        Ok(())
    }

    /// Writes the Lease, if that is our turn.
    async fn write(&self, election: &mut Election) -> kube::Result<Written> {
        let began = Instant::now();
        // Another was first, or somebody deleted it: what is there now counts.
        let (written, beaten): (_, &[u16]) = match election.step(began, Timestamp::now()) {
            Step::Wait => return Ok(Written::Done),
            Step::Create(record) => (self.leases.create(&PostParams::default(), &self.lease(record)).await, &[409]),
            Step::Replace(record) => {
                (self.leases.replace(&self.name, &PostParams::default(), &self.lease(record)).await, &[404, 409])
            }
        };
        match written {
            Ok(lease) => election.written(record(lease), began, Instant::now()),
            Err(kube::Error::Api(status)) if beaten.contains(&status.code) => {
                self.read(election).await?;
                return Ok(Written::Beaten);
            }
            Err(error) => return Err(error),
        }
        Ok(Written::Done)
    }

    async fn read(&self, election: &mut Election) -> kube::Result<()> {
        let lease = self.leases.get_opt(&self.name).await?;
        election.observe(lease.map(record), Instant::now());
        Ok(())
    }

    /// Whether the Lease was ours and is given up.
    async fn release(&self, election: &mut Election) -> kube::Result<bool> {
        // A write may have been under way when we were stopped, so the version is asked for.
        self.read(election).await?;
        let Some(record) = election.released(Timestamp::now()) else { return Ok(false) };
        self.leases.replace(&self.name, &PostParams::default(), &self.lease(record)).await?;
        Ok(true)
    }

    fn lease(&self, record: Record) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                resource_version: record.version,
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(record.holder),
                lease_duration_seconds: Some(record.seconds),
                acquire_time: record.acquired.map(MicroTime),
                renew_time: record.renewed.map(MicroTime),
                lease_transitions: Some(record.transitions),
                ..LeaseSpec::default()
            }),
        }
    }

    /// Publishes what came of an attempt.
    fn tell(&mut self, election: &Election, failure: String) {
        let until = election.until();
        self.until.send_if_modified(|held| std::mem::replace(held, until) != until);
        let leads = until.is_some_and(|until| Instant::now() < until);
        metrics::gauge!("leader_election_master_status", "name" => self.name.clone()).set(f64::from(u8::from(leads)));
        if failure != self.failure && !failure.is_empty() {
            tracing::warn!(lease = self.name, reason = failure, leads, "the election cannot go on");
        }
        self.failure = failure;
        let holder = election.holder().unwrap_or_default();
        if holder != self.holder {
            let ours = holder == self.identity;
            tracing::info!(lease = self.name, holder, ours, "the Lease has a holder: only it writes to the cluster");
            holder.clone_into(&mut self.holder);
        }
    }

    fn explain(&self, error: &kube::Error) -> String {
        let text = crate::source::kubernetes::chain(error);
        match error {
            kube::Error::Api(status) if status.code == 403 => format!(
                "{text}; give our service account a Role with the verbs get, create and update on the resource leases of the API group \
                 \"coordination.k8s.io\" in namespace {}",
                self.namespace
            ),
            _ => text,
        }
    }
}

impl Drop for Elector {
    /// Nobody renews the Lease any more, so that nobody may count on it either, however the election ended.
    fn drop(&mut self) {
        self.until.send_replace(None);
    }
}

fn record(lease: Lease) -> Record {
    let spec = lease.spec.unwrap_or_default();
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        seconds: spec.lease_duration_seconds.unwrap_or_default(),
        acquired: spec.acquire_time.map(|time| time.0),
        renewed: spec.renew_time.map(|time| time.0),
        transitions: spec.lease_transitions.unwrap_or_default(),
        version: lease.metadata.resource_version,
    }
}
