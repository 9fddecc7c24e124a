//! The threads that carry connections. A connection lives on one of them from accept to close, and so do the tunnels it goes through.
//!
//! Each has a runtime of one thread, so that what belongs together is never moved between cores. One thread is cheaper than two for the
//! same work: the second takes connections only when the first is busy, and is not even started before that.

use std::{
    io,
    num::NonZero,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use ambit_runtime::clock::ThreadClock;
use tokio::{
    net::TcpStream,
    runtime::{Builder, EnterGuard, Handle},
};
use tokio_util::sync::CancellationToken;

use crate::proxy::Proxy;

/// How often it is looked how busy the workers are.
const WINDOW: Duration = Duration::from_millis(100);
/// From this share of a core on, others take new connections.
const BUSY: f64 = 0.75;

/// A thread that carries connections.
#[derive(Debug)]
pub struct Worker {
    /// What its connections share: everything with the other workers, but for the tunnels.
    pub proxy: Arc<Proxy>,
    handle: Handle,
    clock: Arc<OnceLock<ThreadClock>>,
    stop: CancellationToken,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Worker {
    fn start(number: usize, proxy: Arc<Proxy>) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (clock, stop) = (Arc::new(OnceLock::new()), CancellationToken::new());
        let (own, stopped) = (Arc::clone(&clock), stop.clone());
        let work = move || {
            let _only_one = own.set(ThreadClock::current());
            runtime.block_on(stopped.cancelled());
        };
        let thread = thread::Builder::new().name(format!("worker-{number}")).spawn(work)?;
        Ok(Self { proxy, handle, clock, stop, thread: Mutex::new(Some(thread)) })
    }

    /// Its runtime, for the tasks of its connections.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Makes sockets that are opened meanwhile those of this worker.
    pub fn enter(&self) -> EnterGuard<'_> {
        self.handle.enter()
    }

    /// Takes over a connection that another worker accepted.
    ///
    /// # Errors
    /// When the kernel refuses to watch it.
    pub fn adopt(&self, io: TcpStream) -> io::Result<TcpStream> {
        let io = io.into_std()?;
        let _in_this_runtime = self.enter();
        TcpStream::from_std(io)
    }

    fn used(&self) -> Option<Duration> {
        self.clock.get().and_then(|clock| clock.used())
    }
}

/// All workers. Listeners are the first one's.
#[derive(Debug)]
pub struct Workers {
    first: Worker,
    others: Vec<Other>,
    balance: Mutex<Balance>,
}

/// A worker that is started when it is needed.
#[derive(Debug)]
struct Other {
    proxy: Arc<Proxy>,
    worker: OnceLock<Worker>,
}

/// Who takes the next connection.
#[derive(Debug)]
struct Balance {
    since: Instant,
    /// What each worker had used then.
    used: Vec<Duration>,
    next: usize,
}

impl Workers {
    /// Starts the first of `count` workers; one for each core when that is not given.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(proxy: Proxy, count: Option<NonZero<usize>>) -> io::Result<Self> {
        let count = count.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZero::get);
        let other = |_| Other { proxy: Arc::new(proxy.with_own_tunnels()), worker: OnceLock::new() };
        let others: Vec<Other> = (1..count).map(other).collect();
        let balance = Mutex::new(Balance { since: Instant::now(), used: vec![Duration::ZERO; count], next: 0 });
        Ok(Self { first: Worker::start(0, Arc::new(proxy))?, others, balance })
    }

    /// The worker that accepts.
    #[must_use]
    pub fn first(&self) -> &Worker {
        &self.first
    }

    /// What the connections of each worker share, also of those that are not started.
    pub fn proxies(&self) -> impl Iterator<Item = &Arc<Proxy>> {
        std::iter::once(&self.first.proxy).chain(self.others.iter().map(|other| &other.proxy))
    }

    /// The worker that takes the next connection: the first unless it is busy, then the one that is least so.
    #[must_use]
    pub fn choose(&self) -> &Worker {
        if self.others.is_empty() {
            return &self.first;
        }
        let mut balance = self.balance.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let passed = now.duration_since(balance.since);
        if passed >= WINDOW {
            let used: Vec<Duration> = (0..=self.others.len()).map(|at| self.used(at)).collect();
            let share = |(now, before): (&Duration, &Duration)| now.saturating_sub(*before).as_secs_f64() / passed.as_secs_f64();
            let shares: Vec<f64> = used.iter().zip(&balance.used).map(share).collect();
            *balance = Balance { since: now, used, next: least_busy(&shares) };
        }
        let next = balance.next;
        drop(balance);
        self.get(next).unwrap_or(&self.first)
    }

    fn used(&self, at: usize) -> Duration {
        let worker = match at.checked_sub(1) {
            None => Some(&self.first),
            Some(other) => self.others.get(other).and_then(|other| other.worker.get()),
        };
        worker.and_then(Worker::used).unwrap_or_default()
    }

    fn get(&self, at: usize) -> Option<&Worker> {
        let other = self.others.get(at.checked_sub(1)?)?;
        if let Some(worker) = other.worker.get() {
            return Some(worker);
        }
        match Worker::start(at, Arc::clone(&other.proxy)) {
            // Only the first worker accepts, so that nobody else starts it meanwhile.
            Ok(worker) => Some(other.worker.get_or_init(|| worker)),
            Err(error) => {
                tracing::warn!(%error, "a further worker cannot be started");
                None
            }
        }
    }

    /// Ends all workers with what they still do. Not to be called by a task of theirs.
    pub fn stop(&self) {
        let others = self.others.iter().filter_map(|other| other.worker.get());
        for worker in std::iter::once(&self.first).chain(others) {
            worker.stop.cancel();
            let thread = worker.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
            if thread.is_some_and(|thread| thread.join().is_err()) {
                tracing::error!("a worker failed");
            }
        }
    }
}

/// The number of the worker that takes new connections, by the share of a core that each has used.
fn least_busy(shares: &[f64]) -> usize {
    match shares {
        [first, ..] if *first < BUSY => 0,
        _ => shares.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(at, _)| at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_worker_takes_all_connections_until_it_is_busy() {
        assert_eq!(least_busy(&[0.1, 0.0, 0.0]), 0);
        assert_eq!(least_busy(&[0.7, 0.0, 0.0]), 0);
        assert_eq!(least_busy(&[0.8, 0.0, 0.0]), 1);
        assert_eq!(least_busy(&[0.9, 0.5, 0.3]), 2);
        assert_eq!(least_busy(&[0.8, 0.95, 0.9]), 0);
    }
}
