//! The client against the server over loopback TCP.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use ambit_api::envoy::pb::envoy::service::discovery::v3::{
    DiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::timeout};
use tokio_stream::{StreamExt as _, wrappers::TcpListenerStream};
use tonic::{Code, Status as Refusal, metadata::MetadataMap, service::Routes, transport::Channel};

use super::{aliased, change, connection::Other};
use crate::{
    Node, Rejected, Resource,
    client::{Credentials, DeltaClient, Subscription, Subscriptions, Target},
    node,
    server::{AdsServer, Authenticate, Cache, Change, Protocol, ServerConfig, Status},
};

pub(super) const VIEW: &str = "nodes";
pub(super) const TYPE: &str = "type/any";
const OTHER: &str = "type/other";

/// Lets in those with the token "good", as nodes whose id says that they are one. The view of one of them is never made.
struct Gate;

impl Authenticate for Gate {
    type Caller = ();

    async fn caller(&self, metadata: &MetadataMap, _: Option<SocketAddr>) -> Result<(), Refusal> {
        match metadata.get("authorization").map(|value| value.as_bytes()) {
            Some(b"Bearer good") => Ok(()),
            _ => Err(Refusal::unauthenticated("a good token is wanted")),
        }
    }

    async fn view(&self, (): &(), node: &Node) -> Result<String, Refusal> {
        if node.id == "node~waiting" {
            std::future::pending::<()>().await;
        }
        if node.id.starts_with("node~") { Ok(VIEW.to_owned()) } else { Err(Refusal::permission_denied("not a node")) }
    }
}

pub(super) struct Running {
    pub(super) address: SocketAddr,
    pub(super) status: Status,
    pub(super) drain: watch::Sender<bool>,
    pub(super) task: JoinHandle<()>,
}

pub(super) async fn serve(cache: &Cache, config: ServerConfig, address: &str) -> Running {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (drain, draining) = watch::channel(false);
    let server = AdsServer::new(cache.clone(), Gate, config, draining);
    let status = server.status();
    let task = tokio::spawn(server.serve(TcpListenerStream::new(listener), Routes::new(Other)));
    Running { address, status, drain, task }
}

pub(super) fn dial(address: SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy()
}

/// What a client made of what it was sent.
#[derive(Clone, Default)]
struct Seen {
    held: Arc<Mutex<BTreeMap<String, String>>>,
    upserts: Arc<Mutex<Vec<String>>>,
}

impl Seen {
    /// A handler that rejects what contains "bad".
    fn handler(&self) -> impl FnMut(Vec<Resource>, Vec<String>) -> Vec<Rejected> + Send + 'static {
        let this = self.clone();
        move |upserts, removals| {
            let (mut held, mut log) = (this.held.lock().unwrap(), this.upserts.lock().unwrap());
            removals.iter().for_each(|name| drop(held.remove(name)));
            let mut rejected = Vec::new();
            for Resource { name, body, .. } in upserts {
                log.push(name.clone());
                let text = String::from_utf8(body.value).unwrap();
                if text.contains("bad") {
                    rejected.push(Rejected { name, reason: format!("{text:?} is bad") });
                } else {
                    held.insert(name, text);
                }
            }
            rejected
        }
    }

    /// Waits until the client holds exactly this, as "name=content name=content".
    async fn becomes(&self, expected: &str) {
        let now = || self.held.lock().unwrap().iter().map(|(name, text)| format!("{name}={text}")).collect::<Vec<_>>().join(" ");
        eventually(expected.to_owned(), now).await;
    }

    fn take_log(&self) -> String {
        std::mem::take(&mut *self.upserts.lock().unwrap()).join(" ")
    }
}

