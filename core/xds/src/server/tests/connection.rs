//! What connections of the server have in common, whatever is asked over them.

use std::{convert::Infallible, future::poll_fn, task::Context, task::Poll, time::Duration};

use ambit_api::{
    envoy::pb::envoy::service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
    type_url::{CLUSTER, LISTENER},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{
    Code, Request, Status, Streaming,
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::NamedService,
    transport::Channel,
};

use super::{
    change,
    wire::{TYPE, VIEW, dial, eventually, serve},
};
use crate::{
    node,
    server::{Cache, ServerConfig},
};

const PATIENCE: Duration = Duration::from_secs(10);

/// A service beside discovery, which says from where it is asked.
#[derive(Clone)]
pub(super) struct Other;

impl NamedService for Other {
    const NAME: &'static str = "test.Other";
}

impl Service<http::Request<Body>> for Other {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<http::Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let peer = Request::from_parts(tonic::metadata::MetadataMap::new(), parts.extensions, body).remote_addr();
        Box::pin(async move { Ok(Status::already_exists(format!("{}", peer.unwrap().ip())).into_http()) })
    }
}

struct Stream {
    ask: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Stream {
    async fn open(channel: &Channel) -> Self {
        let (ask, requests) = mpsc::channel(4);
        let first = DeltaDiscoveryRequest { node: Some(node("node~1", &[])), type_url: TYPE.to_owned(), ..Default::default() };
        ask.send(first).await.unwrap();
        let mut request = Request::new(ReceiverStream::new(requests));
        request.metadata_mut().insert("authorization", "Bearer good".parse().unwrap());
        let mut client = AggregatedDiscoveryServiceClient::new(channel.clone());
        Self { ask, responses: client.delta_aggregated_resources(request).await.unwrap().into_inner() }
    }

    /// The next response, as "name name", which is answered.
    async fn next(&mut self) -> Option<String> {
        let response = timeout(PATIENCE, self.responses.next()).await.unwrap()?.unwrap();
        let answer = DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            ..DeltaDiscoveryRequest::default()
        };
        self.ask.send(answer).await.unwrap();
        Some(response.resources.iter().map(|resource| resource.name.clone()).collect::<Vec<_>>().join(" "))
    }
}

async fn ask(channel: &Channel, path: &str) -> (Code, String) {
    let mut channel = channel.clone();
    poll_fn(|context| channel.poll_ready(context)).await.unwrap();
    let request = http::Request::post(format!("http://server{path}")).body(Body::empty()).unwrap();
    let response = timeout(PATIENCE, channel.call(request)).await.unwrap().unwrap();
    let status = Status::from_header_map(response.headers()).unwrap();
    (status.code(), status.message().to_owned())
}

