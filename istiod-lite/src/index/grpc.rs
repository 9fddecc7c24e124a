//! GRPCRoutes as the routes for requests that are carried out in their place: made when one changes, as there may be many of which another one does.

use gateway_api::experimental::grpcroutes::GrpcRoute;

use super::Index;
use crate::source::{Kind, NamespacedName, Object, ObjectKey};
use crate::translate::waypoint::RequestRoute;

impl Index {
    /// What a GRPCRoute of the index is carried out as; `None` when it says what no HTTPRoute can.
    pub(crate) fn request_route(&self, route: &GrpcRoute) -> Option<RequestRoute> {
        self.request_routes.get(&NamespacedName::of(&route.metadata)).cloned()
    }

    /// An object has changed to this, or is gone.
    pub(super) fn note_request_route(&mut self, key: &ObjectKey, new: Option<&Object>) {
        if key.kind != Kind::GrpcRoute {
            return;
        }
        let made = match new {
            Some(Object::GrpcRoute(route)) => RequestRoute::grpc(route),
            _ => None,
        };
        match made {
            Some(made) => _ = self.request_routes.insert(key.name.clone(), made),
            None => _ = self.request_routes.remove(&key.name),
        }
    }
}
