//! Who does not read holds up who sends: on the way there is no more than what is in buffers, and it goes on once it is read.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::sync::Notify;

use super::support::{
    Mesh, WEB,
    client::tunnel,
    raw::{self, Stream, Way},
    resources::Service,
    server::Answer,
};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What is sent, in bytes.
const WHOLE: usize = 48 << 20;
/// The most of it that may have left its sender while nobody reads: the kernel alone has room for several MiB on each of the connections.
const MOST: usize = 24 << 20;
const PART: usize = 64 << 10;
/// As long without a change it has come to stand.
const STILL: Duration = Duration::from_millis(700);
/// More than anything takes here.
const PATIENCE: Duration = Duration::from_secs(120);

/// An application that sends much, or is sent it and reads only when it is told to.
#[derive(Default)]
struct App {
    given: Arc<AtomicUsize>,
    read: Notify,
}

async fn serve(stream: Stream, app: Arc<App>) {
    let service = service_fn(move |request| answer(request, app.clone()));
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, app: Arc<App>) -> Answer {
    if request.method() == Method::GET {
        return Ok(Response::new(parts(&app.given)));
    }
    app.read.notified().await;
    let got = length(request.into_body()).await;
    Ok(Response::new(Full::new(Bytes::from(got.to_string())).boxed_unsync()))
}

/// A body of which is counted how much was taken.
fn parts(given: &Arc<AtomicUsize>) -> Body {
    let (given, part) = (given.clone(), Bytes::from(vec![b'x'; PART]));
    let frames = (0..WHOLE / PART).map(move |_| {
        given.fetch_add(PART, Ordering::SeqCst);
        Ok::<_, Infallible>(Frame::data(part.clone()))
    });
    StreamBody::new(futures::stream::iter(frames)).boxed_unsync()
}

/// Reads a body to its end.
async fn length(mut body: Incoming) -> usize {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame.expect("a frame").data_ref().map_or(0, Bytes::len);
    }
    length
}

/// The head of the answer to a request on a connection of its own.
async fn ask(mesh: &Mesh, vip: SocketAddr, over_http2: bool, method: Method, body: Body) -> Response<Incoming> {
    let io = TokioIo::new(tunnel(mesh, WEB, vip).await.unwrap());
    let request = Request::builder().method(method);
    if over_http2 {
        let request = request.uri("http://billing.shop/").body(body).unwrap();
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let response = sender.send_request(request).await.unwrap();
        // The connection is to last as long as the answer.
        std::mem::forget(sender);
        response
    } else {
        let request = request.uri("/").header("host", "billing.shop").body(body).unwrap();
        let (mut sender, connection) = http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let response = sender.send_request(request).await.unwrap();
        std::mem::forget(sender);
        response
    }
}

/// What a count has come to stand at.
async fn standing(count: &AtomicUsize) -> usize {
    let (began, mut before) = (Instant::now(), 0);
    loop {
        tokio::time::sleep(STILL).await;
        let now = count.load(Ordering::SeqCst);
        if now > 0 && now == before {
            return now;
        }
        assert!(began.elapsed() < PATIENCE, "it does not stand still: {now} after {before}");
        before = now;
    }
}

/// What has left a sender whose bytes nobody reads.
async fn is_held_up(given: &AtomicUsize, what: &str) {
    let given = standing(given).await;
    println!("{what}: {given} bytes have left the sender");
    assert!(given < MOST, "{what}: {given} of {WHOLE} bytes are on their way, though nobody reads");
}

/// A service with one endpoint, which is reached in this way.
async fn mesh(number: u8, way: Way) -> (Mesh, Service, Arc<App>) {
    let mesh = Mesh::start(number).await;
    let service = Service::http("billing", mesh.socket(100, 80));
    mesh.serve(std::slice::from_ref(&service));
    let app = Arc::new(App::default());
    let serving = app.clone();
    let endpoint = raw::start(&mesh, 1, way, move |stream| serve(stream, serving.clone())).await;
    mesh.endpoints(&service.cluster(), vec![endpoint]);
    (mesh, service, app)
}

async fn unread_response(number: u8, way: Way) {
    let (mesh, service, app) = mesh(number, way).await;
    for over_http2 in [false, true] {
        app.given.store(0, Ordering::SeqCst);
        let nothing = Empty::<Bytes>::new().boxed_unsync();
        let response = ask(&mesh, service.vip, over_http2, Method::GET, nothing).await;
        assert_eq!(response.status(), 200);
        is_held_up(&app.given, &format!("a response, {way:?}, HTTP/2 {over_http2}")).await;
        let got = tokio::time::timeout(PATIENCE, length(response.into_body())).await.expect("it does not go on");
        assert_eq!((got, app.given.load(Ordering::SeqCst)), (WHOLE, WHOLE), "{way:?}, HTTP/2 {over_http2}");
    }
}

async fn unread_request(number: u8, way: Way) {
    let (mesh, service, app) = mesh(number, way).await;
    for over_http2 in [false, true] {
        let given = Arc::new(AtomicUsize::new(0));
        let asked = Box::pin(ask(&mesh, service.vip, over_http2, Method::POST, parts(&given)));
        let looked = async {
            is_held_up(&given, &format!("a request, {way:?}, HTTP/2 {over_http2}")).await;
            app.read.notify_one();
        };
        let (response, ()) =
            tokio::time::timeout(PATIENCE, async { tokio::join!(asked, looked) }).await.expect("it does not go on");
        let got = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(got, WHOLE.to_string(), "{way:?}, HTTP/2 {over_http2}");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_an_endpoint_in_clear() {
    unread_response(114, Way::Clear).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_an_endpoint_behind_a_tunnel() {
    unread_response(115, Way::Tunnel).await;
}

#[tokio::test]
async fn an_endpoint_in_clear_that_does_not_read_holds_up_its_client() {
    unread_request(116, Way::Clear).await;
}

#[tokio::test]
async fn an_endpoint_behind_a_tunnel_that_does_not_read_holds_up_its_client() {
    unread_request(117, Way::Tunnel).await;
}
