//! Resources that are others in some places.

use std::sync::Arc;

use ambit_api::envoy::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};

use super::change;
use crate::{
    Any,
    server::{Cache, Change, DeltaSession, Entry, SotwSession, seen_by_all, seen_from},
};

const VIEW: &str = "view";
const TYPE: &str = "type/any";

/// A resource that is `near` as it is seen from the places "near" and "beside".
fn placed(name: &str, everywhere: &str, near: &str) -> Change {
    let body = || Any { type_url: "type/any".to_owned(), value: near.as_bytes().to_vec() };
    let places = vec![(Arc::from("near"), body()), (Arc::from("beside"), body())];
    Change { places, ..change(name, everywhere) }
}

/// A session that wants everything of a view.
struct Peer {
    cache: Cache,
    view: String,
    session: DeltaSession,
}

impl Peer {
    fn new(cache: &Cache, view: String) -> Self {
        let mut session = DeltaSession::new();
        session.request(DeltaDiscoveryRequest { type_url: TYPE.to_owned(), ..DeltaDiscoveryRequest::default() }).unwrap();
        Self { cache: cache.clone(), view, session }
    }

    /// What it is sent next, acknowledged.
    fn turn(&mut self) -> Vec<String> {
        let Some(response) = self.session.next(&self.cache, &self.view).map(|response| response.message()) else {
            return Vec::new();
        };
        self.session
            .request(DeltaDiscoveryRequest {
                type_url: TYPE.to_owned(),
                response_nonce: response.nonce,
                ..DeltaDiscoveryRequest::default()
            })
            .unwrap();
        let text = |body: Option<Any>| String::from_utf8(body.unwrap_or_default().value).unwrap();
        let mut sent: Vec<_> =
            response.resources.into_iter().map(|resource| format!("{} {}", resource.name, text(resource.resource))).collect();
        sent.extend(response.removed_resources.into_iter().map(|name| format!("-{name}")));
        sent
    }
}

#[test]
fn a_place_sees_its_own_content_and_is_sent_nothing_of_what_changes_elsewhere() {
    let cache = Cache::new();
    cache.update(VIEW, TYPE, [placed("a", "1", "n1"), change("b", "1")]);
    let mut all = Peer::new(&cache, VIEW.to_owned());
    let mut near = Peer::new(&cache, seen_from(VIEW, "near"));
    let mut far = Peer::new(&cache, seen_from(VIEW, "far"));
    assert_eq!(all.turn(), ["a 1", "b 1"]);
    assert_eq!(near.turn(), ["a n1", "b 1"]);
    assert_eq!(far.turn(), ["a 1", "b 1"]);
    assert_eq!(cache.update(VIEW, TYPE, [placed("a", "1", "n1")]), 0);
    assert_eq!(cache.update(VIEW, TYPE, [placed("a", "1", "n2")]), 1);
    assert_eq!(near.turn(), ["a n2"]);
    assert!(all.turn().is_empty() && far.turn().is_empty());
    assert_eq!(cache.update(VIEW, TYPE, [placed("a", "2", "n2")]), 1);
    assert_eq!(all.turn(), ["a 2"]);
    assert!(near.turn().is_empty());
    // It is the same everywhere again.
    assert_eq!(cache.update(VIEW, TYPE, [change("a", "2")]), 1);
    assert_eq!(near.turn(), ["a 2"]);
    assert!(all.turn().is_empty());
    cache.update(VIEW, TYPE, [Change::remove("a")]);
    assert_eq!(near.turn(), ["-a"]);
    assert_eq!(far.turn(), ["-a"]);
}

#[test]
fn what_places_see_alike_is_kept_once_and_what_all_see_is_no_places() {
    let cache = Cache::new();
    cache.update(VIEW, TYPE, [placed("a", "1", "n"), placed("b", "1", "1")]);
    cache.read(VIEW, TYPE, |content| {
        let [a, b] = ["a", "b"].map(|name| content.get(name).unwrap());
        let (near, beside) = (Entry::at(a, Some("near")), Entry::at(a, Some("beside")));
        assert!(Arc::ptr_eq(near, beside) && !Arc::ptr_eq(a, near));
        assert!([Entry::at(a, Some("far")), Entry::at(a, None)].iter().all(|seen| Arc::ptr_eq(a, seen)));
        assert!(Arc::ptr_eq(b, Entry::at(b, Some("near"))));
    });
}

#[test]
fn the_state_of_the_world_is_that_of_the_place() {
    let cache = Cache::new();
    cache.update(VIEW, TYPE, [placed("a", "1", "n1")]);
    for (view, expected) in [(VIEW.to_owned(), "1"), (seen_from(VIEW, "near"), "n1")] {
        let mut session = SotwSession::new();
        session.request(DiscoveryRequest { type_url: TYPE.to_owned(), ..DiscoveryRequest::default() }).unwrap();
        let response = session.next(&cache, &view).unwrap();
        let sent: Vec<_> = response.resources.iter().map(|body| body.value.as_slice()).collect();
        assert_eq!(sent, [expected.as_bytes()], "{view}");
    }
}

#[test]
fn who_looks_from_where_is_known_as_long_as_somebody_does() {
    let cache = Cache::new();
    let view = seen_from(VIEW, "near");
    assert_eq!(seen_by_all(&view), VIEW);
    assert!(cache.stay(VIEW).is_none() && !cache.is_seen_from(VIEW, "near"));
    let (one, other) = (cache.stay(&view), cache.stay(&view));
    assert!(cache.is_seen_from(VIEW, "near") && !cache.is_seen_from(VIEW, "far"));
    drop(one);
    assert!(cache.is_seen_from(VIEW, "near"));
    drop(other);
    assert!(!cache.is_seen_from(VIEW, "near"));
    let mut changes = cache.watch(&view);
    cache.update(VIEW, TYPE, [change("a", "1")]);
    assert!(changes.has_changed().unwrap() && cache.is_watched(&view) && cache.is_watched(VIEW));
    changes.mark_unchanged();
    cache.wake(&view);
    assert!(changes.has_changed().unwrap());
}
