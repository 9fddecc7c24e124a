//! The aggregated discovery service: who is let in, and within which limits.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::sync::watch;
use tonic::{Request, Status as Refusal, metadata::MetadataMap};

use super::{
    Cache, Status,
    stream::{Opening, Responses, Session},
    turns::Turns,
    wire::{AdsService, Requests},
};
use crate::Node;

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

    /// Whether the view is still the caller's: it may be seen from elsewhere by now. It is asked whenever something has changed; a stream
    /// whose view is another's ends in order, and its peer comes back to its own.
    fn stands(&self, caller: &Self::Caller, view: &str) -> bool {
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
    /// A connection over which nothing comes for so long is asked whether it is still there,
    pub keepalive: Duration,
    /// and closed when it has not answered after so long.
    pub keepalive_timeout: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            max_age: Duration::from_secs(30 * 60),
            first_request: Duration::from_secs(10),
            max_request: 32 << 20,
            openings: 16,
            opening: Duration::from_secs(30),
            keepalive: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(20),
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

    /// As a service of a tonic server, which has a task for each stream; [`Self::serve`] has one for each connection.
    #[must_use]
    pub fn into_service(self) -> AdsService<A> {
        AdsService::new(self)
    }

    pub(super) fn config(&self) -> &ServerConfig {
        &self.config
    }

    pub(super) fn drain(&self) -> watch::Receiver<bool> {
        self.drain.clone()
    }

    /// A stream whose requests these are.
    pub(super) async fn open<S: Session>(
        &self,
        request: Request<Requests<S::Request>>,
    ) -> Result<Responses<S::Response>, Refusal> {
        let peer = request.remote_addr();
        let (metadata, _, requests) = request.into_parts();
        let caller = self.authenticate.caller(&metadata, peer).await?;
        let opening = Opening::<A, S> {
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
        Ok(opening.responses())
    }
}
