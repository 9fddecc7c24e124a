use std::collections::{BTreeMap, BTreeSet};

use ambit_identity::TrustDomain;
use prost::Message;

use super::{ChangedKey, Index, MeshConfig};
use crate::source::Event;
use crate::source::testing::objects;
use crate::translate::{authorization, waypoint, workload};

/// A mesh with something of everything that depends on something else.
const MESH: &str = include_str!("tests/mesh.yaml");
/// The same objects by name, otherwise than above.
const OTHER: &str = include_str!("tests/other.yaml");
const THIRD: &str = include_str!("tests/third.yaml");

fn index() -> Index {
    Index::new(MeshConfig::new("cluster.local".parse::<TrustDomain>().unwrap(), "Kubernetes"))
}

/// One resource as bytes; `None` when there is none of the key.
fn translate(index: &Index, key: &ChangedKey) -> Option<Vec<u8>> {
    match key {
        ChangedKey::Workload(name) => workload::workload(index, name).map(|made| made.encode_to_vec()),
        ChangedKey::Service(name) => workload::service(index, name).map(|made| made.encode_to_vec()),
        ChangedKey::Policy(name) => authorization::policy(index, name).map(|made| made.encode_to_vec()),
        ChangedKey::Waypoint(name) => waypoint::translate(index, name).map(|made| format!("{made:?}").into_bytes()),
    }
}

/// The resources held by something that translates only what it is told has changed.
#[derive(Default)]
struct Follower {
    resources: BTreeMap<ChangedKey, Vec<u8>>,
}

impl Follower {
    fn apply(&mut self, index: &mut Index, event: Event) -> Vec<ChangedKey> {
        let changed = index.apply(event);
        for key in &changed {
            match translate(index, key) {
                Some(bytes) => _ = self.resources.insert(key.clone(), bytes),
                None => _ = self.resources.remove(key),
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
    keys.extend(objects.authorization_policies.keys().cloned().map(ChangedKey::Policy));
    for name in objects.peer_authentications.keys() {
        keys.insert(ChangedKey::Policy(crate::translate::peer_authentication::converted_name(name)));
    }
    keys.insert(ChangedKey::Policy(crate::translate::peer_authentication::static_strict_name(index)));
    keys.extend(objects.gateways.keys().cloned().map(ChangedKey::Waypoint));
    keys
}

/// All resources as they follow from the objects that are in the index now, in an index made anew.
fn from_scratch(index: &Index) -> BTreeMap<ChangedKey, Vec<u8>> {
    let mut fresh = self::index();
    for key in index.objects().keys() {
        fresh.apply(Event::Upsert(index.objects().get(&key).unwrap()));
    }
    let keys = all_keys(&fresh);
    keys.into_iter().filter_map(|key| translate(&fresh, &key).map(|bytes| (key, bytes))).collect()
}

fn assert_same(follower: &Follower, index: &Index, after: &str) {
    let expected = from_scratch(index);
    let keys: BTreeSet<&ChangedKey> = follower.resources.keys().chain(expected.keys()).collect();
    for key in keys {
        let (held, wanted) = (follower.resources.get(key), expected.get(key));
        assert!(held == wanted, "{key:?} is stale after {after}: held {}, wanted {}", held.is_some(), wanted.is_some());
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
    let variants: Vec<_> = [MESH, OTHER, THIRD].into_iter().flat_map(objects).collect();
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
    let variants = objects(MESH);
    let mut results = Vec::new();
    for seed in 1..=10_u64 {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let (mut order, mut index, mut follower) = (variants.clone(), index(), Follower::default());
        while !order.is_empty() {
            let object = order.swap_remove(random.below(order.len()));
            follower.apply(&mut index, Event::Upsert(object));
        }
        results.push(follower.resources);
    }
    assert!(!results[0].is_empty());
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
    assert_eq!(changed(&mut index, &route.replace("weight: 95", "weight: 50")), ["waypoint shop/gate"]);
}
