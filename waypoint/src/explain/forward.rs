//! Where a request goes by its route: what is changed on the way, the clusters with their shares, and their endpoints.

use std::{sync::Arc, time::Duration};

use ambit_model::{
    Reason, Refusal,
    balance::Policy,
    explain::{Stage, Step, Verdict},
    route::{Claim, ClusterWeight, Crossing, HashPolicy, Hashed, Mirror, Session, Upstream as Forwarding},
};
use http::StatusCode;
use serde::Serialize;

use super::{
    Explanation, Routed,
    endpoints::{self, EndpointSaid, name_of, name_of_place, told},
    words,
};
use crate::{
    compiled::{Chain, Cluster, Protocol, Snapshot, TcpChain},
    http::{deadline::Deadline, is_grpc, select},
    terminate::Tunnel,
    upstream::{Place, TRIES, goes_on},
};

/// A cluster that the request may be sent to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClusterSaid {
    /// Its name.
    pub name: Arc<str>,
    /// Its share …
    pub weight: u64,
    /// … out of this.
    pub of: u64,
    /// What comes of requests that it gets.
    pub verdict: Verdict,
    /// The reason code: `ok` when there is an endpoint.
    pub reason: Reason,
    /// The status that is answered when there is none.
    pub status: Option<u16>,
    /// The endpoints, at most 64.
    pub endpoints: Vec<EndpointSaid>,
}

