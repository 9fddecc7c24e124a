//! The views of waypoints, and the places that they are seen from: which endpoints are near depends on who asks. All of a waypoint's pods
//! share a view; only what a service asks for by place is in it once for each place that one of them runs at.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ambit_api::type_url;
use ambit_xds::server::{Cache, Change, seen_from};

use super::{resources::waypoint_view, translated};
use crate::{
    index::{Index, ServiceRef},
    mesh::Mesh,
    source::NamespacedName,
    translate::waypoint::{Place, RouteMemory},
};

/// A place stays for so long after somebody came from it, even if nobody looks from it: who comes is let in before the stream looks.
const LINGER: Duration = Duration::from_mins(1);
/// Places of one waypoint. Who comes from further ones is seen from nowhere in particular: what a client says of its place is not checked.
const MOST: usize = 256;

/// What is known of each waypoint.
#[derive(Debug, Default)]
pub(super) struct Known {
    seen: BTreeMap<NamespacedName, Seen>,
    /// What the routes in the views were translated to.
    routes: BTreeMap<NamespacedName, RouteMemory>,
}

/// From where a waypoint's view is seen.
#[derive(Debug, Default)]
struct Seen {
    /// When somebody came last from each place.
    places: BTreeMap<Place, Instant>,
    /// Whether anything in the view is asked for by place.
    by_place: bool,
}

/// Writes the views of waypoints. Its clones write the same ones.
#[derive(Debug, Clone)]
pub struct Waypoints {
    cache: Cache,
    /// Held by whoever writes a view, so that none is written without a place that somebody was let in from.
    known: Arc<Mutex<Known>>,
}

impl Waypoints {
    pub(super) fn new(cache: Cache) -> Self {
        Self { cache, known: Arc::default() }
    }

    /// Somebody comes to the waypoint's view from a place. The view as it is seen from there, which is in the cache from now on.
    pub(super) fn enter(&self, mesh: &Mesh, gateway: &NamespacedName, place: Place) -> String {
        // The index before the places, as by those who push.
        let index = mesh.index();
        let mut known = self.known();
        let (view, key) = (waypoint_view(gateway), place.key());
        if !known.seen.contains_key(gateway) {
            self.sweep(&index, &mut known);
        }
        let seen = known.seen.entry(gateway.clone()).or_default();
        if seen.places.insert(place.clone(), Instant::now()).is_some() {
            return seen_from(&view, &key);
        }
        self.forget(&view, seen);
        if seen.places.len() > MOST {
            seen.places.remove(&place);
            return view;
        }
        if seen.by_place {
            self.write(&index, gateway, &mut known);
        }
        seen_from(&view, &key)
    }

    /// Whether a further place of a waypoint would be known.
    pub(super) fn has_room(&self, gateway: &NamespacedName) -> bool {
        self.known().seen.get(gateway).is_none_or(|seen| seen.places.len() < MOST)
    }

    /// The places of waypoints, for as long as a view is written.
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        // Each change is made whole, so that a caller's panic leaves nothing half done.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes all of a waypoint's view. How many resources changed.
    pub(super) fn write(&self, index: &Index, gateway: &NamespacedName, known: &mut Known) -> usize {
        let view = waypoint_view(gateway);
        let places = self.places(&view, gateway, known);
        let memory = known.routes.entry(gateway.clone()).or_default();
        let (types, by_place) = translated::waypoint(index, gateway, &places, memory);
        if memory.is_empty() {
            known.routes.remove(gateway);
        }
        if by_place || !places.is_empty() {
            known.seen.entry(gateway.clone()).or_default().by_place = by_place;
        } else {
            known.seen.remove(gateway);
        }
        let changed = self.cache.write(&view, |writer| {
            for (type_url, resources) in types {
                writer.replace(type_url, resources);
            }
        });
        // Where its pods run may be what changed, which nothing in the view tells.
        if changed == 0 {
            self.cache.wake(&view);
        }
        changed
    }

