//! A connection for a request: one at hand, a new one, or the next that is free where the cluster may have no more.

use std::{pin::pin, sync::Arc};

use ambit_model::{Reason, Refusal};

use super::{Checkout, Connection, HttpPool};
use crate::{
    compiled::Cluster,
    proxy::Proxy,
    upstream::{Candidate, Connected, open},
};

/// What a request that waited for a connection goes on with.
enum Found {
    /// One that was at hand.
    AtHand(Connection),
    /// A place for a new one.
    Place(Connected),
}

impl HttpPool {
    /// A connection at hand, if it is not to be made `anew`, or a new one. Where the cluster has as many as it may have, the request waits
    /// for one. `connects` is called before one is made.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn checkout(
        &self,
        proxy: &Proxy,
        cluster: &Arc<Cluster>,
        to: &Candidate,
        http2: bool,
        anew: bool,
        connects: impl FnOnce(),
    ) -> Result<Checkout, Refusal> {
        if !anew && let Some(connection) = self.at_hand(&to.to, &to.host, http2) {
            return self.begin(cluster, to, connection, true);
        }
        // It need not wait, and so takes no place among those who do.
        if !anew
            && cluster.has_all_connections()
            && let Some(connection) = self.of_another(&to.to, &to.host, http2)
        {
            return self.begin(cluster, to, connection, true);
        }
        let pending = cluster.pending()?;
        let found = self.wait_for(cluster, to, http2).await;
        cluster.live.next(&to.host, http2);
        let (connection, at_hand) = match found {
            Found::AtHand(connection) => (connection, true),
            Found::Place(place) => {
                connects();
                (self.fresh(proxy, cluster, to, http2, place).await?, false)
            }
        };
        drop(pending);
        self.begin(cluster, to, connection, at_hand)
    }

    /// A place for a new connection, or one that has become free.
    async fn wait_for(&self, cluster: &Cluster, to: &Candidate, http2: bool) -> Found {
        loop {
            let mut slot = pin!(cluster.live.slot());
            let mut freed = pin!(to.host.at_hand(http2));
            // What is told from here on is not missed.
            slot.as_mut().enable();
            freed.as_mut().enable();
            if let Some(place) = cluster.another_connection(&to.host, http2) {
                return Found::Place(place);
            }
            let at_hand = self.at_hand(&to.to, &to.host, http2).or_else(|| self.of_another(&to.to, &to.host, http2));
            if let Some(connection) = at_hand {
                return Found::AtHand(connection);
            }
            tokio::select! {
                () = slot => {}
                () = freed => {}
            }
        }
    }

    /// A request is sent on the connection, if the cluster bears one more.
    fn begin(&self, cluster: &Arc<Cluster>, to: &Candidate, connection: Connection, at_hand: bool) -> Result<Checkout, Refusal> {
        match cluster.under_way(&to.host) {
            Ok(under_way) => Ok(Checkout { connection, at_hand, under_way }),
            Err(refusal) => {
                match connection {
                    Connection::Http1(http1) => self.wait(http1, &to.host),
                    Connection::Http2(place) => {
                        drop(place);
                        to.host.tell(true);
                    }
                }
                Err(refusal)
            }
        }
    }

    async fn fresh(
        &self,
        proxy: &Proxy,
        cluster: &Cluster,
        to: &Candidate,
        http2: bool,
        place: Connected,
    ) -> Result<Connection, Refusal> {
        let generation = self.connections().generation;
        // Requests of several clients share it: each of them says whose it is.
        let stream = open(proxy, &to.to, http::HeaderMap::new(), cluster.connect_timeout).await?;
        let connection = match http2 {
            true => self.handshake_http2(&to.to, stream, generation, place).await,
            false => self.handshake_http1(&to.to, stream, generation, place).await,
        };
        if http2 {
            to.host.told_shared();
        }
        connection.map_err(|error| Refusal::new(Reason::UpstreamProtocolError, format!("{}: {error}", to.to.address)))
    }
}
