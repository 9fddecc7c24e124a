//! Candidates for a Lease, against a server without a network.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{Method, Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::{SECOND, candidate};
use crate::leader::{Candidacy, Elector, LEASE, Terms};

/// It keeps one Lease, and what it was asked.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    lease: Option<Value>,
    version: u64,
    requests: Vec<String>,
    /// Whether somebody touches the Lease before the next write.
    touched: bool,
}

impl Server {
    fn client(&self) -> Client {
        Client::new(self.clone(), "default")
    }

    fn requests(&self) -> Vec<String> {
        self.0.lock().unwrap().requests.clone()
    }

    fn holder(&self) -> Value {
        self.0.lock().unwrap().lease.as_ref().map_or(Value::Null, |lease| lease["spec"]["holderIdentity"].clone())
    }

    fn answer(&self, method: &Method, body: &[u8]) -> Response<Body> {
        let mut state = self.0.lock().unwrap();
        state.requests.push(method.to_string());
        let answer =
            |code: u16, value: &Value| Response::builder().status(code).body(Body::from(value.to_string().into_bytes())).unwrap();
        let refused = |code: u16| {
            let reason = if code == 404 { "NotFound" } else { "Conflict" };
            let status = json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": "refused"});
            answer(code, &status)
        };
        if method == Method::GET {
            return state.lease.as_ref().map_or_else(|| refused(404), |lease| answer(200, lease));
        }
        if std::mem::take(&mut state.touched) {
            state.version += 1;
            let version = state.version.to_string();
            state.lease.as_mut().unwrap()["metadata"]["resourceVersion"] = json!(version);
        }
        let mut lease: Value = serde_json::from_slice(body).unwrap();
        let held = state.lease.as_ref().map(|lease| lease["metadata"]["resourceVersion"].clone());
        match held {
            Some(version) if method == Method::POST || version != lease["metadata"]["resourceVersion"] => return refused(409),
            None if method == Method::PUT => return refused(404),
            _ => {}
        }
        state.version += 1;
        lease["metadata"]["resourceVersion"] = json!(state.version.to_string());
        state.lease = Some(lease.clone());
        answer(200, &lease)
    }
}

impl tower::Service<Request<Body>> for Server {
    type Response = Response<Body>;
    type Error = std::io::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, std::io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), std::io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            let method = request.method().clone();
            let body = request.into_body().collect_bytes().await.unwrap();
            Ok(server.answer(&method, &body))
        })
    }
}

#[tokio::test]
async fn a_replica_that_is_not_ready_leaves_the_lease_to_others() {
    let server = Server::default();
    let (ready, waits) = oneshot::channel::<()>();
    let candidacy = Candidacy::begin(&server.client(), "istio-system", "a", async {
        let _ = waits.await;
    });
    tokio::time::sleep(SECOND / 10).await;
    assert_eq!(server.requests(), [""; 0]);
    ready.send(()).unwrap();
    timeout(10 * SECOND, candidacy.leadership().gained()).await.unwrap();
    candidacy.end().await;
    assert_eq!(server.holder(), "");

    let asked = server.requests();
    let never = Candidacy::begin(&server.client(), "istio-system", "b", pending());
    let mut leadership = never.leadership();
    timeout(10 * SECOND, never.end()).await.unwrap();
    assert!(timeout(SECOND / 10, leadership.gained()).await.is_err());
    assert_eq!(server.requests(), asked);
}

#[tokio::test]
async fn who_ends_without_giving_the_lease_up_leads_no_more() {
    let server = Server::default();
    let (elector, mut leadership) = Elector::new(&server.client(), "istio-system", LEASE, "a".into(), Terms::default());
    let task = tokio::spawn(elector.run(pending()));
    timeout(10 * SECOND, leadership.gained()).await.unwrap();
    assert!(leadership.leads());
    task.abort();
    assert!(task.await.is_err());
    assert!(!leadership.leads());
    assert_eq!(server.holder(), "a");
}

#[tokio::test]
async fn a_lease_that_somebody_touched_is_renewed_at_once() {
    let server = Server::default();
    let (elector, _leadership) = Elector::new(&server.client(), "istio-system", LEASE, "a".into(), Terms::default());
    let mut election = candidate("a", Instant::now());
    elector.attempt(&mut election).await.unwrap();
    let first = election.until();
    server.0.lock().unwrap().touched = true;
    elector.attempt(&mut election).await.unwrap();
    assert!(first.is_some() && election.until() > first);
    assert_eq!(server.requests(), ["GET", "POST", "PUT", "GET", "PUT"]);
}
