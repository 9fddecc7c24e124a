//! The aggregated discovery service: the session state machines over gRPC streams.
//!
//! A stream has no task of its own: its session runs when the transport asks for the next response, so a peer that does not read
//! causes no work and holds no responses.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ambit_api::envoy::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use futures::{FutureExt as _, Stream, stream};
use tokio::{
    sync::watch,
    time::{Sleep, sleep, timeout},
};
use tonic::{Request, Status as Refusal, metadata::MetadataMap};

use super::{
    Cache, DeltaSession, Nack, Protocol, SotwSession, Status, TypeStatus,
    request::DeltaRequest,
    response::DeltaResponse,
    status::{Registered, SessionStatus, Types},
    turns::{Turn, Turns},
    wire::{AdsService, Answer, Ask, Requests},
};
use crate::{Node, XdsError};

/// How long a response waits for the answer to one that it depends on.
const HOLD: Duration = Duration::from_secs(1);

/// Decides who may see what.
pub trait Authenticate: Send + Sync + 'static {
    /// What is known of a caller once its credentials are checked.
    type Caller: Send + Sync + 'static;

    /// Checks the credentials of a stream, before anything of it is read. Somebody else may have to be asked.
    ///
    /// # Errors
    /// The refusal that the caller is sent.
    fn caller(
        &self,
        metadata: &MetadataMap,
        peer: Option<SocketAddr>,
    ) -> impl Future<Output = Result<Self::Caller, Refusal>> + Send;

    /// The view that this caller gets as this node. It may have to be made first.
    ///
    /// # Errors
    /// The refusal that the caller is sent.
    fn view(&self, caller: &Self::Caller, node: &Node) -> impl Future<Output = Result<String, Refusal>> + Send;

    /// Whether the caller may still see its view, which may have become another since it was let in. It is asked before each response is
    /// sent; a stream whose caller may not ends.
    fn may_see(&self, caller: &Self::Caller, view: &str) -> bool {
        _ = (caller, view);
        true
    }
}

/// Limits of the server.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// A stream is closed after this time, give or take a tenth, so that peers spread over the instances of the control plane and
    /// their tokens are checked again.
    pub max_age: Duration,
    /// How long a peer may take to say what it wants.
    pub first_request: Duration,
    /// The largest request, in bytes: the versions of about a hundred thousand resources.
    pub max_request: usize,
    /// So many streams at a time say what they have and are sent the rest of what there is. After a restart every proxy comes at once,
    /// each with a request and a response of some megabytes.
    pub openings: usize,
    /// How long one of these may take before the next one begins beside it.
    pub opening: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            max_age: Duration::from_secs(30 * 60),
            first_request: Duration::from_secs(10),
            max_request: 32 << 20,
            openings: 16,
            opening: Duration::from_secs(30),
        }
    }
}

/// The service. `drain` turning true closes its streams in order.
pub struct AdsServer<A> {
    cache: Cache,
    authenticate: Arc<A>,
    status: Status,
    config: ServerConfig,
    drain: watch::Receiver<bool>,
    turns: Turns,
}

impl<A: Authenticate> AdsServer<A> {
    /// Serves `cache` to whom `authenticate` lets in.
    #[must_use]
    pub fn new(cache: Cache, authenticate: A, config: ServerConfig, drain: watch::Receiver<bool>) -> Self {
        let turns = Turns::new(config.openings, config.opening);
        Self { cache, authenticate: Arc::new(authenticate), status: Status::default(), config, drain, turns }
    }

    /// Its sessions, for people.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.clone()
    }

    /// As a service of a tonic server.
    #[must_use]
    pub fn into_service(self) -> AdsService<A> {
        AdsService::new(self)
    }

    pub(super) fn max_request(&self) -> usize {
        self.config.max_request
    }

    /// A stream whose requests these are.
    pub(super) async fn open<S: Session>(
        &self,
        request: Request<Requests<S::Request>>,
    ) -> Result<Responses<S::Response>, Refusal> {
        let peer = request.remote_addr();
        let (metadata, _, requests) = request.into_parts();
        let caller = self.authenticate.caller(&metadata, peer).await?;
        let opening = Opening {
            cache: self.cache.clone(),
            authenticate: Arc::clone(&self.authenticate),
            status: self.status.clone(),
            config: self.config.clone(),
            drain: self.drain.clone(),
            peer: peer.map_or_else(|| "-".to_owned(), |peer| peer.to_string()),
            caller,
            requests,
            turns: self.turns.clone(),
        };
        Ok(Box::pin(stream::unfold(State::Opening::<A, S>(Box::new(opening)), State::step)))
    }
}

