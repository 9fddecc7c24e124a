//! The record of one connection: what is learnt of it, and what is written when it ends.

use std::{
    io,
    net::SocketAddr,
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Instant,
};

use ambit_hbone::copy::{Counters, EndedBy};
use ambit_identity::SpiffeId;
use ambit_model::{Reason, Refusal, authorize::Allowed, plan::Target, policy::PolicyKey, workload::Workload};
use ambit_runtime::telemetry::{Direction, Entry, InUse, Security, Spans, Trace};
use tokio::sync::watch;

use super::{
    Telemetry,
    open::{Ends, Open, bytes},
    series::{self, Kind},
};

/// The record of one connection.
#[derive(Debug)]
pub struct Record(Box<Facts>);

/// What is learnt of a connection.
#[derive(Debug)]
pub struct Facts {
    telemetry: Telemetry,
    direction: Direction,
    begun: Instant,
    source: SocketAddr,
    destination: SocketAddr,
    reached: Option<SocketAddr>,
    /// The workload that opened the connection, when it is known.
    pub source_workload: Option<Arc<Workload>>,
    /// Who opened it: proved when `security` is mutual TLS.
    pub source_identity: Option<SpiffeId>,
    /// What it is for.
    pub target: Target,
    /// Who answered.
    pub destination_identity: Option<SpiffeId>,
    /// How it is protected between the nodes.
    pub security: Security,
    /// The W3C trace that it is part of.
    pub trace: Option<Trace>,
    /// The policy that allowed it.
    pub policy: Option<PolicyKey>,
    /// What dry-run policies make of it.
    dry_run: Vec<Refusal>,
    counters: Arc<Counters>,
    /// Whose pump counts.
    counted: Direction,
    policies: Option<watch::Receiver<u64>>,
    opened: Option<Opened>,
    ended: bool,
}

/// What is kept of a connection that stands.
#[derive(Debug)]
struct Opened {
    open: Arc<Open>,
    place: Option<u32>,
    /// Its series stay as long as it does.
    _used: InUse,
}

impl Record {
    pub(super) fn begin(telemetry: Telemetry, direction: Direction, source: SocketAddr, destination: SocketAddr) -> Self {
        Self(Box::new(Facts {
            telemetry,
            direction,
            begun: Instant::now(),
            source,
            destination,
            reached: None,
            source_workload: None,
            source_identity: None,
            target: Target::default(),
            destination_identity: None,
            security: Security::None,
            trace: None,
            policy: None,
            dry_run: Vec::new(),
            counters: Arc::default(),
            counted: direction,
            policies: None,
            opened: None,
            ended: false,
        }))
    }

    /// Notes where the connection really goes, when that shows only later.
    pub fn destination(&mut self, destination: SocketAddr) {
        self.destination = destination;
    }

    /// Notes what is tried now, and the address where it is reached. What was proved to reach an earlier target says nothing of this one.
    pub fn towards(&mut self, target: &Target, address: Option<SocketAddr>) {
        self.target = target.clone();
        self.reached = address;
        self.destination_identity = None;
        self.security = Security::None;
    }

    /// Notes that both sides stand. What was learnt of the connection stays as it is from now on.
    pub fn established(&mut self) {
        let shared = &self.telemetry.0;
        let (series, used) = shared.series.get(&self.kind(), &shared.limit);
        series.opened.increment(1);
        let Facts { source, destination, reached, begun, .. } = *self.0;
        let ends = Ends { source, destination, reached, begun };
        let open = Arc::new(Open::new(Arc::clone(&self.counters), self.counted, ends, series));
        open.set_policy(self.policy.clone());
        let place = shared.open.add(&open);
        self.opened = Some(Opened { open, place, _used: used });
    }

    /// Notes what tells of changes since it was decided that the connection may pass.
    pub fn decided(&mut self, policies: watch::Receiver<u64>) {
        self.policies = Some(policies);
    }

    /// Gives out what tells of changes since then.
    pub fn policies(&mut self) -> Option<watch::Receiver<u64>> {
        self.policies.take()
    }

    /// Notes that the connection may pass, and why. What dry-run policies make of it is counted, and counted again when a change of
    /// policy makes it something else.
    pub fn allowed(&mut self, allowed: Allowed) {
        if let Some(opened) = &self.opened {
            opened.open.set_policy(allowed.policy.clone());
        }
        self.policy = allowed.policy;
        if self.dry_run == allowed.dry_run {
            return;
        }
        let new = allowed.dry_run.iter().filter(|decided| !self.dry_run.contains(decided));
        new.for_each(|decided| series::dry_run(decided, &self.telemetry.0.limit));
        self.dry_run = allowed.dry_run;
    }

    /// Its place in a trace, which begins here if it is in none.
    pub fn traced(&mut self) -> Trace {
        let Facts { telemetry, trace, .. } = &mut *self.0;
        *trace.get_or_insert_with(|| telemetry.0.spans.as_ref().map_or_else(|| Trace::new(false), Spans::begin))
    }

