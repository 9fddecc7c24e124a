//! The threads that carry connections. A connection lives on one of them from accept to close, and so do the tunnels it goes through.
//!
//! Each has a runtime of one thread, so that what belongs together is never moved between cores. One thread is cheaper than two for the
//! same work: the second takes connections only when the first is busy, and is not even started before that. What turns out to be bulk
//! beside small requests goes to a thread of its own, with the tunnel that it fills.

use std::{
    io,
    num::NonZero,
    sync::{Arc, Mutex, OnceLock, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use ambit_hbone::aside;
use ambit_runtime::{clock::ThreadClock, socket};
use tokio::{
    net::TcpStream,
    runtime::{Builder, EnterGuard, Handle},
};
use tokio_util::sync::CancellationToken;

use crate::{
    awake::{self, Stayed},
    bulk::{self, Bulk},
    proxy::Proxy,
};

/// How often it is looked how busy the workers are.
const WINDOW: Duration = Duration::from_millis(100);
/// From this share of a core on a worker is busy.
const BUSY: f64 = 0.75;
/// A worker that has been busy for as long leaves new connections to others. Connections come in bursts, which keep it busy for a moment and
/// say nothing of what they carry later, and they stay where they were taken.
const SUSTAINED: Duration = Duration::from_secs(1);
/// How long it is not tried again to start a worker that could not be started.
const RETRY: Duration = Duration::from_secs(60);

/// A thread that carries connections.
#[derive(Debug)]
pub struct Worker {
    /// What its connections share: everything with the other workers, but for the tunnels.
    pub proxy: Arc<Proxy>,
    thread: Thread,
}

impl Worker {
    fn start(number: usize, proxy: Arc<Proxy>, bulk: Option<Arc<Bulk>>) -> io::Result<Self> {
        let thread = thread::Builder::new().name(format!("worker-{number}"));
        let thread = Thread::start(thread, proxy.limits.awake)?;
        if let Some(bulk) = bulk {
            thread.handle.spawn(async {
                // It begins as the thread that started it, whose bulk may be aside.
                bulk::run_soon(false);
                aside::hand_bulk_to(move || bulk.runtime(), bulk::run_soon);
            });
        }
        Ok(Self { thread, proxy })
    }

    /// Its runtime, for the tasks of its connections.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.thread.handle
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

/// A thread with a runtime of its own, which goes on until it is stopped.
#[derive(Debug)]
pub(crate) struct Thread {
    pub(crate) handle: Handle,
    clock: ThreadClock,
    stayed: Stayed,
    stop: CancellationToken,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Thread {
    /// Starts it. The runtime is made by the thread itself: where there is no thread, there must be no runtime that is dropped by a task
    /// of another one, which would panic. While its traffic comes back within `awake`, it does not sleep in between.
    pub(crate) fn start(builder: thread::Builder, awake: Duration) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let (tell, told) = mpsc::sync_channel(1);
        let stopped = stop.clone();
        let stayed = Stayed::default();
        let mut runtime = Builder::new_current_thread();
        runtime.enable_all();
        if !awake.is_zero() {
            awake::stay(&mut runtime, awake, stayed.clone());
        }
        let work = move || match runtime.build() {
            Ok(runtime) => {
                if !awake.is_zero() {
                    runtime.spawn(awake::keep());
                }
                let _asked_for = tell.send(Ok((runtime.handle().clone(), ThreadClock::current())));
                runtime.block_on(stopped.cancelled());
            }
            Err(error) => drop(tell.send(Err(error))),
        };
        let thread = Mutex::new(Some(builder.spawn(work)?));
        let (handle, clock) = told.recv().map_err(io::Error::other)??;
        Ok(Self { handle, clock, stayed, stop, thread })
    }

    /// How much it has worked, as long as it runs. It has not worked while it only stayed awake.
    fn used(&self) -> Option<Duration> {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let runs = thread.as_ref().is_some_and(|thread| !thread.is_finished());
        if runs { self.clock.used().map(|used| used.saturating_sub(self.stayed.time())) } else { None }
    }

    pub(crate) fn stop(&self) {
        self.stop.cancel();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a worker failed");
        }
    }
}

/// All workers. Listeners are the first one's.
#[derive(Debug)]
pub struct Workers {
    first: Worker,
    others: Vec<Other>,
    /// None where there is to be one thread.
    bulk: Option<Arc<Bulk>>,
    balance: Mutex<Balance>,
}

/// A worker that is started when it is needed.
#[derive(Debug)]
struct Other {
    proxy: Arc<Proxy>,
    bulk: Option<Arc<Bulk>>,
    worker: OnceLock<Worker>,
    /// When it could not be started.
    failed: Mutex<Option<Instant>>,
}

impl Other {
    fn new(proxy: Proxy, bulk: Option<Arc<Bulk>>) -> Self {
        Self { proxy: Arc::new(proxy), bulk, worker: OnceLock::new(), failed: Mutex::default() }
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

    /// The worker, started if it is not yet.
    fn get(&self, number: usize) -> Option<&Worker> {
        self.used()?;
        if let Some(worker) = self.worker.get() {
            return Some(worker);
        }
        match Worker::start(number, Arc::clone(&self.proxy), self.bulk.clone()) {
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

/// Who takes the next connection.
#[derive(Debug)]
struct Balance {
    since: Instant,
    /// What each worker had used then; nothing for one that takes no connections.
    used: Vec<Option<Duration>>,
    /// For how long the first worker had been busy then.
    busy: Duration,
    next: usize,
}

impl Balance {
    fn new(workers: usize) -> Self {
        Self { since: Instant::now(), used: vec![Some(Duration::ZERO); workers], busy: Duration::ZERO, next: 0 }
    }

    /// Chooses anew by what the workers have used by now.
    fn look(&mut self, now: Instant, used: Vec<Option<Duration>>) {
        let passed = now.duration_since(self.since);
        let shares: Vec<f64> = used.iter().zip(&self.used).map(|(now, before)| share(*now, *before, passed)).collect();
        self.busy = match shares.first() {
            // It has ended: nobody has to wait.
            Some(first) if first.is_infinite() => SUSTAINED,
            Some(first) if *first >= BUSY => self.busy.saturating_add(passed),
            _ => Duration::ZERO,
        };
        self.next = if self.busy < SUSTAINED { 0 } else { least_busy(&shares) };
        self.since = now;
        self.used = used;
    }
}

impl Workers {
    /// Starts the first of `count` workers; one for each core when that is not given.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(proxy: Proxy, count: Option<NonZero<usize>>) -> io::Result<Self> {
        let count = count.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZero::get);
        let bulk = (count > 1).then(Arc::<Bulk>::default);
        let others: Vec<Other> = (1..count).map(|_| Other::new(proxy.with_own_tunnels(), bulk.clone())).collect();
        let balance = Mutex::new(Balance::new(count));
        Ok(Self { first: Worker::start(0, Arc::new(proxy), bulk.clone())?, others, bulk, balance })
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

    /// The worker that takes the next connection: the first unless it has been busy for a while, then the one that is least so.
    #[must_use]
    pub fn choose(&self) -> &Worker {
        if self.others.is_empty() {
            return &self.first;
        }
        let mut balance = self.balance.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if now.duration_since(balance.since) >= WINDOW {
            let used = std::iter::once(self.first.thread.used()).chain(self.others.iter().map(Other::used)).collect();
            balance.look(now, used);
        }
        let next = balance.next;
        drop(balance);
        let other = next.checked_sub(1).and_then(|other| self.others.get(other));
        other.and_then(|other| other.get(next)).unwrap_or(&self.first)
    }

    /// Ends all workers with what they still do. Not to be called by a task of theirs.
    pub fn stop(&self) {
        let others = self.others.iter().filter_map(|other| other.worker.get());
        for worker in std::iter::once(&self.first).chain(others) {
            worker.thread.stop();
        }
        if let Some(bulk) = &self.bulk {
            bulk.stop();
        }
    }
}

/// The share of a core that a worker has used in the time that passed; more than any other when it takes no connections.
fn share(now: Option<Duration>, before: Option<Duration>, passed: Duration) -> f64 {
    now.map_or(f64::INFINITY, |now| now.saturating_sub(before.unwrap_or(now)).as_secs_f64() / passed.as_secs_f64())
}

/// The number of the worker that has used the least share of a core.
fn least_busy(shares: &[f64]) -> usize {
    shares.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Workers of which each uses a share of its core for some time; returns who takes the connections then.
    fn after(balance: &mut Balance, shares: &[f64], time: Duration) -> usize {
        let windows = time.as_millis() / WINDOW.as_millis();
        for _ in 0..windows {
            let used =
                balance.used.iter().zip(shares).map(|(used, share)| Some(used.unwrap_or_default() + WINDOW.mul_f64(*share)));
            let used = used.collect();
            balance.look(balance.since + WINDOW, used);
        }
        balance.next
    }

    #[test]
    fn the_first_worker_takes_all_connections_until_it_has_been_busy_for_a_while() {
        let mut balance = Balance::new(3);
        assert_eq!(after(&mut balance, &[0.7, 0.0, 0.0], 3 * SUSTAINED), 0);
        assert_eq!(after(&mut balance, &[0.9, 0.0, 0.0], SUSTAINED - WINDOW), 0);
        assert_eq!(after(&mut balance, &[0.9, 0.5, 0.3], WINDOW), 2);
        assert_eq!(after(&mut balance, &[0.8, 0.95, 0.9], WINDOW), 0);
        assert_eq!(after(&mut balance, &[0.8, 0.2, 0.9], WINDOW), 1);
        assert_eq!(after(&mut balance, &[0.7, 0.2, 0.9], WINDOW), 0);
        assert_eq!(after(&mut balance, &[1.0, 0.2, 0.9], WINDOW), 0, "a new burst");
    }

    #[test]
    fn connections_that_come_seldom_find_who_was_busy_since_the_last_one() {
        let mut balance = Balance::new(2);
        balance.look(balance.since + 5 * SUSTAINED, vec![Some(SUSTAINED.mul_f64(4.5)), Some(Duration::ZERO)]);
        assert_eq!(balance.next, 1);
    }

    #[test]
    fn a_worker_that_has_ended_or_cannot_be_started_is_the_last_to_be_chosen() {
        let at = |millis| Some(Duration::from_millis(millis));
        let mut balance = Balance::new(3);
        balance.used = vec![at(0), None, at(0)];
        balance.look(balance.since + SUSTAINED, vec![at(900), None, at(950)]);
        assert_eq!(balance.next, 0);
        balance.look(balance.since + WINDOW, vec![None, None, at(960)]);
        assert_eq!(balance.next, 2, "at once when the first one has ended");
    }

    #[tokio::test]
    async fn a_thread_that_cannot_be_started_is_an_error_for_the_task_that_asks_for_it_and_no_panic() {
        assert!(Thread::start(thread::Builder::new().stack_size(1 << 47), Duration::ZERO).is_err());
        let thread = Thread::start(thread::Builder::new(), Duration::from_micros(100)).unwrap();
        assert_eq!(thread.handle.spawn(async { 7 }).await.unwrap(), 7);
        assert!(thread.used().is_some());
        thread.stop();
        assert_eq!(thread.used(), None);
    }

    /// Lets a connection of the thread have its turn again and again, a millisecond after the last, until `enough`.
    fn keep_busy(thread: &Thread, enough: impl Fn() -> bool) -> bool {
        let (ask, mut asked) = tokio::sync::mpsc::channel(1);
        let (answer, answered) = mpsc::sync_channel(1);
        thread.handle.spawn(async move {
            while asked.recv().await.is_some() {
                awake::turn();
                let _nobody_waits = answer.send(());
            }
        });
        (0..5000).any(|_| {
            thread::sleep(Duration::from_millis(1));
            ask.blocking_send(()).unwrap();
            answered.recv().unwrap();
            enough()
        })
    }

    #[test]
    fn a_thread_stays_awake_while_its_connection_has_turns_and_sleeps_afterwards() {
        let thread = Thread::start(thread::Builder::new(), Duration::from_millis(100)).unwrap();
        assert!(keep_busy(&thread, || thread.stayed.time() > Duration::from_millis(20)));
        let sleeps = (0..100).any(|_| {
            let before = (thread.stayed.time(), thread.clock.used().unwrap());
            thread::sleep(Duration::from_millis(300));
            let after = (thread.stayed.time(), thread.clock.used().unwrap());
            before.0 == after.0 && after.1.checked_sub(before.1).unwrap() < Duration::from_millis(10)
        });
        assert!(sleeps);
        thread.stop();
    }

    #[test]
    fn a_thread_that_is_not_to_stay_awake_does_not() {
        let thread = Thread::start(thread::Builder::new(), Duration::ZERO).unwrap();
        let turns = std::cell::Cell::new(0);
        assert!(keep_busy(&thread, || turns.replace(turns.get() + 1) == 50));
        assert_eq!(thread.stayed.time(), Duration::ZERO);
        thread.stop();
    }
}
