//! The threads that carry connections. A connection lives on one of them from accept to close, and so does what it is carried by.
//!
//! Each has a runtime of one thread, so that what belongs together is never moved between cores. One thread is cheaper than two for the
//! same work: the second takes connections only when the first is busy, and is not even started before that. Where what there is to use
//! counts for more than what is used, whoever has connections to give may share them out from the second one on.

pub mod awake;
mod balance;
mod thread;

use std::{
    fmt, io,
    num::NonZero,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    thread::{Builder, available_parallelism},
    time::{Duration, Instant},
};

use tokio::{
    net::TcpStream,
    runtime::{EnterGuard, Handle},
};

use self::balance::Balance;
pub use self::{balance::Busy, thread::Thread};
use crate::socket;

/// How long it is not tried again to start a worker that could not be started.
const RETRY: Duration = Duration::from_secs(60);

/// What a worker does first, on its own thread.
pub type Begin = Arc<dyn Fn() + Send + Sync>;

/// How workers are.
#[derive(Clone, Default)]
pub struct Settings {
    /// How long one stays awake in wait for more, while its traffic comes back within that time.
    pub awake: Duration,
    /// When the first one leaves new connections to others, and which are passed over where connections are shared out.
    pub busy: Busy,
    /// What each does first.
    pub begin: Option<Begin>,
}

/// How many workers there are to be: one for each core when that is not given.
#[must_use]
pub fn count(wanted: Option<NonZero<usize>>) -> usize {
    wanted.or_else(|| available_parallelism().ok()).map_or(1, NonZero::get)
}

/// A thread that carries connections.
pub struct Worker<T> {
    /// What its connections share.
    pub shared: Arc<T>,
    thread: Thread,
    /// Shared with each [`Held`].
    open: Arc<()>,
}

/// A connection that a worker has, for as long as this is held.
#[derive(Debug)]
pub struct Held {
    _counted: Arc<()>,
}

impl<T> Worker<T> {
    fn start(number: usize, shared: Arc<T>, settings: &Settings) -> io::Result<Self> {
        let thread = Thread::start(Builder::new().name(format!("worker-{number}")), settings.awake)?;
        if let Some(begin) = settings.begin.clone() {
            // It comes before all connections, as tasks run in the order in which they were spawned.
            thread.handle().spawn(async move { begin() });
        }
        Ok(Self { shared, thread, open: Arc::default() })
    }

    /// Counts a connection among those that the worker has.
    #[must_use]
    pub fn hold(&self) -> Held {
        Held { _counted: Arc::clone(&self.open) }
    }

    /// How many connections it has.
    fn open(&self) -> usize {
        // One is its own.
        Arc::strong_count(&self.open) - 1
    }

    /// Its runtime, for the tasks of its connections.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        self.thread.handle()
    }

    /// Makes sockets that are opened meanwhile those of this worker.
    pub fn enter(&self) -> EnterGuard<'_> {
        self.handle().enter()
    }

    /// Takes over a connection that another worker accepted. One that it cannot take over is reset.
    ///
    /// # Errors
    /// When the kernel refuses to watch it.
    pub fn adopt(&self, io: TcpStream) -> io::Result<TcpStream> {
        let io = io.into_std()?;
        let _in_this_runtime = self.enter();
        socket::adopt(io)
    }
}

/// All workers. Listeners are the first one's. What the connections of a worker share is a `T`.
pub struct Workers<T> {
    first: Worker<T>,
    others: Vec<Other<T>>,
    settings: Settings,
    balance: Mutex<Balance>,
}

/// A worker that is started when it is needed.
struct Other<T> {
    shared: Arc<T>,
    worker: OnceLock<Worker<T>>,
    /// When it could not be started.
    failed: Mutex<Option<Instant>>,
}

impl<T> Other<T> {
    fn new(shared: Arc<T>) -> Self {
        Self { shared, worker: OnceLock::new(), failed: Mutex::default() }
    }

    /// How much it has worked; nothing when it can take no connection.
    fn used(&self) -> Option<Duration> {
        match self.worker.get() {
            Some(worker) => worker.thread.used(),
            None => {
                let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
                failed.is_none_or(|at| at.elapsed() >= RETRY).then_some(Duration::ZERO)
            }
        }
    }

    /// How many connections it has.
    fn open(&self) -> usize {
        self.worker.get().map_or(0, Worker::open)
    }

    /// The worker, started if it is not yet.
    fn get(&self, number: usize, settings: &Settings) -> Option<&Worker<T>> {
        self.used()?;
        if let Some(worker) = self.worker.get() {
            return Some(worker);
        }
        match Worker::start(number, Arc::clone(&self.shared), settings) {
            // Only the first worker accepts, so that nobody else starts it meanwhile.
            Ok(worker) => Some(self.worker.get_or_init(|| worker)),
            Err(error) => {
                let before = self.failed.lock().unwrap_or_else(PoisonError::into_inner).replace(Instant::now());
                if before.is_none() {
                    tracing::warn!(%error, number, "a further worker cannot be started: the others carry its connections");
                }
                None
            }
        }
    }
}

