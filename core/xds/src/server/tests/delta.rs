use ambit_api::{
    envoy::pb::{
        envoy::{
            config::cluster::v3::{Cluster, cluster::EdsClusterConfig},
            service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
        },
        google::rpc,
    },
    type_url::{CLUSTER, ENDPOINT, LISTENER},
};
use prost::Message;

use super::{aliased, change};
use crate::{
    Any,
    server::{Cache, Change, DeltaSession},
};

const VIEW: &str = "view";
const TYPE: &str = "type/any";

/// A session with its cache, spoken to in the words of the protocol.
struct Peer {
    cache: Cache,
    session: DeltaSession,
}

impl Peer {
    fn new(type_url: &str, changes: Vec<Change>) -> Self {
        let cache = Cache::new();
        cache.update(VIEW, type_url, changes);
        Self { cache, session: DeltaSession::new() }
    }

    fn ask(&mut self, type_url: &str, subscribe: &[&str], unsubscribe: &[&str], have: &[(&str, &str)]) {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        self.session
            .request(DeltaDiscoveryRequest {
                type_url: type_url.to_owned(),
                resource_names_subscribe: list(subscribe),
                resource_names_unsubscribe: list(unsubscribe),
                initial_resource_versions: have.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
                ..DeltaDiscoveryRequest::default()
            })
            .unwrap();
    }

    fn answer(&mut self, response: &DeltaDiscoveryResponse, error: Option<&str>) {
        self.session
            .request(DeltaDiscoveryRequest {
                type_url: response.type_url.clone(),
                response_nonce: response.nonce.clone(),
                error_detail: error.map(|message| rpc::Status { code: 3, message: message.to_owned(), details: Vec::new() }),
                ..DeltaDiscoveryRequest::default()
            })
            .unwrap();
    }

    fn next(&mut self) -> Option<DeltaDiscoveryResponse> {
        self.session.next(&self.cache, VIEW).map(|response| response.message())
    }

    /// The next response as "type +upserts -removals", acknowledged; "" when none is due.
    fn turn(&mut self) -> String {
        let Some(response) = self.next() else { return String::new() };
        self.answer(&response, None);
        sentence(&response)
    }

    fn version(&self, name: &str) -> String {
        self.cache.read(VIEW, TYPE, |content| content.get(name).unwrap().version.to_string())
    }
}

fn sentence(response: &DeltaDiscoveryResponse) -> String {
    let mut removed = response.removed_resources.clone();
    removed.sort();
    let short = response.type_url.rsplit('.').next().unwrap_or_default();
    let words = response.resources.iter().map(|resource| format!(" +{}", resource.name));
    short.to_owned() + &words.chain(removed.iter().map(|name| format!(" -{name}"))).collect::<String>()
}

#[test]
fn a_wildcard_gets_everything_and_then_only_what_changes() {
    let mut peer = Peer::new(TYPE, vec![change("a", "1"), change("b", "1")]);
    peer.ask(TYPE, &[], &[], &[]);
    assert_eq!(peer.turn(), "type/any +a +b");
    assert_eq!(peer.turn(), "");
    peer.cache.update(VIEW, TYPE, [change("b", "2"), change("c", "1"), Change::remove("a")]);
    assert_eq!(peer.turn(), "type/any +b +c -a");
    peer.cache.update(VIEW, TYPE, [change("c", "1")]);
    assert_eq!(peer.turn(), "");
}

#[test]
fn an_empty_view_is_answered_too() {
    let mut peer = Peer::new(TYPE, vec![]);
    peer.ask(TYPE, &[], &[], &[]);
    assert_eq!(peer.turn(), "type/any");
    assert_eq!(peer.turn(), "");
}

#[test]
fn a_reconnect_gets_only_the_differences() {
    let mut peer = Peer::new(TYPE, vec![change("same", "1"), change("other", "2"), change("new", "1")]);
    let same = peer.version("same");
    peer.ask(TYPE, &[], &[], &[("same", &same), ("other", "old"), ("gone", "1")]);
    assert_eq!(peer.turn(), "type/any +new +other -gone");
}

