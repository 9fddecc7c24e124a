use ambit_api::{
    envoy::pb::{
        envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse},
        google::rpc,
    },
    type_url::{CLUSTER, ENDPOINT, LISTENER, ROUTE},
};

use super::change;
use crate::server::{Cache, Change, SotwSession};

const VIEW: &str = "view";

/// A session with its cache, spoken to as Envoy does.
struct Envoy {
    cache: Cache,
    session: SotwSession,
}

impl Envoy {
    fn new() -> Self {
        let cache = Cache::new();
        cache.update(VIEW, CLUSTER, [change("c1", "1"), change("c2", "1")]);
        cache.update(VIEW, ENDPOINT, [change("c1", "1"), change("c2", "1")]);
        cache.update(VIEW, LISTENER, [change("l1", "1")]);
        cache.update(VIEW, ROUTE, [change("r1", "1")]);
        Self { cache, session: SotwSession::new() }
    }

    fn ask(&mut self, type_url: &str, names: &[&str], nonce: &str, error: Option<&str>) {
        self.session
            .request(DiscoveryRequest {
                type_url: type_url.to_owned(),
                resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
                response_nonce: nonce.to_owned(),
                error_detail: error.map(|message| rpc::Status { code: 13, message: message.to_owned(), details: Vec::new() }),
                ..DiscoveryRequest::default()
            })
            .unwrap();
    }

    fn next(&mut self) -> Option<DiscoveryResponse> {
        self.session.next(&self.cache, VIEW)
    }

    /// The next response as "type content…" with the names that Envoy goes on to ask for; "" when none is due.
    fn turn(&mut self, names: &[&str]) -> String {
        let Some(response) = self.next() else { return String::new() };
        self.ask(&response.type_url, names, &response.nonce, None);
        sentence(&response)
    }
}

fn sentence(response: &DiscoveryResponse) -> String {
    let short = response.type_url.rsplit('.').next().unwrap_or_default();
    let contents = response.resources.iter().map(|body| format!(" {}", String::from_utf8_lossy(&body.value)));
    short.to_owned() + &contents.collect::<String>()
}

#[test]
fn envoy_starts_with_clusters_endpoints_listeners_and_routes() {
    let mut envoy = Envoy::new();
    envoy.ask(CLUSTER, &[], "", None);
    assert_eq!(envoy.turn(&[]), "Cluster 1 1");
    envoy.ask(ENDPOINT, &["c1", "c2"], "", None);
    assert_eq!(envoy.turn(&["c1", "c2"]), "ClusterLoadAssignment 1 1");
    envoy.ask(LISTENER, &[], "", None);
    assert_eq!(envoy.turn(&[]), "Listener 1");
    envoy.ask(ROUTE, &["r1"], "", None);
    assert_eq!(envoy.turn(&["r1"]), "RouteConfiguration 1");
    assert_eq!(envoy.turn(&[]), "");
}

#[test]
fn a_change_sends_the_whole_set_and_what_envoy_warms_with_it() {
    let mut envoy = Envoy::new();
    envoy.ask(CLUSTER, &[], "", None);
    envoy.turn(&[]);
    envoy.ask(ENDPOINT, &["c1"], "", None);
    envoy.turn(&["c1"]);
    envoy.cache.update(VIEW, CLUSTER, [change("c2", "2")]);
    assert_eq!(envoy.turn(&[]), "Cluster 1 2");
    assert_eq!(envoy.turn(&["c1"]), "ClusterLoadAssignment 1", "the endpoints of a changed cluster are awaited");
    assert_eq!(envoy.turn(&[]), "");
    envoy.cache.update(VIEW, ENDPOINT, [change("c2", "9")]);
    assert_eq!(envoy.turn(&[]), "", "nobody asked for those endpoints");
    envoy.cache.update(VIEW, CLUSTER, [Change::remove("c1")]);
    assert_eq!(envoy.turn(&[]), "Cluster 2");
}

#[test]
fn names_asked_for_are_answered_even_when_unknown() {
    let mut envoy = Envoy::new();
    envoy.ask(ROUTE, &["none"], "", None);
    let response = envoy.next().unwrap();
    assert_eq!(sentence(&response), "RouteConfiguration");
    envoy.ask(ROUTE, &["none", "r1"], &response.nonce, None);
    assert_eq!(envoy.turn(&["none", "r1"]), "RouteConfiguration 1");
    envoy.cache.update(VIEW, ROUTE, [change("none", "2")]);
    assert_eq!(envoy.turn(&["none", "r1"]), "RouteConfiguration 2 1");
}