    /// Puts the endpoints of services in the place of those that the waypoint has; what it does not send to it gets none of. `made`
    /// keeps them for the next waypoint.
    pub(super) fn endpoints(
        &self,
        index: &Index,
        gateway: &NamespacedName,
        services: BTreeSet<ServiceRef>,
        known: &mut Known,
        made: &mut BTreeMap<(ServiceRef, Vec<Place>), Vec<Change>>,
    ) -> usize {
        let view = waypoint_view(gateway);
        // Where nothing is asked for by place all waypoints have the same, wherever they run.
        let by_place = known.seen.get(gateway).is_some_and(|seen| seen.by_place);
        let places = if by_place { self.places(&view, gateway, known) } else { Vec::new() };
        let mut changes = Vec::new();
        for service in services {
            // Waypoints with the same places have the same.
            let all = made
                .entry((service, places.clone()))
                .or_insert_with_key(|(service, places)| translated::endpoints(index, service, places));
            changes.extend(all.iter().cloned());
        }
        self.cache.read(&view, type_url::ENDPOINT, |held| changes.retain(|change| held.get(&change.name).is_some()));
        if changes.is_empty() { 0 } else { self.cache.update(&view, type_url::ENDPOINT, changes) }
    }

    /// The places from which a waypoint's view is seen.
    fn places(&self, view: &str, gateway: &NamespacedName, known: &mut Known) -> Vec<Place> {
        let Some(seen) = known.seen.get_mut(gateway) else { return Vec::new() };
        self.forget(view, seen);
        seen.places.keys().cloned().collect()
    }

    /// Forgets Gateways that are gone, once nobody looks at what they had: nothing else is written for them.
    fn sweep(&self, index: &Index, known: &mut Known) {
        known.seen.retain(|gateway, seen| {
            index.objects().gateways.contains_key(gateway) || {
                self.forget(&waypoint_view(gateway), seen);
                !seen.places.is_empty()
            }
        });
    }

    fn forget(&self, view: &str, seen: &mut Seen) {
        seen.places.retain(|place, came| came.elapsed() < LINGER || self.cache.is_seen_from(view, &place.key()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::push::{Pusher, tests::mesh};
    use crate::source::{Event, Kind, ObjectKey, testing::objects};

    const ROUTED: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gate, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {istio.io/use-waypoint: gate}}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
"#;

    #[test]
    fn translated_routes_are_kept_while_the_waypoint_has_any() {
        for kind in [Kind::Gateway, Kind::Service, Kind::HttpRoute] {
            let (mesh, pusher) = (mesh(), Pusher::new(Cache::new()));
            let waypoints = pusher.waypoints();
            let kept = || waypoints.known().routes.keys().map(ToString::to_string).collect::<Vec<_>>();
            let objects = objects(ROUTED);
            let key: ObjectKey = objects.iter().map(|object| object.key()).find(|key| key.kind == kind).unwrap();
            pusher.apply(&mesh, objects.into_iter().map(Event::Upsert).collect());
            assert_eq!(kept(), ["shop/gate"]);
            pusher.apply(&mesh, vec![Event::Delete(key)]);
            assert!(kept().is_empty(), "without its {kind:?}");
        }
    }

    #[test]
    fn so_many_places_of_a_waypoint_are_known_and_who_comes_from_others_is_nowhere_in_particular() {
        let (mesh, waypoints) = (mesh(), Waypoints::new(Cache::new()));
        let gateway = NamespacedName::new("shop", "gate");
        let view = waypoint_view(&gateway);
        let comes = |number: usize| {
            let place = Place { node: format!("node-{number}"), ..Place::default() };
            let own = seen_from(&view, &place.key());
            (waypoints.enter(&mesh, &gateway, place), own)
        };
        for number in 0..MOST {
            let (entered, own) = comes(number);
            assert_eq!(entered, own);
        }
        assert!(!waypoints.has_room(&gateway));
        assert_eq!(comes(MOST).0, view);
        let (entered, own) = comes(0);
        assert_eq!(entered, own, "it was known before");
        assert!(waypoints.has_room(&NamespacedName::new("shop", "other")));
    }
}
