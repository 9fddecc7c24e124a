//! An HTTP/2 connection and all of its streams as one task.
//!
//! hyper asks for a task of its own for each stream. A change then wakes the task of the stream, on whichever thread is free, and that one
//! wakes the task of its connection, mostly on another: a thousand times over for a thousand subscribers, and again for their answers.
//! Here the streams that became ready are looked at first and the connection after them, which writes what they have said.

use std::{
    mem,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures::{FutureExt as _, future::BoxFuture};
use hyper::rt::Executor;

use super::calls::Calls;

/// The parts of a connection. Each is looked at only when it has called: to look at what waits takes locks that all connections share.
const CONNECTION: u8 = 1;
const STREAMS: u8 = 1 << 1;
const DRAIN: u8 = 1 << 2;
/// There are streams that the task does not have yet.
const BEGUN: u8 = 1 << 3;

/// So often the parts may call each other before other connections have their turn. What is due is done after two rounds; more are of a peer
/// that sends and reads all the time, or of a task that has used up what the runtime gives it at a time.
const ROUNDS: usize = 8;

/// Streams that have begun and that the task does not have yet.
pub(super) struct Begun {
    streams: Mutex<Vec<BoxFuture<'static, ()>>>,
    calls: Arc<Calls>,
}

impl Begun {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { streams: Mutex::default(), calls: Calls::new(CONNECTION | DRAIN | BEGUN) })
    }

    /// Where hyper puts them.
    pub(super) fn executor(self: &Arc<Self>) -> Here {
        Here(Arc::downgrade(self))
    }

    fn take(&self) -> Vec<BoxFuture<'static, ()>> {
        mem::take(&mut *self.streams.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Runs the streams of a connection in its task. They hold this themselves, so it does not hold them.
#[derive(Clone)]
pub(super) struct Here(Weak<Begun>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Here {
    fn execute(&self, stream: F) {
        if let Some(begun) = self.0.upgrade() {
            // One that panics ends alone, as it would in a task of its own: it is dropped, and its peer told that it was reset.
            let stream = AssertUnwindSafe(stream).catch_unwind().map(drop);
            begun.streams.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(stream));
            begun.calls.call(BEGUN);
        }
    }
}

/// A stream. Most connections have one, none more than some hundred: which of them has called is found by a look at each.
struct Stream {
    run: BoxFuture<'static, ()>,
    called: Arc<Called>,
    waker: Waker,
}

#[derive(Debug)]
struct Called {
    has: AtomicBool,
    calls: Arc<Calls>,
}

impl Wake for Called {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.has.swap(true, Ordering::AcqRel) {
            self.calls.call(STREAMS);
        }
    }
}

impl Stream {
    /// One that is to be looked at.
    fn new(run: BoxFuture<'static, ()>, calls: &Arc<Calls>) -> Self {
        let called = Arc::new(Called { has: AtomicBool::new(true), calls: Arc::clone(calls) });
        Self { run, waker: Waker::from(Arc::clone(&called)), called }
    }

    /// Looks at it if it has called. Whether it has ended.
    fn ends(&mut self) -> bool {
        let has_called = self.called.has.load(Ordering::Acquire) && self.called.has.swap(false, Ordering::AcqRel);
        has_called && self.run.as_mut().poll(&mut Context::from_waker(&self.waker)).is_ready()
    }
}

/// A connection with its streams, as one future.
pub(super) struct OneTask<C> {
    connection: Pin<Box<C>>,
    close: fn(Pin<&mut C>),
    streams: Vec<Stream>,
    begun: Arc<Begun>,
    /// When the connection is to be closed in order, until it is.
    drained: Option<BoxFuture<'static, ()>>,
    of_connection: Waker,
    of_drain: Waker,
}

impl<C: Future> OneTask<C> {
    /// Of a connection whose executor is that of `begun`. Once `drained` is done, `close` is called.
    pub(super) fn new(
        begun: Arc<Begun>,
        connection: Pin<Box<C>>,
        close: fn(Pin<&mut C>),
        drained: BoxFuture<'static, ()>,
    ) -> Self {
        let (of_connection, of_drain) = (begun.calls.caller(CONNECTION), begun.calls.caller(DRAIN));
        Self { connection, close, streams: Vec::new(), begun, drained: Some(drained), of_connection, of_drain }
    }

    fn look_at_drain(&mut self) {
        let Some(drained) = &mut self.drained else { return };
        if drained.as_mut().poll(&mut Context::from_waker(&self.of_drain)).is_ready() {
            self.drained = None;
            (self.close)(self.connection.as_mut());
            self.begun.calls.call(CONNECTION);
        }
    }

