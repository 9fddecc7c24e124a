use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::Frame;
use tokio::io::{AsyncWriteExt as _, duplex};

use super::*;

const BROKEN: &str = r#"{"request": {"uid": "u", "operation": "CREATE", "object": {"apiVersion": "security.istio.io/v1",
    "kind": "AuthorizationPolicy", "metadata": {"name": "p", "namespace": "shop"}, "spec": {"action": "AUDIT"}}}}"#;

fn shared() -> Shared {
    Shared::new("istio-system".to_owned(), |_| false)
}

fn request<B>(method: Method, path: &str, body: B) -> Request<B> {
    Request::builder().method(method).uri(path).body(body).unwrap()
}

async fn said<B: Body<Data = Bytes, Error: Into<Cause>>>(method: Method, path: &str, body: B) -> (u16, String) {
    let answer = answer(request(method, path, body), &shared(), None).await;
    let status = answer.status().as_u16();
    assert_eq!(answer.headers().contains_key(CONNECTION), status != 200, "only reviews are followed by others");
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

fn full(text: impl Into<Bytes>) -> Full<Bytes> {
    Full::new(text.into())
}

/// A body that nobody sends.
struct Never;

impl Body for Never {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

#[tokio::test]
async fn reviews_are_answered_and_nothing_else() {
    let (status, text) = said(Method::POST, "/validate?timeout=3s", full(BROKEN)).await;
    let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &answer["response"]["allowed"]), (200, &serde_json::Value::Bool(false)), "{text}");
    assert_eq!(said(Method::POST, "/", full(BROKEN)).await.0, 404);
    assert_eq!(said(Method::GET, PATH, full("")).await.0, 405);
    let (status, text) = said(Method::POST, PATH, full("{}")).await;
    assert!(status == 400 && text.contains("it is no AdmissionReview"), "{text}");
}

#[tokio::test]
async fn what_is_too_long_or_never_comes_is_not_waited_for() {
    let (status, text) = said(Method::POST, PATH, full(vec![b' '; BODY + 1])).await;
    assert!(status == 413 && text.contains("of at most 4194304 bytes"), "{text}");
    let (status, text) = said(Method::POST, PATH, Never).await;
    assert!(status == 503 && text.contains("no decision within 2 s"), "{text}");
}

#[tokio::test]
async fn an_address_that_sends_nothing_of_what_it_has_begun_holds_up_no_other() {
    let (shared, theirs, ours) = (shared(), Semaphore::new(HELD_OF_AN_ADDRESS), Semaphore::new(HELD_OF_AN_ADDRESS));
    let stalled = (0..2 * HELD).map(|_| answer(request(Method::POST, PATH, Never), &shared, Some(&theirs)));
    let mut stalled = std::pin::pin!(futures::future::join_all(stalled));
    assert!(timeout(Duration::from_millis(50), stalled.as_mut()).await.is_err(), "they hold all that they can");
    let good = answer(request(Method::POST, PATH, full(BROKEN)), &shared, Some(&ours)).await;
    assert_eq!(good.status(), 200);
    assert!(stalled.await.iter().all(|answer| answer.status() == 503));
}

/// Attends to a connection on which `sent` is sent and nothing read.
async fn attended(sent: &str, patience: Patience) {
    let (mut client, server) = duplex(256);
    let send = async {
        // It ends with an error when the connection is closed.
        let _ = client.write_all(sent.as_bytes()).await;
        std::future::pending::<()>().await;
    };
    let shared = shared();
    let attend = attend(server, &shared, None, std::future::pending(), patience);
    let ended = async {
        tokio::select! { () = attend => {} () = send => {} }
    };
    timeout(Duration::from_secs(30), ended).await.expect("it goes on for ever");
}

#[tokio::test]
async fn a_connection_on_which_nothing_is_asked_or_no_answer_read_is_closed() {
    let (short, long) = (Duration::from_millis(100), Duration::from_secs(3600));
    attended("", Patience { first: short, next: long }).await;
    attended("POST /validate HTTP/1.1\r\nhost: a", Patience { first: short, next: long }).await;
    let asked = format!("POST {PATH} HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{BROKEN}", BROKEN.len());
    attended(&asked.repeat(20), Patience { first: long, next: short }).await;
}