/// A share of a cluster, of requests or connections.
struct Share<'a> {
    name: &'a Arc<str>,
    weight: u64,
    of: u64,
    /// Of a request whose route has sessions: what it says of its own.
    session: Option<(&'a Session, Claim)>,
    /// Of a request: by what it is hashed, and what was found.
    hash: Option<(&'a [HashPolicy], Hashed)>,
}

impl Explanation {
    /// A request that its route sends on.
    pub(super) fn forwarded(&mut self, routed: Routed<'_>, forwarding: &Forwarding, crossing: Option<Crossing>) {
        let Routed { snapshot, tunnel, chain, http, route, view, version } = routed;
        let of: u64 = forwarding.clusters.iter().map(|share| u64::from(share.weight)).sum();
        let chosen: Vec<&Arc<ClusterWeight>> = forwarding.clusters.iter().filter(|share| share.weight > 0).collect();
        let Some(first) = chosen.first() else {
            let (status, refusal) = select::nowhere(route);
            let _end: Option<()> = self.refuse(Step::new(Stage::Action, "it is sent nowhere"), Some(status), refusal);
            return;
        };
        let says = match chosen.as_slice() {
            [only] => format!("it goes to the cluster {}", only.cluster),
            several => format!("it goes to one of {} clusters by chance", several.len()),
        };
        let mut step = Step::new(Stage::Action, says);
        if forwarding.clusters.len() > 1 {
            for share in &forwarding.clusters {
                step = step.because(format!("{} has {} of {of}", share.cluster, share.weight));
            }
        }
        step = on_the_way(step, routed, forwarding, first);
        if let Some(Crossing::Passed(headers)) =
            crossing.filter(|crossing| matches!(crossing, Crossing::Passed(map) if !map.is_empty()))
        {
            let names: Vec<&str> = headers.keys().map(http::HeaderName::as_str).collect();
            step = step.because(format!("its response is given {} (CORS)", names.join(", ")));
        }
        let due = Deadline::of(http, forwarding, view.headers, is_grpc(view.headers), (Duration::ZERO, true));
        let of_stream = forwarding.stream.iter().flat_map(|times| words::stream(times, &due));
        step = words::due(&due).into_iter().chain(of_stream).fold(step, |step, said| step.because(said));
        step = step.because(match &forwarding.retry {
            Some(policy) => words::retries(policy),
            None => {
                "no policy sends it again: only if no endpoint has looked at it, or once if it has no body and may arrive twice"
                    .to_owned()
            }
        });
        if let Some(said) = forwarding.retry.as_ref().and_then(|_| words::writes(route)) {
            step = step.because(said);
        }
        let upgrade = select::upgrade(http, forwarding, view.headers);
        if let Ok(Some(upgrade)) = &upgrade {
            let by = words::upgrades(route).filter(|_| !http.upgrades.contains(upgrade)).unwrap_or_default();
            step = step.because(format!("an upgrade to {upgrade} is passed on{by}: no retries, and no copies"));
        }
        self.steps.push(step);
        let session = select::session(route, http, &view);
        for share in chosen {
            let hash = Some((forwarding.hash.as_slice(), select::hashed(snapshot, tunnel, (forwarding, share), &view)));
            let told = Share { name: &share.cluster, weight: u64::from(share.weight), of, session, hash };
            match select::cluster(snapshot, forwarding, share) {
                Ok(cluster) => self.cluster(snapshot, tunnel, chain, &told, cluster, Some(version)),
                Err((status, refusal)) => self.no_cluster(&told, Some(status), refusal),
            }
        }
        self.altogether();
        if let Err((status, refusal)) = upgrade
            && self.verdict != Verdict::Refused
        {
            let _end: Option<()> = self.refuse(Step::new(Stage::Admission, "its upgrade is refused"), Some(status), refusal);
        }
    }

    /// A connection that is carried byte by byte.
    pub(super) fn carried(&mut self, snapshot: &Snapshot, tunnel: &Tunnel, chain: &Chain, tcp: &TcpChain) {
        let of: u64 = tcp.clusters.iter().map(|(_, weight)| u64::from(*weight)).sum();
        for (name, weight) in tcp.clusters.iter().filter(|(_, weight)| *weight > 0) {
            let told = Share { name, weight: u64::from(*weight), of, session: None, hash: None };
            match snapshot.clusters.get(name) {
                Some(cluster) => self.cluster(snapshot, tunnel, chain, &told, cluster, None),
                None => {
                    let refusal = Refusal::new(Reason::BackendInvalid, format!("there is no cluster {name}"));
                    self.no_cluster(&told, None, refusal);
                }
            }
        }
        if of == 0 {
            let refusal = Refusal::new(Reason::BackendInvalid, "no cluster has a weight");
            let _end: Option<()> = self.refuse(Step::new(Stage::Action, "it is sent nowhere"), None, refusal);
            return;
        }
        self.altogether();
    }

    fn cluster(
        &mut self,
        snapshot: &Snapshot,
        tunnel: &Tunnel,
        chain: &Chain,
        share: &Share<'_>,
        cluster: &Arc<Cluster>,
        version: Option<http::Version>,
    ) {
        let identity = chain.upstream_identity.as_ref();
        let (endpoints, refusal) = endpoints::of(snapshot, cluster, tunnel.destination, identity);
        let first = share.session.map(|(session, claim)| goes_on(cluster, session, claim)).transpose();
        let (first, missed) = match first {
            Ok(first) => (first.flatten(), None),
            Err(refusal) => (None, Some(refusal)),
        };
        match refusal.or(missed) {
            None => {
                let hash = share.hash.as_ref().filter(|_| matches!(cluster.balance.policy, Policy::Hash(_)));
                // Which cookie a client is given depends on its connection.
                let known = hash.filter(|(_, hashed)| hashed.cookies.is_empty());
                let led = known.and_then(|(_, hashed)| cluster.live.led_by(hashed.hash?));
                let step = chosen(cluster, &endpoints, version, first.as_ref().or(led.as_ref()));
                let step = hash.iter().fold(step, |step, (policies, hashed)| step.because(words::hash(policies, hashed)));
                self.steps.push(match share.session {
                    Some((session, claim)) => step.because(words::session(session, claim, first.is_some())),
                    None => step,
                });
                self.clusters.push(share.said(Verdict::Allowed, Reason::Ok, None, endpoints));
            }
            Some(refusal) => {
                let status = version.map(|_| StatusCode::SERVICE_UNAVAILABLE);
                let step = told(Step::new(Stage::Endpoint, format!("{} has no endpoint to send to", share.name)), &endpoints);
                self.clusters.push(share.said(Verdict::Refused, refusal.reason, status, endpoints));
                self.steps.push(step.because(refusal.to_string()).refused(refusal));
            }
        }
    }

    fn no_cluster(&mut self, share: &Share<'_>, status: Option<StatusCode>, refusal: Refusal) {
        self.clusters.push(share.said(Verdict::Refused, refusal.reason, status, Vec::new()));
        let step = Step::new(Stage::Endpoint, format!("{} is not there", share.name)).because(refusal.to_string());
        self.steps.push(step.refused(refusal));
    }

    /// What all clusters have in common.
    fn altogether(&mut self) {
        let Some(first) = self.clusters.first() else { return };
        let end = |cluster: &ClusterSaid| (cluster.verdict, cluster.reason, cluster.status);
        if self.clusters.iter().all(|cluster| end(cluster) == end(first)) {
            (self.verdict, self.reason, self.status) = (first.verdict, Some(first.reason), first.status);
        } else {
            (self.verdict, self.reason, self.status) = (Verdict::Unknown, None, None);
            if let Some(step) = self.steps.iter_mut().find(|step| step.stage == Stage::Action) {
                step.doubt = Some("which cluster is chosen, and they do not all end alike".to_owned());
            }
        }
    }
}

impl Share<'_> {
    fn said(&self, verdict: Verdict, reason: Reason, status: Option<StatusCode>, endpoints: Vec<EndpointSaid>) -> ClusterSaid {
        let status = status.map(|status| status.as_u16());
        ClusterSaid { name: self.name.clone(), weight: self.weight, of: self.of, verdict, reason, status, endpoints }
    }
}

