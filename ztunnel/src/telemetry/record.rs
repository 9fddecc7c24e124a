//! The record of one connection: what is learnt of it, and what is written when it ends.

use std::{io, mem, net::SocketAddr, sync::Arc, time::Instant};

use ambit_hbone::copy::{Counters, EndedBy};
use ambit_identity::SpiffeId;
use ambit_model::{Reason, Refusal, authorize::Allowed, plan::Target, reason::dry_run};
use ambit_runtime::telemetry::{Direction, Entry, Security, Spans, Trace, count_dry_run};
use tokio::sync::watch;

use super::{
    Telemetry,
    open::{Ends, Open, bytes},
    series::{self, Kind},
};

/// The record of one connection.
#[derive(Debug)]
pub struct Record {
    telemetry: Telemetry,
    counters: Arc<Counters>,
    /// Whose pump counts.
    counted: Direction,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// More is to be learnt of it.
    Opening(Box<Facts>),
    /// Both sides stand. An idle connection keeps only what is not said already by the series it counts in.
    Open(Arc<Open>),
    Ended,
}

/// What is learnt of a connection until it stands.
#[derive(Debug)]
pub struct Facts {
    ends: Ends,
    /// Who is at its ends, and how it is protected between the nodes. Identities are proved when that is mutual TLS.
    pub kind: Kind,
    /// The W3C trace that it is part of.
    pub trace: Option<Trace>,
    /// On whose behalf it comes, as a waypoint says that may say so.
    pub forwarded: Option<Box<SpiffeId>>,
    /// Why it may pass.
    allowed: Allowed,
    policies: Option<watch::Receiver<u64>>,
}

impl Record {
    pub(super) fn begin(telemetry: Telemetry, direction: Direction, source: SocketAddr, destination: SocketAddr) -> Self {
        let facts = Facts {
            ends: Ends { source, destination, reached: None, begun: Instant::now() },
            kind: Kind::new(direction),
            trace: None,
            forwarded: None,
            allowed: Allowed::default(),
            policies: None,
        };
        Self { telemetry, counters: Arc::default(), counted: direction, stage: Stage::Opening(Box::new(facts)) }
    }

    /// Notes what is learnt. Once the connection stands, what was learnt stays as it is.
    pub fn learn(&mut self, note: impl FnOnce(&mut Facts)) {
        if let Stage::Opening(facts) = &mut self.stage {
            note(facts);
        }
    }

    /// What is known of a connection that does not stand yet.
    #[must_use]
    pub fn facts(&self) -> Option<&Facts> {
        if let Stage::Opening(facts) = &self.stage { Some(facts) } else { None }
    }

    /// Notes who opens it.
    pub fn from_identity(&mut self, id: &SpiffeId) {
        self.learn(|facts| facts.kind.source_identity = Some(id.clone()));
    }

    /// Notes who answers it, and how it is protected.
    pub fn secured(&mut self, security: Security, answers: Option<&SpiffeId>) {
        self.learn(|facts| {
            facts.kind.security = security;
            facts.kind.destination_identity = answers.cloned();
        });
    }

    /// Notes where the connection really goes, when that shows only later.
    pub fn destination(&mut self, destination: SocketAddr) {
        self.learn(|facts| facts.ends.destination = destination);
    }

    /// Notes what is tried now, and the address where it is reached. What was proved to reach an earlier target says nothing of this one.
    pub fn towards(&mut self, target: &Target, address: Option<SocketAddr>) {
        self.learn(|facts| {
            facts.kind.target = target.clone();
            facts.ends.reached = address;
        });
        self.secured(Security::None, None);
    }

    /// Notes that both sides stand.
    pub fn established(&mut self) {
        let Stage::Opening(facts) = &mut self.stage else { return };
        let shared = &self.telemetry.0;
        let (series, used) = shared.series.get(&facts.kind, &shared.limit);
        series.opened.increment(1);
        let said = (facts.trace, facts.forwarded.take());
        let open = Open::new(Arc::clone(&self.counters), self.counted, facts.ends, (series, used), said);
        open.set_allowed(mem::take(&mut facts.allowed));
        let open = Arc::new(open);
        shared.open.add(&open);
        self.stage = Stage::Open(open);
    }

    /// Notes what tells of changes since it was decided that the connection may pass.
    pub fn decided(&mut self, policies: watch::Receiver<u64>) {
        self.learn(|facts| facts.policies = Some(policies));
    }

    /// Gives out what tells of changes since then, until the connection stands.
    pub fn policies(&mut self) -> Option<watch::Receiver<u64>> {
        if let Stage::Opening(facts) = &mut self.stage { facts.policies.take() } else { None }
    }

