//! One connection of the client: its places for tunnels, and how they are opened.

use std::{future::poll_fn, io, sync::Arc, time::Duration};

use http::HeaderMap;
use tokio::time::Instant;

use crate::{
    ConnectError, ConnectRequest, PoolConfig, Transport, TunnelStream,
    driver::{Driver, Times},
    frame::code,
    mux::{Failure, Link, Opening, Role, Side, Unanswered, Unopenable},
};

/// A connection that carries tunnels.
#[derive(Clone)]
pub(crate) struct Connection {
    link: Arc<Link>,
    pub(crate) made: Instant,
}

/// A place for one tunnel in a connection; given back when dropped.
pub(crate) struct Slot {
    /// None once a tunnel has taken it over.
    link: Option<Arc<Link>>,
}

/// A tunnel that was not opened.
pub(crate) struct Unopened {
    pub(crate) error: ConnectError,
    /// Whether the same request may be sent on another connection: the peer did not act on this one, or the connection was already
    /// gone. A CONNECT carries no bytes of the client before its answer, so at worst an upstream connection was opened and closed.
    pub(crate) again: bool,
}

impl Connection {
    /// Speaks first over `io`: returns the connection with what drives it.
    pub(crate) fn start<T: Transport>(io: T, config: &PoolConfig) -> (Self, Driver<T>) {
        let times = Times {
            ping_interval: config.settings.ping_interval,
            ping_timeout: config.settings.ping_timeout,
            preface: None,
            idle: Some(config.idle_timeout),
        };
        let driver = Driver::new(io, Role::Client, &config.settings, times);
        (Self { link: Arc::clone(driver.link()), made: Instant::now() }, driver)
    }

    /// Takes a place unless the connection is full (of `limit`, or of what the peer allows) or closed.
    pub(crate) fn take(&self, limit: usize) -> Option<Slot> {
        let taken = self.link.lock().take_place(limit);
        taken.then(|| Slot { link: Some(Arc::clone(&self.link)) })
    }

    /// No further tunnels here; those that are open go on, and the connection ends with the last of them.
    pub(crate) fn close(&self) {
        self.link.with(crate::mux::Mux::close);
    }

    /// Ends the connection with its tunnels.
    pub(crate) fn cut(&self) {
        self.link.with(|mux| mux.goodbye(code::NO_ERROR, Failure::Closed));
    }

    pub(crate) fn is_open(&self) -> bool {
        self.link.lock().places.is_open()
    }

    pub(crate) fn tunnels(&self) -> usize {
        self.link.lock().places.taken()
    }

    /// Whether both are the same connection.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.link, &other.link)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            link.with(crate::mux::Mux::give_place_back);
        }
    }
}

impl Slot {
    /// Sends the CONNECT and waits for its answer, at most `limit`.
    pub(crate) async fn open(mut self, request: &ConnectRequest, limit: Duration) -> Result<(TunnelStream, HeaderMap), Unopened> {
        let exchange = async {
            let mut tunnel = self.request(request).await?;
            match poll_fn(|cx| tunnel.poll_answer(cx)).await {
                Ok((status, headers)) if status.is_success() => Ok((tunnel, headers)),
                Ok((status, headers)) => {
                    let error = ConnectError::Refused { status, headers: Box::new(headers) };
                    Err(Unopened { error, again: false })
                }
                Err(Unanswered::Connection(failure)) => Err(lost(failure)),
                Err(Unanswered::Reset(reset)) => {
                    // RFC 9113, sections 6.8 and 8.7: a GOAWAY names the last stream that was processed, and ours fails with it only
                    // when it is a later one; REFUSED_STREAM is sent only for streams that were not processed.
                    let untouched = reset.by == Side::Away || (reset.by == Side::Peer && reset.code == code::REFUSED_STREAM);
                    Err(Unopened { error: ConnectError::Reset(reset.to_io().to_string()), again: untouched })
                }
            }
        };
        match tokio::time::timeout(limit, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Unopened { error: ConnectError::TimedOut(limit), again: false }),
        }
    }

    /// Sends the CONNECT once the peer allows it. The place goes to the tunnel.
    async fn request(&mut self, request: &ConnectRequest) -> Result<TunnelStream, Unopened> {
        let Some(link) = &self.link else { return Err(lost(Failure::Closed)) };
        let authority = request.authority.to_string();
        let opening = Opening { authority: &authority, headers: &request.headers };
        let opened = poll_fn(|cx| link.with(|mux| mux.poll_open(cx, opening))).await;
        match (opened, self.link.take()) {
            (Ok(stream), Some(link)) => Ok(TunnelStream::new(link, stream)),
            (Err(Unopenable::Failed(failure)), link) => {
                self.link = link;
                Err(lost(failure))
            }
            (_, link) => {
                self.link = link;
                let error = ConnectError::Reset("the peer takes no more tunnels on this connection".to_owned());
                Err(Unopened { error, again: true })
            }
        }
    }
}

/// The connection ended before an answer.
fn lost(failure: Failure) -> Unopened {
    match failure {
        Failure::Lost(error) => Unopened { error: ConnectError::Lost(error), again: true },
        Failure::Silent(text) => {
            let error = io::Error::new(io::ErrorKind::TimedOut, text);
            Unopened { error: ConnectError::Lost(Arc::new(error)), again: true }
        }
        failure => Unopened { error: ConnectError::Reset(failure.to_io().to_string()), again: false },
    }
}
