//! Sockets that were made ahead in a network namespace.
//!
//! A socket belongs to the namespace in which it is made, and going there and back are two system calls that cost more than all others of a new
//! connection. So while connections come quickly, several sockets are made in one visit. They are of one namespace and are given to nobody else.

use std::{
    io,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use socket2::{Domain, Socket};

use super::connect::unbound;
use crate::netns::NetNs;

/// Sockets that are made in one visit at most, which is also the most that lie ready of each address family.
const MOST: usize = 16;
/// When the sockets of a visit last shorter than this, more are made in the next.
const QUICK: Duration = Duration::from_millis(200);

/// Unconnected TCP sockets of one network namespace.
#[derive(Debug)]
pub struct Stock {
    netns: NetNs,
    mark: u32,
    v4: Mutex<Shelf>,
    v6: Mutex<Shelf>,
}

impl Stock {
    /// An empty stock for `netns`, whose sockets will have this SO_MARK.
    #[must_use]
    pub fn new(netns: NetNs, mark: u32) -> Self {
        Self { netns, mark, v4: Mutex::default(), v6: Mutex::default() }
    }

    /// A socket for a connection to `destination`.
    ///
    /// # Errors
    /// As `setns(2)` and `socket(2)`.
    pub(super) fn take(&self, destination: SocketAddr) -> io::Result<Socket> {
        let shelf = if destination.is_ipv4() { &self.v4 } else { &self.v6 };
        let make = || unbound(Domain::for_address(destination), false, Some(self.mark));
        let visit = |count| self.netns.run(|| several(count, make))?;
        shelf.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now(), visit)
    }
}

/// Makes `count` sockets, or as many as can be made.
///
/// # Errors
/// When not even one can be made.
fn several<T>(count: usize, make: impl Fn() -> io::Result<T>) -> io::Result<Vec<T>> {
    let mut made = vec![make()?];
    made.extend((1..count).map_while(|_| make().ok()));
    Ok(made)
}

/// Sockets of one address family.
#[derive(Debug)]
struct Shelf<T = Socket> {
    ready: Vec<T>,
    /// How many were made at the last visit, and when that was.
    last: Option<(usize, Instant)>,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self { ready: Vec::new(), last: None }
    }
}

impl<T> Shelf<T> {
    /// Takes one; when there is none, `visit` makes as many as are worth it.
    fn take(&mut self, now: Instant, visit: impl FnOnce(usize) -> io::Result<Vec<T>>) -> io::Result<T> {
        if let Some(ready) = self.ready.pop() {
            return Ok(ready);
        }
        let count = match self.last {
            Some((before, at)) if now.duration_since(at) < QUICK => (before * 2).min(MOST),
            _ => 1,
        };
        self.ready = visit(count)?;
        self.last = Some((count, now));
        self.ready.pop().ok_or_else(|| io::Error::other("no socket was made"))
    }
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;
    use tokio::net::TcpListener;

    use super::*;
    use crate::socket::{ConnectOptions, connect};

    /// The sizes of the visits for `takes`, each so many milliseconds after the one before.
    fn visits(takes: impl IntoIterator<Item = u64>) -> Vec<usize> {
        let (mut shelf, mut now, mut visits) = (Shelf::default(), Instant::now(), Vec::new());
        for pause in takes {
            now += Duration::from_millis(pause);
            let visit = |count| {
                visits.push(count);
                Ok(vec![(); count])
            };
            shelf.take(now, visit).unwrap();
        }
        visits
    }

    #[test]
    fn the_faster_sockets_are_needed_the_more_are_made_in_one_visit() {
        assert_eq!(visits([500; 5]), [1; 5]);
        assert_eq!(visits([1; 47]), [1, 2, 4, 8, 16, 16]);
        assert_eq!(visits([1, 1, 1, 300, 1]), [1, 2, 1, 2], "after a pause it begins anew");
    }

    #[test]
    fn when_no_more_can_be_made_those_that_were_made_are_used() {
        let left = std::cell::Cell::new(3);
        let make = || {
            left.set(left.get() - 1);
            if left.get() >= 0 { Ok(()) } else { Err(io::ErrorKind::OutOfMemory.into()) }
        };
        assert_eq!(several(8, make).unwrap().len(), 3);
        assert!(several(8, make).is_err());
    }

    #[tokio::test]
    async fn a_connection_out_of_a_stock_is_like_any_other() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stock = Stock::new(NetNs::current().unwrap(), 0);
        for _ in 0..20 {
            let options = ConnectOptions { stock: Some(&stock), ..ConnectOptions::default() };
            let near = connect(listener.local_addr().unwrap(), &options).await.unwrap();
            let (_far, _) = listener.accept().await.unwrap();
            let socket = SockRef::from(&near);
            assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
            assert_eq!(socket.linger().unwrap(), None);
        }
    }
}