#[tokio::test]
async fn streams_of_one_connection_are_served_beside_each_other_and_end_with_it_in_order() {
    let cache = Cache::new();
    cache.update(VIEW, TYPE, [change("a", "1")]);
    let server = serve(&cache, ServerConfig::default(), "127.0.0.1:0").await;
    let channel = dial(server.address);
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(Stream::open(&channel).await);
    }
    for stream in &mut streams {
        assert_eq!(stream.next().await.as_deref(), Some("a"));
    }
    for number in 0..20 {
        cache.update(VIEW, TYPE, [change(&format!("r{number}"), "1")]);
        for stream in &mut streams {
            assert_eq!(stream.next().await, Some(format!("r{number}")));
        }
    }
    assert_eq!(server.status.sessions().len(), 3);
    // One of them ends, the others do not notice.
    drop(streams.pop());
    eventually(2, || server.status.sessions().len()).await;
    cache.update(VIEW, TYPE, [change("b", "1")]);
    for stream in &mut streams {
        assert_eq!(stream.next().await.as_deref(), Some("b"));
    }
    server.drain.send_replace(true);
    for stream in &mut streams {
        assert_eq!(stream.next().await, None, "the end of the stream is no error");
    }
    // The client has the connection still: it is the server that closes it.
    timeout(PATIENCE, server.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_changes_while_a_response_is_under_way_comes_once_that_is_answered() {
    let cache = Cache::new();
    cache.update(VIEW, TYPE, [change("a", "1")]);
    let server = serve(&cache, ServerConfig::default(), "127.0.0.1:0").await;
    let mut stream = Stream::open(&dial(server.address)).await;
    let first = timeout(PATIENCE, stream.responses.next()).await.unwrap().unwrap().unwrap();
    cache.update(VIEW, TYPE, [change("b", "1")]);
    assert!(timeout(Duration::from_millis(50), stream.responses.next()).await.is_err(), "one response at a time");
    let answer = DeltaDiscoveryRequest { type_url: TYPE.to_owned(), response_nonce: first.nonce, ..Default::default() };
    stream.ask.send(answer).await.unwrap();
    assert_eq!(stream.next().await.as_deref(), Some("b"));
    // What is asked for by name is answered although nothing has changed.
    let again =
        DeltaDiscoveryRequest { type_url: TYPE.to_owned(), resource_names_subscribe: vec!["a".to_owned()], ..Default::default() };
    stream.ask.send(again).await.unwrap();
    assert_eq!(stream.next().await.as_deref(), Some("a"));
}

#[tokio::test]
async fn what_waits_for_an_answer_that_never_comes_goes_out_although_it_changes_all_the_time() {
    let cache = Cache::new();
    let server = serve(&cache, ServerConfig::default(), "127.0.0.1:0").await;
    let mut stream = Stream::open(&dial(server.address)).await;
    assert_eq!(stream.next().await.as_deref(), Some(""));
    let of = |type_url: &str| DeltaDiscoveryRequest { type_url: type_url.to_owned(), ..Default::default() };
    stream.ask.send(of(CLUSTER)).await.unwrap();
    let unanswered = timeout(PATIENCE, stream.responses.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(unanswered.type_url, CLUSTER);
    stream.ask.send(of(LISTENER)).await.unwrap();
    assert_eq!(stream.next().await.as_deref(), Some(""));
    let changes = async {
        for number in 0.. {
            cache.update(VIEW, LISTENER, [change("listener", &format!("{number}"))]);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        response = stream.next() => assert_eq!(response.as_deref(), Some("listener")),
        () = changes => {}
    }
}

#[tokio::test]
async fn other_services_are_there_beside_discovery_and_what_is_not_there_is_said_to_be_so() {
    let cache = Cache::new();
    cache.update(VIEW, TYPE, [change("a", "1")]);
    let server = serve(&cache, ServerConfig::default(), "127.0.0.1:0").await;
    let channel = dial(server.address);
    let mut stream = Stream::open(&channel).await;
    assert_eq!(ask(&channel, "/test.Other/Say").await, (Code::AlreadyExists, "127.0.0.1".to_owned()));
    assert_eq!(ask(&channel, "/test.Nobody/Say").await.0, Code::Unimplemented);
    let unknown = "/envoy.service.discovery.v3.AggregatedDiscoveryService/Say";
    assert_eq!(ask(&channel, unknown).await, (Code::Unimplemented, format!("there is no {unknown}")));
    let refused = ask(&channel, "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources").await;
    assert_eq!(refused.0, Code::Unauthenticated, "before a response has begun");
    assert_eq!(stream.next().await.as_deref(), Some("a"));
}

#[tokio::test]
async fn a_request_that_is_too_long_ends_its_stream_and_no_other() {
    let cache = Cache::new();
    cache.update(VIEW, TYPE, [change("a", "1")]);
    let server = serve(&cache, ServerConfig { max_request: 1 << 10, ..ServerConfig::default() }, "127.0.0.1:0").await;
    let channel = dial(server.address);
    let (mut stream, mut other) = (Stream::open(&channel).await, Stream::open(&channel).await);
    assert_eq!(stream.next().await.as_deref(), Some("a"));
    let names = vec!["x".repeat(2 << 10)];
    let long = DeltaDiscoveryRequest { type_url: TYPE.to_owned(), resource_names_subscribe: names, ..Default::default() };
    stream.ask.send(long).await.unwrap();
    let refused = timeout(PATIENCE, stream.responses.next()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert_eq!(other.next().await.as_deref(), Some("a"));
    cache.update(VIEW, TYPE, [change("b", "1")]);
    assert_eq!(other.next().await.as_deref(), Some("b"));
}

#[tokio::test]
async fn a_peer_that_does_not_answer_pings_is_let_go_and_so_is_one_that_speaks_something_else() {
    /// The preface of HTTP/2 with empty settings, after which nothing comes.
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let moment = Duration::from_millis(50);
    let config = ServerConfig { keepalive: moment, keepalive_timeout: moment, ..ServerConfig::default() };
    let server = serve(&Cache::new(), config, "127.0.0.1:0").await;
    for said in [PREFACE, b"GET / HTTP/1.1\r\nhost: server\r\n\r\n\r\n"] {
        let mut peer = TcpStream::connect(server.address).await.unwrap();
        peer.write_all(said).await.unwrap();
        let mut heard = Vec::new();
        _ = timeout(PATIENCE, peer.read_to_end(&mut heard)).await.unwrap();
    }
}
