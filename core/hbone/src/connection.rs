//! One connection of the client: its places for tunnels, and how they are opened.

use std::{
    future::poll_fn,
    io,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use ambit_tls::Presented;
use http::{HeaderMap, StatusCode};
use tokio::{net::TcpStream, time::Instant};

use crate::{
    ConnectError, ConnectRequest, PoolConfig, Transport, TunnelStream,
    copy::early,
    driver::{Driver, Times},
    frame::code,
    mux::{Failure, Link, Mux, Opening, Role, Side, Unanswered, Unopenable},
};

/// A connection that carries tunnels.
#[derive(Clone)]
pub(crate) struct Connection {
    link: Arc<Link>,
    pub(crate) made: Instant,
    /// Who is at the other end.
    pub(crate) presented: Option<Presented>,
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
    /// gone, and no bytes of the client can have reached the peer with it, so that at worst an upstream connection was opened and closed.
    pub(crate) again: bool,
}

impl Connection {
    /// Speaks first over `io`: returns the connection with what drives it. Without tunnels it ends after `idle`.
    pub(crate) fn start<T: Transport>(io: T, config: &PoolConfig, idle: Duration) -> (Self, Driver<T>) {
        let times = Times {
            ping_interval: config.settings.ping_interval,
            ping_timeout: config.settings.ping_timeout,
            header: config.settings.header_timeout,
            preface: None,
            idle: Some(idle),
        };
        let presented = io.presented().cloned();
        let driver = Driver::new(io, Role::Client, &config.settings, times);
        (Self { link: Arc::clone(driver.link()), made: Instant::now(), presented }, driver)
    }

    /// Takes a place unless the connection is full (of `limit`, or of what the peer allows) or closed.
    pub(crate) fn take(&self, limit: usize) -> Option<Slot> {
        let taken = self.link.lock().take_place(limit);
        taken.then(|| Slot { link: Some(Arc::clone(&self.link)) })
    }

    /// Whether what goes out has had to wait all the time for so long.
    pub(crate) fn is_pressed(&self, for_long: Duration) -> bool {
        self.link.lock().is_pressed(for_long)
    }

    /// No further tunnels here; those that are open go on, and the connection ends with the last of them.
    pub(crate) fn close(&self) {
        self.link.with(Mux::close);
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
            link.with(Mux::give_place_back);
        }
    }
}

impl Slot {
    /// Sends the CONNECT and waits for its answer, at most `limit`. What `client` says meanwhile goes with it as far as it can, and stays in
    /// its socket.
    pub(crate) async fn open(
        mut self,
        request: &ConnectRequest,
        client: Option<&TcpStream>,
        limit: Duration,
    ) -> Result<(TunnelStream, HeaderMap), Unopened> {
        let mut tunnel = None;
        let exchange = async {
            let tunnel = tunnel.insert(self.request(request, client).await?);
            let mut waits = client.filter(|_| tunnel.early() == 0);
            poll_fn(|cx| poll_answer(cx, tunnel, &mut waits)).await
        };
        let answered = tokio::time::timeout(limit, exchange).await;
        match (answered, tunnel) {
            (Ok(Ok((status, headers))), Some(tunnel)) if status.is_success() => Ok((tunnel, headers)),
            (Ok(Ok((status, headers))), _) => {
                let error = ConnectError::Refused { status, headers: Box::new(headers) };
                Err(Unopened { error, again: false })
            }
            (Ok(Err(unopened)), _) => Err(unopened),
            (Err(_), tunnel) => {
                let early = tunnel.is_some_and(|tunnel| tunnel.early() > 0);
                Err(Unopened { error: ConnectError::TimedOut(limit), again: false }.unknown(early))
            }
        }
    }

    /// Sends the CONNECT once the peer allows it. The place goes to the tunnel.
    async fn request(&mut self, request: &ConnectRequest, client: Option<&TcpStream>) -> Result<TunnelStream, Unopened> {
        let Some(link) = &self.link else { return Err(lost(Failure::Closed)) };
        let authority = request.authority.to_string();
        let opening = Opening { authority: &authority, headers: &request.headers };
        // In one go, so that both leave together.
        let open = |cx: &mut Context<'_>, mux: &mut Mux| match ready!(mux.poll_open(cx, opening)) {
            Ok(id) => {
                let early = client.map(|client| mux.send_early(id, |places| early::peek(client, places)));
                Poll::Ready(Ok((id, early)))
            }
            Err(unopenable) => Poll::Ready(Err(unopenable)),
        };
        let opened = poll_fn(|cx| link.with(|mux| open(cx, mux))).await;
        match (opened, self.link.take()) {
            (Ok((stream, early)), Some(link)) => {
                let mut tunnel = TunnelStream::new(link, stream);
                match early {
                    Some(Ok(count)) => tunnel.set_early(count),
                    Some(Err(error)) if error.kind() != io::ErrorKind::WouldBlock => return Err(gone(error)),
                    _ => {}
                }
                Ok(tunnel)
            }
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

/// Waits for the answer, and meanwhile for the first that the client in `waits` says, which is sent.
fn poll_answer(
    cx: &mut Context<'_>,
    tunnel: &mut TunnelStream,
    waits: &mut Option<&TcpStream>,
) -> Poll<Result<(StatusCode, HeaderMap), Unopened>> {
    match tunnel.poll_answer(cx) {
        Poll::Ready(Ok(answer)) => return Poll::Ready(Ok(answer)),
        Poll::Ready(Err(unanswered)) => return Poll::Ready(Err(unopened(unanswered, tunnel.early() > 0))),
        Poll::Pending => {}
    }
    while let Some(client) = *waits {
        match ready!(client.poll_read_ready(cx)).and_then(|()| early::send(tunnel, client)) {
            Ok(done) => *waits = waits.filter(|_| !done),
            Err(error) => return Poll::Ready(Err(gone(error))),
        }
    }
    Poll::Pending
}

/// The peer has not answered. With `early`, bytes of the client went with the request.
fn unopened(unanswered: Unanswered, early: bool) -> Unopened {
    match unanswered {
        Unanswered::Connection { failure, early_bytes_left } => lost(failure).unknown(early_bytes_left),
        Unanswered::Reset(reset) => {
            // RFC 9113, sections 6.8 and 8.7: a GOAWAY names the last stream that was processed, and ours fails with it only
            // when it is a later one; REFUSED_STREAM is sent only for streams that were not processed.
            let untouched = reset.by == Side::Away || (reset.by == Side::Peer && reset.code == code::REFUSED_STREAM);
            let unopened = Unopened { error: ConnectError::Reset(reset.to_io().to_string()), again: untouched };
            unopened.unknown(early && !untouched)
        }
    }
}

fn gone(error: io::Error) -> Unopened {
    Unopened { error: ConnectError::Client(Arc::new(error)), again: false }
}

impl Unopened {
    /// The same when bytes of the client may have reached the peer, if `sent`: then nobody may try again.
    fn unknown(self, sent: bool) -> Self {
        if sent { Self { error: ConnectError::Unknown(Box::new(self.error)), again: false } } else { self }
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