pub(super) type Responses<R> = Pin<Box<dyn Stream<Item = Result<Due<R>, Refusal>> + Send>>;

/// A response on its way to the transport, which takes it whole, long before the peer has read it.
pub(super) struct Due<R> {
    pub(super) response: R,
    /// Lasts until the response has left.
    pub(super) turn: Option<Turn>,
}

/// What the two variants of the protocol have in common.
pub(super) trait Session: Types + Default + Send + 'static {
    type Request: Ask;
    type Response: Answer;
    const PROTOCOL: Protocol;
    fn request(&mut self, request: Self::Request) -> Result<(), XdsError>;
    fn next(&mut self, cache: &Cache, view: &str) -> Option<Self::Response>;
    fn is_holding(&self) -> bool;
    fn is_lost(&self) -> bool;
    fn release(&mut self);
}

macro_rules! session {
    ($session:ident, $request:ident, $response:ident, $protocol:ident) => {
        impl Types for $session {
            fn types(&self) -> BTreeMap<String, TypeStatus> {
                self.status()
            }
        }

        impl Session for $session {
            type Request = $request;
            type Response = $response;
            const PROTOCOL: Protocol = Protocol::$protocol;
            fn request(&mut self, request: $request) -> Result<(), XdsError> {
                $session::request(self, request)
            }
            fn next(&mut self, cache: &Cache, view: &str) -> Option<$response> {
                $session::next(self, cache, view)
            }
            fn is_holding(&self) -> bool {
                $session::is_holding(self)
            }
            fn is_lost(&self) -> bool {
                $session::is_lost(self)
            }
            fn release(&mut self) {
                $session::release(self);
            }
        }
    };
}
session!(DeltaSession, DeltaRequest, DeltaResponse, Delta);
session!(SotwSession, DiscoveryRequest, DiscoveryResponse, StateOfTheWorld);

/// A stream whose peer has not said yet which node it is.
struct Opening<A: Authenticate, S: Session> {
    cache: Cache,
    authenticate: Arc<A>,
    status: Status,
    config: ServerConfig,
    drain: watch::Receiver<bool>,
    peer: String,
    caller: A::Caller,
    requests: Requests<S::Request>,
    turns: Turns,
}

/// A stream that is being served.
struct Open<A: Authenticate, S: Session> {
    session: Arc<Mutex<S>>,
    cache: Cache,
    authenticate: Arc<A>,
    caller: A::Caller,
    view: String,
    node: String,
    requests: Requests<S::Request>,
    changes: watch::Receiver<u64>,
    drain: watch::Receiver<bool>,
    _registered: Registered,
    /// When it is old enough. One for as long as the stream lasts: most streams wait most of the time, and are many.
    closes: Pin<Box<Sleep>>,
    /// Held until the peer has all that there was when it came.
    turn: Option<Turn>,
}

enum State<A: Authenticate, S: Session> {
    Opening(Box<Opening<A, S>>),
    Open(Box<Open<A, S>>),
    Closed,
}

impl<A: Authenticate, S: Session> State<A, S> {
    /// The next response of the stream and what comes after it; `None` ends the stream in order.
    async fn step(self) -> Option<(Result<Due<S::Response>, Refusal>, Self)> {
        let mut open = match self {
            Self::Opening(opening) => match opening.first_request().await {
                Ok(open) => open?,
                Err(refusal) => return Some((Err(refusal), Self::Closed)),
            },
            Self::Open(open) => open,
            Self::Closed => return None,
        };
        match open.next().await {
            Ok(Some(response)) => Some((Ok(Due { response, turn: open.turn.clone() }), Self::Open(open))),
            Ok(None) => None,
            Err(refusal) => Some((Err(refusal), Self::Closed)),
        }
    }
}

