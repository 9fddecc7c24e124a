//! Who serves connections: a thread for each, from its handshake to its end, with all that is done for it.

use std::{io, num::NonZero, sync::Arc};

use ambit_runtime::workers::{self, Settings, Worker};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use crate::proxy::Proxy;

/// Up to so many threads the first one takes all connections of ztunnels until it is busy: one is cheaper than two where they share the cores
/// with everything else, the ztunnels before all. Where there are more, a waypoint that keeps to one leaves most of them unused, as connections
/// stay where they were taken and those of ztunnels are few that carry much.
const TOGETHER: usize = 2;

/// The threads that carry connections, each with its own connections to endpoints.
pub type Workers = workers::Workers<Proxy>;

/// Starts the first of `count` workers; one for each core when that is not given. `proxy` is for what is done beside them.
///
/// # Errors
/// When it cannot be started.
pub fn start(proxy: &Proxy, count: Option<NonZero<usize>>, settings: Settings) -> io::Result<Arc<Workers>> {
    let others = (1..workers::count(count)).map(|_| proxy.with_own_tunnels()).collect();
    Workers::start(proxy.with_own_tunnels(), others, settings).map(Arc::new)
}

/// Who opens a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opener {
    /// A proxy, mostly the ztunnel of a node, for many clients.
    Ztunnel,
    /// One of many clients, which open theirs at once and keep them.
    Client,
}

/// The thread that takes a connection.
fn next(workers: &Workers, opener: Opener) -> &Worker<Proxy> {
    match opener {
        Opener::Ztunnel if workers.most() <= TOGETHER => workers.choose(),
        Opener::Ztunnel | Opener::Client => workers.fewest(),
    }
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
        opener: Opener,
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
                let worker = next(workers, opener);
                let stream = if std::ptr::eq(worker, workers.first()) { stream } else { worker.adopt(stream)? };
                // In memory of its own: what is awaited has its place in a task twice.
                let (served, held) = (Box::pin(served(worker.shared.clone(), stream)), worker.hold());
                let served = async move {
                    served.await;
                    drop(held);
                };
                tasks.spawn_on(served, worker.handle());
            }
        }
        Ok(())
    }
}
