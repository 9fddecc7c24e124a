//! DNS of the pods: names of the mesh are answered from the state, also while the control plane is away; everything else goes to the node's
//! resolvers as it is (wire contract, section 6).
//!
//! A proxy that has just started lets questions for addresses wait until it knows the state, but not for long: without a control plane
//! everything is forwarded, and what the cluster's resolver answers leads to addresses that are captured all the same.

#[cfg(test)]
mod fuzz;
mod listen;
mod lookup;
mod message;
mod metrics;
mod resolvers;
mod tcp;
mod udp;
mod upstream;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use ambit_model::{
    address::{Network, NetworkAddress},
    resolve::{self, Answer, Client, Family},
    state::MeshState,
};
use domain::base::iana::Rcode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::proxy::{Pod, Proxy};
pub(crate) use listen::Listening;
pub use lookup::Lookup;
use message::{Query, Transport, Unreadable};
use metrics::Outcome;
pub use resolvers::Resolver;
use resolvers::Resolvers;
pub(crate) use tcp::serve as serve_tcp;
pub(crate) use udp::serve as serve_udp;

/// How long after the start of the proxy questions wait for the state: less than a client waits before it asks again.
const LEARNING: Duration = Duration::from_secs(3);

/// What the DNS proxy is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Resolvers to forward to, in place of those of [`Settings::file`].
    pub resolvers: Vec<Resolver>,
    /// A file that names resolvers, as resolv.conf(5).
    pub file: PathBuf,
    /// The domain below which Kubernetes names services.
    pub domain: String,
    /// Queries of all pods that may wait for a resolver at once.
    pub queries: usize,
    /// Queries of one pod that may wait for a resolver at once.
    pub queries_per_pod: usize,
}

/// What the DNS of all pods shares.
#[derive(Debug)]
pub struct Dns {
    resolvers: Resolvers,
    domain: String,
    places: Arc<Semaphore>,
    places_per_pod: usize,
    begun: Instant,
}

impl Dns {
    /// With these settings.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self {
            resolvers: Resolvers::new(&settings.resolvers, settings.file.clone()),
            domain: settings.domain.trim_matches('.').to_ascii_lowercase(),
            places: Arc::new(Semaphore::new(settings.queries)),
            places_per_pod: settings.queries_per_pod,
            begun: Instant::now(),
        }
    }
}

/// The DNS of one pod.
#[derive(Debug)]
pub(crate) struct PodDns {
    shared: Arc<Dns>,
    proxy: Arc<Proxy>,
    pod: Arc<Pod>,
    places: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

/// What to do with a message of a client.
enum Next {
    /// Say this.
    Reply(Vec<u8>),
    /// Ask a resolver, holding these places.
    Forward(Places),
    /// Say nothing.
    Ignore,
}

/// Room for a query that waits.
struct Places {
    /// Whether the state was known when it came.
    known: bool,
    _pod: OwnedSemaphorePermit,
    _node: OwnedSemaphorePermit,
}

impl PodDns {
    /// Decides what to do with a message; never waits.
    fn decide(&self, bytes: &[u8], transport: Transport) -> Next {
        let query = match Query::read(bytes) {
            Ok(query) => query,
            Err(why) => {
                metrics::asked(transport, None, Outcome::Malformed);
                let refusal = match why {
                    Unreadable::Ignore => None,
                    Unreadable::Refuse(code) => message::refusal(bytes, code),
                };
                return refusal.map_or(Next::Ignore, Next::Reply);
            }
        };
        // Looked at first: what becomes known meanwhile is not missed.
        let known = self.is_known();
        if let Some(reply) = self.answer(&query, transport) {
            return Next::Reply(reply);
        }
        match self.place(known) {
            Some(places) => Next::Forward(places),
            None => {
                metrics::asked(transport, query.family(), Outcome::Limited);
                Next::Reply(query.error(Rcode::SERVFAIL))
            }
        }
    }

    /// The answer of the mesh; nothing when it is not the mesh's to give, as far as is known.
    fn answer(&self, query: &Query<'_>, transport: Transport) -> Option<Vec<u8>> {
        let (name, family) = query.asked.as_ref()?;
        let addresses = match self.resolve(name, *family) {
            Answer::Addresses(mut addresses) => {
                // Clients take the first one: no endpoint is to have all of them.
                let first = fastrand::usize(..addresses.len().max(1));
                addresses.rotate_left(first);
                addresses
            }
            Answer::NoData => Vec::new(),
            Answer::Forward => return None,
        };
        metrics::asked(transport, Some(*family), Outcome::Answered);
        Some(query.answer(&addresses, transport))
    }

    fn is_known(&self) -> bool {
        self.proxy.state.changes().knowledge().can_plan()
    }

    fn resolve(&self, name: &str, family: Family) -> Answer {
        if !self.is_known() {
            return Answer::Forward;
        }
        self.proxy.state.read(|mesh| {
            let network = self.network(mesh);
            let client = Client { namespace: self.pod.identity.namespace(), network: &network, domain: &self.shared.domain };
            resolve::resolve(mesh, client, name, family)
        })
    }

    fn network(&self, mesh: &MeshState) -> Network {
        self.proxy.workload_of(mesh, &self.pod).map_or_else(Network::default, |workload| workload.network.clone())
    }

    fn place(&self, known: bool) -> Option<Places> {
        let pod = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let node = Arc::clone(&self.shared.places).try_acquire_owned().ok()?;
        Some(Places { known, _pod: pod, _node: node })
    }

    /// Asks the node's resolvers, and says what the client is to be told.
    async fn forward(&self, bytes: &[u8], transport: Transport, places: Places) -> Option<Vec<u8>> {
        let query = Query::read(bytes).ok()?;
        if !places.known && query.asked.is_some() {
            self.learn().await;
            if let Some(answer) = self.answer(&query, transport) {
                return Some(answer);
            }
        }
        let usable = |at| !self.is_served_by_the_pod(at);
        let answer = upstream::ask(&self.shared.resolvers, usable, Some(&self.pod.netns), bytes, transport).await;
        let outcome = if answer.is_some() { Outcome::Forwarded } else { Outcome::Failed };
        metrics::asked(transport, query.family(), outcome);
        Some(match answer {
            Some(answer) if answer.len() <= query.limit(transport) => answer,
            Some(answer) => query.truncated(&answer),
            None => query.error(Rcode::SERVFAIL),
        })
    }

    /// Waits until the state is known, or it is not to be waited for any more.
    async fn learn(&self) {
        let rest = LEARNING.saturating_sub(self.shared.begun.elapsed());
        let _known_or_late = self.proxy.state.wait_for(rest, |_, changes| changes.addresses_synced.then_some(())).await;
    }

    /// Whether a resolver is the pod itself, or a service that the pod is an endpoint of: its own questions would come back to it for ever.
    fn is_served_by_the_pod(&self, at: SocketAddr) -> bool {
        self.proxy.state.read(|mesh| {
            let Some(pod) = self.proxy.workload_of(mesh, &self.pod) else { return false };
            let address = NetworkAddress::new(pod.network.clone(), at.ip());
            let serves = mesh.service_at(&address).is_some_and(|service| pod.services.contains_key(&service.key));
            serves || pod.addresses.contains(&address.ip)
        })
    }
}
