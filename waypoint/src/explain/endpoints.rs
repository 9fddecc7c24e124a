//! The endpoints of a cluster, and how each stands now.

use std::{fmt, net::SocketAddr, sync::Arc};

use ambit_identity::SpiffeId;
use ambit_model::{Refusal, explain::Step};
use serde::Serialize;

use crate::{
    compiled::{Cluster, Endpoint, Locality, Snapshot},
    upstream::{Destination, Place, destination, none_usable, takes_requests},
};

/// How many endpoints are named; the document has [`KEPT`].
const NAMED: usize = 8;
/// How many endpoints of a cluster are told at most.
const KEPT: usize = 64;

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EndpointSaid {
    /// `namespace/name` of its workload, as far as it is known.
    pub workload: String,
    /// Its address.
    pub address: SocketAddr,
    /// The identity that it must prove; none when it is reached in clear.
    pub identity: Option<SpiffeId>,
    /// 0 first.
    pub priority: u32,
    /// Where it is, `region/zone/subzone`, where that is said.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub locality: Arc<str>,
    /// It may be chosen now.
    pub usable: bool,
    /// What its last health check has found, where it fails them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing: Option<String>,
}

/// The endpoints of a cluster, and why none of them may be used, if so. It takes nobody's turn.
pub(super) fn of(
    snapshot: &Snapshot,
    cluster: &Arc<Cluster>,
    original: SocketAddr,
    identity: Option<&SpiffeId>,
) -> (Vec<EndpointSaid>, Option<Refusal>) {
    if let Err(refusal) = takes_requests(cluster) {
        return (Vec::new(), Some(refusal));
    }
    let (all, usable) = (snapshot.endpoints_of(cluster).unwrap_or_default(), cluster.live.usable());
    let said = |(of, endpoint): (&Locality, &Arc<Endpoint>)| {
        let Destination { address, identity } = destination(endpoint, original, identity).ok()?;
        let workload = workload(endpoint);
        let usable = usable.iter().any(|usable| Arc::ptr_eq(usable, endpoint));
        let failing = cluster.live.why_failing(endpoint);
        let (priority, locality) = (of.priority, Arc::clone(&of.place));
        Some(EndpointSaid { workload, address, identity, priority, locality, usable, failing })
    };
    let each = all.localities.iter().flat_map(|locality| locality.endpoints.iter().map(move |endpoint| (locality, endpoint)));
    let endpoints: Vec<_> = each.filter_map(said).take(KEPT).collect();
    // Those that are no place for requests are passed over while there are others.
    let unreachable =
        || usable.iter().map(|endpoint| destination(endpoint, original, identity).err()).collect::<Option<Vec<_>>>();
    let refusal = match usable.is_empty() {
        true => Some(none_usable(cluster)),
        false => unreachable().and_then(|all| all.into_iter().next()),
    };
    (endpoints, refusal)
}

/// `namespace/name` of its workload, as far as it is known.
fn workload(endpoint: &Endpoint) -> String {
    match (&*endpoint.namespace, &*endpoint.workload) {
        (_, "") => String::new(),
        (namespace, name) => format!("{namespace}/{name}"),
    }
}

/// What it is called.
pub(super) fn name_of(endpoint: &EndpointSaid) -> String {
    called(&endpoint.workload, &endpoint.address)
}

/// The same of an endpoint that a session goes on with.
pub(super) fn name_of_place(Place { endpoint, host, .. }: &Place) -> String {
    called(&workload(endpoint), host)
}

fn called(workload: &str, address: &dyn fmt::Display) -> String {
    match workload {
        "" => address.to_string(),
        name => format!("{name} at {address}"),
    }
}

/// Where an endpoint is, and who is asked before it; nothing where neither is said.
fn near(endpoint: &EndpointSaid) -> String {
    match (&*endpoint.locality, endpoint.priority) {
        ("", 0) => String::new(),
        ("", priority) => format!(", priority {priority}"),
        (locality, priority) => format!(", in {locality}, priority {priority}"),
    }
}

/// `step` with the endpoints as its grounds.
pub(super) fn told(mut step: Step, endpoints: &[EndpointSaid]) -> Step {
    for endpoint in endpoints.iter().take(NAMED) {
        let proves = match &endpoint.identity {
            Some(identity) => format!("HBONE, must prove {identity}"),
            None => "in plain text".to_owned(),
        };
        let usable = match (&endpoint.failing, endpoint.usable) {
            (None, true) => String::new(),
            (None, false) => ", not used now: it is not ready, ejected, or of a later priority".to_owned(),
            (Some(why), false) => format!(", not used now: it fails its health check: {why}"),
            (Some(why), true) => format!(", used though it fails its health check, as too few do not: {why}"),
        };
        step = step.because(format!("{}: {proves}{}{usable}", name_of(endpoint), near(endpoint)));
    }
    match endpoints.len().saturating_sub(NAMED) {
        0 => step,
        more => step.because(format!("{more} more endpoints (--json has them)")),
    }
}
