//! A stream of the discovery service: a session state machine between the requests of a peer and the responses to it.
//!
//! It has no task of its own: its session runs when the transport asks for the next response, so a peer that does not read causes no work
//! and holds no responses.

use std::{
    collections::BTreeMap,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use ambit_api::envoy::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use futures::{FutureExt as _, Stream, future::BoxFuture};
use tokio::{
    sync::watch,
    time::{Sleep, sleep, timeout},
};
use tonic::Status as Refusal;

use super::{
    Authenticate, Cache, DeltaSession, Nack, Protocol, ServerConfig, SotwSession, Status, TypeStatus,
    calls::Calls,
    request::DeltaRequest,
    response::DeltaResponse,
    serve,
    status::{Registered, SessionStatus, Types},
    turns::{Turn, Turns},
    wire::{Answer, Ask, Requests},
};
use crate::XdsError;

/// How long a response waits for the answer to one that it depends on.
const HOLD: Duration = Duration::from_secs(1);

/// The parts of a stream that is open, each of which is looked at only when it has called: a change is no reason to look for requests, nor at
/// clocks.
const REQUESTS: u8 = 1;
const CHANGES: u8 = 1 << 1;
const END: u8 = 1 << 2;

/// So often the parts may call before others have their turn.
const ROUNDS: usize = 4;

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
    fn is_caught_up(&self) -> bool;
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
            fn is_caught_up(&self) -> bool {
                $session::is_caught_up(self)
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
pub(super) struct Opening<A: Authenticate, S: Session> {
    pub(super) cache: Cache,
    pub(super) authenticate: Arc<A>,
    pub(super) status: Status,
    pub(super) config: ServerConfig,
    pub(super) drain: watch::Receiver<bool>,
    pub(super) peer: String,
    pub(super) caller: A::Caller,
    pub(super) requests: Requests<S::Request>,
    pub(super) turns: Turns,
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
    /// The view is kept for as long as somebody looks at it.
    _watched: watch::Receiver<u64>,
    /// The session has nothing to say before the view changes or it is asked for something.
    settled: bool,
    /// How long a response that is put off still waits, if one is.
    hold: Option<Pin<Box<Sleep>>>,
    /// When it is old enough, or to be drained. One for as long as the stream lasts: most streams wait most of the time, and are many.
    end: BoxFuture<'static, ()>,
    _registered: Registered,
    /// Says that somebody looks from the place of the view.
    _stays: Option<Arc<()>>,
    /// Held until the peer has all that there was when it came.
    turn: Option<Turn>,
    calls: Arc<Calls>,
    of_requests: Waker,
    of_end: Waker,
}

/// `None` when the stream ends before.
type Opened<A, S> = Result<Option<Box<Open<A, S>>>, Refusal>;

enum State<A: Authenticate, S: Session> {
    Opening(BoxFuture<'static, Opened<A, S>>),
    Open(Box<Open<A, S>>),
    Closed,
}

impl<A: Authenticate, S: Session> Stream for State<A, S> {
    type Item = Result<Due<S::Response>, Refusal>;

    /// The next response of the stream; `None` ends it in order.
    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Self::Opening(opening) = &mut *self {
            let opened = ready!(opening.as_mut().poll(context));
            *self = Self::Closed;
            match opened {
                Ok(Some(open)) => *self = Self::Open(open),
                Ok(None) => return Poll::Ready(None),
                Err(refusal) => return Poll::Ready(Some(Err(refusal))),
            }
        }
        let Self::Open(open) = &mut *self else { return Poll::Ready(None) };
        let end = match ready!(open.poll_due(context)) {
            Ok(Some(response)) => return Poll::Ready(Some(Ok(Due { response, turn: open.turn.clone() }))),
            Ok(None) => None,
            Err(refusal) => Some(Err(refusal)),
        };
        *self = Self::Closed;
        Poll::Ready(end)
    }
}

impl<A: Authenticate, S: Session> Opening<A, S> {
    /// The whole stream.
    pub(super) fn responses(self) -> Responses<S::Response> {
        Box::pin(State::Opening(Box::pin(Box::new(self).first_request())))
    }

    async fn first_request(mut self: Box<Self>) -> Opened<A, S> {
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
        let calls = Calls::new(REQUESTS | CHANGES | END);
        let (watched, stays) = (self.cache.listen(&view, &calls, CHANGES), self.cache.stay(&view));
        let session = Arc::new(Mutex::new(S::default()));
        let status = SessionStatus::new(node.id.clone(), self.peer, view.clone(), S::PROTOCOL);
        let registered = self.status.register(status, Arc::<Mutex<S>>::clone(&session));
        let age = self.config.max_age.mul_f64(0.9 + fastrand::f64() / 5.0);
        let drain = self.drain;
        let end = async move {
            tokio::select! {
                () = serve::drained(drain) => {}
                () = sleep(age) => {}
            }
        };
        let mut open = Box::new(Open {
            session,
            cache: self.cache,
            authenticate: self.authenticate,
            caller: self.caller,
            view,
            node: node.id,
            requests: self.requests,
            _watched: watched,
            settled: false,
            hold: None,
            end: Box::pin(end),
            _registered: registered,
            _stays: stays,
            turn,
            of_requests: calls.caller(REQUESTS),
            of_end: calls.caller(END),
            calls,
        });
        tracing::info!(node = open.node, view = open.view, protocol = ?S::PROTOCOL, "a discovery session opened");
        open.take(first)?;
        Ok(Some(open))
    }
}

impl<A: Authenticate, S: Session> Open<A, S> {
    /// Waits until a response is due; `None` when the stream ends.
    fn poll_due(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<S::Response>, Refusal>> {
        self.calls.begin();
        for _ in 0..ROUNDS {
            // Requests that are here already come first: they may ask for what would have to be sent next.
            if self.calls.hears(REQUESTS) && !self.take_requests()? {
                return Poll::Ready(Ok(None));
            }
            // Before the session looks: what changes after that is heard of.
            if self.calls.hears(CHANGES) || !self.settled {
                if !self.authenticate.stands(&self.caller, &self.view) {
                    tracing::info!(
                        node = self.node,
                        view = self.view,
                        "a discovery session begins anew: it is seen from elsewhere"
                    );
                    return Poll::Ready(Ok(None));
                }
                if let Some(response) = self.respond()? {
                    return Poll::Ready(Ok(Some(response)));
                }
                if self.session().is_lost() {
                    tracing::info!(node = self.node, view = self.view, "a discovery session fell too far behind and begins anew");
                    return Poll::Ready(Ok(None));
                }
            }
            // All that is due was taken by the transport: somebody else may come once that has left.
            drop(self.turn.take());
            if self.calls.hears(END) && self.end.as_mut().poll(&mut Context::from_waker(&self.of_end)).is_ready() {
                return Poll::Ready(Ok(None));
            }
            // It is new each time, and few have one.
            if self.hold.as_mut().is_some_and(|hold| hold.as_mut().poll(context).is_ready()) {
                self.hold = None;
                self.session().release();
                self.settled = false;
            } else if self.calls.rests(context.waker()) {
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes the requests that are here; false when there will be no more. The stream is looked at again when one comes.
    fn take_requests(&mut self) -> Result<bool, Refusal> {
        loop {
            let request = self.requests.poll_message(&mut Context::from_waker(&self.of_requests));
            let Poll::Ready(request) = request else { return Ok(true) };
            match request? {
                Some(request) => self.take(request)?,
                None => return Ok(false),
            }
        }
    }

    /// The response that is due, if there is one.
    fn respond(&mut self) -> Result<Option<S::Response>, Refusal> {
        let (response, is_caught_up, is_holding) = {
            let mut session = self.session();
            let response = session.next(&self.cache, &self.view);
            (response, session.is_caught_up(), session.is_holding())
        };
        self.settled = response.is_none() || is_caught_up;
        // One that waits already waits no longer because something else has changed.
        let holds = response.is_none() && is_holding;
        self.hold = self.hold.take().filter(|_| holds).or_else(|| holds.then(|| Box::pin(sleep(HOLD))));
        // Only now: what is in the response is not newer than what is asked here.
        if response.is_some() && !self.authenticate.may_see(&self.caller, &self.view) {
            return Err(Refusal::permission_denied(format!("the view {} is not for this caller any more", self.view)));
        }
        Ok(response)
    }

    fn take(&mut self, mut request: S::Request) -> Result<(), Refusal> {
        request.node();
        let before = request.refuses().then(|| nacks(&self.session().types()));
        let settled = {
            let mut session = self.session();
            session.request(request).map_err(|error| Refusal::resource_exhausted(error.to_string()))?;
            session.is_caught_up()
        };
        self.settled &= settled;
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