#[test]
fn a_name_or_alias_asked_for_is_answered_and_an_unknown_one_is_removed() {
    let mut peer = Peer::new(TYPE, vec![aliased("pod-a", &["/10.0.0.1"], "1"), aliased("pod-b", &["/10.0.0.2"], "1")]);
    peer.ask(TYPE, &["*"], &["*"], &[]);
    assert_eq!(peer.turn(), "type/any", "nothing was asked for yet");
    peer.ask(TYPE, &["/10.0.0.1"], &[], &[]);
    assert_eq!(peer.turn(), "type/any +pod-a");
    peer.ask(TYPE, &["/10.9.9.9", "pod-b"], &[], &[]);
    assert_eq!(peer.turn(), "type/any +pod-b -/10.9.9.9");
    peer.ask(TYPE, &["pod-b"], &[], &[]);
    assert_eq!(peer.turn(), "type/any +pod-b", "asked for again, sent again");
    peer.cache.update(VIEW, TYPE, [aliased("pod-c", &["/10.9.9.9"], "1"), change("unrelated", "1")]);
    assert_eq!(peer.turn(), "type/any +pod-c", "it came after it was asked for");
    peer.cache.update(VIEW, TYPE, [Change::remove("pod-a")]);
    assert_eq!(peer.turn(), "type/any -pod-a");
}

#[test]
fn the_answer_to_an_alias_names_the_alias() {
    let mut peer = Peer::new(TYPE, vec![aliased("pod-a", &["/10.0.0.1"], "1")]);
    peer.ask(TYPE, &["/10.0.0.1"], &[], &[]);
    assert_eq!(peer.next().unwrap().resources[0].aliases, ["/10.0.0.1"]);
}

#[test]
fn a_resource_that_loses_the_alias_it_was_found_by_is_removed() {
    let mut peer = Peer::new(TYPE, vec![aliased("pod-a", &["/10.0.0.1"], "1")]);
    peer.ask(TYPE, &["/10.0.0.1"], &[], &[]);
    assert_eq!(peer.turn(), "type/any +pod-a");
    peer.cache.update(VIEW, TYPE, [aliased("pod-a", &["/10.0.0.7"], "1"), aliased("pod-b", &["/10.0.0.1"], "1")]);
    assert_eq!(peer.turn(), "type/any +pod-b -pod-a");
}

#[test]
fn a_name_no_longer_wanted_is_no_longer_sent() {
    let mut peer = Peer::new(TYPE, vec![change("a", "1"), change("b", "1")]);
    peer.ask(TYPE, &["a", "b"], &[], &[]);
    assert_eq!(peer.turn(), "type/any +a +b");
    peer.ask(TYPE, &[], &["a"], &[]);
    assert_eq!(peer.turn(), "");
    peer.cache.update(VIEW, TYPE, [change("a", "2"), change("b", "2")]);
    assert_eq!(peer.turn(), "type/any +b");
    peer.cache.update(VIEW, TYPE, [Change::remove("a")]);
    assert_eq!(peer.turn(), "");
}

#[test]
fn changes_while_a_response_is_under_way_are_one_response() {
    let mut peer = Peer::new(TYPE, vec![change("a", "1")]);
    peer.ask(TYPE, &[], &[], &[]);
    let first = peer.next().unwrap();
    for text in ["2", "3", "4"] {
        peer.cache.update(VIEW, TYPE, [change("a", text), change(text, "1")]);
        assert_eq!(peer.next(), None, "the peer has not answered");
    }
    peer.answer(&first, None);
    assert_eq!(peer.turn(), "type/any +2 +3 +4 +a");
    assert_eq!(peer.turn(), "");
}

#[test]
fn a_refused_resource_is_not_sent_again_until_it_changes_and_the_refusal_is_visible() {
    let mut peer = Peer::new(TYPE, vec![change("bad", "1"), change("good", "1")]);
    peer.ask(TYPE, &[], &[], &[]);
    let response = peer.next().unwrap();
    peer.answer(&response, Some("bad: no such field"));
    assert_eq!(peer.turn(), "");
    let status = &peer.session.status()[TYPE];
    assert_eq!(status.last_nack.as_ref().unwrap().message, "bad: no such field");
    assert_eq!((status.acknowledged.as_deref(), status.resources), (None, 2));
    peer.cache.update(VIEW, TYPE, [change("bad", "2")]);
    assert_eq!(peer.turn(), "type/any +bad");
}

/// More removals than are remembered.
const MANY: u32 = 20_000;

