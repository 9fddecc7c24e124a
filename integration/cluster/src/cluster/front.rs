//! The way in: a listener outside of the bed whose connections are carried to the API server.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use ambit_testbed::Node;
use tokio::io::copy_bidirectional;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use crate::error::{Error, Result};

/// Connections at a time; more wait.
const LIMIT: usize = 512;

/// Pause when no connection can be taken, for want of descriptors for example.
const PAUSE: Duration = Duration::from_millis(100);

/// The task that takes connections and owns those that carry them.
#[derive(Debug)]
pub(super) struct Front {
    task: JoinHandle<()>,
}

impl Front {
    /// Starts it. A socket belongs to the namespace in which it was made, wherever its process goes.
    pub(super) fn start(listener: TcpListener, place: Node, server: SocketAddr) -> Result<Self> {
        let prepared = listener.set_nonblocking(true).and_then(|()| tokio::net::TcpListener::from_std(listener));
        let listener = prepared.map_err(Error::io("taking connections to the API server"))?;
        Ok(Self { task: tokio::spawn(serve(listener, place, server)) })
    }

    /// Ends it and all connections.
    pub(super) async fn stop(&self) {
        self.task.abort();
        while !self.task.is_finished() {
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: tokio::net::TcpListener, place: Node, server: SocketAddr) {
    let permits = Arc::new(Semaphore::new(LIMIT));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let mut stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection to the API server was not taken");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let place = place.clone();
        connections.spawn(async move {
            let _held = permit;
            // What fails is seen by the client as a connection that ends.
            if let Ok(mut inside) = place.connect(server).await {
                let _ended = copy_bidirectional(&mut stream, &mut inside).await;
            }
        });
    }
}
