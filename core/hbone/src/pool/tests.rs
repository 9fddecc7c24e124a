//! Tunnels of one key over several connections, by how much their paths carry.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, sink, split},
    task::JoinHandle,
};

use super::*;
use crate::{Incoming, Plain, ServerConfig, server};

const PATIENCE: Duration = Duration::from_secs(30);
const AT_ONCE: Spread =
    Spread { pressed: Duration::ZERO, connections: 4, dial_timeout: PATIENCE, idle_timeout: Duration::from_millis(50) };

/// What becomes of a dial.
#[derive(Clone, Copy)]
enum Dial {
    Works,
    Fails,
    Hangs,
}

/// A pool with one destination, and a gate in each of its connections.
struct Bed {
    pool: Pool,
    key: PoolKey,
    dial: Mutex<Dial>,
    dials: AtomicUsize,
    gates: Mutex<Vec<watch::Sender<bool>>>,
}

impl Bed {
    fn new(spread: Spread) -> Arc<Self> {
        let key = PoolKey {
            source: "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap(),
            destinations: vec!["spiffe://cluster.local/ns/shop/sa/api".parse().unwrap()],
            address: "10.0.0.1:15008".parse().unwrap(),
            source_ip: None,
            netns: None,
        };
        let pool = Pool::new(PoolConfig { spread, ..PoolConfig::default() });
        let (dial, dials, gates) = (Mutex::new(Dial::Works), AtomicUsize::new(0), Mutex::default());
        Arc::new(Self { pool, key, dial, dials, gates })
    }

    async fn dial(&self) -> io::Result<Plain<DuplexStream>> {
        self.dials.fetch_add(1, Ordering::SeqCst);
        let dial = *self.dial.lock().unwrap();
        match dial {
            Dial::Works => {
                let (gate, open) = watch::channel(true);
                self.gates.lock().unwrap().push(gate);
                Ok(Plain::new(wire(open)))
            }
            Dial::Fails => Err(io::ErrorKind::ConnectionRefused.into()),
            Dial::Hangs => std::future::pending().await,
        }
    }

    async fn open(&self) -> TunnelStream {
        let request = ConnectRequest { authority: "10.0.0.1:80".parse().unwrap(), headers: HeaderMap::new() };
        let opened = self.pool.connect(&self.key, || self.dial(), request);
        tokio::time::timeout(PATIENCE, opened).await.unwrap().unwrap().0
    }

    /// Opens a tunnel whose answer may have to wait, and returns when it has its place: then there are so many in each connection.
    async fn open_later(self: &Arc<Self>, tunnels: &[usize]) -> JoinHandle<TunnelStream> {
        let bed = Arc::clone(self);
        let opening = tokio::spawn(async move { bed.open().await });
        self.until(|bed| bed.tunnels() == tunnels).await;
        opening
    }

    fn gate(&self, connection: usize, open: bool) {
        self.gates.lock().unwrap()[connection].send_replace(open);
    }

    /// Opens a tunnel in the next connection, and sends more than can leave it.
    async fn open_and_press(self: &Arc<Self>) -> JoinHandle<TunnelStream> {
        let mut tunnel = self.open().await;
        let connection = self.dials() - 1;
        self.gate(connection, false);
        let flood = tokio::spawn(async move {
            tunnel.write_all(&vec![0; 2 << 20]).await.unwrap();
            tunnel
        });
        self.until(|bed| bed.is_pressed(connection)).await;
        flood
    }

    fn is_pressed(&self, connection: usize) -> bool {
        self.pool.shared.entries().by_key[&self.key].connections[connection].is_pressed(Duration::ZERO)
    }

    fn dials(&self) -> usize {
        self.dials.load(Ordering::SeqCst)
    }

    fn tunnels(&self) -> Vec<usize> {
        self.pool.status().into_iter().flat_map(|status| status.tunnels).collect()
    }