#[test]
fn a_peer_that_missed_more_removals_than_are_remembered_is_told_all_or_has_to_say_what_it_has() {
    let resources = || (0..MANY).map(|n| change(&n.to_string(), "1")).collect::<Vec<_>>();
    let removals = || (1..MANY).map(|n| Change::remove(n.to_string()));
    let mut peer = Peer::new(TYPE, resources());
    let names: Vec<String> = (0..MANY).map(|n| n.to_string()).collect();
    peer.ask(TYPE, &names.iter().map(String::as_str).collect::<Vec<_>>(), &[], &[]);
    peer.turn();
    peer.cache.update(VIEW, TYPE, removals());
    assert_eq!(peer.next().unwrap().removed_resources.len(), 19_999, "what it asked for by name is known by name");

    let mut peer = Peer::new(TYPE, resources());
    peer.ask(TYPE, &[], &[], &[]);
    peer.turn();
    assert!(!peer.session.is_lost());
    peer.cache.update(VIEW, TYPE, removals());
    assert_eq!((peer.next(), peer.session.is_lost()), (None, true));
}

#[test]
fn of_many_resources_that_all_have_only_what_changes_is_sent() {
    let many = || (0..1000).map(|n| change(&format!("{n:04}"), "1")).collect::<Vec<_>>();
    let mut peer = Peer::new(TYPE, many());
    peer.ask(TYPE, &[], &[], &[]);
    assert_eq!(peer.next().map(|response| response.resources.len()), Some(1000));
    peer.answer(&DeltaDiscoveryResponse { type_url: TYPE.into(), nonce: "1".into(), ..Default::default() }, None);
    assert_eq!(peer.turn(), "");
    peer.cache.update(VIEW, TYPE, [change("0007", "2"), change("new", "1"), Change::remove("0009"), change("0008", "1")]);
    assert_eq!(peer.turn(), "type/any +0007 +new -0009");
    assert_eq!((peer.turn().as_str(), peer.session.status()[TYPE].resources), ("", 1000));
    // All of it but one name is no longer wanted.
    peer.ask(TYPE, &["0003"], &["*"], &[]);
    assert_eq!(peer.turn(), "type/any +0003");
    peer.cache.update(VIEW, TYPE, [change("0003", "2"), change("0004", "2")]);
    assert_eq!(peer.turn(), "type/any +0003");

    // One that comes back is compared by what it says it has.
    let mut peer = Peer::new(TYPE, many());
    let same: Vec<(String, String)> =
        (0..1000).map(|n| format!("{n:04}")).map(|name| (name.clone(), peer.version(&name))).collect();
    let mut have: Vec<(&str, &str)> = same.iter().map(|(name, version)| (name.as_str(), version.as_str())).collect();
    have[5].1 = "old";
    have.push(("gone", "1"));
    peer.ask(TYPE, &[], &[], &have);
    assert_eq!(peer.turn(), "type/any +0005 -gone");
    peer.cache.update(VIEW, TYPE, [Change::remove("0001")]);
    assert_eq!(peer.turn(), "type/any -0001");
}

#[test]
fn what_is_named_comes_first_and_goes_last() {
    let mut peer = Peer::new(CLUSTER, vec![change("c1", "1")]);
    peer.cache.update(VIEW, LISTENER, [change("l", "to c1")]);
    peer.ask(LISTENER, &[], &[], &[]);
    peer.ask(CLUSTER, &[], &[], &[]);
    assert_eq!(peer.turn(), "Cluster +c1");
    assert_eq!(peer.turn(), "Listener +l");
    peer.cache.write(VIEW, |writer| {
        writer.update(LISTENER, [change("l", "to c2")]);
        writer.update(CLUSTER, [change("c2", "1"), Change::remove("c1")]);
    });
    assert_eq!([peer.turn(), peer.turn(), peer.turn(), peer.turn()], ["Cluster +c2", "Listener +l", "Cluster -c1", ""]);
}

#[test]
fn a_listener_waits_until_the_clusters_are_taken() {
    let mut peer = Peer::new(CLUSTER, vec![change("c", "1")]);
    peer.cache.update(VIEW, LISTENER, [change("l", "1")]);
    peer.ask(CLUSTER, &[], &[], &[]);
    peer.ask(LISTENER, &[], &[], &[]);
    while peer.turn() != "" {}
    peer.cache.write(VIEW, |writer| {
        writer.update(CLUSTER, [change("c", "2")]);
        writer.update(LISTENER, [change("l", "2")]);
    });
    let clusters = peer.next().unwrap();
    assert_eq!(peer.next(), None);
    peer.answer(&clusters, None);
    assert_eq!(peer.turn(), "Listener +l");
}

