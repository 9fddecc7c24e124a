//! Accepts the connections of one pod, for as long as it is served, and gives them to the workers.

use std::{
    future::Future,
    net::{Ipv6Addr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use ambit_model::{Reason, Refusal};
use ambit_runtime::{drain::Watch, socket::canonical, telemetry::Direction};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{proxy::Proxy, worker::Workers};

/// Pause after a failed accept (out of file descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections that are still accepted after the drain has begun: those that waited; with a client that never stops it would never end.
const MOST_LATE: usize = 1024;

/// Accepts connections of one pod and owns the tasks that carry them.
pub(super) struct Acceptor {
    pub(super) workers: Arc<Workers>,
    pub(super) watch: Watch,
    pub(super) cut: CancellationToken,
    pub(super) tasks: TaskTracker,
    /// Those of `tasks` that accept.
    pub(super) accepting: TaskTracker,
}

impl Acceptor {
    /// Accepts until the drain begins, and then what has been connected by then.
    pub(super) fn run<H, F>(&self, listener: TcpListener, direction: Direction, handle: H)
    where
        H: Fn(Arc<Proxy>, TcpStream, SocketAddr, Watch) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let (workers, watch, cut) = (Arc::clone(&self.workers), self.watch.clone(), self.cut.clone());
        let tasks = self.tasks.clone();
        let here = listener.local_addr().map_or_else(|_| SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)), canonical);
        let accept = async move {
            let mut draining = pin!(watch.draining());
            let mut late = 0;
            loop {
                // What has come by the time of the drain is still taken: closing the listener would reset it.
                let accepted = tokio::select! {
                    biased;
                    accepted = listener.accept(), if late < MOST_LATE => accepted,
                    () = &mut draining => return,
                };
                if watch.is_draining() {
                    late = if accepted.is_ok() { late + 1 } else { MOST_LATE };
                }
                let (io, from) = match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                let (first, worker) = (workers.first(), workers.choose());
                let io = if std::ptr::eq(worker, first) { Ok(io) } else { worker.adopt(io) };
                match io {
                    Ok(io) => {
                        let work = handle(Arc::clone(&worker.shared), io, canonical(from), watch.clone());
                        tasks.spawn_on(until_cut(work, watch.clone(), cut.clone()), worker.handle());
                    }
                    Err(error) => {
                        let record = worker.shared.telemetry.begin(direction, canonical(from), here);
                        record.refused(Refusal::new(Reason::Internal, format!("it cannot be handed on: {error}")));
                    }
                }
            }
        };
        self.tasks.spawn_on(self.accepting.track_future(accept), self.workers.first().handle());
    }
}

/// Does `work` until it ends or is cut. `watch` lives as long, so that a drain waits for it.
async fn until_cut(work: impl Future<Output = ()>, watch: Watch, cut: CancellationToken) {
    let _until_the_end = watch;
    tokio::select! {
        () = work => {}
        () = cut.cancelled() => {}
    }
}
