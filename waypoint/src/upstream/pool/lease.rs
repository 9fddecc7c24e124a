//! What a response holds until it has been read.

use super::{Http1, HttpPool, SETTLE, Shares};
use crate::upstream::{Connected, UnderWay};

/// What a response holds until it has been read.
pub struct Lease {
    pub(super) connection: Leased,
    pub(super) under_way: UnderWay,
}

pub(super) enum Leased {
    /// The connection goes back to wait.
    Http1(HttpPool, Box<Http1>),
    /// The place on a shared connection is given up.
    Http2(Shares),
}

impl Lease {
    /// The response has been read: the connection may carry the next request.
    pub fn release(self) {
        let Self { connection, under_way } = self;
        let host = under_way.host().clone();
        let (pool, mut http1) = match connection {
            Leased::Http1(pool, http1) => (pool, http1),
            // Its place is given up before those who wait are told.
            Leased::Http2(place) => return drop((place, under_way)),
        };
        drop(under_way);
        if http1.sender.is_ready() {
            return pool.wait(http1, &host);
        }
        if http1.sender.is_closed() {
            return;
        }
        let again = pool.clone();
        pool.shared.tasks.spawn(async move {
            if let Ok(Ok(())) = tokio::time::timeout(SETTLE, http1.sender.ready()).await {
                again.wait(http1, &host);
            }
        });
    }

    /// The response broke off.
    pub fn broke(&self) {
        self.under_way.broke();
    }

    /// The connection, which speaks another protocol from now on.
    #[must_use]
    pub fn connected(&self) -> Connected {
        self.under_way.connected()
    }
}
