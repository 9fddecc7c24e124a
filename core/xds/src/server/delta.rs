//! The server's side of a delta stream as a state machine: requests in, responses out, no I/O and no time.

use std::collections::BTreeMap;

use ambit_api::type_url;

use super::{
    Cache, TypeStatus,
    cache::Sight,
    order::{is_named_by_others, rank, waits_for},
    request::DeltaRequest,
    response::{DeltaResponse, Head, Resources},
    subscription::Subscription,
};
use crate::XdsError;

/// Types one session may ask for.
pub(super) const MAX_TYPES: usize = 16;
/// Names one session may ask for, of one type, or say that it has.
const MAX_NAMES: usize = 1 << 19;

/// What the peer of one stream asked for, and what it was sent.
#[derive(Debug, Default)]
pub struct DeltaSession {
    /// By rank and URL.
    types: Vec<Subscription>,
    nonce: u64,
    /// Something is put off until the peer has answered what it depends on.
    holding: bool,
    /// The peer took too long: what was put off goes out without that.
    released: bool,
    /// The peer has fallen too far behind.
    lost: bool,
    /// The peer was sent all that there was when it was looked last, and has only answered since.
    caught_up: bool,
}

impl DeltaSession {
    /// A stream on which nothing was asked.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a request: a subscription, an ACK, a NACK, or several of these at once.
    ///
    /// # Errors
    /// When the peer asks for more than a session may.
    pub fn request(&mut self, request: impl Into<DeltaRequest>) -> Result<(), XdsError> {
        let DeltaRequest { message: request, told } = request.into();
        let asks = !request.resource_names_subscribe.is_empty() || !request.resource_names_unsubscribe.is_empty();
        self.caught_up &= !asks && !request.response_nonce.is_empty();
        let too_many = || XdsError::Protocol(format!("more than {MAX_NAMES} names of type {}", request.type_url));
        let rank = rank(&request.type_url);
        let place = self.types.binary_search_by(|of| (of.rank, &*of.type_url).cmp(&(rank, request.type_url.as_str())));
        let place = match place {
            Ok(place) => place,
            Err(_) if self.types.len() >= MAX_TYPES => {
                return Err(XdsError::Protocol(format!("more than {MAX_TYPES} types on one stream")));
            }
            Err(place) => {
                if told.len() > MAX_NAMES {
                    return Err(too_many());
                }
                let wildcard = request.resource_names_subscribe.is_empty();
                self.caught_up = false;
                self.types.insert(place, Subscription::new(rank, request.type_url.as_str().into(), wildcard, told));
                place
            }
        };
        let Some(of) = self.types.get_mut(place) else { return Ok(()) };
        of.answer(&request);
        of.subscribe(&request.resource_names_subscribe);
        of.unsubscribe(&request.resource_names_unsubscribe);
        if of.names() > MAX_NAMES { Err(too_many()) } else { Ok(()) }
    }

    /// The next response that is due, if there is one. At most one response of a type is under way; what changes meanwhile is in
    /// the next one. What is named goes before what names it, and its
    /// removal after.
    pub fn next(&mut self, cache: &Cache, view: &str) -> Option<DeltaResponse> {
        self.holding = false;
        cache.look(view, |types| {
            let response = self.next_upsert(types).or_else(|| self.next_removal(types));
            // Most sessions have all when they are sent what has changed. They need not be looked at again for the next response, nor
            // when this one is answered.
            self.caught_up = !self.lost && self.types.iter().all(|of| of.is_caught_up(types.of(&of.type_url)));
            if response.is_none() || self.caught_up {
                self.released = false;
            }
            response
        })
    }

    /// Whether there is nothing to send before the view changes or the peer asks for something.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        self.caught_up
    }

    /// Whether something waits for an answer of the peer to something else.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        self.holding
    }

    /// Waits no longer: a peer that dropped its interest in a type may never answer its last response.
    pub fn release(&mut self) {
        self.released = true;
    }

    /// Whether more was removed since the peer was last sent something than is remembered. The stream has to end; on the next one the
    /// peer says itself what it has.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    fn next_upsert(&mut self, types: Sight<'_>) -> Option<DeltaResponse> {
        for place in 0..self.types.len() {
            let waits_for = self.types.get(place).map(|of| waits_for(&of.type_url)).unwrap_or_default();
            let held = !self.released && waits_for.iter().any(|other| self.is_outstanding(other));
            self.holding |= held;
            let Some(of) = self.types.get_mut(place) else { continue };
            if (of.is_outstanding() || held) && !of.is_asked() {
                continue;
            }
            let defer = is_named_by_others(&of.type_url);
            let Some(taken) = of.take(types.of(&of.type_url), defer) else {
                self.lost = true;
                return None;
            };
            if taken.resources.is_empty() && taken.removed.is_empty() && !of.owed {
                continue;
            }
            of.owed = false;
            if *of.type_url == *type_url::CLUSTER {
                self.ask_again(&taken.resources.names_of_endpoints());
            }
            return self.respond(place, taken.resources, taken.removed);
        }
        None
    }

    /// The session's types, for people.
    #[must_use]
    pub fn status(&self) -> BTreeMap<String, TypeStatus> {
        self.types.iter().map(|of| (of.type_url.to_string(), of.status())).collect()
    }

    fn is_outstanding(&self, type_url: &str) -> bool {
        self.types.iter().any(|of| *of.type_url == *type_url && of.is_outstanding())
    }

    /// Removals that were put off: once nothing else is to be sent and the types that might name the resources have been answered.
    fn next_removal(&mut self, types: Sight<'_>) -> Option<DeltaResponse> {
        for place in (0..self.types.len()).rev() {
            let rank = self.types.get(place).filter(|of| of.defers()).map(|of| of.rank);
            let Some(rank) = rank else { continue };
            if !self.released && self.types.iter().any(|other| other.rank >= rank && other.is_outstanding()) {
                self.holding = true;
                continue;
            }
            let of = self.types.get_mut(place)?;
            // It may have come back meanwhile.
            let removed = of.take_deferred(types.of(&of.type_url));
            if !removed.is_empty() {
                return self.respond(place, Resources::default(), removed);
            }
        }
        None
    }

    /// A cluster is warmed with its endpoints, which Envoy does not ask for again: neither when the cluster changes, nor when it is a
    /// further one with the same endpoints.
    fn ask_again(&mut self, endpoints: &[String]) {
        if let Some(of) = self.types.iter_mut().find(|of| *of.type_url == *type_url::ENDPOINT) {
            of.ask_again(endpoints);
        }
    }

    fn respond(&mut self, place: usize, resources: Resources, removed: Vec<String>) -> Option<DeltaResponse> {
        let of = self.types.get_mut(place)?;
        self.nonce += 1;
        let head = Head { generation: of.sent(self.nonce), type_url: of.type_url.clone(), removed, nonce: self.nonce };
        Some(DeltaResponse { head, resources })
    }
}
