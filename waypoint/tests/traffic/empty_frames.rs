//! An endpoint that sends an empty frame of DATA before each of its answers: whoever uses h2 ends a connection that has brought many of them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use futures::future::join_all;
use http::{Request, Response};

use super::support::{
    Mesh, WEB,
    client::{Body, get, http1, http2, read},
    raw::{self, Stream, Way},
    resources::Service,
};

/// One after the other: many times as many as h2 takes of a connection.
const ASKED: usize = 320;
/// At once.
const TOGETHER: usize = 60;

async fn serve(stream: Stream, connections: Arc<AtomicUsize>) {
    connections.fetch_add(1, Ordering::SeqCst);
    let mut connection = h2::server::handshake(stream).await.expect("a connection");
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        let mut body = respond.send_response(Response::new(()), false).expect("the head of an answer");
        body.send_data(Bytes::new(), false).expect("an empty frame");
        body.send_data(Bytes::from_static(b"well"), true).expect("the end of an answer");
    }
}

#[tokio::test]
async fn an_endpoint_that_sends_an_empty_frame_before_each_answer_is_asked_on_and_on() {
    for (number, way) in [(251, Way::Clear), (252, Way::Tunnel)] {
        let mesh = Mesh::start(number).await;
        let service = Service { protocol: "http2", ..Service::http("billing", mesh.socket(100, 80)) };
        mesh.serve(std::slice::from_ref(&service));
        let connections = Arc::<AtomicUsize>::default();
        let counted = connections.clone();
        let endpoint = raw::start(&mesh, 1, way, move |stream| serve(stream, counted.clone())).await;
        mesh.endpoints(&service.cluster(), vec![endpoint]);
        let mut sender = http1(&mesh, WEB, service.vip).await;
        for turn in 0..ASKED {
            sender.ready().await.unwrap();
            let (status, _, text) = read(sender.send_request(get("/")).await.unwrap()).await;
            assert_eq!((status, text.as_str()), (200, "well"), "{way:?}: request {turn}");
        }
        // A new one for about every fiftieth request: neither one for all of them nor one for each.
        let made = connections.load(Ordering::SeqCst);
        assert!((6..=20).contains(&made), "{way:?}: {made} connections for {ASKED} requests");
        let sender = http2(&mesh, WEB, service.vip).await;
        for turn in 0..5 {
            let asked = (0..TOGETHER).map(|_| {
                let mut sender = sender.clone();
                async move {
                    let request = Request::get("http://billing.shop/").body(Body::default()).unwrap();
                    read(sender.send_request(request).await.unwrap()).await
                }
            });
            for (status, _, text) in join_all(asked).await {
                assert_eq!((status, text.as_str()), (200, "well"), "{way:?}: among others, turn {turn}");
            }
        }
    }
}
