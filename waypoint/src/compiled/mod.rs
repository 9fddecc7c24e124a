//! The configuration in the form requests are served from: immutable, published whole, shared by reference count.

mod admission;
mod cluster;
mod edge;
mod ext_authz;
mod ext_proc;
mod faults;
mod health;
mod limiter;
mod listener;
mod logs;
mod matcher;
mod names;
mod retries;
mod trace;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ambit_model::route::RouteTable;
use serde::Serialize;

pub use admission::{Admission, Admitted};
pub use cluster::{Cluster, Discovery, Endpoint, Endpoints, Locality, Protocol, ServiceInfo, Target};
pub use edge::{Edge, SecureChain};
pub use ext_authz::{AuthorizerService, Buffered, ExtAuthz, HttpService, Mark, Marked, NameTests};
pub use ext_proc::{BodyMode, ExtProc, MutationRules, ProcessingMode};
pub use faults::{Faults, Suffering};
pub use health::{HealthCheck, Probe};
pub use limiter::Limiter;
pub use listener::{
    Chain, Gate, HttpChain, Inbound, Proxy, RbacFilter, Routes, TcpChain, Terminate, TerminateHost, TerminateTable,
};
pub use logs::{LogCollector, LogTo, Logger, Logs, OnlyStatus};
pub use matcher::{AppProtocol, FirstBytes, MatchNode, NameTest, Selection};
pub use names::WorkloadNames;
pub use retries::{Counted, Retries};
pub use trace::{Collector, Speaks, Tag, Tracing};

/// By keys that only the configuration says, in which requests look things up: a quick hash will do.
pub type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Everything in force at one moment.
#[derive(Debug, Default, Serialize)]
pub struct Snapshot {
    /// Who may open a tunnel, and for what.
    pub terminate: Option<Arc<Terminate>>,
    /// Which authorities are known.
    pub authorities: Option<Arc<TerminateTable>>,
    /// What happens to the connection inside.
    pub inbound: Option<Arc<Inbound>>,
    /// What happens to the connections of clients that prove no identity, by the port that they come to.
    pub edge: BTreeMap<u16, Arc<Edge>>,
    /// Route tables by name.
    pub routes: Map<Arc<str>, Arc<RouteTable>>,
    /// Clusters by name.
    pub clusters: Map<Arc<str>, Arc<Cluster>>,
    /// Endpoints by the name their cluster discovers them under.
    pub endpoints: Map<Arc<str>, Arc<Endpoints>>,
}

impl Snapshot {
    /// The endpoints of a cluster; `None` when they have not been delivered yet.
    #[must_use]
    pub fn endpoints_of(&self, cluster: &Cluster) -> Option<Arc<Endpoints>> {
        match &cluster.discovery {
            Discovery::Static(endpoints) => Some(endpoints.clone()),
            Discovery::Eds(name) => self.endpoints.get(name).cloned(),
            Discovery::OriginalDestination => None,
        }
    }
}