/// Waits until `now` says what is expected.
pub(super) async fn eventually<T: PartialEq + std::fmt::Debug>(expected: T, now: impl Fn() -> T) {
    let wait = async {
        while now() != expected {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(10), wait).await.unwrap_or_else(|_| panic!("wanted {expected:?}, have {:?}", now()));
}

struct Client {
    seen: Seen,
    synced: watch::Receiver<bool>,
    task: JoinHandle<()>,
    _token: tempdir::Dir,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn client(address: SocketAddr, token: &str) -> Client {
    let seen = Seen::default();
    let types = vec![Subscription::wildcard(TYPE, seen.handler())];
    let dir = tempdir::Dir::new();
    let path = dir.path().join("token");
    std::fs::write(&path, token).unwrap();
    let credentials = Credentials::new(path, "Kubernetes");
    let client = DeltaClient::new(Target::Channel(dial(address)), node("node~1", &[]), credentials, types, Subscriptions::new());
    let synced = client.synced(TYPE);
    Client { seen, synced, task: tokio::spawn(client.run()), _token: dir }
}

/// A directory that goes away with its owner.
mod tempdir {
    use std::path::{Path, PathBuf};

    pub struct Dir(PathBuf);

    impl Dir {
        pub fn new() -> Self {
            let path = std::env::temp_dir().join(format!("ambit-xds-{}-{}", std::process::id(), fastrand::u64(..)));
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }

        pub fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

#[tokio::test]
async fn a_client_follows_the_view() {
    let cache = Cache::new();
    cache.update(VIEW, TYPE, [change("a", "1"), aliased("b", &["/10.0.0.1"], "1")]);
    let server = serve(&cache, ServerConfig::default(), "127.0.0.1:0").await;
    let mut client = client(server.address, "good\n");
    timeout(Duration::from_secs(10), client.synced.wait_for(|synced| *synced)).await.unwrap().unwrap();
    client.seen.becomes("a=1 b=1").await;
    cache.update(VIEW, TYPE, [change("a", "2"), Change::remove("b"), change("c", "1")]);
    client.seen.becomes("a=2 c=1").await;
    let session = server.status.sessions().remove(0);
    assert_eq!((session.node.as_str(), session.view.as_str(), session.protocol), ("node~1", VIEW, Protocol::Delta));
    eventually((2, false), || {
        let of_type = server.status.sessions().remove(0).types.remove(TYPE).unwrap();
        (of_type.resources, of_type.waiting)
    })
    .await;
}

#[tokio::test]
async fn one_bad_resource_among_many_rejects_only_itself() {
    let cache = Cache::new();
    cache.update(VIEW, TYPE, (0..100).map(|n| change(&format!("r{n:02}"), if n == 42 { "bad" } else { "fine" })));
    let server = serve(&cache, ServerConfig::default(), "127.0.0.1:0").await;
    let client = client(server.address, "good");
    eventually(99, || client.seen.held.lock().unwrap().len()).await;
    let nack = || server.status.sessions().first()?.types.get(TYPE)?.last_nack.clone().map(|nack| nack.message);
    eventually(Some("r42: \"bad\" is bad".to_owned()), nack).await;
    cache.update(VIEW, TYPE, [change("r42", "fine now")]);
    eventually(100, || client.seen.held.lock().unwrap().len()).await;
}

#[tokio::test]
async fn after_a_lost_server_only_the_differences_are_sent() {
    let cache = Cache::new();
    cache.update(VIEW, TYPE, [change("same", "1"), change("other", "1"), change("gone", "1"), change("worse", "1")]);
    let server = serve(&cache, ServerConfig::default(), "127.0.0.1:0").await;
    let client = client(server.address, "good");
    client.seen.becomes("gone=1 other=1 same=1 worse=1").await;
    cache.update(VIEW, TYPE, [change("worse", "bad")]);
    eventually("gone other same worse worse".to_owned(), || client.seen.upserts.lock().unwrap().join(" ")).await;
    client.seen.take_log();
    server.drain.send_replace(true);
    server.task.await.unwrap();

    let cache = Cache::new();
    cache.update(VIEW, TYPE, [change("same", "1"), change("other", "2"), change("new", "1"), change("worse", "bad")]);
    let _server = serve(&cache, ServerConfig::default(), &server.address.to_string()).await;
    client.seen.becomes("new=1 other=2 same=1 worse=1").await;
    assert_eq!(client.seen.take_log(), "new other worse", "what was rejected is not held, so it is tried again");
}

#[tokio::test]
async fn a_stream_that_is_closed_in_order_is_opened_again_at_once() {
    let cache = Cache::new();
    cache.update(VIEW, TYPE, [change("a", "1")]);
    let config = ServerConfig { max_age: Duration::from_millis(200), ..ServerConfig::default() };
    let server = serve(&cache, config, "127.0.0.1:0").await;
    let client = client(server.address, "good");
    client.seen.becomes("a=1").await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    cache.update(VIEW, TYPE, [change("a", "2")]);
    client.seen.becomes("a=2").await;
    assert_eq!(client.seen.take_log(), "a a", "streams in between transferred nothing");
    server.drain.send_replace(true);
    eventually(0, || server.status.sessions().len()).await;
}

#[tokio::test]
async fn a_caller_without_a_good_token_sees_nothing() {
    let cache = Cache::new();
    cache.update(VIEW, TYPE, [change("a", "1")]);
    let server = serve(&cache, ServerConfig::default(), "127.0.0.1:0").await;
    let client = client(server.address, "stolen");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(client.seen.held.lock().unwrap().is_empty() && server.status.sessions().is_empty());
    std::fs::write(client._token.path().join("token"), "good").unwrap();
    client.seen.becomes("a=1").await;
}

#[tokio::test]
async fn names_that_a_handler_comes_to_want_are_there_before_they_count_as_synced() {
    let cache = Cache::new();
    cache.update(VIEW, TYPE, [change("listener", "route-1")]);
    cache.write(VIEW, |writer| {
        let mut route = change("route-1", "fine");
        route.body.as_mut().unwrap().type_url = OTHER.to_owned();
        writer.update(OTHER, [route]);
    });
    let server = serve(&cache, ServerConfig::default(), "127.0.0.1:0").await;
    let (subscriptions, routes) = (Subscriptions::new(), Seen::default());
    let wants = subscriptions.clone();
    let listeners = move |upserts: Vec<Resource>, _| {
        wants.set(OTHER, upserts.into_iter().map(|listener| String::from_utf8(listener.body.value).unwrap()));
        Vec::new()
    };
    let types = vec![Subscription::wildcard(TYPE, listeners), Subscription::by_name(OTHER, routes.handler())];
    let dir = tempdir::Dir::new();
    std::fs::write(dir.path().join("token"), "good").unwrap();
    let credentials = Credentials::new(dir.path().join("token"), "Kubernetes");
    let client = DeltaClient::new(Target::Channel(dial(server.address)), node("node~1", &[]), credentials, types, subscriptions);
    let mut synced = client.synced(OTHER);
    let task = tokio::spawn(client.run());
    timeout(Duration::from_secs(10), synced.wait_for(|synced| *synced)).await.unwrap().unwrap();
    assert_eq!(routes.held.lock().unwrap().get("route-1").map(String::as_str), Some("fine"));
    cache.update(VIEW, TYPE, [change("listener", "route-2")]);
    eventually(1, || server.status.sessions().first().map_or(0, |s| s.types.get(OTHER).map_or(0, |t| t.names))).await;
    task.abort();
}

#[tokio::test]
async fn state_of_the_world_is_served_from_the_same_cache() {
    let cache = Cache::new();
    cache.update(VIEW, TYPE, [change("a", "1"), change("b", "1")]);
    let server = serve(&cache, ServerConfig::default(), "127.0.0.1:0").await;
    let (ask, requests) = tokio::sync::mpsc::channel(4);
    let first =
        DiscoveryRequest { node: Some(node("node~envoy", &[])), type_url: TYPE.to_owned(), ..DiscoveryRequest::default() };
    ask.send(first).await.unwrap();
    let mut request = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(requests));
    request.metadata_mut().insert("authorization", "Bearer good".parse().unwrap());
    let mut client = AggregatedDiscoveryServiceClient::new(dial(server.address));
    let mut responses = client.stream_aggregated_resources(request).await.unwrap().into_inner();
    let one = responses.next().await.unwrap().unwrap();
    assert_eq!(one.resources.len(), 2);
    cache.update(VIEW, TYPE, [Change::remove("a")]);
    assert!(timeout(Duration::from_millis(50), responses.next()).await.is_err(), "the first response is not answered");
    let ack = DiscoveryRequest { type_url: TYPE.to_owned(), response_nonce: one.nonce, ..DiscoveryRequest::default() };
    ask.send(ack).await.unwrap();
    let two = responses.next().await.unwrap().unwrap();
    assert_eq!((two.resources.len(), two.version_info == one.version_info), (1, false));
}

#[tokio::test]
async fn a_node_that_may_not_see_a_view_and_one_that_says_nothing_are_refused() {
    let server =
        serve(&Cache::new(), ServerConfig { first_request: Duration::from_millis(50), ..ServerConfig::default() }, "127.0.0.1:0")
            .await;
    for (id, code) in [(Some("pod~1"), Code::PermissionDenied), (None, Code::DeadlineExceeded)] {
        let (ask, requests) = tokio::sync::mpsc::channel(4);
        if let Some(id) = id {
            let first = DiscoveryRequest { node: Some(node(id, &[])), type_url: TYPE.to_owned(), ..DiscoveryRequest::default() };
            ask.send(first).await.unwrap();
        }
        let mut request = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(requests));
        request.metadata_mut().insert("authorization", "Bearer good".parse().unwrap());
        let mut client = AggregatedDiscoveryServiceClient::new(dial(server.address));
        let mut responses = client.stream_aggregated_resources(request).await.unwrap().into_inner();
        assert_eq!(responses.next().await.unwrap().unwrap_err().code(), code);
    }
}

#[tokio::test]
async fn a_peer_that_does_not_read_costs_no_responses() {
    let cache = Cache::new();
    cache.update(VIEW, TYPE, [change("a", &"x".repeat(1 << 20))]);
    let server = serve(&cache, ServerConfig::default(), "127.0.0.1:0").await;
    let (ask, requests) = tokio::sync::mpsc::channel(4);
    let first = DiscoveryRequest { node: Some(node("node~slow", &[])), type_url: TYPE.to_owned(), ..DiscoveryRequest::default() };
    ask.send(first).await.unwrap();
    let mut request = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(requests));
    request.metadata_mut().insert("authorization", "Bearer good".parse().unwrap());
    let mut client = AggregatedDiscoveryServiceClient::new(dial(server.address));
    let mut responses = client.stream_aggregated_resources(request).await.unwrap().into_inner();
    let weak: Vec<_> = (0..50)
        .map(|n| {
            cache.update(VIEW, TYPE, [change("a", &n.to_string().repeat(1 << 20))]);
            cache.read(VIEW, TYPE, |content| Arc::downgrade(content.get("a").unwrap()))
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let alive = || weak.iter().filter(|entry| entry.upgrade().is_some()).count();
    // What was being encoded may be so for a moment more.
    for _ in 0..500 {
        if alive() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(alive(), 1, "only the latest content is kept, whatever the peer has not read");
    let one = timeout(Duration::from_secs(10), responses.next()).await.unwrap().unwrap().unwrap();
    let ack = DiscoveryRequest { type_url: TYPE.to_owned(), response_nonce: one.nonce, ..DiscoveryRequest::default() };
    ask.send(ack).await.unwrap();
    let two = timeout(Duration::from_secs(10), responses.next()).await.unwrap().unwrap().unwrap();
    assert!(two.resources[0].value.starts_with(b"4949"), "what was skipped is never sent");
}

#[tokio::test]
async fn who_waits_for_a_view_that_is_being_made_holds_nobody_up_and_is_let_go() {
    let cache = Cache::new();
    cache.update(VIEW, TYPE, [change("a", "1")]);
    let server = serve(&cache, ServerConfig { openings: 1, ..ServerConfig::default() }, "127.0.0.1:0").await;
    let (ask, requests) = tokio::sync::mpsc::channel(4);
    let first =
        DiscoveryRequest { node: Some(node("node~waiting", &[])), type_url: TYPE.to_owned(), ..DiscoveryRequest::default() };
    ask.send(first).await.unwrap();
    let mut request = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(requests));
    request.metadata_mut().insert("authorization", "Bearer good".parse().unwrap());
    let mut waiting = AggregatedDiscoveryServiceClient::new(dial(server.address));
    let mut responses = waiting.stream_aggregated_resources(request).await.unwrap().into_inner();
    assert!(timeout(Duration::from_millis(50), responses.next()).await.is_err(), "there is nothing for it yet");
    client(server.address, "good").seen.becomes("a=1").await;
    server.drain.send_replace(true);
    let last = timeout(Duration::from_secs(10), responses.next()).await.unwrap();
    assert!(last.is_none(), "{last:?}");
}

#[tokio::test]
async fn who_does_not_read_what_it_asked_for_keeps_the_others_out_for_a_while_only() {
    const LONG: usize = 4 << 20;
    let cache = Cache::new();
    // More than may be under way to one that does not read, which is 2 MB of a stream by the client's settings.
    cache.update(VIEW, TYPE, [change("a", &"1".repeat(LONG))]);
    let config = ServerConfig { openings: 1, opening: Duration::from_millis(500), ..ServerConfig::default() };
    let server = serve(&cache, config, "127.0.0.1:0").await;
    let (ask, requests) = tokio::sync::mpsc::channel(4);
    let first =
        DiscoveryRequest { node: Some(node("node~stuck", &[])), type_url: TYPE.to_owned(), ..DiscoveryRequest::default() };
    ask.send(first).await.unwrap();
    let mut request = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(requests));
    request.metadata_mut().insert("authorization", "Bearer good".parse().unwrap());
    let mut stuck = AggregatedDiscoveryServiceClient::new(dial(server.address));
    let _unread = stuck.stream_aggregated_resources(request).await.unwrap().into_inner();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let other = client(server.address, "good");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(other.seen.held.lock().unwrap().is_empty(), "one begins at a time");
    other.seen.becomes(&format!("a={}", "1".repeat(LONG))).await;
}