#[test]
fn what_waits_for_an_answer_that_never_comes_goes_out_when_released() {
    let mut peer = Peer::new(CLUSTER, vec![change("c", "1")]);
    peer.cache.update(VIEW, LISTENER, [change("l", "1")]);
    peer.ask(CLUSTER, &[], &[], &[]);
    peer.ask(LISTENER, &[], &[], &[]);
    while peer.turn() != "" {}
    assert!(!peer.session.is_holding());
    peer.cache.write(VIEW, |writer| {
        writer.update(CLUSTER, [change("c", "2")]);
        writer.update(LISTENER, [change("l", "2")]);
    });
    assert_eq!(sentence(&peer.next().unwrap()), "Cluster +c");
    assert_eq!((peer.next(), peer.session.is_holding()), (None, true));
    peer.session.release();
    assert_eq!(peer.turn(), "Listener +l");
}

#[test]
fn a_removal_that_is_put_off_is_dropped_when_the_resource_comes_back() {
    let mut peer = Peer::new(CLUSTER, vec![change("c", "1")]);
    peer.cache.update(VIEW, LISTENER, [change("l", "1")]);
    peer.ask(CLUSTER, &[], &[], &[]);
    peer.ask(LISTENER, &[], &[], &[]);
    while peer.turn() != "" {}
    peer.cache.write(VIEW, |writer| {
        writer.update(LISTENER, [change("l", "2")]);
        writer.update(CLUSTER, [Change::remove("c")]);
    });
    let listener = peer.next().unwrap();
    assert_eq!(sentence(&listener), "Listener +l");
    peer.cache.update(VIEW, CLUSTER, [change("c", "1")]);
    peer.answer(&listener, None);
    assert_eq!(peer.turn(), "", "the peer still has it as it is");
}

#[test]
fn a_changed_cluster_brings_its_endpoints_again() {
    let mut peer = Peer::new(CLUSTER, vec![change("c", "1")]);
    peer.cache.update(VIEW, ENDPOINT, [change("c", "1"), change("d", "1")]);
    peer.ask(CLUSTER, &[], &[], &[]);
    assert_eq!(peer.turn(), "Cluster +c");
    peer.ask(ENDPOINT, &["c", "d"], &[], &[]);
    assert_eq!(peer.turn(), "ClusterLoadAssignment +c +d");
    peer.cache.update(VIEW, CLUSTER, [change("c", "2")]);
    assert_eq!([peer.turn(), peer.turn(), peer.turn()], ["Cluster +c", "ClusterLoadAssignment +c", ""]);
}

#[test]
fn a_further_cluster_with_the_same_endpoints_brings_them_again() {
    let cluster = |name: &str| {
        let config = EdsClusterConfig { service_name: "shared".to_owned(), ..EdsClusterConfig::default() };
        let cluster = Cluster { eds_cluster_config: Some(config), ..Cluster::default() };
        let body = Any { type_url: CLUSTER.to_owned(), value: cluster.encode_to_vec() };
        Change::upsert(name, Vec::new(), body)
    };
    let mut peer = Peer::new(CLUSTER, vec![cluster("one")]);
    peer.cache.update(VIEW, ENDPOINT, [change("shared", "1"), change("other", "1")]);
    peer.ask(CLUSTER, &[], &[], &[]);
    assert_eq!(peer.turn(), "Cluster +one");
    peer.ask(ENDPOINT, &["shared", "other"], &[], &[]);
    assert_eq!(peer.turn(), "ClusterLoadAssignment +other +shared");
    peer.cache.update(VIEW, CLUSTER, [cluster("two")]);
    assert_eq!([peer.turn(), peer.turn(), peer.turn()], ["Cluster +two", "ClusterLoadAssignment +shared", ""]);
}

#[test]
fn a_name_dropped_while_everything_is_wanted_is_sent_again() {
    let mut peer = Peer::new(TYPE, vec![change("a", "1")]);
    peer.ask(TYPE, &["*", "a"], &[], &[]);
    assert_eq!(peer.turn(), "type/any +a");
    peer.ask(TYPE, &[], &["a"], &[]);
    assert_eq!(peer.turn(), "type/any +a");
}

#[test]
fn a_peer_cannot_open_types_without_end() {
    let mut session = DeltaSession::new();
    let ask = |n: u32| DeltaDiscoveryRequest { type_url: format!("type/{n}"), ..DeltaDiscoveryRequest::default() };
    assert!((0..16).all(|n| session.request(ask(n)).is_ok()));
    assert!(session.request(ask(16)).is_err());
}
