//! The admin pages: what this proxy holds, for people and for programs.

mod explain;

use std::{sync::Arc, time::SystemTime};

use ambit_runtime::admin::{Reply, Server};
use serde::Serialize;

use crate::{endpoints::Rested, node::pods::Pods, worker::Workers};

/// Everything the proxy holds, without keys.
#[derive(Serialize)]
struct Dump {
    node: String,
    workloads: Vec<serde_json::Value>,
    services: Vec<serde_json::Value>,
    policies: Vec<serde_json::Value>,
    certificates: Vec<Certificate>,
    pods: Vec<CapturedPod>,
    tunnels: Vec<Tunnels>,
}

#[derive(Serialize)]
struct Certificate {
    identity: String,
    serial: Option<String>,
    not_before_unix: Option<u64>,
    not_after_unix: Option<u64>,
    error: Option<String>,
}

#[derive(Serialize)]
struct CapturedPod {
    uid: String,
    name: String,
    identity: String,
    netns_inode: u64,
    /// Endpoints that failed its connects and are left alone now.
    rested: Vec<Rested>,
}

#[derive(Serialize)]
struct Tunnels {
    source: String,
    destinations: Vec<String>,
    address: String,
    open: Vec<usize>,
}

/// The pages of the admin listener.
pub(crate) fn pages(node: String, workers: Arc<Workers>, pods: Arc<Pods>) -> Server {
    let (name, asked, served) = (node.clone(), Arc::clone(&workers), Arc::clone(&pods));
    Server::new()
        .get("/healthz", |_| Reply::text("ok\n"))
        .get("/config_dump", move |_| Reply::json(&dump(&node, &workers, &pods)))
        .get("/explain", move |query| explain::page(&name, &asked, &served, query))
}

fn dump(node: &str, workers: &Workers, pods: &Pods) -> Dump {
    let proxy = &workers.first().proxy;
    let (mut workloads, mut services, mut policies) = proxy.state.read(|mesh| {
        (
            mesh.workloads().map(|w| (w.uid.to_string(), Arc::clone(w))).collect::<Vec<_>>(),
            mesh.services().map(|s| (s.key.to_string(), Arc::clone(s))).collect::<Vec<_>>(),
            mesh.policies().map(|p| (p.key.to_string(), Arc::clone(p))).collect::<Vec<_>>(),
        )
    });
    workloads.sort_by(|a, b| a.0.cmp(&b.0));
    services.sort_by(|a, b| a.0.cmp(&b.0));
    policies.sort_by(|a, b| a.0.cmp(&b.0));
    let unix = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Dump {
        node: node.to_owned(),
        workloads: workloads.iter().map(|(_, w)| value(&**w)).collect(),
        services: services.iter().map(|(_, s)| value(&**s)).collect(),
        policies: policies.iter().map(|(_, p)| value(&**p)).collect(),
        certificates: proxy
            .certificates
            .status()
            .into_iter()
            .map(|held| Certificate {
                identity: held.id.to_string(),
                serial: held.serial,
                not_before_unix: held.validity.map(|(from, _)| unix(from)),
                not_after_unix: held.validity.map(|(_, to)| unix(to)),
                error: held.error.map(|error| error.to_string()),
            })
            .collect(),
        pods: pods
            .list()
            .iter()
            .map(|pod| CapturedPod {
                uid: pod.uid.clone(),
                name: pod.name.clone(),
                identity: pod.identity.to_string(),
                netns_inode: pod.netns.inode(),
                rested: pod.standings.all_rested(),
            })
            .collect(),
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

fn value(item: &impl Serialize) -> serde_json::Value {
    serde_json::to_value(item).unwrap_or_else(|error| serde_json::Value::String(format!("cannot be shown: {error}")))
}
