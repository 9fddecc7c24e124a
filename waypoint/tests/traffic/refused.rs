//! Requests with a body whose endpoint goes: what it has not looked at reaches another connection, and nothing reaches two of them.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ambit_runtime::workers::Settings;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    task::JoinSet,
};

use super::{
    again::answered,
    support::{
        Limits, Mesh, WEB,
        client::{self, Body, get, once, read, tunnel},
        resources::{Ep, Service},
        scripted::{
            self,
            Act::{self, Answer, Break, Cut, Leave, LeaveWhole, Refuse, RefuseWhole},
            Came,
        },
    },
    workers::on_threads,
};

fn http2_service(mesh: &Mesh) -> Service {
    let service = Service { protocol: "http2", ..Service::http("billing", mesh.socket(100, 80)) };
    mesh.serve(std::slice::from_ref(&service));
    service
}

/// A service whose endpoint does so, with a connection to it at hand: the first act is an answer.
async fn at_hand(mesh: &Mesh, port: u16, acts: &'static [Act]) -> (Service, Arc<Came>) {
    let service = http2_service(mesh);
    let came = scripted::start(mesh.socket(1, port), acts).await;
    mesh.endpoints(&service.cluster(), vec![Ep::Clear(mesh.socket(1, port))]);
    assert_eq!(once(mesh, WEB, service.vip, get("/")).await.0, 200, "{acts:?}");
    (service, came)
}

fn call(body: Bytes) -> Request<Body> {
    let request = Request::post("http://billing.shop/shop.Billing/Charge").header("content-type", "application/grpc");
    request.header("te", "trailers").body(Body::from(body)).unwrap()
}

async fn until(wanted: impl Fn() -> bool, otherwise: &str) {
    let began = Instant::now();
    while !wanted() {
        assert!(began.elapsed() < Duration::from_secs(30), "{otherwise}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_unary_call_that_was_not_looked_at_is_sent_once_more_and_any_other_never() {
    // Length of the message, what the endpoint does with each request, whether the call is answered by it, and how many requests came.
    let cases: [(usize, &'static [Act], bool, usize); 11] = [
        (17, &[Answer, LeaveWhole, Answer], true, 3),
        (17, &[Answer, RefuseWhole, Answer], true, 3),
        (17, &[Answer, Leave, Answer], true, 3),
        (17, &[Answer, Refuse, Answer], true, 3),
        (60_000, &[Answer, LeaveWhole, Answer], true, 3),
        // Once and no more.
        (17, &[Answer, RefuseWhole], false, 3),
        (17, &[Answer, LeaveWhole, Cut], false, 3),
        // It may have been looked at.
        (17, &[Answer, Break, Answer], false, 2),
        (17, &[Answer, Cut, Answer], false, 2),
        // It is too long to be kept.
        (200_000, &[Answer, RefuseWhole, Answer], false, 2),
        (200_000, &[Answer, LeaveWhole, Answer], false, 2),
    ];
    let mesh = Mesh::start(34).await;
    for (port, (length, acts, reached, requests)) in (8200..).zip(cases) {
        let (service, came) = at_hand(&mesh, port, acts).await;
        let message: Bytes = (0..length).map(|n| (n % 251) as u8).collect();
        let response = client::http2(&mesh, WEB, service.vip).await.send_request(call(message.clone())).await.unwrap();
        // What is 503 to others is a status of gRPC's to its clients.
        let unavailable = response.headers().get("grpc-status").is_some_and(|status| status == "14");
        assert_eq!((response.status().as_u16(), unavailable), (200, !reached), "{length} {acts:?}");
        assert_eq!(came.requests(), requests, "{length} {acts:?}");
        let bodies = came.bodies.lock().unwrap().clone();
        let expected = if reached { vec![vec![], message.to_vec()] } else { vec![vec![]] };
        assert!(bodies == expected, "{length} {acts:?}: the endpoint read something else");
    }
    let room = || mesh.proxy.kept_bodies.available_permits() == Limits::default().kept_bodies;
    until(room, "bodies are kept for longer than their requests take").await;
}

#[tokio::test]
async fn what_is_still_to_come_of_a_body_goes_where_its_request_went_in_the_end() {
    let mesh = Mesh::start(35).await;
    for (port, acts) in (8220..).zip([&[Answer, Leave, Answer], &[Answer, Refuse, Answer]]) {
        let (service, came) = at_hand(&mesh, port, acts).await;
        let mut stream = tunnel(&mesh, WEB, service.vip).await.unwrap();
        stream.write_all(b"POST / HTTP/1.1\r\nhost: b\r\ncontent-length: 10\r\n\r\nfirst").await.unwrap();
        until(|| came.requests() == 3, "it waits for the end of the body").await;
        stream.write_all(b"after").await.unwrap();
        assert!(answered(&mut stream).await.starts_with("HTTP/1.1 200 "), "{acts:?}");
        assert_eq!(came.bodies.lock().unwrap().last().unwrap(), b"firstafter", "{acts:?}");
        assert_eq!(came.requests(), 3, "{acts:?}");
    }
}

#[tokio::test]
async fn a_body_of_unknown_length_is_let_go_when_it_gets_too_long_to_be_kept() {
    let mesh = Mesh::start(36).await;
    let (service, came) = at_hand(&mesh, 8080, &[Answer, LeaveWhole, Answer]).await;
    let mut stream = tunnel(&mesh, WEB, service.vip).await.unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    for _ in 0..10 {
        stream.write_all(b"2710\r\n").await.unwrap();
        stream.write_all(&[b'x'; 10_000]).await.unwrap();
        stream.write_all(b"\r\n").await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    assert!(answered(&mut stream).await.starts_with("HTTP/1.1 503 "));
    assert_eq!(came.requests(), 2);
}

/// A server that answers once it has read the start of a request, and goes with the rest unread: the connection is reset.
async fn hasty(address: SocketAddr) {
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_exact(&mut [0; 1024]).await.unwrap();
            stream.readable().await.unwrap();
            stream.write_all(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 8\r\n\r\ntoo long").await.unwrap();
        }
    });
}

#[tokio::test]
async fn an_answer_that_comes_before_all_of_a_request_was_read_is_passed_on() {
    let mesh = Mesh::start(38).await;
    let service = Service { protocol: "http1", ..Service::http("billing", mesh.socket(100, 80)) };
    mesh.serve(std::slice::from_ref(&service));
    let address = mesh.socket(1, 8080);
    hasty(address).await;
    mesh.endpoints(&service.cluster(), vec![Ep::Clear(address)]);
    let upload = || Request::post("http://billing.shop/").body(Body::from(vec![b'x'; 1 << 20])).unwrap();
    for time in 0..20 {
        let response = client::http2(&mesh, WEB, service.vip).await.send_request(upload()).await.unwrap();
        let (status, headers, text) = read(response).await;
        assert_eq!((status, text.as_str()), (413, "too long"), "{time}: {headers:?}");
    }
}

/// A server as gRPC's are: told to end, it takes no more connections, and then says on those it has that they end with what has begun.
async fn server(address: SocketAddr, mut ends: watch::Receiver<bool>) -> Arc<AtomicBool> {
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let asked = Arc::new(AtomicBool::new(false));
    let told = asked.clone();
    let (leave, leaves) = watch::channel(false);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    tokio::spawn(connection(accepted.unwrap().0, told.clone(), leaves.clone()));
                }
                _ = ends.wait_for(|ends| *ends) => break,
            }
        }
        drop(listener);
        leave.send_replace(true);
    });
    asked
}

