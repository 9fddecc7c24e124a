//! In which order the types of a view are sent ("Eventual consistency considerations" of Envoy's xDS protocol).

use std::{ops::Deref, sync::Arc};

use ambit_api::type_url::{ADDRESS, AUTHORIZATION, CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET};

const ORDER: [&str; 7] = [SECRET, CLUSTER, ENDPOINT, LISTENER, ROUTE, AUTHORIZATION, ADDRESS];

/// The URL of a type. Those that are known are there once for all sessions, which read them at each change.
#[derive(Debug, Clone)]
pub(super) enum TypeUrl {
    Known(&'static str),
    Other(Arc<str>),
}

impl From<&str> for TypeUrl {
    fn from(url: &str) -> Self {
        ORDER.into_iter().find(|known| *known == url).map_or_else(|| Self::Other(url.into()), Self::Known)
    }
}

impl Deref for TypeUrl {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Known(url) => url,
            Self::Other(url) => url,
        }
    }
}

/// What is named goes before what names it: clusters, endpoints, listeners, routes. A policy goes before the workload that names it,
/// because a workload with a policy not yet known denies.
pub(super) fn rank(url: &str) -> usize {
    ORDER.iter().position(|known| *known == url).unwrap_or(ORDER.len())
}

/// Types whose responses must have been answered before this one is sent: a route to a cluster that is still warming would fail.
pub(super) fn waits_for(url: &str) -> &'static [&'static str] {
    match url {
        LISTENER | ROUTE => &[CLUSTER, ENDPOINT],
        _ => &[],
    }
}

/// Resources of the type are named by those of types after it, so that they must outlive these.
pub(super) fn is_named_by_others(url: &str) -> bool {
    matches!(url, SECRET | CLUSTER | ENDPOINT | ROUTE | AUTHORIZATION)
}

/// The type whose resources are sent again after this one: Envoy waits for the endpoints of a changed cluster and for the routes of a
/// changed listener even if these are what they were.
pub(super) fn dependent(url: &str) -> Option<&'static str> {
    match url {
        CLUSTER => Some(ENDPOINT),
        LISTENER => Some(ROUTE),
        _ => None,
    }
}
