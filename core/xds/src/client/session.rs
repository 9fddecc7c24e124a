//! The client's side of a delta stream as a state machine: messages in, messages out, no I/O and no time.
//!
//! Source of the rules: "xDS REST and gRPC protocol", sections on the incremental variant.

use std::collections::{BTreeSet, HashMap};

use ambit_api::envoy::pb::{
    envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    google::rpc,
};

use crate::{Node, Rejected, Resource, XdsError};

/// gRPC's INVALID_ARGUMENT, the code of a NACK.
const INVALID_ARGUMENT: i32 = 3;
/// How much of the reasons a NACK repeats, in bytes: an error detail is for reading.
const NACK_LIMIT: usize = 8 << 10;

/// Which resources of a type a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// All of them.
    Wildcard,
    /// Those named at run time.
    Named,
}

/// What a response asks the handler of its type to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The type.
    pub type_url: String,
    /// Goes back in the answer.
    pub nonce: String,
    /// New or changed resources.
    pub upserts: Vec<Resource>,
    /// Names that are gone, or never were.
    pub removals: Vec<String>,
    /// Resources that are broken as messages, refused before the handler sees them.
    pub malformed: Vec<Rejected>,
}

#[derive(Debug)]
struct TypeState {
    type_url: String,
    interest: Interest,
    wanted: BTreeSet<String>,
    /// Names the server has answered since they were wanted, with a resource or with its absence.
    answered: BTreeSet<String>,
    /// The version in force of each name; a rejected version never gets here.
    held: HashMap<String, String>,
    /// A first batch was applied, on this stream or one before it.
    synced: bool,
    /// The server knows of this type on this stream.
    opened: bool,
}

/// The types of one client and what it holds of each, across streams.
#[derive(Debug)]
pub struct Session {
    node: Node,
    types: Vec<TypeState>,
    connected: bool,
    introduced: bool,
}

impl Session {
    /// A session that holds nothing. Types are asked for in the order given.
    #[must_use]
    pub fn new(node: Node, types: impl IntoIterator<Item = (String, Interest)>) -> Self {
        let state = |(type_url, interest)| TypeState {
            type_url,
            interest,
            wanted: BTreeSet::new(),
            answered: BTreeSet::new(),
            held: HashMap::new(),
            synced: false,
            opened: false,
        };
        Self { node, types: types.into_iter().map(state).collect(), connected: false, introduced: false }
    }

    /// Holds these versions of a type's resources from an earlier run, so that the server sends only what is different. To be called
    /// before the first stream.
    pub fn restore(&mut self, type_url: &str, versions: impl IntoIterator<Item = (String, String)>) {
        if let Some(state) = self.types.iter_mut().find(|state| state.type_url == type_url) {
            state.held.extend(versions);
        }
    }

    /// A new stream: what to send first. Each request carries the versions held, so that only differences come back.
    pub fn connected(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.connected = true;
        self.introduced = false;
        let mut requests = Vec::new();
        for index in 0..self.types.len() {
            if let Some(state) = self.types.get_mut(index) {
                state.opened = false;
            }
            requests.extend(self.open(index));
        }
        requests
    }

    /// The stream ended; what is held stays held.
    pub fn disconnected(&mut self) {
        self.connected = false;
    }

    /// Wants exactly `names` of a type from now on: what to send for that.
    pub fn want(&mut self, type_url: &str, names: &BTreeSet<String>) -> Option<DeltaDiscoveryRequest> {
        let index = self.types.iter().position(|state| state.type_url == type_url)?;
        let connected = self.connected;
        let state = self.types.get_mut(index)?;
        if state.interest == Interest::Wildcard || state.wanted == *names {
            return None;
        }
        let subscribe: Vec<String> = names.difference(&state.wanted).cloned().collect();
        let unsubscribe: Vec<String> = state.wanted.difference(names).cloned().collect();
        for name in &unsubscribe {
            state.held.remove(name);
            state.answered.remove(name);
        }
        state.wanted.clone_from(names);
        if !connected {
            return None;
        }
        if !state.opened {
            return self.open(index);
        }
        let mut request = self.request(type_url);
        request.resource_names_subscribe = subscribe;
        request.resource_names_unsubscribe = unsubscribe;
        Some(request)
    }

