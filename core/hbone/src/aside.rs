//! Bulk goes aside: what turns out to be bulk beside small requests is handed to a thread for bulk, and comes back when it no longer is.
//!
//! Turns on one thread (`pace`) leave a request waiting for one at each step, and for the processor, of which a thread that carries
//! bulk has always had its share already. A thread without bulk sleeps most of the time, and is the next to run when it wakes.
//!
//! A task that may go is a [`Roaming`]. What it does says within a poll that it belongs elsewhere (`wish`), and moves its sockets when it
//! is polled there (`move_here`); so everything else may be polled on either thread at any time. Threads that know of no thread for bulk
//! keep everything.

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::poll_fn,
    io, mem,
    os::fd::AsFd,
    panic,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{net::TcpStream, runtime::Handle};
use tokio_util::task::AbortOnDropHandle;

/// Where bulk of a thread goes.
struct Way {
    /// Finds the runtime for bulk, and starts it when it is first asked for. None when there is none.
    find: Box<dyn Fn() -> Option<Handle>>,
    /// How much of this thread's work is there.
    away: usize,
    /// Is told when there is some, and when there is none any more.
    note: Box<dyn Fn(bool)>,
}

thread_local! {
    /// This thread carries bulk that others have handed to it.
    static IS_ASIDE: Cell<bool> = const { Cell::new(false) };
    /// Where bulk of this thread goes.
    static WAY: RefCell<Option<Way>> = const { RefCell::new(None) };
    /// What is being polled belongs on the other thread.
    static WISH: Cell<bool> = const { Cell::new(false) };
}

/// Bulk of the calling thread may go to the runtime that `find` gives. `note` is told on this thread when some has gone, and when all of it is
/// back or has ended.
pub fn hand_bulk_to(find: impl Fn() -> Option<Handle> + 'static, note: impl Fn(bool) + 'static) {
    WAY.set(Some(Way { find: Box::new(find), away: 0, note: Box::new(note) }));
}

/// The calling thread is the one for bulk.
pub fn carry_bulk_here() {
    IS_ASIDE.set(true);
}

/// Whether this thread is the one for bulk.
pub(crate) fn is_aside() -> bool {
    IS_ASIDE.get()
}

/// Whether bulk of this thread may go to another.
pub(crate) fn is_home() -> bool {
    WAY.with_borrow(Option::is_some)
}

/// What is being polled belongs on the other thread.
pub(crate) fn wish() {
    WISH.set(true);
}

/// Has the current runtime tell what becomes of the connection, in place of the one that did. When the kernel does not let it, the other one
/// still does.
pub(crate) fn move_here(tcp: &mut TcpStream) {
    let again = || -> io::Result<TcpStream> { TcpStream::from_std(tcp.as_fd().try_clone_to_owned()?.into()) };
    match again() {
        Ok(again) => *tcp = again,
        Err(error) => tracing::debug!(%error, "a connection stays with the runtime that watches it"),
    }
}

/// Counts, on the thread where it was begun, work that is on the thread for bulk.
struct Away;

impl Away {
    fn begin() -> Self {
        count(|away| away + 1);
        Self
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        count(|away| away.saturating_sub(1));
    }
}

fn count(change: impl FnOnce(usize) -> usize) {
    // There is nothing to count when the thread ends.
    let _ends = WAY.try_with(|way| {
        let Ok(mut way) = way.try_borrow_mut() else { return };
        let Some(way) = way.as_mut() else { return };
        let before = way.away;
        way.away = change(before);
        if (before == 0) != (way.away == 0) {
            (way.note)(way.away > 0);
        }
    });
}

/// Work that may go to the thread for bulk and back. It is its owner's wherever it is: dropping this ends it, if it is elsewhere a moment
/// later.
pub struct Roaming<F: Future> {
    at: At<F>,
}

/// Where it is.
enum At<F: Future> {
    Here(F),
    /// Comes back, or ends there.
    Aside(AbortOnDropHandle<Result<F::Output, F>>, Away),
    /// Its runtime has ended.
    Gone,
}

impl<F: Future> fmt::Debug for Roaming<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roaming").field("aside", &matches!(self.at, At::Aside(..))).finish_non_exhaustive()
    }
}

impl<F: Future> Roaming<F> {
    /// `work` begins where it is polled.
    pub fn new(work: F) -> Self {
        Self { at: At::Here(work) }
    }
}

impl<F> Future for Roaming<F>
where
    F: Future + Unpin + Send + 'static,
    F::Output: Send + 'static,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let at = &mut self.at;
        loop {
            match at {
                At::Here(work) => {
                    let (polled, wishes) = polled(work, cx);
                    if polled.is_ready() {
                        return polled;
                    }
                    let runtime = if wishes { WAY.with_borrow(|way| way.as_ref().and_then(|way| (way.find)())) } else { None };
                    let Some(runtime) = runtime else { return Poll::Pending };
                    if let At::Here(work) = mem::replace(at, At::Gone) {
                        *at = At::Aside(AbortOnDropHandle::new(runtime.spawn(aside(work))), Away::begin());
                    }
                }
                At::Aside(task, _) => match ready!(Pin::new(task).poll(cx)) {
                    Ok(Ok(output)) => {
                        *at = At::Gone;
                        return Poll::Ready(output);
                    }
                    Ok(Err(work)) => *at = At::Here(work),
                    Err(error) => {
                        *at = At::Gone;
                        if let Ok(panicked) = error.try_into_panic() {
                            panic::resume_unwind(panicked);
                        }
                    }
                },
                // The process ends, and so does the task that waits.
                At::Gone => return Poll::Pending,
            }
        }
    }
}