    /// Where the bytes of the connection are counted.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Counts what `other` counts: one pump carries the connection of both.
    pub fn count_with(&mut self, other: &Self) {
        self.counters = Arc::clone(&other.counters);
        self.counted = other.counted;
    }

    /// Ends the record: the connection was carried to its end.
    pub fn finish(mut self) {
        self.end(&Refusal::new(Reason::Ok, ""));
    }

    /// Ends the record as its pump ended: `first` and `second` are what a failure of either side is.
    pub fn ended(self, ended: &EndedBy, first: Reason, second: Reason) {
        let (error, reason) = match ended {
            EndedBy::Finished => return self.finish(),
            EndedBy::First(error) => (error, first),
            EndedBy::Second(error) => (error, second),
            EndedBy::Cut => {
                let half_open = self.counters.is_half_open();
                let reason = if half_open { Reason::HalfOpenTimeout } else { Reason::IdleTimeout };
                return self.refused(Refusal::new(reason, ""));
            }
        };
        let reason = if error.kind() == io::ErrorKind::OutOfMemory { Reason::MemoryLimit } else { reason };
        self.refused(Refusal::new(reason, error.to_string()));
    }

    /// Ends the record: the connection was refused, or broke.
    pub fn refused(mut self, refusal: Refusal) {
        self.end(&refusal);
    }
}

impl Facts {
    fn kind(&self) -> Kind {
        Kind {
            direction: self.direction,
            source_workload: self.source_workload.clone(),
            source_identity: self.source_identity.clone(),
            target: self.target.clone(),
            destination_identity: self.destination_identity.clone(),
            security: self.security,
        }
    }

    fn entry<'a>(&'a self, outcome: &'a Refusal, opened: Option<&'a Open>) -> Entry<'a> {
        let mut entry = Entry::new(self.direction, self.source, self.destination);
        let [source, destination] = opened.map_or(&[None, None], |open| &open.series.identities);
        // Written once for all connections between the same two, when this one stood.
        let text = |known: &'a Option<Box<str>>, id: &Option<SpiffeId>| match (known, id) {
            (Some(known), _) => Some((&**known).into()),
            (None, id) => id.as_ref().map(|id| id.to_string().into()),
        };
        entry.source_workload = self.source_workload.as_ref().map(|w| (&*w.name).into());
        entry.source_namespace = self.source_workload.as_ref().map(|w| w.namespace.as_str().into());
        entry.source_identity = text(source, &self.source_identity);
        entry.destination_workload = self.target.workload.as_ref().map(|w| (&*w.name).into());
        entry.destination_namespace = self.target.workload.as_ref().map(|w| w.namespace.as_str().into());
        entry.destination_service = self.target.service.as_ref().map(|s| (&*s.key.hostname).into());
        entry.destination_identity = text(destination, &self.destination_identity);
        entry.policy = outcome.policy.as_ref().or(self.policy.as_ref()).map(|policy| policy.to_string().into());
        entry.dry_run = dry_run(&self.dry_run).map(Into::into);
        entry.trace = self.trace.map(|trace| trace.id);
        entry.reason = outcome.reason.label().into();
        (entry.bytes_sent, entry.bytes_received) = bytes(&self.counters, self.counted);
        entry.duration = self.begun.elapsed();
        entry.security = self.security;
        if outcome.reason != Reason::Ok {
            entry.error = Some(outcome.to_string().into());
        }
        entry
    }

    /// Writes the record, once.
    fn end(&mut self, outcome: &Refusal) {
        let shared = Arc::clone(&self.telemetry.0);
        let opened = self.opened.take();
        match &opened {
            Some(Opened { open, place, .. }) => {
                open.report();
                open.series.closed.increment(1);
                if let Some(place) = *place {
                    shared.open.remove(place);
                }
            }
            None if outcome.reason != Reason::Ok => series::failed(&self.kind(), outcome, &shared.limit),
            None => {}
        }
        let entry = self.entry(outcome, opened.as_ref().map(|opened| &*opened.open));
        shared.log.write(&entry);
        if let (Some(spans), Some(trace)) = (&shared.spans, &self.trace) {
            spans.send(&entry, trace);
        }
        self.ended = true;
    }
}

/// What dry-run policies would have decided, as `policy:reason`, the first few of them.
fn dry_run(decided: &[Refusal]) -> Option<String> {
    const MOST: usize = 4;
    let one = |decided: &Refusal| {
        let policy = decided.policy.as_ref().map(ToString::to_string).unwrap_or_default();
        format!("{policy}:{}", decided.reason.label())
    };
    let mut text = decided.iter().take(MOST).map(one).collect::<Vec<_>>().join(",");
    if decided.len() > MOST {
        text.push_str(",…");
    }
    (!decided.is_empty()).then_some(text)
}

impl Deref for Record {
    type Target = Facts;

    fn deref(&self) -> &Facts {
        &self.0
    }
}

impl DerefMut for Record {
    fn deref_mut(&mut self) -> &mut Facts {
        &mut self.0
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // A connection whose task was ended from outside was cut by the drain of the proxy or of its pod.
        self.end(&Refusal::new(Reason::Draining, "cut while the proxy or the pod went away"));
    }
}
