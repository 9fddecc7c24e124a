use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ambit_identity::TrustDomain;
use prost::Message;

use super::{ChangedKey, ExternalKey, Index, MeshConfig};
use crate::jwks::{Fetched, KeySource, Wanted};
use crate::source::testing::objects;
use crate::source::{Event, NamespacedName};
use crate::translate::waypoint::{self, Resources, RouteMemory};
use crate::translate::{authorization, external, grpc, workload};

/// A mesh with something of everything that depends on something else.
const MESH: &str = include_str!("tests/mesh.yaml");
/// The same objects by name, otherwise than above.
const OTHER: &str = include_str!("tests/other.yaml");
const THIRD: &str = include_str!("tests/third.yaml");
/// Endpoints that are no pods, hosts that are no Services, and routes of all kinds.
const OUTSIDE: &str = include_str!("tests/outside.yaml");
/// Some of them otherwise.
const ELSEWHERE: &str = include_str!("tests/elsewhere.yaml");

fn index() -> Index {
    Index::new(MeshConfig::new("cluster.local".parse::<TrustDomain>().unwrap(), "Kubernetes"))
}

/// One resource as bytes; `None` when there is none of the key.
fn translate(index: &Index, key: &ChangedKey) -> Option<Vec<u8>> {
    match key {
        ChangedKey::Workload(name) => workload::workload(index, name).map(|made| made.encode_to_vec()),
        ChangedKey::Service(name) => workload::service(index, name).map(|made| made.encode_to_vec()),
        ChangedKey::Policy(name) => authorization::policy(index, name).map(|made| made.encode_to_vec()),
        ChangedKey::External(key) => external::workload(index, key).map(|made| made.encode_to_vec()),
        ChangedKey::Host(host) => external::host(index, host).map(|made| made.encode_to_vec()),
        ChangedKey::Clients(name) => {
            let made = grpc::service(index, name);
            let all = [made.listeners, made.routes, made.clusters, made.endpoints].concat();
            let bytes: Vec<u8> = all.into_iter().flat_map(|(name, body)| [name.into_bytes(), body.value].concat()).collect();
            Some(bytes).filter(|bytes| !bytes.is_empty())
        }
        ChangedKey::Waypoint(_) | ChangedKey::Endpoints { .. } => unreachable!("translated as a whole"),
    }
}

/// The resources held by something that translates only what it is told has changed.
#[derive(Default)]
struct Follower {
    resources: BTreeMap<ChangedKey, Vec<u8>>,
    waypoints: BTreeMap<NamespacedName, Resources>,
    /// Of waypoints, as who follows keeps them.
    memories: BTreeMap<NamespacedName, RouteMemory>,
}

impl Follower {
    fn apply(&mut self, index: &mut Index, event: Event) -> Vec<ChangedKey> {
        let changed = index.apply(event);
        for key in &changed {
            match key {
                ChangedKey::Waypoint(name) => {
                    let memory = self.memories.entry(name.clone()).or_default();
                    match waypoint::translate_with(index, name, &[], memory) {
                        Some(made) => _ = self.waypoints.insert(name.clone(), made),
                        None => _ = self.waypoints.remove(name),
                    }
                }
                ChangedKey::Endpoints { waypoint, service } => {
                    let Some(held) = self.waypoints.get_mut(waypoint) else { continue };
                    for (name, body) in waypoint::assignments(index, service) {
                        held.endpoints
                            .iter_mut()
                            .filter(|(known, _)| *known == name)
                            .for_each(|(_, held)| held.clone_from(&body));
                    }
                }
                key => match translate(index, key) {
                    Some(bytes) => _ = self.resources.insert(key.clone(), bytes),
                    None => _ = self.resources.remove(key),
                },
            }
        }
        changed
    }
}

/// Every key that could be, from every object there is.
fn all_keys(index: &Index) -> BTreeSet<ChangedKey> {
    let objects = index.objects();
    let mut keys = BTreeSet::new();
    keys.extend(objects.pods.keys().cloned().map(ChangedKey::Workload));
    keys.extend(objects.services.keys().cloned().map(ChangedKey::Service));
    keys.extend(objects.services.keys().cloned().map(ChangedKey::Clients));
    keys.extend(objects.authorization_policies.keys().cloned().map(ChangedKey::Policy));
    for name in objects.peer_authentications.keys() {
        keys.insert(ChangedKey::Policy(crate::translate::peer_authentication::converted_name(name)));
    }
    keys.insert(ChangedKey::Policy(crate::translate::peer_authentication::static_strict_name(index)));
    keys.extend(objects.workload_entries.keys().cloned().map(ExternalKey::Entry).map(ChangedKey::External));
    for slice in objects.endpoint_slices.values() {
        keys.extend(super::member::slice_claims(slice).map(ChangedKey::External));
    }
    for entry in objects.service_entries.values() {
        keys.extend(super::member::entry_claims(entry).map(ChangedKey::External));
        keys.extend(super::service::entry_hosts(entry).map(ChangedKey::Host));
    }
    keys
}