#[test]
fn dropping_a_name_needs_no_answer_and_dropping_all_is_not_asking_for_everything() {
    let mut envoy = Envoy::new();
    envoy.ask(ENDPOINT, &["c1", "c2"], "", None);
    let response = envoy.next().unwrap();
    envoy.ask(ENDPOINT, &["c1"], &response.nonce, None);
    let next = envoy.next();
    assert!(next.is_none(), "{next:?}");
    envoy.ask(ENDPOINT, &[], &response.nonce, None);
    envoy.cache.update(VIEW, ENDPOINT, [change("c2", "2")]);
    let next = envoy.turn(&[]);
    assert!(!next.contains('2'), "{next}");
}

#[test]
fn a_request_with_an_old_nonce_is_ignored() {
    let mut envoy = Envoy::new();
    envoy.ask(LISTENER, &[], "", None);
    let first = envoy.next().unwrap();
    envoy.ask(LISTENER, &[], &first.nonce, None);
    envoy.cache.update(VIEW, LISTENER, [change("l1", "2")]);
    let second = envoy.next().unwrap();
    envoy.ask(LISTENER, &[], &first.nonce, None);
    assert!(envoy.session.status()[LISTENER].waiting, "the answer to the second response is still out");
    envoy.ask(LISTENER, &[], &second.nonce, None);
    assert_eq!(envoy.session.status()[LISTENER].acknowledged, Some(second.version_info));
}

#[test]
fn a_refused_set_is_not_sent_again_until_it_changes_and_the_refusal_is_visible() {
    let mut envoy = Envoy::new();
    envoy.ask(LISTENER, &[], "", None);
    let response = envoy.next().unwrap();
    envoy.ask(LISTENER, &[], &response.nonce, Some("l1: unknown filter"));
    assert_eq!(envoy.turn(&[]), "");
    assert_eq!(envoy.session.status()[LISTENER].last_nack.as_ref().unwrap().message, "l1: unknown filter");
    envoy.cache.update(VIEW, LISTENER, [change("l1", "2")]);
    assert_eq!(envoy.turn(&[]), "Listener 2");
}

#[test]
fn routes_wait_until_clusters_and_endpoints_are_taken() {
    let mut envoy = Envoy::new();
    envoy.ask(CLUSTER, &[], "", None);
    envoy.turn(&[]);
    envoy.ask(ENDPOINT, &["c1"], "", None);
    envoy.turn(&["c1"]);
    envoy.ask(ROUTE, &["r1"], "", None);
    envoy.turn(&["r1"]);
    envoy.cache.write(VIEW, |writer| {
        writer.update(ROUTE, [change("r1", "to c3")]);
        writer.update(CLUSTER, [change("c3", "1")]);
        writer.update(ENDPOINT, [change("c3", "1")]);
    });
    let clusters = envoy.next().unwrap();
    let endpoints = envoy.next().unwrap();
    assert_eq!([sentence(&clusters), sentence(&endpoints)], ["Cluster 1 1 1", "ClusterLoadAssignment 1"]);
    assert_eq!(envoy.next(), None);
    envoy.ask(CLUSTER, &[], &clusters.nonce, None);
    envoy.ask(ENDPOINT, &["c1", "c3"], &endpoints.nonce, None);
    assert_eq!(envoy.turn(&["c1", "c3"]), "ClusterLoadAssignment 1 1");
    assert_eq!(envoy.turn(&["r1"]), "RouteConfiguration to c3");
}

#[test]
fn what_waits_for_an_answer_that_never_comes_goes_out_when_released() {
    let mut envoy = Envoy::new();
    for (type_url, names) in [(CLUSTER, &[][..]), (ENDPOINT, &["c1"]), (LISTENER, &[])] {
        envoy.ask(type_url, names, "", None);
        envoy.turn(names);
    }
    envoy.cache.update(VIEW, ENDPOINT, [change("c1", "2")]);
    let endpoints = envoy.next().unwrap();
    assert_eq!(sentence(&endpoints), "ClusterLoadAssignment 2");
    envoy.cache.update(VIEW, LISTENER, [change("l1", "2")]);
    assert_eq!((envoy.next(), envoy.session.is_holding()), (None, true));
    envoy.session.release();
    assert_eq!(envoy.turn(&[]), "Listener 2");
}

#[test]
fn endpoints_of_nobody_are_not_sent_after_the_clusters() {
    let mut envoy = Envoy::new();
    envoy.ask(CLUSTER, &[], "", None);
    envoy.turn(&[]);
    envoy.ask(ENDPOINT, &["c1"], "", None);
    envoy.turn(&[]);
    envoy.cache.update(VIEW, CLUSTER, [Change::remove("c1"), Change::remove("c2")]);
    assert_eq!([envoy.turn(&[]), envoy.turn(&[])], ["Cluster", ""]);
}