    /// Notes that the connection may pass, and why. What dry-run policies make of it is counted, and counted again when a change of
    /// policy makes it something else.
    pub fn allowed(&mut self, allowed: Allowed) {
        let limit = &self.telemetry.0.limit;
        let count = |now: &[Refusal], before: &[Refusal]| {
            for decided in now.iter().filter(|decided| !before.contains(decided)) {
                count_dry_run("destination", decided.reason.label(), dry_run::policy(decided), limit);
            }
        };
        match &mut self.stage {
            Stage::Opening(facts) => {
                count(&allowed.dry_run, &facts.allowed.dry_run);
                facts.allowed = allowed;
            }
            Stage::Open(open) => {
                count(&allowed.dry_run, &open.allowed().dry_run);
                open.set_allowed(allowed);
            }
            Stage::Ended => {}
        }
    }

    /// Its place in a trace, which begins here if it is in none.
    pub fn traced(&mut self) -> Trace {
        let begin = || self.telemetry.0.spans.as_ref().map_or_else(|| Trace::new(false), Spans::begin);
        match &mut self.stage {
            Stage::Opening(facts) => *facts.trace.get_or_insert_with(begin),
            Stage::Open(open) => open.trace.unwrap_or_else(begin),
            Stage::Ended => begin(),
        }
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

    /// Writes the record, once.
    fn end(&mut self, outcome: &Refusal) {
        let shared = &self.telemetry.0;
        let carried = bytes(&self.counters, self.counted);
        let write = |ending: &Ending<'_>| {
            let mut entry = ending.entry(outcome);
            (entry.bytes_sent, entry.bytes_received) = carried;
            shared.log.write(&entry);
            if let (Some(spans), Some(trace)) = (&shared.spans, ending.trace) {
                spans.send(&entry, trace);
            }
        };
        match mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Open(open) => {
                open.report();
                open.series.closed.increment(1);
                shared.open.remove(&open);
                let identities = Some(&open.series.identities);
                let (ends, kind, trace) = (&open.ends, &open.series.kind, open.trace.as_ref());
                let forwarded = open.forwarded.as_deref();
                write(&Ending { ends, kind, trace, forwarded, allowed: &open.allowed(), identities });
            }
            Stage::Opening(facts) => {
                if outcome.reason != Reason::Ok {
                    series::failed(&facts.kind, outcome, &shared.limit);
                }
                let Facts { ends, kind, trace, forwarded, allowed, .. } = &*facts;
                let (trace, forwarded) = (trace.as_ref(), forwarded.as_deref());
                write(&Ending { ends, kind, trace, forwarded, allowed, identities: None });
            }
            Stage::Ended => {}
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if matches!(self.stage, Stage::Ended) {
            return;
        }
        // A connection whose task was ended from outside was cut by the drain of the proxy or of its pod.
        self.end(&Refusal::new(Reason::Draining, "cut while the proxy or the pod went away"));
    }
}

/// What is known of a connection when it ends.
struct Ending<'a> {
    ends: &'a Ends,
    kind: &'a Kind,
    trace: Option<&'a Trace>,
    forwarded: Option<&'a SpiffeId>,
    allowed: &'a Allowed,
    /// Written once for all connections between the same two, when this one stood.
    identities: Option<&'a [Option<Box<str>>; 2]>,
}

impl<'a> Ending<'a> {
    fn entry(&self, outcome: &'a Refusal) -> Entry<'a> {
        let (kind, target) = (self.kind, &self.kind.target);
        let mut entry = Entry::new(kind.direction, self.ends.source, self.ends.destination);
        let [source, destination] = self.identities.unwrap_or(&[None, None]);
        let text = |known: &'a Option<Box<str>>, id: &Option<SpiffeId>| match (known, id) {
            (Some(known), _) => Some((&**known).into()),
            (None, id) => id.as_ref().map(|id| id.to_string().into()),
        };
        entry.source_workload = kind.source_workload.as_ref().map(|w| (&*w.name).into());
        entry.source_namespace = kind.source_workload.as_ref().map(|w| w.namespace.as_str().into());
        entry.source_identity = text(source, &kind.source_identity);
        entry.forwarded_client = self.forwarded.map(|id| id.to_string().into());
        entry.destination_workload = target.workload.as_ref().map(|w| (&*w.name).into());
        entry.destination_namespace = target.workload.as_ref().map(|w| w.namespace.as_str().into());
        entry.destination_service = target.service.as_ref().map(|s| (&*s.key.hostname).into());
        entry.destination_identity = text(destination, &kind.destination_identity);
        entry.policy = outcome.policy.as_ref().or(self.allowed.policy.as_ref()).map(|policy| policy.to_string().into());
        entry.dry_run = dry_run::text(&self.allowed.dry_run).map(Into::into);
        entry.trace = self.trace.map(|trace| trace.id);
        entry.reason = outcome.reason.label().into();
        entry.duration = self.ends.begun.elapsed();
        entry.security = kind.security;
        if outcome.reason != Reason::Ok {
            entry.error = Some(outcome.to_string().into());
        }
        entry
    }
}