async fn connection(stream: TcpStream, told: Arc<AtomicBool>, mut leaves: watch::Receiver<bool>) {
    let echo = service_fn(move |request: Request<Incoming>| {
        told.store(true, Ordering::SeqCst);
        async move {
            let body = request.into_body().collect().await.map_or_else(|_| Bytes::new(), |body| body.to_bytes());
            Ok::<_, Infallible>(Response::new(Full::new(body)))
        }
    });
    let server = http2::Builder::new(TokioExecutor::new());
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), echo));
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = leaves.wait_for(|leaves| *leaves) => connection.as_mut().graceful_shutdown(),
    }
    drop(connection.await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_are_replaced_one_after_the_other_under_load_cost_no_call() {
    const CALLERS: usize = 8;
    let mut mesh = Mesh::start(37).await;
    // Servers and callers are in other threads than the proxy, as they are in other programs.
    let workers = on_threads(&mut mesh, 1, Settings::default());
    let service = http2_service(&mesh);
    let (stop, stopped) = watch::channel(false);
    let start = async |port: u16| {
        let (end, ends) = watch::channel(false);
        let asked = server(mesh.socket(1, port), ends).await;
        (port, end, asked)
    };
    let route = |ports: &[u16]| {
        mesh.endpoints(&service.cluster(), ports.iter().map(|port| Ep::Clear(mesh.socket(1, *port))).collect());
    };
    let mut old = start(8240).await;
    let mut new = start(8241).await;
    route(&[old.0, new.0]);
    let begun: Arc<[AtomicUsize]> = (0..CALLERS).map(|_| AtomicUsize::new(0)).collect();
    // However slow the machine is, nobody has to do any more with what there was before: each has made a whole call since.
    let further = async || {
        let before: Vec<_> = begun.iter().map(|calls| calls.load(Ordering::SeqCst)).collect();
        let further = || begun.iter().zip(&before).all(|(calls, before)| calls.load(Ordering::SeqCst) >= before + 2);
        until(further, "a caller calls no more").await;
    };
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let begun = begun.clone();
        let (mut sender, stopped) = (client::http2(&mesh, WEB, service.vip).await, stopped.clone());
        callers.spawn(async move {
            while !*stopped.borrow() {
                let number = begun[caller].fetch_add(1, Ordering::SeqCst);
                let message = Bytes::from(format!("message {number}"));
                let (status, headers, text) = read(sender.send_request(call(message.clone())).await.unwrap()).await;
                assert_eq!((status, text.as_bytes()), (200, &message[..]), "call {number}: {headers:?}");
            }
        });
    }
    for port in 8242..8250 {
        until(|| old.2.load(Ordering::SeqCst) && new.2.load(Ordering::SeqCst), "a server is asked nothing").await;
        further().await;
        let next = start(port).await;
        // The server ends before anybody is told that it is no endpoint any more.
        old.1.send_replace(true);
        further().await;
        route(&[new.0, next.0]);
        (old, new) = (new, next);
    }
    stop.send_replace(true);
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    workers.stop();
}
