//! Parts of the control plane that go away and come back, as they do on other people's clusters.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use super::plane::{CONTROLLERS, ETCD, SCHEDULER, SERVER, STORE};
use super::{ASK, Cluster, PATIENCE};
use crate::error::{Error, Result};
use crate::loopback;

impl Cluster {
    /// Kills the API server, and the controllers and the scheduler with it: without it they cannot renew their Leases, and end by themselves.
    /// The nodes and all pods go on.
    pub async fn kill_api_server(&self) {
        self.plane.kill(&[SERVER, CONTROLLERS, SCHEDULER]).await;
    }

    /// Starts what [`Cluster::kill_api_server`] killed, and waits until the API server is ready. Of no use unless it was killed.
    ///
    /// # Errors
    /// It does not become ready; the message has the end of its log.
    pub async fn start_api_server(&self) -> Result<()> {
        self.plane.start_server().await
    }

    /// Kills etcd. The API server lives on without it.
    pub async fn kill_etcd(&self) {
        self.plane.kill(&[STORE]).await;
    }

    /// Starts etcd, which was killed, with what it held, and waits until it answers.
    ///
    /// # Errors
    /// It does not answer in time.
    pub async fn start_etcd(&self) -> Result<()> {
        self.plane.start_etcd()?;
        let began = Instant::now();
        while !self.ask_etcd("GET", "/health", "").await.is_ok_and(|answer| answer.contains("\"true\"")) {
            if let Some(error) = self.plane.dead() {
                return Err(error);
            }
            if began.elapsed() > PATIENCE {
                return Err(Error::failed("starting etcd", format!("it was not ready within {PATIENCE:?}")));
            }
            tokio::time::sleep(ASK).await;
        }
        Ok(())
    }

    /// Forgets all but the newest revision of everything in etcd. A watch from an older one is answered with 410 then, if the API server does
    /// not have it in its memory either, as after [`Cluster::kill_api_server`].
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn compact(&self) -> Result<()> {
        loopback::compact(async |method, path, body| self.ask_etcd(method, path, body).await).await
    }

    async fn ask_etcd(&self, method: &str, path: &str, body: &str) -> std::io::Result<String> {
        let connect = self.plane.place().connect(SocketAddr::from((Ipv4Addr::LOCALHOST, ETCD.0)));
        loopback::etcd_exchange(connect, method, path, body).await
    }
}
