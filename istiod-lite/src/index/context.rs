//! What the translation of a route for requests goes by besides the route: who keeps what routes were translated to has to know how long that holds.

use std::sync::Arc;

use super::Index;
use crate::source::Kind;

/// Stands for a state of everything that routes for requests are translated by, but for the routes. While somebody holds one, it is that of no other
/// state, and of no other index.
#[derive(Debug, Clone, Default)]
pub struct RouteContext(Arc<()>);

impl PartialEq for RouteContext {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Index {
    /// The present state.
    #[must_use]
    pub fn route_context(&self) -> &RouteContext {
        &self.route_context
    }

    /// An object of this kind has changed.
    pub(super) fn note_for_routes(&mut self, kind: Kind) {
        if is_context(kind) {
            self.route_context = RouteContext::default();
        }
    }
}

/// Whether routes for requests may be translated by objects of this kind. In doubt they are: it costs a translation.
fn is_context(kind: Kind) -> bool {
    match kind {
        // The routes themselves, each of which who keeps them looks at.
        Kind::HttpRoute | Kind::GrpcRoute => false,
        // Where the endpoints are: a route names clusters, by Services and ServiceEntries, their ports, and what policies say of them.
        Kind::Pod | Kind::EndpointSlice | Kind::WorkloadEntry | Kind::Node | Kind::ServiceAccount => false,
        // They decide which routes hold where, which is found out each time, and have their status written for routes that come and go.
        Kind::Gateway | Kind::GatewayClass => false,
        // What is carried out in the place of routes for requests, never by them.
        Kind::VirtualService | Kind::TlsRoute | Kind::TcpRoute => false,
        // They become filters, chains and secrets of listeners.
        Kind::AuthorizationPolicy
        | Kind::PeerAuthentication
        | Kind::RequestAuthentication
        | Kind::Telemetry
        | Kind::TlsSecret => false,
        Kind::Namespace
        | Kind::Service
        | Kind::ServiceEntry
        | Kind::DestinationRule
        | Kind::ReferenceGrant
        | Kind::BackendTlsPolicy
        | Kind::RequestPolicy
        | Kind::MeshSettings
        | Kind::TrafficPolicy
        | Kind::BackendTrafficPolicy => true,
    }
}
