//! What routes, and the virtual hosts that they are in, say for single filters (`typed_per_filter_config`).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ambit_api::envoy::pb::google::protobuf::Any;
use ambit_model::route::{Cors, Fault, GlobalLimit, LocalLimit, Session};

use super::{
    buffer, cors, ext_proc, fault, limit, limiter,
    read::{Compiled, Problem, Under},
    session,
};

/// What is said for filters.
#[derive(Debug, Clone, Default)]
pub struct Said {
    pub cors: Option<Cors>,
    pub fault: Option<Arc<Fault>>,
    pub limit: Option<Arc<LocalLimit>>,
    /// `Some(None)` turns sessions off.
    pub session: Option<Option<Session>>,
    /// The longest body.
    pub body: Option<u64>,
    /// What servers of limits are asked, by the names of the filters.
    pub global: BTreeMap<String, Arc<GlobalLimit>>,
    /// By the names of the filters.
    pub processing: BTreeMap<String, bool>,
}

impl Said {
    /// What a route or a virtual host says.
    pub fn read(mut said: HashMap<String, Any>) -> Compiled<Self> {
        let mut global = BTreeMap::new();
        let asked: Vec<String> = said.keys().filter(|name| limiter::is_name(name)).cloned().collect();
        for (name, any) in asked.into_iter().filter_map(|name| said.remove_entry(&name)) {
            let limit = limiter::of_routes(&any).under(&name)?;
            global.insert(name, limit);
        }
        let read = Self {
            cors: cors::per_filter(&mut said)?,
            fault: said.remove(fault::NAME).map(|any| fault::fault(&any)).transpose().under(fault::NAME)?,
            limit: said.remove(limit::NAME).map(|any| limit::of_routes(&any)).transpose().under(limit::NAME)?,
            session: said.remove(session::NAME).map(|any| session::per_route(&any)).transpose().under(session::NAME)?,
            body: said.remove(buffer::NAME).map(|any| buffer::per_route(&any)).transpose().under(buffer::NAME)?,
            global,
            processing: ext_proc::per_filter(&mut said)?,
        };
        match said.keys().min() {
            Some(other) => Err(Problem::new(format!("{other} is not implemented"))),
            None => Ok(read),
        }
    }

    /// Whether nothing is said for any.
    pub fn is_empty(&self) -> bool {
        let Self { cors, fault, limit, session, body, global, processing } = self;
        let for_routes = cors.is_some() || fault.is_some() || limit.is_some() || session.is_some();
        !for_routes && body.is_none() && global.is_empty() && processing.is_empty()
    }

    /// The same with what `outer` says of filters of which nothing is said here.
    pub fn or(self, outer: &Self) -> Self {
        let mut processing = outer.processing.clone();
        processing.extend(self.processing);
        Self {
            processing,
            cors: self.cors.or_else(|| outer.cors.clone()),
            fault: self.fault.or_else(|| outer.fault.clone()),
            limit: self.limit.or_else(|| outer.limit.clone()),
            session: self.session.or_else(|| outer.session.clone()),
            body: self.body.or(outer.body),
            global: outer.global.clone().into_iter().chain(self.global).collect(),
        }
    }
}
