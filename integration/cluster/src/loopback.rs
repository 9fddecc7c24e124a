//! Ports of this machine's loopback, and plain questions to etcd there.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::error::{Error, Result};

/// Ports to choose from: below those that the kernel gives to connections, so that none is taken while a program that had it is restarted.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// How many ports are tried.
const TRIES: usize = 200;

/// Time for one question.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the programs of the small variant listen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) etcd: u16,
    pub(crate) peers: u16,
    pub(crate) server: u16,
}

impl Ports {
    /// Three that nobody has now.
    pub(crate) fn free() -> Result<Self> {
        // All are held until the last is found, so that they differ.
        let mut held = Vec::new();
        for _ in 0..TRIES {
            held.extend(TcpListener::bind((Ipv4Addr::LOCALHOST, fastrand::u16(RANGE))));
            if let [etcd, peers, server] = held.as_slice() {
                let port = |listener: &TcpListener| listener.local_addr().map(|address| address.port());
                let found = || Ok::<_, io::Error>(Self { etcd: port(etcd)?, peers: port(peers)?, server: port(server)? });
                return found().map_err(Error::io("asking for the port of a socket"));
            }
        }
        Err(Error::failed("finding free ports on 127.0.0.1", format!("fewer than 3 among {TRIES} tried in {RANGE:?}")))
    }

    /// Whether nobody has any of them.
    pub(crate) fn are_free(self) -> bool {
        [self.etcd, self.peers, self.server].into_iter().all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
    }

    pub(crate) fn url(self) -> String {
        format!("https://127.0.0.1:{}", self.server)
    }
}

/// Asks etcd over its JSON gateway.
pub(crate) async fn etcd_request(port: u16, method: &str, path: &str, body: &str) -> io::Result<String> {
    etcd_exchange(TcpStream::connect((Ipv4Addr::LOCALHOST, port)), method, path, body).await
}

/// The same over a connection that is made like this.
pub(crate) async fn etcd_exchange(
    connect: impl Future<Output = io::Result<TcpStream>>,
    method: &str,
    path: &str,
    body: &str,
) -> io::Result<String> {
    let ask = async {
        let mut stream = connect.await?;
        // An answer to HTTP/1.0 ends with the connection and has no chunks.
        let request = format!("{method} {path} HTTP/1.0\r\nHost: etcd\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).ok_or_else(|| io::Error::other(answer.clone()))
    };
    tokio::time::timeout(PATIENCE, ask).await?
}

/// Has etcd, which `ask` asks for an answer to a method, a path and a body, forget all but the newest revision of everything.
pub(crate) async fn compact(ask: impl AsyncFn(&str, &str, &str) -> io::Result<String>) -> Result<()> {
    let failed = |report: String| Error::failed("compacting etcd", report);
    // "AA==" is the key "\0", the first of all.
    let range = ask("POST", "/v3/kv/range", r#"{"key":"AA=="}"#).await.map_err(|error| failed(error.to_string()))?;
    let answer: serde_json::Value = serde_json::from_str(&range).map_err(|_| failed(range.clone()))?;
    let revision = answer["header"]["revision"].as_str().ok_or_else(|| failed(range.clone()))?;
    let order = format!(r#"{{"revision":"{revision}","physical":true}}"#);
    let done = ask("POST", "/v3/kv/compaction", &order).await.map_err(|error| failed(error.to_string()))?;
    if done.contains("\"error\"") { Err(failed(done)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_are_no_longer_free_once_somebody_listens() {
        let ports = Ports::free().unwrap();
        assert!(ports.etcd != ports.peers && ports.peers != ports.server && ports.etcd != ports.server, "{ports:?}");
        let _held = TcpListener::bind((Ipv4Addr::LOCALHOST, ports.peers)).unwrap();
        assert!(!ports.are_free());
    }
}
