use std::{collections::BTreeSet, time::Duration};

use ambit_api::envoy::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};

use super::{Backoff, Interest, Session};
use crate::{Any, Rejected, XdsError, node};

const ALL: &str = "type/all";
const SOME: &str = "type/some";

fn session() -> Session {
    Session::new(node("ztunnel~1", &[]), [(ALL.to_owned(), Interest::Wildcard), (SOME.to_owned(), Interest::Named)])
}

fn response(type_url: &str, upserts: &[(&str, &str)], removals: &[&str]) -> DeltaDiscoveryResponse {
    let resource = |(name, version): &(&str, &str)| Resource {
        name: (*name).to_owned(),
        version: (*version).to_owned(),
        resource: Some(Any { type_url: type_url.to_owned(), value: Vec::new() }),
        ..Resource::default()
    };
    DeltaDiscoveryResponse {
        type_url: type_url.to_owned(),
        nonce: "n".to_owned(),
        resources: upserts.iter().map(resource).collect(),
        removed_resources: removals.iter().map(|name| (*name).to_owned()).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

/// Takes a response as a handler would that rejects `bad`, and returns the answer.
fn take(session: &mut Session, response: DeltaDiscoveryResponse, bad: &[&str]) -> DeltaDiscoveryRequest {
    let batch = session.response(response).unwrap();
    let mut rejected = batch.malformed;
    rejected.extend(bad.iter().map(|name| Rejected { name: (*name).to_owned(), reason: "no good".to_owned() }));
    let versions = batch.upserts.into_iter().map(|resource| (resource.name, resource.version)).collect();
    session.applied(&batch.type_url, batch.nonce, versions, &batch.removals, &rejected)
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn the_first_request_of_a_stream_names_the_node_and_asks_for_everything() {
    let mut session = session();
    for _ in 0..2 {
        let requests = session.connected();
        assert_eq!(requests.len(), 1, "a type without names must not be asked for: an empty list would mean everything");
        assert_eq!(requests[0].type_url, ALL);
        assert_eq!(requests[0].node.as_ref().unwrap().id, "ztunnel~1");
        assert!(requests[0].resource_names_subscribe.is_empty());
        session.disconnected();
    }
}

#[test]
fn a_reconnect_carries_the_versions_of_what_was_taken_and_of_nothing_else() {
    let mut session = session();
    session.connected();
    take(&mut session, response(ALL, &[("a", "1"), ("b", "1"), ("c", "1")], &[]), &["b"]);
    take(&mut session, response(ALL, &[("a", "2")], &["c"]), &["a"]);
    session.disconnected();
    let held = session.connected().remove(0).initial_resource_versions;
    assert_eq!(held, [("a".to_owned(), "1".to_owned())].into(), "a keeps the version before the rejected one");
}

#[test]
fn a_nack_names_each_bad_resource_and_an_ack_none() {
    let mut session = session();
    session.connected();
    let ack = take(&mut session, response(ALL, &[("a", "1")], &[]), &[]);
    assert_eq!((ack.response_nonce.as_str(), &ack.error_detail), ("n", &None));
    assert!(ack.node.is_none(), "only the first request of a stream names the node");
    let nack = take(&mut session, response(ALL, &[("a", "2"), ("b", "1"), ("c", "1")], &[]), &["a", "c"]);
    let error = nack.error_detail.unwrap();
    assert_eq!((error.code, error.message.as_str()), (3, "a: no good; c: no good"));
    assert_eq!(session.held(ALL), 2);
}

#[test]
fn a_nack_of_very_many_resources_is_not_very_long() {
    let mut session = session();
    session.connected();
    let many: Vec<String> = (0..5000).map(|n| format!("resource-{n}")).collect();
    let upserts: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "1")).collect();
    let bad: Vec<&str> = many.iter().map(String::as_str).collect();
    let message = take(&mut session, response(ALL, &upserts, &[]), &bad).error_detail.unwrap().message;
    assert!(message.len() < 9000 && message.ends_with(" more"), "{} bytes", message.len());
}

#[test]
fn a_resource_whose_body_is_of_another_type_is_rejected_alone() {
    let mut session = session();
    session.connected();
    let mut response = response(ALL, &[("a", "1"), ("b", "1")], &[]);
    response.resources[0].resource.as_mut().unwrap().type_url = "type/other".to_owned();
    let nack = take(&mut session, response, &[]);
    assert!(nack.error_detail.unwrap().message.starts_with("a: "));
    assert_eq!(session.held(ALL), 1);
}

#[test]
fn a_response_of_a_type_that_was_not_asked_for_is_an_error() {
    let mut session = session();
    session.connected();
    assert!(matches!(session.response(response("type/none", &[], &[])), Err(XdsError::Protocol(_))));
}

#[test]
fn names_are_asked_for_and_dropped_as_they_change() {
    let mut session = session();
    session.connected();
    let first = session.want(SOME, &names(&["a", "b"])).unwrap();
    assert_eq!(first.resource_names_subscribe, ["a", "b"]);
    assert!(session.want(SOME, &names(&["a", "b"])).is_none(), "nothing new is wanted");
    take(&mut session, response(SOME, &[("a", "1"), ("b", "1")], &[]), &[]);
    let change = session.want(SOME, &names(&["b", "c"])).unwrap();
    assert_eq!(change.resource_names_subscribe, ["c"]);
    assert_eq!(change.resource_names_unsubscribe, ["a"]);
    session.disconnected();
    assert!(session.want(SOME, &names(&["b", "c", "d"])).is_none(), "without a stream it is asked for at the next one");
    let again = session.connected().remove(1);
    assert_eq!(again.resource_names_subscribe, ["b", "c", "d"]);
    assert_eq!(again.initial_resource_versions, [("b".to_owned(), "1".to_owned())].into());
}

#[test]
fn a_wildcard_is_synced_after_its_first_batch_and_names_when_each_is_answered() {
    let mut session = session();
    session.connected();
    assert!(!session.is_synced(ALL) && !session.is_synced(SOME));
    session.want(SOME, &names(&["a", "gone"]));
    take(&mut session, response(ALL, &[], &[]), &[]);
    assert!(session.is_synced(ALL));
    assert!(!session.is_synced(SOME));
    take(&mut session, response(SOME, &[("a", "1")], &[]), &[]);
    assert!(!session.is_synced(SOME));
    take(&mut session, response(SOME, &[], &["gone"]), &[]);
    assert!(session.is_synced(SOME), "absence is an answer too");
}

#[test]
fn a_type_of_which_no_name_is_wanted_is_synced_with_the_wildcards() {
    let mut session = session();
    session.connected();
    take(&mut session, response(ALL, &[], &[]), &[]);
    assert!(session.is_synced(SOME));
}

#[test]
fn waits_grow_from_ten_milliseconds_to_fifteen_seconds_with_jitter() {
    let mut backoff = Backoff::new();
    let waits: Vec<Duration> = (0..20).map(|_| backoff.next_wait()).collect();
    assert!(waits[0] >= Duration::from_millis(5) && waits[0] <= Duration::from_millis(10));
    assert!(waits[19] >= Duration::from_millis(7500) && waits[19] <= Duration::from_secs(15));
    assert!(waits.iter().all(|wait| *wait <= Backoff::MAX));
    backoff.reset();
    assert!(backoff.next_wait() <= Duration::from_millis(10));
    let spread: BTreeSet<Duration> = (0..20).map(|_| Backoff::new().next_wait()).collect();
    assert!(spread.len() > 1, "two clients must not wait for the same time");
}
