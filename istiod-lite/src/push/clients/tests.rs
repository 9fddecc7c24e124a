use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ambit_api::type_url::{ADDRESS, CLUSTER, ENDPOINT, LISTENER, ROUTE};
use ambit_xds::server::Cache;
use tokio::sync::mpsc;

use super::{CLIENT_VIEW, Clients, Making, Part, View, Work};
use crate::{
    mesh::Mesh,
    push::{
        NODE_VIEW, Pusher, follow,
        tests::{mesh, names, object, pod},
    },
    source::{Event, Kind, NamespacedName, Object, ObjectKey},
};

fn service(name: &str, ports: &[u16]) -> Event {
    let ports: Vec<_> = ports.iter().map(|port| serde_json::json!({"port": port})).collect();
    let spec = serde_json::json!({"clusterIP": "10.96.0.1", "ports": ports});
    object(Object::Service, serde_json::json!({"metadata": {"namespace": "shop", "name": name}, "spec": spec}))
}

fn gone(name: &str) -> Event {
    Event::Delete(ObjectKey { kind: Kind::Service, name: NamespacedName::new("shop", name) })
}

fn part(name: &str) -> Part {
    Part::Service(NamespacedName::new("shop", name))
}

fn listener(name: &str, port: u16) -> String {
    format!("{name}.shop.svc.cluster.local:{port}")
}

fn listeners(cache: &Cache) -> Vec<String> {
    names(cache, CLIENT_VIEW, LISTENER)
}

/// What would be made next.
fn noted(clients: &Clients) -> BTreeSet<Part> {
    match clients.next() {
        Some(Work::Make(parts)) => parts,
        Some(Work::Forget) => panic!("it would be forgotten"),
        None => BTreeSet::new(),
    }
}

#[tokio::test]
async fn the_view_is_made_when_somebody_comes_and_follows_from_then_on() {
    let (mesh, cache) = (mesh(), Cache::new());
    let pusher = Pusher::new(cache.clone());
    let clients = pusher.clients();
    pusher.apply(&mesh, vec![service("web", &[80])]);
    let mut making = clients.catch_up(Making::default(), &mesh).await;
    assert_eq!(listeners(&cache), [""; 0], "nobody wants it");

    let whole = clients.begin(&mesh);
    assert!(!*whole.borrow());
    making = clients.catch_up(making, &mesh).await;
    assert!(*whole.borrow());
    assert_eq!(listeners(&cache), [listener("web", 80)]);
    assert_eq!(names(&cache, CLIENT_VIEW, ENDPOINT).len(), 2, "and the cluster that is none");
    for (event, expected) in [
        (service("web", &[80, 81]), vec![listener("web", 80), listener("web", 81)]),
        (service("web", &[81]), vec![listener("web", 81)]),
        (gone("web"), vec![]),
    ] {
        pusher.apply(&mesh, vec![event]);
        making = clients.catch_up(making, &mesh).await;
        assert_eq!(listeners(&cache), expected);
    }
    assert_eq!(names(&cache, CLIENT_VIEW, ENDPOINT), ["invalid-backend"]);
}

/// A step never holds more than one part or one resource back: what is pushed between two steps waits for none of the others.
#[test]
fn pushes_to_others_go_on_between_the_steps_and_what_changes_meanwhile_is_made_once_more() {
    let (mesh, cache) = (mesh(), Cache::new());
    let pusher = Pusher::new(cache.clone());
    let clients = pusher.clients();
    pusher.apply(&mesh, ["a", "b", "c"].map(|name| service(name, &[80])).into());
    let _whole = clients.begin(&mesh);
    let mut making = Making::default();
    making.begin(noted(&clients));
    let step = |making: &mut Making| making.step_for(Duration::ZERO, &mesh, &cache);

    step(&mut making);
    step(&mut making);
    // A node proxy hears of its pod while the view is not half made.
    pusher.apply(&mesh, vec![pod("web", "10.0.0.1")]);
    assert_eq!(names(&cache, NODE_VIEW, ADDRESS).len(), 4);
    assert_eq!(listeners(&cache), [""; 0]);
    for ports in [&[80, 81][..], &[81], &[82]] {
        pusher.apply(&mesh, vec![service("a", ports)]);
    }
    pusher.apply(&mesh, vec![service("b", &[90])]);
    let mut steps = 2;
    while !making.is_done() {
        step(&mut making);
        steps += 1;
        pusher.apply(&mesh, vec![pod("web", &format!("10.0.1.{steps}"))]);
        assert_eq!(cache.read(NODE_VIEW, ADDRESS, |content| content.find(&format!("/10.0.1.{steps}")).len()), 1);
    }
    assert!(steps > 4, "{steps} steps for three services");
    assert_eq!(listeners(&cache).len(), 3);
    assert_eq!(noted(&clients), BTreeSet::from([part("a"), part("b")]), "once each, however often they changed");
    assert_eq!(noted(&clients), BTreeSet::new());
}

