//! Responses of delta sessions, of which the resources are encoded already.

use std::{fmt, sync::Arc};

use ambit_api::envoy::pb::envoy::{config::cluster::v3::Cluster, service::discovery::v3::DeltaDiscoveryResponse};
use prost::Message;

use super::Entry;

/// A `DeltaDiscoveryResponse`.
#[derive(Debug, Clone)]
pub struct DeltaResponse {
    /// All of it but the resources.
    pub(super) head: DeltaDiscoveryResponse,
    pub(super) resources: Resources,
}

/// Resources of a response.
#[derive(Clone)]
pub(super) enum Resources {
    /// These.
    Some(Vec<Arc<Entry>>),
    /// Those of the whole view, or those that changed last in it, as fields of the response.
    Fields(Arc<Vec<u8>>),
}

impl fmt::Debug for Resources {
    /// Without the bytes, which may be those of private keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Some(entries) => f.debug_tuple("Some").field(entries).finish(),
            Self::Fields(fields) => f.debug_tuple("Fields").field(&fields.len()).finish(),
        }
    }
}

impl Default for Resources {
    fn default() -> Self {
        Self::Some(Vec::new())
    }
}

impl Resources {
    /// By which names the endpoints of these clusters are asked for; none of a whole view, before which nothing was. What changes of clusters
    /// is never in fields: their removal is put off.
    pub(super) fn names_of_endpoints(&self) -> Vec<String> {
        let Self::Some(clusters) = self else { return Vec::new() };
        let name = |entry: &Arc<Entry>| {
            let config = Cluster::decode(entry.body().value.as_slice()).ok().and_then(|cluster| cluster.eds_cluster_config);
            let named = config.map(|config| config.service_name).filter(|name| !name.is_empty());
            named.unwrap_or_else(|| entry.name.to_string())
        };
        clusters.iter().map(name).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Some(entries) => entries.is_empty(),
            Self::Fields(fields) => fields.is_empty(),
        }
    }
}

#[cfg(test)]
impl DeltaResponse {
    /// The message, decoded.
    pub(super) fn message(&self) -> DeltaDiscoveryResponse {
        let resources = match &self.resources {
            Resources::Some(entries) => entries.iter().map(|entry| entry.encoded.resource()).collect(),
            // They were encoded here, so they can be decoded.
            Resources::Fields(fields) => DeltaDiscoveryResponse::decode(fields.as_slice()).unwrap_or_default().resources,
        };
        DeltaDiscoveryResponse { resources, ..self.head.clone() }
    }
}
