//! Connecting by name: resolved anew for each connection, both address families in turn, no address waited for too long.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;

/// Patience for one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Where to connect to, and which of its addresses comes first next time.
#[derive(Debug)]
pub struct Dialer {
    host: String,
    port: u16,
    turn: AtomicUsize,
}

impl Dialer {
    /// A dialer of `host:port`.
    pub fn new(host: &str, port: u16) -> Self {
        Self { host: host.to_owned(), port, turn: AtomicUsize::new(0) }
    }

    /// Connects to the next address of the name, or to another if that one does not answer.
    ///
    /// # Errors
    /// The name does not resolve, or the last failure if no address answers.
    pub async fn dial(&self) -> io::Result<TcpStream> {
        let mut addresses: Vec<SocketAddr> = tokio::net::lookup_host((self.host.as_str(), self.port)).await?.collect();
        addresses.dedup();
        let mut failure = io::Error::new(io::ErrorKind::NotFound, format!("{} has no address", self.host));
        if addresses.is_empty() {
            return Err(failure);
        }
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % addresses.len();
        addresses.rotate_left(first);
        for address in addresses {
            match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Ok(Err(error)) => failure = error,
                Err(_) => failure = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_refuses_is_passed_over() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialer = Dialer::new("localhost", listener.local_addr().unwrap().port());
        for _ in 0..2 {
            assert!(dialer.dial().await.unwrap().peer_addr().unwrap().ip().is_loopback());
        }
        drop(listener);
        assert!(dialer.dial().await.is_err());
    }
}