#[test]
fn what_is_referred_to_is_written_before_and_taken_out_after_what_refers_to_it() {
    let (mesh, cache) = (mesh(), Cache::new());
    let pusher = Pusher::new(cache.clone());
    pusher.apply(&mesh, vec![service("a", &[80]), service("b", &[80])]);
    let mut making = Making::default();
    let counts = || [ENDPOINT, CLUSTER, ROUTE, LISTENER].map(|type_url| names(&cache, CLIENT_VIEW, type_url).len());
    let until_done = |making: &mut Making| {
        while !making.is_done() {
            making.step_for(Duration::ZERO, &mesh, &cache);
            assert!(counts().is_sorted_by(|before, after| before >= after), "{:?}", counts());
        }
    };
    making.begin(BTreeSet::from([part("a"), part("b")]));
    until_done(&mut making);
    assert_eq!((counts(), making.pushed()), ([2; 4], 8));
    making.begin(BTreeSet::from([part("a")]));
    until_done(&mut making);
    assert_eq!(making.pushed(), 0, "it is what it was");
    pusher.apply(&mesh, vec![gone("a")]);
    making.begin(BTreeSet::from([part("a")]));
    until_done(&mut making);
    assert_eq!(counts(), [1; 4]);
    making.forget();
    until_done(&mut making);
    assert_eq!(counts(), [0; 4]);
}

#[tokio::test]
async fn the_view_goes_when_nobody_looks_at_it_any_more_and_not_while_somebody_waits_for_it() {
    let (mesh, cache) = (mesh(), Cache::new());
    let pusher = Pusher::new(cache.clone());
    let clients = pusher.clients();
    pusher.apply(&mesh, vec![service("web", &[80])]);
    let long_ago = || {
        if let Some(View { entered, .. }) = clients.lock().as_mut() {
            *entered -= 2 * super::LINGER;
        }
    };
    let waiting = clients.begin(&mesh);
    long_ago();
    let making = clients.catch_up(Making::default(), &mesh).await;
    assert_eq!(listeners(&cache).len(), 1);
    drop(waiting);
    let looking = cache.watch(CLIENT_VIEW);
    let making = clients.catch_up(making, &mesh).await;
    assert_eq!(listeners(&cache).len(), 1);
    drop(looking);
    clients.catch_up(making, &mesh).await;
    assert_eq!(listeners(&cache), [""; 0]);
    assert!(!cache.views().contains(&CLIENT_VIEW.to_owned()), "{:?}", cache.views());
}

#[tokio::test]
async fn who_comes_while_changes_go_on_is_let_in_when_the_view_is_whole() {
    let (mesh, cache): (Arc<Mesh>, _) = (mesh(), Cache::new());
    let pusher = Pusher::new(cache.clone());
    let clients = pusher.clients();
    pusher.apply(&mesh, (0..300).map(|number| service(&format!("s{number}"), &[80])).collect());
    let (_batches, received) = mpsc::channel(1);
    let following = tokio::spawn(follow(Arc::clone(&mesh), pusher, received));
    let entering = tokio::time::timeout(Duration::from_secs(60), clients.enter(&mesh));
    entering.await.expect("the view is made");
    assert_eq!(listeners(&cache).len(), 300);
    following.abort();
}