    /// A response: what the handler has to do with it.
    ///
    /// # Errors
    /// When the response is of a type that was not asked for.
    pub fn response(&mut self, response: DeltaDiscoveryResponse) -> Result<Batch, XdsError> {
        let Some(state) = self.types.iter_mut().find(|state| state.type_url == response.type_url) else {
            return Err(XdsError::Protocol(format!("a response of type {:?}, which was not asked for", response.type_url)));
        };
        let mut batch = Batch {
            type_url: response.type_url,
            nonce: response.nonce,
            upserts: Vec::with_capacity(response.resources.len()),
            removals: response.removed_resources,
            malformed: Vec::new(),
        };
        let mut seen = BTreeSet::new();
        for resource in response.resources {
            let mut refuse = |reason: String| batch.malformed.push(Rejected { name: resource.name.clone(), reason });
            state.answered.insert(resource.name.clone());
            state.answered.extend(resource.aliases.iter().filter(|alias| state.wanted.contains(*alias)).cloned());
            // A resource without a body only renews a time to live, which this client does not ask for.
            let Some(body) = resource.resource else { continue };
            if body.type_url != state.type_url {
                refuse(format!("its body is of type {:?}", body.type_url));
            } else if !seen.insert(resource.name.clone()) {
                refuse("it is there twice in one response".to_owned());
            } else {
                batch.upserts.push(Resource { name: resource.name, version: resource.version, body });
            }
        }
        state.answered.extend(batch.removals.iter().cloned());
        if state.interest == Interest::Named {
            state.answered.retain(|name| state.wanted.contains(name));
        } else {
            state.answered.clear();
        }
        Ok(batch)
    }

    /// The handler is done with a batch: the ACK, or the NACK that names each resource it did not take.
    ///
    /// `versions` are the names and versions of the batch's upserts, `removals` its removals.
    pub fn applied(
        &mut self,
        type_url: &str,
        nonce: String,
        versions: Vec<(String, String)>,
        removals: &[String],
        rejected: &[Rejected],
    ) -> DeltaDiscoveryRequest {
        let bad: BTreeSet<&str> = rejected.iter().map(|rejected| rejected.name.as_str()).collect();
        if let Some(state) = self.types.iter_mut().find(|state| state.type_url == type_url) {
            for name in removals {
                state.held.remove(name);
            }
            state.held.extend(versions.into_iter().filter(|(name, _)| !bad.contains(name.as_str())));
            state.synced = true;
        }
        let mut request = self.request(type_url);
        request.response_nonce = nonce;
        request.error_detail = (!rejected.is_empty()).then(|| rpc::Status {
            code: INVALID_ARGUMENT,
            message: reasons(rejected),
            ..rpc::Status::default()
        });
        request
    }

    /// Whether the first state of a type is in force: for a wildcard after its first batch; for names once every wildcard type is
    /// there (they say which names to want) and the server has answered each name wanted.
    #[must_use]
    pub fn is_synced(&self, type_url: &str) -> bool {
        let wildcards = || self.types.iter().filter(|state| state.interest == Interest::Wildcard).all(|state| state.synced);
        self.types.iter().find(|state| state.type_url == type_url).is_some_and(|state| match state.interest {
            Interest::Wildcard => state.synced,
            Interest::Named => wildcards() && state.wanted.is_subset(&state.answered),
        })
    }

    /// How many resources of a type are in force.
    #[must_use]
    pub fn held(&self, type_url: &str) -> usize {
        self.types.iter().find(|state| state.type_url == type_url).map_or(0, |state| state.held.len())
    }

    fn open(&mut self, index: usize) -> Option<DeltaDiscoveryRequest> {
        let state = self.types.get_mut(index)?;
        // An empty list in a first request would ask for everything.
        if state.interest == Interest::Named && state.wanted.is_empty() {
            return None;
        }
        state.opened = true;
        let type_url = state.type_url.clone();
        let subscribe = state.wanted.iter().cloned().collect();
        let held = state.held.clone();
        let mut request = self.request(&type_url);
        request.resource_names_subscribe = subscribe;
        request.initial_resource_versions = held;
        Some(request)
    }

    /// An empty request; the first one of a stream says who asks.
    fn request(&mut self, type_url: &str) -> DeltaDiscoveryRequest {
        let node = (!self.introduced).then(|| self.node.clone());
        self.introduced = true;
        DeltaDiscoveryRequest { node, type_url: type_url.to_owned(), ..DeltaDiscoveryRequest::default() }
    }
}

fn reasons(rejected: &[Rejected]) -> String {
    let mut text = String::new();
    for (count, Rejected { name, reason }) in rejected.iter().enumerate() {
        let part = format!("{}{name}: {reason}", if count == 0 { "" } else { "; " });
        if text.len() + part.len() > NACK_LIMIT {
            text.push_str(&format!("; and {} more", rejected.len() - count));
            break;
        }
        text.push_str(&part);
    }
    text
}
