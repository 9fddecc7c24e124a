//! The client: the session of [`super::session`] over a tonic stream, reconnecting for ever.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use ambit_api::envoy::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};

use super::{Backoff, Credentials, Handler, Session, Subscription, Subscriptions, Target};
use crate::{Node, Rejected, XdsError};

/// The largest response taken, in bytes: about a hundred thousand workloads.
const MAX_RESPONSE: usize = 256 << 20;
/// Requests waiting to be written; the client does not read on while they do not go out.
const REQUESTS: usize = 16;
/// A stream that lived this long worked.
const SETTLED: Duration = Duration::from_millis(100);

/// A discovery client. [`DeltaClient::run`] never ends by itself: the owner drops or aborts it.
pub struct DeltaClient {
    target: Target,
    credentials: Credentials,
    session: Session,
    handlers: HashMap<String, Box<dyn Handler>>,
    subscriptions: Subscriptions,
    synced: BTreeMap<String, watch::Sender<bool>>,
    connected: watch::Sender<bool>,
}

impl DeltaClient {
    /// A client that asks for `types`, in that order. `subscriptions` holds the names wanted of the types that are asked for by name.
    #[must_use]
    pub fn new(
        target: Target,
        node: Node,
        credentials: Credentials,
        types: Vec<Subscription>,
        subscriptions: Subscriptions,
    ) -> Self {
        let session = Session::new(node, types.iter().map(|entry| (entry.type_url.clone(), entry.interest)));
        let synced = types.iter().map(|entry| (entry.type_url.clone(), watch::Sender::new(false))).collect();
        let handlers = types.into_iter().map(|entry| (entry.type_url, entry.handler)).collect();
        Self { target, credentials, session, handlers, subscriptions, synced, connected: watch::Sender::new(false) }
    }

    /// Holds these versions from an earlier run ([`Session::restore`]). What they stand for must be in force already.
    pub fn restore(&mut self, type_url: &str, versions: impl IntoIterator<Item = (String, String)>) {
        self.session.restore(type_url, versions);
    }

    /// Turns true once, when the first state of the type is in force ([`Session::is_synced`]); false for a type that is not asked for.
    #[must_use]
    pub fn synced(&self, type_url: &str) -> watch::Receiver<bool> {
        self.synced.get(type_url).map_or_else(|| watch::Sender::new(false).subscribe(), watch::Sender::subscribe)
    }

    /// Whether there is a stream now on which the server has answered.
    #[must_use]
    pub fn connection(&self) -> watch::Receiver<bool> {
        self.connected.subscribe()
    }

    /// Keeps a stream open: at once again when the server closes it in order, after a [`Backoff`] when it fails.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new();
        loop {
            let mut answered = false;
            let opened = Instant::now();
            let end = self.stream(&mut answered).await;
            self.session.disconnected();
            self.connected.send_replace(false);
            // A server that answers and closes at once, over and over, is not a server that works.
            let settled = answered && opened.elapsed() >= SETTLED;
            if settled {
                backoff.reset();
            }
            match end {
                Ok(()) if settled => tracing::debug!("the discovery server closed the stream; opening another"),
                Ok(()) => sleep(backoff.next_wait()).await,
                Err(error) => {
                    let wait = backoff.next_wait();
                    tracing::warn!(%error, retry_ms = wait.as_millis(), "no discovery stream");
                    sleep(wait).await;
                }
            }
        }
    }

    /// One stream, from its opening to its end; `answered` says whether a response was applied on it.
    async fn stream(&mut self, answered: &mut bool) -> Result<(), XdsError> {
        let mut wanted = self.subscriptions.watch();
        self.want(&wanted.borrow_and_update().clone());
        let (requests, outgoing) = mpsc::channel(REQUESTS);
        let mut client = AggregatedDiscoveryServiceClient::new(self.target.channel().await?)
            .max_decoding_message_size(MAX_RESPONSE)
            .max_encoding_message_size(MAX_RESPONSE);
        let mut request = Request::new(ReceiverStream::new(outgoing));
        *request.metadata_mut() = self.credentials.headers().await?;
        // A server may answer with headers only once it has read a request: both directions start together.
        let mut first = self.session.connected();
        let open = client.delta_aggregated_resources(request);
        let feed = async {
            for request in first.drain(..) {
                if requests.send(request).await.is_err() {
                    return;
                }
            }
        };
        let (response, ()) = tokio::join!(open, feed);
        let mut responses = response?.into_inner();
        loop {
            let outgoing = tokio::select! {
                response = next(&mut responses) => match response? {
                    Some(response) => {
                        let outgoing = self.apply(response, &mut wanted)?;
                        *answered = true;
                        self.connected.send_replace(true);
                        outgoing
                    }
                    None => return Ok(()),
                },
                Ok(()) = wanted.changed() => {
                    let outgoing = self.want(&wanted.borrow_and_update().clone());
                    self.publish();
                    outgoing
                }
            };
            for request in outgoing {
                // The stream is over; the next read says why.
                if requests.send(request).await.is_err() {
                    break;
                }
            }
        }
    }

    /// Hands a response to its handler and answers it. Names that the handler came to want are asked for with the answer, so that
    /// "synced" never turns true between the two.
    fn apply(
        &mut self,
        response: DeltaDiscoveryResponse,
        wanted: &mut watch::Receiver<BTreeMap<String, BTreeSet<String>>>,
    ) -> Result<Vec<DeltaDiscoveryRequest>, XdsError> {
        let batch = self.session.response(response)?;
        let versions = batch.upserts.iter().map(|resource| (resource.name.clone(), resource.version.clone())).collect();
        let removals = batch.removals.clone();
        let mut rejected: Vec<Rejected> = batch.malformed;
        if let Some(handler) = self.handlers.get_mut(&batch.type_url) {
            rejected.extend(handler.apply(batch.upserts, batch.removals));
        }
        for Rejected { name, reason } in &rejected {
            tracing::warn!(type_url = batch.type_url, name, reason, "a resource was rejected");
        }
        let mut outgoing = vec![self.session.applied(&batch.type_url, batch.nonce, versions, &removals, &rejected)];
        outgoing.extend(self.want(&wanted.borrow_and_update().clone()));
        self.publish();
        Ok(outgoing)
    }

    fn want(&mut self, wanted: &BTreeMap<String, BTreeSet<String>>) -> Vec<DeltaDiscoveryRequest> {
        wanted.iter().filter_map(|(type_url, names)| self.session.want(type_url, names)).collect()
    }

    fn publish(&self) {
        for (type_url, synced) in &self.synced {
            if self.session.is_synced(type_url) {
                synced.send_if_modified(|synced| !std::mem::replace(synced, true));
            }
        }
    }
}

async fn next(responses: &mut Streaming<DeltaDiscoveryResponse>) -> Result<Option<DeltaDiscoveryResponse>, XdsError> {
    Ok(responses.message().await?)
}