impl<T> Workers<T> {
    /// Starts the first worker. There are as many `others`, which are started when they are needed.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(first: Arc<T>, others: Vec<Arc<T>>, settings: Settings) -> io::Result<Self> {
        let balance = Mutex::new(Balance::new(1 + others.len(), settings.busy));
        let others = others.into_iter().map(Other::new).collect();
        Ok(Self { first: Worker::start(0, first, &settings)?, others, settings, balance })
    }

    /// The worker that accepts.
    #[must_use]
    pub fn first(&self) -> &Worker<T> {
        &self.first
    }

    /// What the connections of each worker share, also of those that are not started.
    pub fn shared(&self) -> impl Iterator<Item = &Arc<T>> {
        std::iter::once(&self.first.shared).chain(self.others.iter().map(|other| &other.shared))
    }

    fn started(&self) -> impl Iterator<Item = &Worker<T>> {
        std::iter::once(&self.first).chain(self.others.iter().filter_map(|other| other.worker.get()))
    }

    /// How many there are, if all of them are started.
    #[must_use]
    pub fn most(&self) -> usize {
        1 + self.others.len()
    }

    /// The worker that takes the next connection: the first unless it has been busy for a while, then the one that is least so.
    #[must_use]
    pub fn choose(&self) -> &Worker<T> {
        self.chosen(|balance| balance.next(|| self.used()))
    }

    /// The worker that takes the next connection where they are shared out: the one that has the fewest, and one that is busy only where all
    /// are. Who gives it one is to [hold](Worker::hold) it.
    #[must_use]
    pub fn fewest(&self) -> &Worker<T> {
        let open = std::iter::once(self.first.open()).chain(self.others.iter().map(Other::open));
        self.chosen(|balance| balance.fewest(|| self.used(), open))
    }

    fn used(&self) -> Vec<Option<Duration>> {
        std::iter::once(self.first.thread.used()).chain(self.others.iter().map(Other::used)).collect()
    }

    fn chosen(&self, by: impl FnOnce(&mut Balance) -> usize) -> &Worker<T> {
        if self.others.is_empty() {
            return &self.first;
        }
        let next = by(&mut self.balance.lock().unwrap_or_else(PoisonError::into_inner));
        let other = next.checked_sub(1).and_then(|other| self.others.get(other));
        other.and_then(|other| other.get(next, &self.settings)).unwrap_or(&self.first)
    }

    /// Ends all workers with what they still do. Not to be called by a task of theirs.
    pub fn stop(&self) {
        self.started().for_each(|worker| worker.thread.stop());
    }
}

impl<T> fmt::Debug for Workers<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let started = self.started().count();
        f.debug_struct("Workers").field("started", &started).field("most", &self.most()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_further_worker_is_started_when_it_is_needed_does_what_each_does_first_and_keeps_what_is_its_own() {
        let begun = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&begun);
        let begin: Begin = Arc::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        // The first one is always busy.
        let busy = Busy { share: 0.0, sustained: Duration::ZERO };
        let settings = Settings { busy, begin: Some(begin), ..Settings::default() };
        let workers = Workers::start(Arc::new("first"), vec![Arc::new("second")], settings).unwrap();
        assert_eq!(workers.shared().map(|shared| **shared).collect::<Vec<_>>(), ["first", "second"]);
        assert_eq!(workers.started().count(), 1);
        let name = || std::thread::current().name().map(str::to_owned);
        let mut names = std::collections::BTreeSet::new();
        while names.len() < 2 {
            // It has done something, the other nothing yet.
            names.insert(workers.first().handle().spawn(async move { name() }).await.unwrap());
            let worker = workers.choose();
            if *worker.shared == "second" {
                names.insert(worker.handle().spawn(async move { name() }).await.unwrap());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(names.into_iter().flatten().collect::<Vec<_>>(), ["worker-0", "worker-1"]);
        assert_eq!((begun.load(Ordering::SeqCst), workers.started().count()), (2, 2));
        workers.stop();
        assert!(workers.started().all(|worker| worker.thread.used().is_none()));
    }

    #[test]
    fn connections_that_are_shared_out_go_to_whoever_has_the_fewest_until_they_end() {
        // Nobody is busy, however much the machine has to do.
        let busy = Busy { share: f64::MAX, ..Busy::default() };
        let settings = Settings { busy, ..Settings::default() };
        let workers = Workers::start(Arc::new(0), vec![Arc::new(1), Arc::new(2)], settings).unwrap();
        let next = || {
            let worker = workers.fewest();
            (*worker.shared, worker.hold())
        };
        let mut held: Vec<_> = (0..5).map(|_| next()).collect();
        assert_eq!(held.iter().map(|(worker, _)| *worker).collect::<Vec<_>>(), [0, 1, 2, 0, 1]);
        held.truncate(2);
        assert_eq!(next().0, 2);
        assert_eq!(next().0, 2, "the last one has ended");
        drop(held);
        assert_eq!(next().0, 0);
        workers.stop();
    }
}
