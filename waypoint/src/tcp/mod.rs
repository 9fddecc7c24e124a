//! Connections that are not read: bytes both ways.

use std::{
    future::pending,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ambit_hbone::{
    Incoming,
    copy::{Counters, EndedBy, Side, TcpSide, join},
};
use ambit_model::{Reason, Refusal, balance::Outcome};
use tokio::time::sleep;

use crate::{
    authz,
    compiled::{Chain, TcpChain},
    http::{detect::Detected, unreached},
    observe::{Logged, Record},
    proxy::Proxy,
    terminate::{Tunnel, refuse},
    upstream::{Connected, Stream, candidates, open},
};

/// How often a connection is looked at in the time that it may be idle, so that it ends late by no more than about this share of it.
const LOOKS: u32 = 16;

/// Connects to an endpoint and only then opens the tunnel, so that a client learns at once when there is no endpoint
/// (wire contract, section 4: 200 only after the upstream connection stands).
pub async fn connect_then_accept(
    proxy: Arc<Proxy>,
    tunnel: Arc<Tunnel>,
    chain: Arc<Chain>,
    tcp: &TcpChain,
    mut incoming: Incoming,
) {
    let mut record = Record::new(proxy.telemetry.clone(), tunnel.peer.clone(), tunnel.destination, "tcp");
    record.logged = Logged::connection(&tcp.logs);
    record.metrics.clone_from(&chain.metrics);
    record.dry_run = authz::dry_run(&chain.rbac, &authz::subject(&tunnel, None, None));
    let connected = tokio::select! {
        connected = connect(&proxy, &tunnel, &chain, tcp, &mut record) => connected,
        () = incoming.abandoned() => return,
    };
    match connected {
        Err(refusal) => refuse(record, incoming, &refusal),
        Ok(upstream) => match incoming.accept(http::HeaderMap::new()) {
            Ok(stream) => pump(Detected::later(stream).into_stream(), upstream, tcp.idle, record).await,
            Err(error) => record.error = Some(error.to_string()),
        },
    }
}

/// Connects to an endpoint for a tunnel that is open already.
pub async fn carry<S: Side>(proxy: Arc<Proxy>, tunnel: Arc<Tunnel>, chain: Arc<Chain>, tcp: &TcpChain, stream: S) {
    let mut record = Record::new(proxy.telemetry.clone(), tunnel.peer.clone(), tunnel.destination, "tcp");
    record.logged = Logged::connection(&tcp.logs);
    record.metrics.clone_from(&chain.metrics);
    match authz::connection(&chain.rbac, &tunnel) {
        Err(refusal) => {
            record.service = chain.service();
            record.refused(&refusal);
        }
        Ok(()) => {
            record.dry_run = authz::dry_run(&chain.rbac, &authz::subject(&tunnel, None, None));
            match connect(&proxy, &tunnel, &chain, tcp, &mut record).await {
                Err(refusal) => record.refused(&refusal),
                Ok(upstream) => pump(stream, upstream, tcp.idle, record).await,
            }
        }
    }
}

/// A connection to an endpoint, with its place among those of its cluster.
type Upstream = (Stream, Connected);

async fn connect(
    proxy: &Proxy,
    tunnel: &Tunnel,
    chain: &Chain,
    tcp: &TcpChain,
    record: &mut Record,
) -> Result<Upstream, Refusal> {
    let name = tcp.choose(fastrand::u64(..)).ok_or_else(|| Refusal::new(Reason::BackendInvalid, "no cluster has a weight"))?;
    record.cluster = Some(name.clone());
    let snapshot = proxy.config.load_full();
    let cluster =
        snapshot.clusters.get(name).ok_or_else(|| Refusal::new(Reason::BackendInvalid, format!("there is no cluster {name}")))?;
    let mut found = candidates(cluster, tunnel.destination, chain.upstream_identity.as_ref())?;
    record.service = found.service.take();
    let mut last = Refusal::new(Reason::NoHealthyEndpoint, "");
    for candidate in &found.endpoints {
        let place = cluster.connection(&candidate.host)?;
        match open(proxy, &candidate.to, tunnel.passed_on.clone(), cluster.connect_timeout).await {
            Ok(stream) => {
                // What is said in it is not read.
                cluster.note(&candidate.host, Outcome::Status(200));
                record.upstream = Some(candidate.upstream.clone());
                return Ok((stream, place));
            }
            Err(refusal) if refusal.reason.is_policy() => return Err(refusal),
            Err(refusal) => {
                cluster.note(&candidate.host, unreached(refusal.reason));
                last = refusal;
            }
        }
    }
    Err(last)
}

async fn pump<S: Side>(client: S, (upstream, place): Upstream, idle: Option<Duration>, mut record: Record) {
    let counters = Counters::default();
    let carried = async {
        match upstream {
            Stream::Tunnel(upstream) => join(client, upstream, &counters).await,
            Stream::Clear(upstream) => join(client, TcpSide::from(upstream), &counters).await,
        }
    };
    let outcome = tokio::select! {
        biased;
        outcome = carried => outcome,
        never = cut_idle(&counters, idle) => never,
    };
    drop(place);
    record.sent.store(outcome.received, Ordering::Relaxed);
    record.received = outcome.sent;
    record.reason = match &outcome.ended_by {
        EndedBy::Finished => Reason::Ok,
        EndedBy::First(_) => Reason::ClientReset,
        EndedBy::Second(_) => Reason::UpstreamReset,
        EndedBy::Cut => Reason::IdleTimeout,
    };
    record.error = outcome.ended_by.error().map(ToString::to_string);
}

/// Has what is carried end when nothing was for so long, or a little longer. Never completes itself.
async fn cut_idle<T>(counters: &Counters, limit: Option<Duration>) -> T {
    let Some(limit) = limit else { return pending().await };
    let carried = || counters.sent().wrapping_add(counters.received());
    let (mut before, mut in_vain) = (carried(), 0);
    while in_vain < LOOKS {
        // Each connection looks now and then, instead of setting a clock anew with each byte. What counts is how often: while the program itself
        // stands still nothing is carried, whatever waits in the kernel.
        sleep(limit / LOOKS).await;
        let now = carried();
        in_vain = if now == before { in_vain + 1 } else { 0 };
        before = now;
    }
    counters.cut();
    pending().await
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn what_carries_nothing_is_cut_and_what_carries_a_byte_now_and_then_is_not() {
        let limit = Duration::from_millis(400);
        let (busy, idle, endless) = (Counters::default(), Counters::default(), Counters::default());
        let began = Instant::now();
        let work = async {
            while !idle.is_cut() {
                busy.add(0, 1);
                sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            biased;
            () = work => {}
            () = cut_idle(&busy, Some(limit)) => {}
            () = cut_idle(&idle, Some(limit)) => {}
            () = cut_idle(&endless, None) => {}
        }
        assert!(began.elapsed() >= limit && !busy.is_cut() && !endless.is_cut());
    }
}
