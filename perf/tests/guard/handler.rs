//! ztunnel's own handler of tunnels to a pod as the far end: who the peer is, where its tunnel leads, whether it may, the connection to the
//! application from the client's address, the record of it with its metrics. What it does for each connection is counted where each is a new one.
//!
//! Its pod is in the namespace of the test, at the loopback address. Nothing is logged: the log has a thread of its own, which gathers lines for as
//! long as it likes. The handler of what pods open is not here: it asks the kernel where a connection was redirected from, which takes rules.

use std::{net::SocketAddr, sync::Arc};

use ambit_api::{security, type_url, workload as wire};
use ambit_hbone::{Pool, PoolConfig};
use ambit_runtime::{
    drain,
    netns::NetNs,
    socket::{PROXY_MARK, Stock},
    telemetry::{AccessLog, Destination, metrics_handle},
};
use ambit_tls::{StoreConfig, SvidStore, authority::LocalSource};
use ambit_xds::client::Handler;
use tokio::{net::TcpListener, sync::Semaphore};
use ztunnel::{
    config::Limits,
    endpoints::Endpoints,
    inbound::hbone,
    proxy::{Pod, Proxy},
    state::{Shared, addresses, policies},
    telemetry::Telemetry,
};

use crate::{line::id, state::resource, uncounted::Uncounted};

/// Room for connections: as much as a proxy has.
const PLACES: usize = 20_000;

/// Whether this process may do what a proxy does: its sockets are made in the namespaces of pods, and have a mark.
pub fn permitted() -> Result<(), Uncounted> {
    let tried = NetNs::current().and_then(|netns| netns.run(|| ()));
    tried.map_err(|error| Uncounted::Machine(format!("this process may not enter network namespaces: {error}")))
}

/// Serves connections of tunnels to the pod `api`, which only `web` may connect to.
pub async fn inbound(source: LocalSource) -> SocketAddr {
    metrics_handle().unwrap();
    let (proxy, pod) = (Arc::new(proxy(source)), Arc::new(pod()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (_trigger, watch) = drain::channel();
        while let Ok((tcp, from)) = listener.accept().await {
            tcp.set_nodelay(true).unwrap();
            tokio::spawn(hbone::handle(Arc::clone(&proxy), Arc::clone(&pod), tcp, from, watch.clone()));
        }
    });
    address
}

fn proxy(source: LocalSource) -> Proxy {
    Proxy {
        state: mesh(),
        certificates: SvidStore::new(Arc::new(source), StoreConfig::default()),
        pool: Pool::new(PoolConfig::default()),
        telemetry: Telemetry::new(AccessLog::open(&Destination::Off).unwrap()),
        places: Arc::new(Semaphore::new(PLACES)),
        limits: Limits::default(),
        cluster: "Kubernetes".to_owned(),
        near: Arc::default(),
        endpoints: Endpoints::default(),
        turns: Arc::default(),
    }
}

fn pod() -> Pod {
    let netns = NetNs::current().unwrap();
    Pod {
        uid: "1".to_owned(),
        name: "api".to_owned(),
        identity: id("api"),
        sockets: Stock::new(netns.clone(), PROXY_MARK),
        netns,
        places: Arc::new(Semaphore::new(PLACES)),
        sources: Default::default(),
        known: Default::default(),
        decisions: Default::default(),
        standings: Default::default(),
        cut: Default::default(),
    }
}

/// What the control plane has sent: the pod, and the policy for its namespace.
fn mesh() -> Arc<Shared> {
    let shared = Arc::new(Shared::default());
    let api = wire::Workload {
        uid: "Kubernetes//Pod/shop/api".to_owned(),
        name: "api".to_owned(),
        namespace: "shop".to_owned(),
        addresses: vec![vec![127_u8, 0, 0, 1].into()],
        tunnel_protocol: wire::TunnelProtocol::Hbone.into(),
        service_account: "api".to_owned(),
        cluster_id: "Kubernetes".to_owned(),
        ..Default::default()
    };
    let exact = security::string_match::MatchType::Exact("cluster.local/ns/shop/sa/web".to_owned());
    let clients = security::Match { principals: vec![security::StringMatch { match_type: Some(exact) }], ..Default::default() };
    let policy = security::Authorization {
        name: "clients".to_owned(),
        namespace: "shop".to_owned(),
        scope: security::Scope::Namespace.into(),
        action: security::Action::Allow.into(),
        groups: vec![security::Group { rules: vec![security::Rules { matches: vec![clients] }] }],
        ..Default::default()
    };
    let (pod, allowed) = (api.uid.clone(), "shop/clients".to_owned());
    let pod = resource(type_url::ADDRESS, pod, &wire::Address { r#type: Some(wire::address::Type::Workload(api)) });
    let allowed = resource(type_url::AUTHORIZATION, allowed, &policy);
    let mut rejected = addresses(Arc::clone(&shared)).apply(vec![pod], Vec::new());
    rejected.extend(policies(Arc::clone(&shared)).apply(vec![allowed], Vec::new()));
    assert!(rejected.is_empty(), "{rejected:?}");
    shared.note(|changes| (changes.addresses_synced, changes.policies_synced) = (true, true));
    shared
}
