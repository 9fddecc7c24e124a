//! First bytes of a client, which go with the request for its tunnel or follow it before its answer; `h2` is the peer where it matters.

#![allow(missing_docs)]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ambit_hbone::{
    ConnectError, ConnectRequest, Plain, PoolConfig, ServerConfig,
    copy::{Counters, Outcome, pump},
};
use bytes::Bytes;
use common::{Client, echo, noise, server, tcp, tcp_pair};
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

const LIMIT: Duration = Duration::from_secs(30);

/// Carries the connection whose accepted socket is `accepted` through a tunnel.
async fn carry(client: &Client, accepted: TcpStream) -> Result<Outcome, ConnectError> {
    let tunnel = open(client, &accepted).await?;
    Ok(timeout(LIMIT, pump(tunnel, accepted, Counters::default())).await.unwrap())
}

async fn open(client: &Client, accepted: &TcpStream) -> Result<ambit_hbone::TunnelStream, ConnectError> {
    let request = ConnectRequest { authority: "10.0.0.1:80".parse().unwrap(), headers: HeaderMap::new() };
    let dial = || async {
        client.dials.fetch_add(1, Ordering::SeqCst);
        tcp(client.key.address).await.map(Plain::new)
    };
    let opened = timeout(LIMIT, client.pool.connect_for(&client.key, dial, request, accepted)).await.unwrap();
    opened.map(|(tunnel, _)| tunnel)
}

/// An application's connection to which `said` was written, and the socket that was accepted, where it has arrived.
async fn speaking(said: &[u8]) -> (TcpStream, TcpStream) {
    let (mut near, far) = tcp_pair().await;
    near.write_all(said).await.unwrap();
    far.readable().await.unwrap();
    (near, far)
}

/// Opens a tunnel that says nothing: afterwards the settings of the peer are known.
async fn warm(client: &Client) -> ambit_hbone::TunnelStream {
    client.open("10.0.0.1:80").await.unwrap().0
}

/// A server by the `h2` crate; `handler` gets each request with its number, over all connections.
async fn h2_server<H, F>(builder: h2::server::Builder, handler: H) -> Client
where
    H: Fn(usize, Request<RecvStream>, SendResponse<Bytes>) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(listener.local_addr().unwrap(), PoolConfig::default());
    tokio::spawn(async move {
        let count = Arc::<AtomicUsize>::default();
        while let Ok((io, _)) = listener.accept().await {
            let (builder, handler, count) = (builder.clone(), handler.clone(), Arc::clone(&count));
            tokio::spawn(async move {
                let Ok(mut connection) = builder.handshake::<_, Bytes>(io).await else { return };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(handler(count.fetch_add(1, Ordering::SeqCst), request, respond));
                }
            });
        }
    });
    client
}

/// Hears a request's bytes, `first` of them before it answers, and sends all back at their end.
async fn hear(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, first: usize) {
    let (mut body, mut all) = (request.into_body(), Vec::new());
    let mut sending = None;
    loop {
        if all.len() >= first && sending.is_none() {
            sending = Some(respond.send_response(Response::new(()), false).unwrap());
        }
        let Some(Ok(chunk)) = body.data().await else { break };
        body.flow_control().release_capacity(chunk.len()).unwrap();
        all.extend_from_slice(&chunk);
    }
    if let Some(mut sending) = sending {
        sending.send_data(all.into(), true).unwrap();
    }
}

#[tokio::test]
async fn first_bytes_come_first_and_once_however_many_they_are_and_the_end_may_follow_at_once() {
    let server = server(ServerConfig::default(), echo).await;
    let client = Client::new(server.address, PoolConfig::default());
    let _warm = warm(&client).await;
    for length in [1, 1000, 8 << 10, (8 << 10) + 1, 100_000, 3 << 20] {
        let (mut near, far) = tcp_pair().await;
        let sent = noise(length as u64, length);
        let (mut read, mut write) = near.split();
        let mut received = Vec::new();
        let talk = async {
            let write = async {
                write.write_all(&sent).await.unwrap();
                write.shutdown().await.unwrap();
            };
            tokio::join!(write, async { read.read_to_end(&mut received).await.unwrap() });
        };
        let carried = async {
            far.readable().await.unwrap();
            carry(&client, far).await.unwrap()
        };
        let ((), outcome) = tokio::join!(talk, carried);
        assert!(received == sent, "{} of {length} bytes came back", received.len());
        assert_eq!((outcome.sent, outcome.received), (length as u64, length as u64));
        assert!(outcome.ended_by.error().is_none(), "{:?}", outcome.ended_by);
    }
    assert_eq!(client.dials(), 1);
}

#[tokio::test]
async fn a_server_that_answers_only_once_it_has_heard_something_is_spoken_to_on_a_warm_connection() {
    let client = h2_server(h2::server::Builder::new(), |number, request, respond| async move {
        // The first is the one that warms the connection.
        hear(request, respond, if number == 0 { 0 } else { 500 }).await;
    })
    .await;
    let _warm = warm(&client).await;
    for there_already in [true, false] {
        let (mut near, far) = if there_already { speaking(&noise(3, 500)).await } else { tcp_pair().await };
        let talk = async {
            if !there_already {
                near.write_all(&noise(3, 500)).await.unwrap();
            }
            near.write_all(b"later").await.unwrap();
            near.shutdown().await.unwrap();
            let mut all = Vec::new();
            near.read_to_end(&mut all).await.unwrap();
            all
        };
        let (all, outcome) = tokio::join!(talk, carry(&client, far));
        assert!(all == [noise(3, 500), b"later".to_vec()].concat());
        assert_eq!(outcome.unwrap().sent, 505);
    }
    assert_eq!(client.dials(), 1);
}