    /// Looks at the streams that have called, each once: one that calls all the time keeps none of the others waiting.
    fn look_at_streams(&mut self) {
        let calls = &self.begun.calls;
        let has_begun = calls.hears(BEGUN);
        if has_begun {
            self.streams.extend(self.begun.take().into_iter().map(|run| Stream::new(run, calls)));
        }
        if calls.hears(STREAMS) || has_begun {
            self.streams.retain_mut(|stream| !stream.ends());
        }
    }
}

impl<C: Future> Future for OneTask<C> {
    type Output = C::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<C::Output> {
        let this = self.get_mut();
        this.begun.calls.begin();
        for _ in 0..ROUNDS {
            if this.begun.calls.hears(DRAIN) {
                this.look_at_drain();
            }
            this.look_at_streams();
            // Last, for it writes what all others have had to say.
            if this.begun.calls.hears(CONNECTION) {
                let mut context = Context::from_waker(&this.of_connection);
                if let Poll::Ready(end) = this.connection.as_mut().poll(&mut context) {
                    return Poll::Ready(end);
                }
            }
            if this.begun.calls.rests(context.waker()) {
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::atomic::AtomicUsize, time::Duration};

    use tokio::{
        sync::{mpsc, oneshot},
        time::timeout,
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn parts_are_looked_at_when_they_call_and_only_then() {
        let begun = Begun::new();
        let here = begun.executor();
        let looks = Arc::new(AtomicUsize::new(0));
        let (tell, mut told) = mpsc::channel::<u32>(4);
        let (say, mut said) = mpsc::channel::<u32>(4);
        let (end, ended) = oneshot::channel::<()>();
        let seen = Arc::clone(&looks);
        let mut ended = Box::pin(ended);
        // Begins a stream when it is first looked at, as a connection does, and counts.
        let connection = poll_fn(move |context| {
            if seen.fetch_add(1, Ordering::SeqCst) == 0 {
                let (mut told, say) = (mem::replace(&mut told, mpsc::channel(1).1), say.clone());
                here.execute(async move {
                    while let Some(number) = told.recv().await {
                        say.send(number).await.unwrap();
                    }
                });
            }
            ended.as_mut().poll(context)
        });
        let task = tokio::spawn(OneTask::new(begun, Box::pin(connection), |_| (), Box::pin(std::future::pending())));
        for number in 0..100 {
            tell.send(number).await.unwrap();
            assert_eq!(timeout(PATIENCE, said.recv()).await.unwrap(), Some(number));
        }
        assert_eq!(looks.load(Ordering::SeqCst), 1, "nothing called for the connection");
        end.send(()).unwrap();
        timeout(PATIENCE, task).await.unwrap().unwrap().unwrap();
        assert_eq!(looks.load(Ordering::SeqCst), 2);
        assert!(timeout(PATIENCE, tell.closed()).await.is_ok(), "its streams end with the connection");
    }

    #[tokio::test]
    async fn a_stream_that_is_never_done_with_itself_lets_others_run() {
        static CLOSED: AtomicUsize = AtomicUsize::new(0);
        let begun = Begun::new();
        begun.executor().execute(poll_fn(|context| {
            context.waker().wake_by_ref();
            Poll::Pending
        }));
        let (drain, drained) = oneshot::channel::<()>();
        let drained = Box::pin(async move { drop(drained.await) });
        let connection = Box::pin(std::future::pending::<()>());
        let count = |_: Pin<&mut _>| {
            CLOSED.fetch_add(1, Ordering::SeqCst);
        };
        let task = tokio::spawn(OneTask::new(begun, connection, count, drained));
        // On the one thread of this test.
        tokio::task::yield_now().await;
        drain.send(()).unwrap();
        let wait = async {
            while CLOSED.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, wait).await.unwrap();
        task.abort();
    }

    /// Without the message that a panic has on the terminal.
    async fn panics() {
        std::panic::resume_unwind(Box::new("by intention"));
    }

    #[tokio::test]
    async fn a_stream_that_panics_ends_alone() {
        let begun = Begun::new();
        let here = begun.executor();
        let (say, said) = oneshot::channel::<()>();
        here.execute(panics());
        here.execute(async move { say.send(()).unwrap() });
        let connection = Box::pin(std::future::pending::<()>());
        let task = tokio::spawn(OneTask::new(begun, connection, |_| (), Box::pin(std::future::pending())));
        timeout(PATIENCE, said).await.unwrap().unwrap();
        assert!(!task.is_finished());
        task.abort();
    }
}
