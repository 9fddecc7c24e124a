//! Connections that are held open: every second some bytes go there and back, so that a break is noticed.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ambit_runtime::netns::NetNs;
use ambit_runtime::socket::{ConnectOptions, ListenOptions, connect, listen};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::sessions::upgrade;

/// Pause between two exchanges.
const PACE: Duration = Duration::from_secs(1);

/// An exchange that takes longer is a break.
const LATE: Duration = Duration::from_secs(10);

/// A connection that is held open, and opened again when it breaks.
#[derive(Debug)]
pub struct Held {
    pub name: String,
    /// Whether it goes through a waypoint.
    pub waypoint: bool,
    /// Whether it is a WebSocket.
    pub websocket: bool,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    exchanges: Vec<Instant>,
    breaks: Vec<Break>,
}

/// The end of a connection that nobody wanted.
#[derive(Clone, Debug)]
pub struct Break {
    pub at: Instant,
    pub why: String,
}

impl Held {
    pub fn new(name: String, waypoint: bool, websocket: bool) -> Arc<Self> {
        Arc::new(Self { name, waypoint, websocket, seen: Mutex::default() })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Exchanges since then.
    pub fn exchanges(&self, since: Instant) -> usize {
        self.seen().exchanges.iter().filter(|at| **at >= since).count()
    }

    /// Breaks since then.
    pub fn breaks(&self, since: Instant) -> Vec<Break> {
        self.seen().breaks.iter().filter(|broken| broken.at >= since).cloned().collect()
    }

    /// Holds a connection from this network to this address, for ever.
    pub async fn hold(self: Arc<Self>, from: NetNs, to: SocketAddr) {
        loop {
            let why = match connect(to, &ConnectOptions { netns: Some(&from), ..ConnectOptions::default() }).await {
                Ok(stream) => self.exchange(stream).await.to_string(),
                Err(error) => format!("not opened: {error}"),
            };
            self.seen().breaks.push(Break { at: Instant::now(), why });
            tokio::time::sleep(PACE / 10).await;
        }
    }

    /// Exchanges bytes until that fails.
    async fn exchange(&self, mut stream: TcpStream) -> std::io::Error {
        if self.websocket {
            match tokio::time::timeout(LATE, upgrade(&mut stream, "echo")).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error,
                Err(_) => return std::io::Error::other(format!("no upgrade within {LATE:?}")),
            }
        }
        for number in 0_u64.. {
            let there_and_back = async {
                stream.write_all(&number.to_be_bytes()).await?;
                let mut back = [0; 8];
                stream.read_exact(&mut back).await?;
                if back == number.to_be_bytes() { Ok(()) } else { Err(std::io::Error::other("other bytes came back")) }
            };
            match tokio::time::timeout(LATE, there_and_back).await {
                Ok(Ok(())) => self.seen().exchanges.push(Instant::now()),
                Ok(Err(error)) => return error,
                Err(_) => return std::io::Error::other(format!("nothing came back within {LATE:?}")),
            }
            tokio::time::sleep(PACE).await;
        }
        std::io::Error::other("there are no more numbers")
    }
}

/// Sends back, in this network, what it is sent.
pub async fn echo(network: NetNs, port: u16) -> anyhow::Result<()> {
    let options = ListenOptions { netns: Some(&network), ..ListenOptions::default() };
    let listener = listen(SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port)), &options)?;
    let mut connections = JoinSet::new();
    loop {
        let (mut stream, _) = listener.accept().await?;
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            let (mut read, mut write) = stream.split();
            // Its end is the client's to notice.
            let _ended = tokio::io::copy(&mut read, &mut write).await;
        });
    }
}