/// Does `work` on the thread for bulk, until it ends or is no bulk any more.
async fn aside<F: Future + Unpin>(mut work: F) -> Result<F::Output, F> {
    let ended = poll_fn(|cx| match polled(&mut work, cx) {
        (Poll::Ready(output), _) => Poll::Ready(Some(output)),
        (Poll::Pending, true) => Poll::Ready(None),
        (Poll::Pending, false) => Poll::Pending,
    })
    .await;
    ended.ok_or(work)
}

/// Polls `work`, and says whether it belongs on the other thread.
fn polled<F: Future + Unpin>(work: &mut F, cx: &mut Context<'_>) -> (Poll<F::Output>, bool) {
    // What nobody could follow means somebody else.
    WISH.set(false);
    let polled = Pin::new(work).poll(cx);
    (polled, WISH.take())
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
            mpsc,
        },
        thread::{self, ThreadId},
        time::Duration,
    };

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        runtime::Builder,
        sync::mpsc::{UnboundedReceiver, unbounded_channel},
        time::timeout,
    };

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    thread_local! {
        /// What was told last of bulk of this thread.
        static IS_AWAY: Cell<bool> = const { Cell::new(false) };
    }

    /// Starts a thread for bulk, and lets the calling thread hand bulk to it.
    fn thread_for_bulk() -> ThreadId {
        let (tell, told) = mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            carry_bulk_here();
            tell.send(runtime.handle().clone()).unwrap();
            runtime.block_on(std::future::pending::<()>());
        });
        let handle = told.recv().unwrap();
        hand_bulk_to(move || Some(handle.clone()), |some| IS_AWAY.set(some));
        thread.thread().id()
    }

    /// Says for each message on which thread it was read, and belongs elsewhere after it when it says so.
    fn reader(mut messages: UnboundedReceiver<bool>, tell: mpsc::Sender<ThreadId>) -> impl Future<Output = u8> + Unpin + Send {
        poll_fn(move |cx| {
            loop {
                match ready!(messages.poll_recv(cx)) {
                    None => return Poll::Ready(7),
                    Some(goes) => {
                        tell.send(thread::current().id()).unwrap();
                        if goes {
                            wish();
                        }
                    }
                }
            }
        })
    }

    #[tokio::test]
    async fn work_goes_aside_and_comes_back_and_ends_where_it_was_begun() {
        let (here, aside) = (thread::current().id(), thread_for_bulk());
        let (send, messages) = unbounded_channel();
        let (tell, told) = mpsc::channel();
        let work = tokio::spawn(Roaming::new(reader(messages, tell)));
        for (goes, at) in [(false, here), (true, here), (false, aside), (true, aside), (false, here), (true, here)] {
            send.send(goes).unwrap();
            let read = async {
                loop {
                    if let Ok(read) = told.try_recv() {
                        break read;
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            assert_eq!(timeout(LIMIT, read).await.unwrap(), at);
            // It goes after the poll in which it was told to.
            let is_away = (at == aside) != goes;
            let gone = async {
                while IS_AWAY.get() != is_away {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            timeout(LIMIT, gone).await.unwrap();
        }
        drop(send);
        assert_eq!(timeout(LIMIT, work).await.unwrap().unwrap(), 7);
        assert!(!IS_AWAY.get());
    }

    #[tokio::test]
    async fn work_that_is_dropped_ends_also_when_it_is_aside() {
        struct Ends(Arc<AtomicBool>);
        impl Drop for Ends {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Release);
            }
        }
        thread_for_bulk();
        let ended = Arc::new(AtomicBool::new(false));
        let ends = Ends(Arc::clone(&ended));
        let mut work = Roaming::new(poll_fn(move |_| {
            let _held = &ends;
            wish();
            Poll::<()>::Pending
        }));
        assert!(poll_fn(|cx| Poll::Ready(Pin::new(&mut work).poll(cx))).await.is_pending());
        assert!(matches!(work.at, At::Aside(..) | At::Here(_)) && !ended.load(Ordering::Acquire));
        drop(work);
        let gone = async {
            while !ended.load(Ordering::Acquire) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(LIMIT, gone).await.unwrap();
    }

    #[tokio::test]
    async fn a_thread_that_knows_of_no_other_keeps_its_work() {
        let mut polls = 0;
        let work = Roaming::new(poll_fn(move |cx| {
            polls += 1;
            wish();
            if polls == 3 {
                return Poll::Ready(thread::current().id());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }));
        assert_eq!(timeout(LIMIT, work).await.unwrap(), thread::current().id());
    }

    #[tokio::test]
    async fn a_connection_goes_on_when_another_runtime_watches_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut near, _) = listener.accept().await.unwrap();
        let there = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                move_here(&mut near);
                let mut said = String::new();
                near.read_to_string(&mut said).await.unwrap();
                near.write_all(b"answer").await.unwrap();
                said
            })
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        far.write_all(b"question").await.unwrap();
        far.shutdown().await.unwrap();
        let mut answer = String::new();
        timeout(LIMIT, far.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert_eq!((there.join().unwrap().as_str(), answer.as_str()), ("question", "answer"));
    }
}
