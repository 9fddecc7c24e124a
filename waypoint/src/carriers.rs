//! Who serves connections: a thread for each, from its handshake to its end, with all that is done for it.

use std::{
    io,
    num::NonZero,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use ambit_runtime::workers::{self, Held, Settings, awake};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use crate::proxy::Proxy;

/// Up to so many threads the first one takes all connections until it is busy: one is cheaper than two where they share the cores with
/// everything else. Where there are more, a waypoint that keeps to one leaves most of them unused: connections stay where they were taken,
/// whether few that carry much, those of ztunnels, or very many that clients open at once.
const TOGETHER: usize = 2;

/// The threads that carry connections, each with its own connections to endpoints.
pub type Workers = workers::Workers<Proxy>;

/// Starts the first of `count` workers; one for each core when that is not given. `proxy` is for what is done beside them.
///
/// # Errors
/// When it cannot be started.
pub fn start(proxy: &Proxy, count: Option<NonZero<usize>>, settings: Settings) -> io::Result<Arc<Workers>> {
    let count = workers::count(count);
    let settings = Settings { spread: count > TOGETHER, ..settings };
    let others = (1..count).map(|_| proxy.with_own_tunnels()).collect();
    Workers::start(proxy.with_own_tunnels(), others, settings).map(Arc::new)
}

/// Who serves the connections of a listener.
#[derive(Clone)]
pub enum Carriers {
    /// Who accepts them.
    Here(Arc<Proxy>),
    /// One of these threads each. Who accepts them is to run on the first.
    Workers(Arc<Workers>),
}

impl From<Arc<Proxy>> for Carriers {
    fn from(proxy: Arc<Proxy>) -> Self {
        Self::Here(proxy)
    }
}

impl From<Arc<Workers>> for Carriers {
    fn from(workers: Arc<Workers>) -> Self {
        Self::Workers(workers)
    }
}

impl Carriers {
    /// What connections share where they are accepted.
    #[must_use]
    pub fn proxy(&self) -> &Arc<Proxy> {
        match self {
            Self::Here(proxy) => proxy,
            Self::Workers(workers) => &workers.first().shared,
        }
    }

    /// Has a connection served that was accepted, by a task of `tasks`.
    ///
    /// # Errors
    /// When it cannot be handed on to its thread; it is reset then.
    pub(crate) fn serve<F>(
        &self,
        stream: TcpStream,
        tasks: &TaskTracker,
        served: impl FnOnce(Arc<Proxy>, TcpStream) -> F,
    ) -> io::Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        match self {
            Self::Here(proxy) => {
                tasks.spawn(served(proxy.clone(), stream));
            }
            Self::Workers(workers) => {
                let worker = workers.choose();
                let stream = if std::ptr::eq(worker, workers.first()) { stream } else { worker.adopt(stream)? };
                let served = Counted { served: Box::pin(served(worker.shared.clone(), stream)), _held: worker.hold() };
                tasks.spawn_on(served, worker.handle());
            }
        }
        Ok(())
    }
}

/// Counts how often a connection is polled, so that a worker knows whether it has had work for it.
struct Counted {
    served: Pin<Box<dyn Future<Output = ()> + Send>>,
    _held: Held,
}

impl Future for Counted {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        awake::turn();
        self.served.as_mut().poll(cx)
    }
}
