//! The translations as changes of the cache.

use ambit_api::{type_url, workload::Address};
use ambit_xds::{Any, server::Change};
use prost::Message;

use crate::{
    index::{ExternalKey, Index, ServiceRef},
    source::NamespacedName,
    translate::{
        authorization, external, grpc,
        waypoint::{self, Assigned, Place, Resources, RouteMemory},
        workload,
    },
};

/// The workload of a pod, or its end.
pub(super) fn workload(index: &Index, name: &NamespacedName) -> Change {
    address(index.config().pod_uid(name), workload::workload(index, name))
}

/// A workload that is no pod, or its end.
pub(super) fn external(index: &Index, key: &ExternalKey) -> Change {
    address(key.uid(index.config()), external::workload(index, key))
}

/// A host of ServiceEntries, or its end. A Service of that name has it, if there is one.
pub(super) fn host(index: &Index, name: &NamespacedName) -> Option<Change> {
    let made = external::host(index, name);
    let of_service = made.is_none() && index.service_named(name).is_some();
    (!of_service).then(|| address(ServiceRef::Host(name.clone()).key(index.config()), made))
}

/// A service, or its end.
pub(super) fn service(index: &Index, name: &NamespacedName) -> Change {
    address(index.config().service_key(name), workload::service(index, name))
}

/// A policy for node proxies, or its end.
pub(super) fn policy(index: &Index, name: &NamespacedName) -> Change {
    match authorization::policy(index, name) {
        Some(policy) => Change::upsert(name.to_string(), Vec::new(), any(type_url::AUTHORIZATION, &policy)),
        None => Change::remove(name.to_string()),
    }
}

/// Everything a waypoint is to have that runs at these places, by type, and whether anything of it is asked for by place; nothing if there
/// is no such waypoint.
pub(super) fn waypoint(
    index: &Index,
    gateway: &NamespacedName,
    places: &[Place],
    memory: &mut RouteMemory,
) -> ([(&'static str, Vec<Change>); 5], bool) {
    let resources = waypoint::translate_with(index, gateway, places, memory).unwrap_or_default();
    let by_place = resources.by_place;
    (by_type(resources), by_place)
}

/// What gRPC clients may ask for of a Service.
pub(super) fn for_clients(index: &Index, name: &NamespacedName) -> Vec<(&'static str, Change)> {
    each(grpc::service(index, name))
}

/// What they may ask for besides.
pub(super) fn fixed_for_clients() -> Vec<(&'static str, Change)> {
    each(grpc::fixed())
}

fn each(resources: Resources) -> Vec<(&'static str, Change)> {
    let all = by_type(resources).into_iter();
    all.flat_map(|(type_url, changes)| changes.into_iter().map(move |change| (type_url, change))).collect()
}

fn by_type(resources: Resources) -> [(&'static str, Vec<Change>); 5] {
    let Resources { listeners, routes, clusters, endpoints, secrets, mut placed, by_place: _ } = resources;
    let changes = |resources: Vec<(String, Any)>| {
        resources.into_iter().map(|(name, body)| Change::upsert(name, Vec::new(), body)).collect()
    };
    let endpoints = endpoints.into_iter().map(|(name, body)| {
        let places = placed.remove(&name).unwrap_or_default();
        Change { places, ..Change::upsert(name, Vec::new(), body) }
    });
    [
        (type_url::SECRET, changes(secrets)),
        (type_url::CLUSTER, changes(clusters)),
        (type_url::ENDPOINT, endpoints.collect()),
        (type_url::LISTENER, changes(listeners)),
        (type_url::ROUTE, changes(routes)),
    ]
}

/// The endpoints of a service as a waypoint at these places may have them, by the name of the cluster.
pub(super) fn endpoints(index: &Index, service: &ServiceRef, places: &[Place]) -> Vec<Change> {
    let change =
        |Assigned { cluster, everywhere, placed }| Change { places: placed, ..Change::upsert(cluster, Vec::new(), everywhere) };
    waypoint::assignments_for(index, service, places).into_iter().map(change).collect()
}

fn address(name: String, address: Option<Address>) -> Change {
    match address {
        Some(address) => Change::upsert(name, workload::aliases(&address), any(type_url::ADDRESS, &address)),
        None => Change::remove(name),
    }
}

fn any(type_url: &str, message: &impl Message) -> Any {
    Any { type_url: type_url.to_owned(), value: message.encode_to_vec() }
}
