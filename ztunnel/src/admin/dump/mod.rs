//! `/config_dump`: everything the proxy holds, without keys. The names are those that `istioctl ztunnel-config` reads; what it does not
//! know is beside them.

mod certificate;
mod policy;
mod workload;

use std::{collections::BTreeMap, sync::Arc};

use ambit_model::state::MeshState;
use ambit_runtime::{admin::Reply, telemetry::Direction};
use serde::Serialize;

use self::{
    certificate::Certificate,
    policy::Policy,
    workload::{ServiceWithEndpoints, Workload},
};
use crate::{
    endpoints::Rested,
    node::pods::Pods,
    proxy::Pod,
    telemetry::{Connection, Owner},
    worker::Workers,
};

/// How many open connections are listed.
const CONNECTIONS: usize = 10_000;

/// Everything the proxy holds.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Dump {
    workloads: Vec<Workload>,
    services: Vec<ServiceWithEndpoints>,
    policies: Vec<Policy>,
    certificates: Vec<Certificate>,
    /// The captured pods, by their uids.
    workload_state: BTreeMap<String, State>,
    /// Open connections that are not listed, since there are so many.
    connections_left_out: usize,
    node: String,
    tunnels: Vec<Tunnels>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct State {
    state: &'static str,
    connections: Connections,
    info: Info,
    identity: String,
    netns_inode: u64,
    /// Endpoints that failed its connects and are left alone now.
    rested: Vec<Rested>,
}

#[derive(Default, Serialize)]
struct Connections {
    inbound: Vec<Connection>,
    outbound: Vec<Connection>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    name: String,
    namespace: String,
    trust_domain: String,
    service_account: String,
}

#[derive(Serialize)]
struct Tunnels {
    source: String,
    destinations: Vec<String>,
    address: String,
    open: Vec<usize>,
}

/// The page.
pub(super) fn page(node: &str, workers: &Workers, pods: &Pods) -> Reply {
    Reply::json(&dump(node, workers, pods))
}

fn dump(node: &str, workers: &Workers, pods: &Pods) -> Dump {
    let proxy = &workers.first().shared;
    // A copy shares everything, and connections do not wait until all is written.
    let mesh = proxy.state.read(MeshState::clone);
    let (mut workloads, mut services, mut policies): (Vec<_>, Vec<_>, Vec<_>) =
        (mesh.workloads().collect(), mesh.services().collect(), mesh.policies().collect());
    workloads.sort_by(|a, b| a.uid.cmp(&b.uid));
    services.sort_by(|a, b| a.key.cmp(&b.key));
    policies.sort_by(|a, b| a.key.cmp(&b.key));
    let (connections, connections_left_out) = proxy.telemetry.connections(CONNECTIONS);
    Dump {
        workloads: workloads.iter().map(|held| Workload::of(held)).collect(),
        services: services.iter().map(|held| ServiceWithEndpoints::of(&mesh, held)).collect(),
        policies: policies.iter().map(|held| Policy::of(held)).collect(),
        certificates: proxy.certificates.status().into_iter().map(Certificate::of).collect(),
        workload_state: states(&pods.list(), connections),
        connections_left_out,
        node: node.to_owned(),
        tunnels: workers
            .proxies()
            .flat_map(|proxy| proxy.pool.status())
            .map(|open| Tunnels {
                source: open.key.source.to_string(),
                destinations: open.key.destinations.iter().map(ToString::to_string).collect(),
                address: open.key.address.to_string(),
                open: open.tunnels,
            })
            .collect(),
    }
}

/// The pods with the connections that are theirs.
fn states(pods: &[Arc<Pod>], connections: Vec<(Owner, Connection)>) -> BTreeMap<String, State> {
    let mut states: BTreeMap<String, State> = pods.iter().map(|pod| (pod.uid.clone(), state(pod))).collect();
    let named = |pod: &Arc<Pod>| ((pod.identity.namespace().to_string(), pod.name.clone()), pod.uid.clone());
    let uids: BTreeMap<(String, String), String> = pods.iter().map(named).collect();
    for (Owner { name, namespace, direction }, connection) in connections {
        let Some(state) = uids.get(&(namespace, name)).and_then(|uid| states.get_mut(uid)) else { continue };
        match direction {
            Direction::Inbound => state.connections.inbound.push(connection),
            Direction::Outbound => state.connections.outbound.push(connection),
        }
    }
    states
}

fn state(pod: &Pod) -> State {
    State {
        state: "Up",
        connections: Connections::default(),
        info: Info {
            name: pod.name.clone(),
            namespace: pod.identity.namespace().to_string(),
            trust_domain: pod.identity.trust_domain().to_string(),
            service_account: pod.identity.service_account().to_string(),
        },
        identity: pod.identity.to_string(),
        netns_inode: pod.netns.inode(),
        rested: pod.standings.all_rested(),
    }
}
