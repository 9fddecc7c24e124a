//! What a Gateway becomes.

use gateway_api::gateways::Gateway;

use crate::index::Index;
use crate::status::{unusable, unusable_at_edge};

/// Annotation of a Gateway at the edge of the mesh: the type of its Service.
pub const SERVICE_TYPE: &str = "networking.istio.io/service-type";
/// The types that a Service may have there; the first is that of Gateways that say none.
const SERVICE_TYPES: [&str; 3] = ["LoadBalancer", "NodePort", "ClusterIP"];

/// What a Gateway becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A waypoint.
    Waypoint,
    /// A proxy at the edge of the mesh.
    Edge {
        /// The type of its Service.
        service_type: &'static str,
    },
}

impl Role {
    /// What a Gateway of this mesh becomes.
    ///
    /// # Errors
    /// When its Service is to have a type that it cannot have; a sentence.
    pub fn of(index: &Index, gateway: &Gateway) -> Result<Self, String> {
        if !index.is_ingress(gateway) {
            return Ok(Self::Waypoint);
        }
        let annotations = gateway.metadata.annotations.as_ref();
        let asked = annotations.and_then(|annotations| annotations.get(SERVICE_TYPE)).map_or(SERVICE_TYPES[0], String::as_str);
        let service_type = SERVICE_TYPES.into_iter().find(|known| *known == asked);
        let service_type = service_type
            .ok_or_else(|| format!("annotation {SERVICE_TYPE}: {asked:?} is none of {}", SERVICE_TYPES.join(", ")))?;
        Ok(Self::Edge { service_type })
    }

    /// The type of its Service.
    #[must_use]
    pub fn service_type(self) -> &'static str {
        match self {
            Self::Waypoint => "ClusterIP",
            Self::Edge { service_type } => service_type,
        }
    }

    /// Whether nothing can be deployed for the Gateway as it is written.
    pub(super) fn unusable(self, gateway: &Gateway) -> bool {
        match self {
            Self::Waypoint => unusable(gateway).is_some(),
            Self::Edge { .. } => unusable_at_edge(gateway).is_some(),
        }
    }
}