#[tokio::test]
async fn first_bytes_keep_to_the_window_of_a_peer_that_grants_little() {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(1);
    let client = h2_server(builder, |_, request, respond| hear(request, respond, 0)).await;
    let _warm = warm(&client).await;
    let (mut near, far) = speaking(&noise(4, 500)).await;
    let talk = async {
        near.shutdown().await.unwrap();
        let mut all = Vec::new();
        near.read_to_end(&mut all).await.unwrap();
        all
    };
    let (all, outcome) = tokio::join!(talk, carry(&client, far));
    assert!(all == noise(4, 500));
    assert_eq!(outcome.unwrap().sent, 500);
}

#[tokio::test]
async fn first_bytes_of_a_request_that_is_refused_are_still_in_the_clients_socket() {
    let server = server(ServerConfig::default(), |incoming| async move {
        if incoming.headers().contains_key("x-warm") {
            drop(incoming.accept(HeaderMap::new()));
        } else {
            incoming.refuse(StatusCode::FORBIDDEN, HeaderMap::new()).unwrap();
        }
    })
    .await;
    let client = Client::new(server.address, PoolConfig::default());
    let headers = [("x-warm".parse().unwrap(), "1".parse().unwrap())].into_iter().collect();
    drop(client.open_with("10.0.0.1:80", headers).await.unwrap());
    for round in 0..300 {
        let (_near, mut far) = speaking(&noise(round, 5000)).await;
        let refused = open(&client, &far).await;
        assert!(matches!(refused, Err(ConnectError::Refused { .. })), "{refused:?}");
        let mut all = vec![0; 5000];
        timeout(LIMIT, far.read_exact(&mut all)).await.unwrap().unwrap();
        assert!(all == noise(round, 5000));
    }
    assert_eq!(client.dials(), 1);
}

#[tokio::test]
async fn a_request_that_the_peer_has_not_processed_is_sent_again_with_the_same_first_bytes() {
    let client = h2_server(h2::server::Builder::new(), |number, mut request, mut respond| async move {
        if number == 1 {
            let _heard = request.body_mut().data().await;
            respond.send_reset(h2::Reason::REFUSED_STREAM);
        } else {
            hear(request, respond, 0).await;
        }
    })
    .await;
    let _warm = warm(&client).await;
    let (mut near, far) = speaking(&noise(5, 3000)).await;
    let talk = async {
        near.shutdown().await.unwrap();
        let mut all = Vec::new();
        near.read_to_end(&mut all).await.unwrap();
        all
    };
    let (all, outcome) = tokio::join!(talk, carry(&client, far));
    assert!(all == noise(5, 3000), "{} bytes", all.len());
    assert_eq!((outcome.unwrap().sent, client.dials()), (3000, 2));
}

#[tokio::test]
async fn a_request_whose_first_bytes_may_have_been_acted_on_is_not_sent_again() {
    for lost in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::new(listener.local_addr().unwrap(), PoolConfig::default());
        let serve = async {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(tcp).await.unwrap();
            let (_, mut respond) = connection.accept().await.unwrap().unwrap();
            let _held = respond.send_response(Response::<()>::new(()), false).unwrap();
            let (mut request, mut respond) = connection.accept().await.unwrap().unwrap();
            let heard = async { request.body_mut().data().await.unwrap().unwrap() };
            tokio::select! {
                heard = heard => assert_eq!(heard.len(), 100),
                _ = std::future::poll_fn(|cx| connection.poll_closed(cx)) => panic!("closed"),
            }
            if !lost {
                respond.send_reset(h2::Reason::CANCEL);
                let _until_the_client_has_gone = timeout(LIMIT, std::future::poll_fn(|cx| connection.poll_closed(cx))).await;
            }
        };
        let ask = async {
            let first = warm(&client).await;
            let (_near, far) = speaking(&noise(6, 100)).await;
            let outcome = open(&client, &far).await.map(drop);
            drop(first);
            client.pool.drain(Duration::ZERO).await;
            outcome
        };
        let ((), outcome) = tokio::join!(serve, ask);
        let Err(ConnectError::Unknown(error)) = outcome else { panic!("{outcome:?}") };
        let right = if lost { matches!(*error, ConnectError::Lost(_)) } else { matches!(*error, ConnectError::Reset(_)) };
        assert!(right, "{error:?}");
        assert_eq!(client.dials(), 1);
    }
}

#[tokio::test]
async fn a_client_that_resets_before_the_answer_ends_its_request() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let server = server(ServerConfig::default(), move |mut incoming| {
        let tell = tell.clone();
        async move {
            if incoming.headers().contains_key("x-warm") {
                drop(incoming.accept(HeaderMap::new()));
                return;
            }
            tell.send("asked").unwrap();
            incoming.abandoned().await;
            tell.send("abandoned").unwrap();
        }
    })
    .await;
    let client = Client::new(server.address, PoolConfig::default());
    let headers = [("x-warm".parse().unwrap(), "1".parse().unwrap())].into_iter().collect();
    drop(client.open_with("10.0.0.1:80", headers).await.unwrap());
    let (near, far) = tcp_pair().await;
    let give_up = async {
        let said = timeout(LIMIT, told.recv()).await.unwrap();
        near.set_zero_linger().unwrap();
        drop(near);
        said
    };
    let (said, outcome) = tokio::join!(give_up, open(&client, &far));
    assert_eq!(said, Some("asked"));
    assert!(matches!(outcome, Err(ConnectError::Client(_))), "{outcome:?}");
    assert_eq!(timeout(LIMIT, told.recv()).await.unwrap(), Some("abandoned"));
}