/// What is changed on the way, and who gets copies.
fn on_the_way(mut step: Step, routed: Routed<'_>, forwarding: &Forwarding, weight: &ClusterWeight) -> Step {
    let Routed { tunnel, route, view, .. } = routed;
    if let Some(rewrite) = &forwarding.path {
        step = step.because(format!("the path becomes {:?}", rewrite.apply(&view, &route.when.path)));
    }
    let of_one = if forwarding.clusters.len() > 1 { format!(" (for {})", weight.cluster) } else { String::new() };
    if let Some(host) = forwarding.host.as_ref().or(weight.host.as_ref()) {
        step = step.because(format!("the host becomes {:?}{of_one}", host.0));
    }
    let mut headers = view.headers.clone();
    for changes in route.request_changes(&weight.request_headers) {
        changes.apply(&mut headers, &view, tunnel.peer.uri.as_deref());
    }
    for change in words::changes(view.headers, &headers) {
        step = step.because(format!("{change}{of_one}"));
    }
    if let Some(change) = words::to_response(route.response_changes(&weight.response_headers)) {
        step = step.because(format!("{change}{of_one}"));
    }
    for Mirror { cluster, of, copied, .. } in &forwarding.mirrors {
        step = step.because(format!("{copied} of {of} requests are copied to {cluster}"));
    }
    step
}

/// The step for a cluster that has endpoints.
fn chosen(cluster: &Cluster, endpoints: &[EndpointSaid], version: Option<http::Version>, first: Option<&Place>) -> Step {
    let usable = endpoints.iter().filter(|endpoint| endpoint.usable).count();
    let spoken = match (version, cluster.protocol) {
        (None, _) => "bytes",
        (Some(_), Protocol::Http1) => "HTTP/1.1",
        (Some(_), Protocol::Http2) => "HTTP/2",
        (Some(version), Protocol::Downstream) if version == http::Version::HTTP_2 => "HTTP/2, as the client",
        (Some(_), Protocol::Downstream) => "HTTP/1.1, as the client",
    };
    let which = match (first, endpoints.iter().filter(|endpoint| endpoint.usable).collect::<Vec<_>>().as_slice()) {
        (Some(first), _) => name_of_place(first),
        (None, [only]) => name_of(only),
        (None, _) => format!("one of {usable} endpoints"),
    };
    let mut step = told(Step::new(Stage::Endpoint, format!("{}: {spoken} to {which}", cluster.name)), endpoints);
    if usable > 1 {
        let tries = usable.min(TRIES);
        step = step.because(format!("{}; {tries} are tried when they cannot be reached", cluster.balance.policy.in_words()));
        step = cluster.balance.slow_start.iter().fold(step, |step, slow| step.because(slow.in_words()));
    }
    step = step.because(format!("a connection must stand within {:?}", cluster.connect_timeout));
    match version {
        Some(_) => step.because(words::budget(&cluster.retry_budget)),
        None => step,
    }
}
