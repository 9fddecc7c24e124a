//! What routes of a virtual host say alike: it is compiled once, and held once.
//!
//! Thousands of routes lead to a few services, and change headers in a few ways.

use std::{collections::HashMap, mem::take, sync::Arc};

use ambit_api::envoy::pb::envoy::config::route::v3::{self as pb, route::Action as PbAction};
use ambit_model::route::{Action, HeaderMutations, Route, Upstream};
use prost::Message;

use crate::xds::read::Compiled;

/// Of how many that differ each is known. Where there are more, hardly two routes say the same.
const MOST: usize = 1024;

/// Changes to requests and to responses, in the order they apply.
pub type Chains = (Arc<[HeaderMutations]>, Arc<[HeaderMutations]>);

/// What routes of one virtual host have said so far, as it was encoded.
#[derive(Default)]
pub struct Alike {
    forwards: HashMap<Vec<u8>, Arc<Upstream>>,
    changes: HashMap<Vec<u8>, Chains>,
}

impl Alike {
    /// A route that there was in the same surroundings, and what it was compiled to.
    pub fn learn(&mut self, message: &[u8], compiled: &Route) {
        let Ok(mut route) = pb::Route::decode(message) else { return };
        let chains = (compiled.request_headers.clone(), compiled.response_headers.clone());
        self.changes.insert(changes_of(&mut route).encode_to_vec(), chains);
        if let (Some(PbAction::Route(said)), Action::Forward(upstream)) = (&route.action, &compiled.action) {
            self.forwards.insert(said.encode_to_vec(), upstream.clone());
        }
    }

    /// Where a route forwards to.
    pub fn forward(
        &mut self,
        said: pb::RouteAction,
        compile: impl FnOnce(pb::RouteAction) -> Compiled<Upstream>,
    ) -> Compiled<Arc<Upstream>> {
        known(&mut self.forwards, said, |said| compile(said).map(Arc::new))
    }

    /// What a route changes of headers, which is left out of it.
    pub fn changes(&mut self, route: &mut pb::Route, compile: impl FnOnce(pb::Route) -> Compiled<Chains>) -> Compiled<Chains> {
        known(&mut self.changes, changes_of(route), compile)
    }
}

fn known<M: Message, T: Clone>(all: &mut HashMap<Vec<u8>, T>, said: M, compile: impl FnOnce(M) -> Compiled<T>) -> Compiled<T> {
    let encoded = said.encode_to_vec();
    if let Some(known) = all.get(&encoded) {
        return Ok(known.clone());
    }
    let compiled = compile(said)?;
    if all.len() < MOST {
        all.insert(encoded, compiled.clone());
    }
    Ok(compiled)
}

/// A route that says nothing but what this one changes of headers, which is left out of it.
fn changes_of(route: &mut pb::Route) -> pb::Route {
    pb::Route {
        request_headers_to_add: take(&mut route.request_headers_to_add),
        request_headers_to_remove: take(&mut route.request_headers_to_remove),
        response_headers_to_add: take(&mut route.response_headers_to_add),
        response_headers_to_remove: take(&mut route.response_headers_to_remove),
        ..Default::default()
    }
}