/// All resources as they follow from the objects that are in the index now, in an index made anew.
fn from_scratch(index: &Index) -> Follower {
    let mut fresh = self::index();
    for key in index.objects().keys() {
        fresh.apply(Event::Upsert(index.objects().get(&key).unwrap()));
    }
    let resources = all_keys(&fresh).into_iter().filter_map(|key| translate(&fresh, &key).map(|bytes| (key, bytes)));
    let waypoints = fresh.objects().gateways.keys();
    let waypoints = waypoints.filter_map(|name| waypoint::translate(&fresh, name).map(|made| (name.clone(), made)));
    Follower { resources: resources.collect(), waypoints: waypoints.collect(), ..Follower::default() }
}

fn assert_same(follower: &Follower, index: &Index, after: &str) {
    let expected = from_scratch(index);
    let keys: BTreeSet<&ChangedKey> = follower.resources.keys().chain(expected.resources.keys()).collect();
    for key in keys {
        let (held, wanted) = (follower.resources.get(key), expected.resources.get(key));
        assert!(held == wanted, "{key:?} is stale after {after}: held {}, wanted {}", held.is_some(), wanted.is_some());
    }
    for name in follower.waypoints.keys().chain(expected.waypoints.keys()) {
        let (held, wanted) = (follower.waypoints.get(name), expected.waypoints.get(name));
        assert!(held == wanted, "waypoint {name} is stale after {after}:\nheld {held:?}\nwanted {wanted:?}");
    }
}

/// A generator of numbers (xorshift), so that a failing order can be run again from its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit).unwrap()).unwrap()
    }
}

#[test]
fn what_an_event_changes_is_named_in_any_order_of_events() {
    let variants: Vec<_> = [MESH, OTHER, THIRD, OUTSIDE, ELSEWHERE].into_iter().flat_map(objects).collect();
    assert!(variants.len() > 30);
    for seed in 1..=40_u64 {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let (mut index, mut follower) = (index(), Follower::default());
        for step in 0..120 {
            let object = &variants[random.below(variants.len())];
            let event = if random.below(3) == 0 { Event::Delete(object.key()) } else { Event::Upsert(object.clone()) };
            let after = format!("seed {seed} step {step}: {event:?}");
            follower.apply(&mut index, event);
            assert_same(&follower, &index, &after);
        }
    }
}

#[test]
fn the_order_of_events_does_not_matter_in_the_end() {
    // The last object of a name is the one that counts, so that the order of different ones does.
    let mut by_key = BTreeMap::new();
    by_key.extend([MESH, OUTSIDE].into_iter().flat_map(objects).map(|object| (object.key(), object)));
    let variants: Vec<_> = by_key.into_values().collect();
    let mut results = Vec::new();
    for seed in 1..=10_u64 {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let (mut order, mut index, mut follower) = (variants.clone(), index(), Follower::default());
        while !order.is_empty() {
            let object = order.swap_remove(random.below(order.len()));
            follower.apply(&mut index, Event::Upsert(object));
        }
        results.push((follower.resources, follower.waypoints));
    }
    assert!(!results[0].0.is_empty() && !results[0].1.is_empty());
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn an_event_names_only_what_it_can_reach() {
    let mut index = index();
    for object in objects(MESH) {
        index.apply(Event::Upsert(object));
    }
    let changed = |index: &mut Index, text: &str| -> Vec<String> {
        let object = objects(text).remove(0);
        index.apply(Event::Upsert(object)).into_iter().map(|key| format!("{key:?}")).collect()
    };
    let account = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: any, namespace: shop}\n";
    assert!(changed(&mut index, account).is_empty());
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: lonely, namespace: plain}\nspec: {containers: []}\n";
    assert_eq!(changed(&mut index, pod), ["workload plain/lonely"]);
    assert!(changed(&mut index, pod).is_empty(), "the same object again");
    let route = MESH.split("---\n").find(|text| text.contains("kind: HTTPRoute")).unwrap();
    assert!(changed(&mut index, route).is_empty(), "the same route again");
    let judged = format!("{}\nstatus: {{parents: []}}\n", route.trim_end());
    assert!(changed(&mut index, &judged).is_empty(), "its status is written");
    assert!(index.objects().http_routes.values().any(|route| route.status.is_some()), "and is there for who compares it");
    assert_eq!(
        changed(&mut index, &route.replace("weight: 95", "weight: 50")),
        ["waypoint shop/gate", "clients of service shop/billing"]
    );
}

