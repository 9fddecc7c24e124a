//! Requests over HTTP from one pod, one after the other.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ambit_runtime::netns::NetNs;
use ambit_runtime::socket::{ConnectOptions, connect};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use tokio_util::task::AbortOnDropHandle;

/// A request that takes longer has failed.
const LATE: Duration = Duration::from_secs(10);

/// A way that requests go.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    pub name: &'static str,
    pub namespace: &'static str,
    pub service: &'static str,
    pub path: &'static str,
    /// Whether a connection carries several requests.
    pub keeps: bool,
    /// Between two requests.
    pub pause: Duration,
}

/// Five a second from each caller.
const OFTEN: Duration = Duration::from_millis(200);

pub const WAYS: [Way; 5] = [
    Way { name: "orders", namespace: "shop", service: "orders", path: "/orders?user=ann", keeps: false, pause: OFTEN },
    Way { name: "orders, kept", namespace: "shop", service: "orders", path: "/orders?user=ann", keeps: true, pause: OFTEN },
    Way { name: "invoices", namespace: "billing", service: "billing", path: "/invoices/1", keeps: false, pause: OFTEN },
    Way { name: "invoices, kept", namespace: "billing", service: "billing", path: "/invoices/1", keeps: true, pause: OFTEN },
    // Which asks all the others.
    Way {
        name: "purchases",
        namespace: "shop",
        service: "web",
        path: "/buy?user=ann",
        keeps: false,
        pause: Duration::from_millis(600),
    },
];

/// The end of a request.
pub struct Outcome {
    pub asker: usize,
    pub begun: Instant,
    pub at: Instant,
    pub way: &'static str,
    pub failure: Option<String>,
}

/// What became of all requests.
pub struct Outcomes {
    pub ended: Mutex<Vec<Outcome>>,
    /// How long a connection is kept for further requests.
    pub kept: Mutex<Duration>,
}

/// One pod that asks on one way.
pub struct Asker {
    /// Its number among all.
    pub number: usize,
    pub network: NetNs,
    pub to: Vec<IpAddr>,
    pub way: Way,
    pub outcomes: Arc<Outcomes>,
}

/// A connection for several requests.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    made: Instant,
    _driver: AbortOnDropHandle<()>,
}

impl Asker {
    /// Asks again and again, for ever.
    pub async fn run(&self) {
        let mut kept = None;
        for number in 0.. {
            let begun = Instant::now();
            let asked = tokio::time::timeout(LATE, self.ask(&mut kept, number)).await;
            let failure = asked.unwrap_or_else(|_| Err(format!("no answer within {LATE:?}"))).err();
            let ended = Outcome { asker: self.number, begun, at: Instant::now(), way: self.way.name, failure };
            self.outcomes.ended.lock().unwrap_or_else(PoisonError::into_inner).push(ended);
            tokio::time::sleep(self.way.pause).await;
        }
    }

    /// Asks once, on the connection that is kept if it can, and keeps it, or the new one, if it may.
    async fn ask(&self, kept: &mut Option<Connection>, number: usize) -> Result<(), String> {
        let mut connection = match self.at_hand(kept).await {
            Some(connection) => connection,
            None => self.connect(number).await.map_err(|error| format!("connecting: {error}"))?,
        };
        let request = Request::post(self.way.path).header(header::HOST, self.way.service).body(Full::from("x"));
        let request = request.map_err(|error| error.to_string())?;
        let said = |error: hyper::Error| match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        let answer = connection.sender.send_request(request).await.map_err(said)?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map_err(said)?.to_bytes();
        if !head.status.is_success() {
            let body: String = String::from_utf8_lossy(&body).chars().take(200).collect();
            return Err(format!("{} {:?} {body}", head.status, head.headers.get("x-ambit-reason")));
        }
        if self.way.keeps && head.headers.get(header::CONNECTION).is_none_or(|value| value != "close") {
            *kept = Some(connection);
        }
        Ok(())
    }

    async fn at_hand(&self, kept: &mut Option<Connection>) -> Option<Connection> {
        let mut connection = kept.take()?;
        let longest = *self.outcomes.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = connection.made.elapsed() < longest && connection.sender.ready().await.is_ok();
        fresh.then_some(connection)
    }

    async fn connect(&self, number: usize) -> anyhow::Result<Connection> {
        let to = self.to.get(number % self.to.len().max(1)).copied().unwrap_or(IpAddr::from([0, 0, 0, 0]));
        let options = ConnectOptions { netns: Some(&self.network), ..ConnectOptions::default() };
        let stream = connect(SocketAddr::new(to, 8080), &options).await?;
        let (sender, driver) = handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(async move {
            // Its failure is that of the request under way.
            let _told = driver.await;
        });
        Ok(Connection { sender, made: Instant::now(), _driver: AbortOnDropHandle::new(driver) })
    }
}
