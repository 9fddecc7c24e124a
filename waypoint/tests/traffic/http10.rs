//! Clients of HTTP/1.0: probes and scripts still speak it.

use std::time::Duration;

use ambit_hbone::TunnelStream;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{
    again::answered,
    billing,
    resilience::until,
    support::{Mesh, WEB, client::tunnel, resources::Service},
};

/// More than anything takes here.
const PATIENCE: Duration = Duration::from_secs(20);

async fn asking(mesh: &Mesh, service: &Service, text: &str) -> TunnelStream {
    let mut stream = tunnel(mesh, WEB, service.vip).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// Head and body of what comes until the connection ends.
async fn rest(mut stream: TunnelStream) -> (String, String) {
    let mut text = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut text)).await.expect("the connection is kept").unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    (head.to_lowercase(), body.to_owned())
}

/// Head and body of an answer that says its length.
async fn next(stream: &mut TunnelStream) -> (String, String) {
    let head = timeout(PATIENCE, answered(stream)).await.expect("an answer").to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    let mut body = vec![0; length.parse().unwrap()];
    timeout(PATIENCE, stream.read_exact(&mut body)).await.expect("a body").unwrap();
    (head, String::from_utf8(body).unwrap())
}

#[tokio::test]
async fn a_request_of_http_1_0_is_answered_in_it_and_its_connection_ends() {
    let (mesh, service, seen) = billing(118).await;
    let (head, body) = rest(asking(&mesh, &service, "GET /a HTTP/1.0\r\nhost: billing.shop\r\n\r\n").await).await;
    assert!(head.starts_with("http/1.0 200 ok\r\n") && head.contains("\r\ncontent-length: "), "{head}");
    assert!(!head.contains("keep-alive") && !head.contains("transfer-encoding"), "{head}");
    // What is spoken to the endpoint is for the waypoint to say.
    assert!(body.starts_with("v1 GET /a HTTP/1.1\n") && body.contains("\nhost: billing.shop\n"), "{body}");
    let post = "POST /echo HTTP/1.0\r\nhost: billing.shop\r\ncontent-length: 5\r\n\r\nhello";
    assert_eq!(rest(asking(&mesh, &service, post).await).await.1, "hello");
    assert_eq!(seen.requests(), 2);
    mesh.logged(&["path=/a ", "status=200", "reason=ok"]).await;
}

#[tokio::test]
async fn a_client_of_http_1_0_that_wants_to_keep_its_connection_may() {
    let (mesh, service, seen) = billing(119).await;
    let mut stream = asking(&mesh, &service, "").await;
    for n in 0..3 {
        let request =
            format!("POST /echo HTTP/1.0\r\nhost: billing.shop\r\nconnection: Keep-Alive\r\ncontent-length: 1\r\n\r\n{n}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let (head, body) = next(&mut stream).await;
        assert!(head.starts_with("http/1.0 200 ok\r\n") && head.contains("\r\nconnection: keep-alive\r\n"), "{head}");
        assert_eq!(body, n.to_string());
    }
    // Until it does not want to any more.
    stream.write_all(b"GET /last HTTP/1.0\r\nhost: billing.shop\r\n\r\n").await.unwrap();
    let (head, body) = rest(stream).await;
    assert!(!head.contains("keep-alive") && body.starts_with("v1 GET /last "), "{head} {body}");
    assert_eq!(seen.requests(), 4);
}

#[tokio::test]
async fn an_answer_whose_length_is_not_known_ends_with_the_connection_of_a_client_of_http_1_0() {
    let (mesh, service, _) = billing(120).await;
    for wanted in ["", "connection: keep-alive\r\n"] {
        let request = format!("GET /drip HTTP/1.0\r\nhost: billing.shop\r\n{wanted}\r\n");
        let (head, body) = rest(asking(&mesh, &service, &request).await).await;
        assert_eq!(body, "drop 0\ndrop 1\ndrop 2\n", "{head}");
        assert!(head.starts_with("http/1.0 200 ok"), "{head}");
        for other in ["transfer-encoding", "content-length", "keep-alive"] {
            assert!(!head.contains(other), "{wanted:?}: {head}");
        }
    }
}

/// The host is what HTTP/1.1 has added.
#[tokio::test]
async fn a_request_of_http_1_0_needs_no_host_and_one_of_http_1_1_does() {
    let (mesh, service, seen) = billing(121).await;
    let (head, body) = rest(asking(&mesh, &service, "GET /a HTTP/1.0\r\n\r\n").await).await;
    assert!(head.starts_with("http/1.0 200 ok"), "{head}");
    assert!(body.starts_with("v1 GET /a HTTP/1.1\n") && body.contains("\nhost: \n"), "{body}");
    let (head, _) = rest(asking(&mesh, &service, "GET /a HTTP/1.1\r\nconnection: close\r\n\r\n").await).await;
    assert!(head.starts_with("http/1.1 400 "), "{head}");
    assert_eq!(seen.requests(), 1);
}

#[tokio::test]
async fn a_client_of_http_1_0_is_not_told_to_keep_a_connection_that_is_about_to_end() {
    let (mesh, service, seen) = billing(122).await;
    let request = "GET /held HTTP/1.0\r\nhost: billing.shop\r\nconnection: keep-alive\r\n\r\n";
    let stream = asking(&mesh, &service, request).await;
    until("the request does not come", || seen.requests() == 1).await;
    let told = async {
        seen.answer.notify_one();
        rest(stream).await
    };
    // The drain begins when it is first looked at, which is before the endpoint answers.
    let (_, (head, body)) = tokio::join!(biased; mesh.trigger.drain(PATIENCE), told);
    assert!(head.contains("\r\nconnection: close") && !head.contains("keep-alive"), "{head}");
    assert!(body.starts_with("v1 GET /held "), "{body}");
}