#[test]
fn keys_that_were_fetched_change_the_waypoints_of_the_rules_that_ask_for_them() {
    let mut index = index();
    for object in objects(MESH) {
        index.apply(Event::Upsert(object));
    }
    let tokens = |rules: &str| {
        let targets = "targetRefs: [{group: '', kind: Service, name: billing}]";
        let head = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: fetched, namespace: shop}";
        objects(&format!("{head}\nspec: {{{targets}, jwtRules: [{rules}]}}\n")).remove(0)
    };
    let (set, issuer) = (KeySource::Set("https://i/keys".into()), KeySource::Issuer("https://j".into()));
    let rules = "{issuer: i, jwksUri: 'https://i/keys', timeout: 2s}, {issuer: 'https://j'}, {issuer: k, jwks: '{}'}";
    let policy = tokens(rules);
    index.apply(Event::Upsert(policy.clone()));
    let by = |seconds| Wanted { patience: Duration::from_secs(seconds), namespaces: BTreeSet::from(["shop".into()]) };
    let wanted = [(set.clone(), by(2)), (issuer.clone(), by(5))];
    assert_eq!(index.wanted_keys(), wanted.into());
    let mut learn = |source: &KeySource, fetched: Option<Fetched>| -> Vec<String> {
        index.learn((source.clone(), fetched)).into_iter().map(|key| format!("{key:?}")).collect()
    };
    let (keys, failed) = (|text: &str| Some(Fetched::Keys(text.into())), |why: &str| Some(Fetched::Failed(why.into())));
    let none = KeySource::Set("https://nobody/keys".into());
    for (source, fetched, changed) in [
        (&set, failed("away"), &[][..]),
        (&set, failed("it answers 404"), &[]),
        (&set, keys("1"), &["waypoint shop/gate"]),
        (&set, keys("1"), &[]),
        (&set, Some(Fetched::Kept("1".into(), "away".into())), &[]),
        (&set, failed("it has no keys"), &["waypoint shop/gate"]),
        (&set, keys("1"), &["waypoint shop/gate"]),
        (&issuer, keys("2"), &["waypoint shop/gate"]),
        (&none, keys("3"), &[]),
        (&set, None, &["waypoint shop/gate"]),
    ] {
        assert_eq!(learn(source, fetched.clone()), changed, "{source}: {fetched:?}");
    }
    assert!(index.awaits_keys());
    index.learn((set, failed("away")));
    assert!(!index.awaits_keys());
    index.apply(Event::Delete(policy.key()));
    assert!(index.wanted_keys().is_empty());
}

#[test]
fn a_pod_that_becomes_ready_changes_itself_and_the_endpoints_of_its_services() {
    let mut index = index();
    for object in objects(MESH) {
        index.apply(Event::Upsert(object));
    }
    let pod = MESH.split("---\n").find(|text| text.contains("name: billing-1")).unwrap();
    let unready = objects(&pod.replace(r#"status: "True""#, r#"status: "False""#)).remove(0);
    let changed: Vec<String> = index.apply(Event::Upsert(unready)).into_iter().map(|key| format!("{key:?}")).collect();
    let expected = [
        "workload shop/billing-1",
        "endpoints of service shop/billing in waypoint shop/gate",
        "endpoints of service shop/billing-v1 in waypoint shop/gate",
        "clients of service shop/billing",
        "clients of service shop/billing-v1",
    ];
    assert_eq!(changed, expected);
}

#[test]
fn an_address_of_a_slice_is_a_workload_until_a_pod_has_it() {
    let mut index = index();
    let slice = "apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {ports: [{port: 5432}], clusterIP: 10.96.5.5}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
endpoints: [{addresses: [10.9.0.1]}]
ports: [{port: 15432}]
";
    let mut changed = Vec::new();
    for object in objects(slice) {
        changed = index.apply(Event::Upsert(object));
    }
    let key = ExternalKey::Slice { slice: NamespacedName::new("shop", "db-1"), address: "10.9.0.1".parse().unwrap() };
    let clients = ChangedKey::Clients(NamespacedName::new("shop", "db"));
    assert_eq!(changed, [ChangedKey::External(key.clone()), clients]);
    assert!(index.external(&key).is_some());
    let pod = "apiVersion: v1
kind: Pod
metadata: {name: db-0, namespace: shop}
spec: {containers: []}
status: {podIP: 10.9.0.1}
";
    let changed = index.apply(Event::Upsert(objects(pod).remove(0)));
    let names: Vec<String> = changed.into_iter().map(|key| format!("{key:?}")).collect();
    assert_eq!(names, ["workload shop/db-0", "endpoint 10.9.0.1 of slice shop/db-1", "clients of service shop/db"]);
    assert!(index.external(&key).is_none(), "the pod says more of itself");
    let service = super::ServiceRef::Kubernetes(NamespacedName::new("shop", "db"));
    let endpoints = index.endpoints(&service);
    assert_eq!(endpoints.len(), 1);
    assert_eq!((endpoints[0].uid.as_str(), endpoints[0].ports[&5432]), ("Kubernetes//Pod/shop/db-0", 15432));
}
