//! What routes say for single filters.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use serde_json::Value;

use super::{Cors, Fault, GlobalLimit, LocalLimit, Session, SizeLimits};

/// What a route says for single filters, whatever it does otherwise (`typed_per_filter_config` and `metadata`). Of thousands of routes hardly
/// one says something, so it is held aside.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RouteFilters {
    /// What pages of other origins may do.
    pub cors: Option<Cors>,
    /// How requests of a session find their endpoint, if they have one.
    pub session: Option<Session>,
    /// What is put in the way of requests.
    pub fault: Option<Arc<Fault>>,
    /// How often requests may come. Routes of a virtual host may share one.
    pub limit: Option<Arc<LocalLimit>>,
    /// How large requests may be.
    pub sizes: SizeLimits,
    /// What the route says of itself, by filter.
    pub metadata: Value,
    /// What servers of limits are asked, by the name of the filter that asks.
    pub global_limits: BTreeMap<String, Arc<GlobalLimit>>,
    /// Whether filters of these names have requests processed outside; of others they say it themselves.
    pub processing: BTreeMap<String, bool>,
}

/// Of a route that says nothing.
pub(super) static NOTHING: RouteFilters = RouteFilters {
    cors: None,
    session: None,
    fault: None,
    limit: None,
    sizes: SizeLimits::NONE,
    metadata: Value::Null,
    global_limits: BTreeMap::new(),
    processing: BTreeMap::new(),
};

impl RouteFilters {
    /// As a route holds it: not at all where nothing is said.
    #[must_use]
    pub fn held(self) -> Option<Box<Self>> {
        let Self { cors, session, fault, limit, sizes, metadata, global_limits, processing } = &self;
        let silent = cors.is_none() && session.is_none() && fault.is_none() && limit.is_none() && metadata.is_null();
        let silent = silent && *sizes == SizeLimits::NONE && global_limits.is_empty() && processing.is_empty();
        (!silent).then(|| Box::new(self))
    }
}