    async fn until(&self, so: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !so(self) {
            assert!(Instant::now() < until, "{:?}", self.tunnels());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// A connection to a server that accepts all tunnels and swallows their bytes; while its gate is shut nothing gets there.
fn wire(mut open: watch::Receiver<bool>) -> DuplexStream {
    let (near, far) = duplex(64 << 10);
    let (inner, server) = duplex(64 << 10);
    let ((mut from, mut back), (mut answers, mut to)) = (split(far), split(inner));
    tokio::spawn(async move {
        let mut buffer = vec![0; 16 << 10];
        while open.wait_for(|open| *open).await.is_ok() {
            match from.read(&mut buffer).await {
                Ok(count @ 1..) if to.write_all(&buffer[..count]).await.is_ok() => {}
                _ => break,
            }
        }
    });
    tokio::spawn(async move { tokio::io::copy(&mut answers, &mut back).await });
    tokio::spawn(async move {
        let swallow = |incoming: Incoming| async move {
            assert!(incoming.authority().is_ok());
            if let Ok(mut tunnel) = incoming.accept(HeaderMap::new()) {
                // How it ends is up to the test.
                let _ended = tokio::io::copy(&mut tunnel, &mut sink()).await;
            }
        };
        server::serve(Plain::new(server), &ServerConfig::default(), std::future::pending(), swallow).await
    });
    near
}

#[tokio::test]
async fn tunnels_that_a_pressed_connection_would_slow_down_get_a_further_one_which_ends_after_the_load() {
    let bed = Bed::new(AT_ONCE);
    let flood = bed.open_and_press().await;
    let further = [bed.open().await, bed.open().await];
    assert_eq!((bed.dials(), bed.tunnels()), (2, vec![1, 2]), "the second is not pressed");
    bed.gate(0, true);
    let _first = flood.await.unwrap();
    bed.until(|bed| !bed.is_pressed(0)).await;
    let _next = bed.open().await;
    assert_eq!((bed.dials(), bed.tunnels()), (2, vec![2, 2]), "the first is preferred");
    drop(further);
    bed.until(|bed| bed.tunnels() == [2]).await;
}

#[tokio::test]
async fn when_there_are_enough_connections_the_one_with_the_fewest_tunnels_takes_the_next() {
    let bed = Bed::new(Spread { connections: 2, ..AT_ONCE });
    let _floods = [bed.open_and_press().await, bed.open_and_press().await];
    let waiting = [bed.open_later(&[2, 1]).await, bed.open_later(&[2, 2]).await];
    assert_eq!(bed.dials(), 2);
    bed.gate(0, true);
    bed.gate(1, true);
    for opened in waiting {
        opened.await.unwrap();
    }
}

#[tokio::test]
async fn a_connection_that_is_pressed_for_a_moment_is_not_helped() {
    let bed = Bed::new(Spread { pressed: Duration::from_hours(1), ..AT_ONCE });
    let _flood = bed.open_and_press().await;
    let waiting = bed.open_later(&[2]).await;
    bed.gate(0, true);
    waiting.await.unwrap();
    assert_eq!(bed.dials(), 1);
}

#[tokio::test]
async fn without_a_further_connection_the_one_at_hand_is_used_and_it_is_not_tried_again_at_once() {
    for dial in [Dial::Fails, Dial::Hangs] {
        let (dial_timeout, idle_timeout) = (Duration::from_millis(50), Duration::from_hours(1));
        let bed = Bed::new(Spread { dial_timeout, idle_timeout, ..AT_ONCE });
        let _flood = bed.open_and_press().await;
        *bed.dial.lock().unwrap() = dial;
        let tries = bed.open_later(&[2]).await;
        bed.until(|bed| bed.dials() == 2).await;
        let does_not_wait = bed.open_later(&[3]).await;
        bed.until(|bed| bed.pool.shared.entries().by_key[&bed.key].alone_until.is_some()).await;
        let does_not_try = bed.open_later(&[4]).await;
        assert_eq!(bed.dials(), 2);
        bed.gate(0, true);
        for opened in [tries, does_not_wait, does_not_try] {
            opened.await.unwrap();
        }
    }
}