impl<A: Authenticate, S: Session> Opening<A, S> {
    async fn first_request(mut self: Box<Self>) -> Result<Option<Box<Open<A, S>>>, Refusal> {
        let silent = |_| Refusal::deadline_exceeded("no request came on this stream");
        let drained = self.drain.wait_for(|drain| *drain).map(|drained| drained.is_ok());
        let turn = async {
            // Who says nothing has no turn: some of them, one after the other, would keep everybody else out.
            timeout(self.config.first_request, self.requests.begun()).await.map_err(silent)??;
            Ok::<_, Refusal>(self.turns.next().await)
        };
        let turn = tokio::select! {
            turn = turn => turn?,
            true = drained => return Ok(None),
        };
        let first = timeout(self.config.first_request, self.requests.message()).await.map_err(silent)??;
        let Some(mut first) = first else { return Ok(None) };
        if *self.drain.borrow() {
            return Ok(None);
        }
        let node = first.node().ok_or_else(|| Refusal::invalid_argument("the first request names no node"))?;
        let mut turn = Some(turn);
        let view = {
            let mut view = pin!(self.authenticate.view(&self.caller, &node));
            match view.as_mut().now_or_never() {
                Some(view) => view?,
                None => {
                    // What is made for this one holds nobody else up.
                    drop(turn.take());
                    let drained = self.drain.wait_for(|drain| *drain).map(|drained| drained.is_ok());
                    tokio::select! {
                        view = view => view?,
                        true = drained => return Ok(None),
                    }
                }
            }
        };
        let changes = self.cache.watch(&view);
        let session = Arc::new(Mutex::new(S::default()));
        let status = SessionStatus::new(node.id.clone(), self.peer, view.clone(), S::PROTOCOL);
        let registered = self.status.register(status, Arc::<Mutex<S>>::clone(&session));
        let age = self.config.max_age.mul_f64(0.9 + fastrand::f64() / 5.0);
        let mut open = Box::new(Open {
            session,
            cache: self.cache,
            authenticate: self.authenticate,
            caller: self.caller,
            view,
            node: node.id,
            requests: self.requests,
            changes,
            drain: self.drain,
            _registered: registered,
            closes: Box::pin(sleep(age)),
            turn,
        });
        tracing::info!(node = open.node, view = open.view, protocol = ?S::PROTOCOL, "a discovery session opened");
        open.take(first)?;
        Ok(Some(open))
    }
}

impl<A: Authenticate, S: Session> Open<A, S> {
    /// Waits until a response is due; `None` when the stream ends.
    async fn next(&mut self) -> Result<Option<S::Response>, Refusal> {
        loop {
            // Requests that are here already come first: they may ask for what would have to be sent next.
            while let Some(request) = self.requests.message().now_or_never() {
                match request? {
                    Some(request) => self.take(request)?,
                    None => return Ok(None),
                }
            }
            self.changes.mark_unchanged();
            let response = self.session().next(&self.cache, &self.view);
            if response.is_some() {
                // Only now: what is in the response is not newer than what is asked here.
                if !self.authenticate.may_see(&self.caller, &self.view) {
                    return Err(Refusal::permission_denied(format!("the view {} is not for this caller any more", self.view)));
                }
                return Ok(response);
            }
            // All that is due was taken by the transport: somebody else may come once that has left.
            drop(self.turn.take());
            let is_lost = self.session().is_lost();
            let is_holding = self.session().is_holding();
            if is_lost {
                tracing::info!(node = self.node, view = self.view, "a discovery session fell too far behind and begins anew");
                return Ok(None);
            }
            let drain = self.drain.wait_for(|drain| *drain).map(|drained| drained.is_ok());
            let request = tokio::select! {
                request = self.requests.message() => request?,
                Ok(()) = self.changes.changed() => continue,
                true = drain => return Ok(None),
                () = sleep(HOLD), if is_holding => {
                    self.session().release();
                    continue;
                }
                () = &mut self.closes => return Ok(None),
            };
            match request {
                Some(request) => self.take(request)?,
                None => return Ok(None),
            }
        }
    }

    fn take(&mut self, mut request: S::Request) -> Result<(), Refusal> {
        request.node();
        let before = request.refuses().then(|| nacks(&self.session().types()));
        self.session().request(request).map_err(|error| Refusal::resource_exhausted(error.to_string()))?;
        if let Some(before) = before {
            let after = nacks(&self.session().types());
            for (type_url, nack) in after.into_iter().filter(|nack| !before.contains(nack)) {
                tracing::warn!(node = self.node, view = self.view, type_url, nack = nack.message, "a peer refused a response");
            }
        }
        Ok(())
    }

    fn session(&self) -> MutexGuard<'_, S> {
        // What a session is after a panic is seen by its own peer alone.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last refusal of each type.
fn nacks(types: &BTreeMap<String, TypeStatus>) -> Vec<(String, Nack)> {
    types.iter().filter_map(|(type_url, status)| Some((type_url.clone(), status.last_nack.clone()?))).collect()
}
