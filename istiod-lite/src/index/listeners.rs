//! Which routes a waypoint, or a Gateway at the edge of the mesh, takes that name its Gateway: what is said of a route in its status and what is done with it come from here.

use gateway_api::gateways::GatewayListeners;

use super::Index;
use super::ingress::{shared_hosts, unserved};
use super::protocols::kinds;
use crate::source::{Kind, NamespacedName};

/// The port and protocol of a waypoint's listener; it has no other.
pub const WAYPOINT_LISTENER: (i32, &str) = (15008, "HBONE");

/// A reference of a route to a Gateway.
#[derive(Debug, Clone, Copy)]
pub struct ToListener<'a> {
    /// The route's kind.
    pub kind: Kind,
    /// The route's namespace.
    pub namespace: &'a str,
    /// The port of the listener that it means, if it says.
    pub port: Option<i32>,
    /// The name of the listener that it means, if it says.
    pub section_name: Option<&'a str>,
    /// The hosts that the route is for, which matter at the edge of the mesh alone.
    pub hostnames: &'a [String],
}

/// Why a listener does not take a route: the later, the closer it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Untaken {
    /// It is not the one that the route means, or none by which a waypoint is reached, or none that serves.
    Other,
    /// It takes routes of other kinds.
    Kind,
    /// It takes routes of other namespaces.
    Namespace,
    /// It is for other hosts.
    Hostname,
}

/// Whether a listener takes routes of a kind.
#[must_use]
pub fn takes_kind(listener: &GatewayListeners, kind: Kind) -> bool {
    let asked = listener.allowed_routes.as_ref().and_then(|allowed| allowed.kinds.as_deref()).unwrap_or_default();
    let is_asked = || {
        let group = |group: Option<&str>| group.is_none_or(|group| group == kind.group());
        asked.iter().any(|asked| asked.kind == kind.as_str() && group(asked.group.as_deref()))
    };
    kinds(listener).contains(&kind) && (asked.is_empty() || is_asked())
}

impl Index {
    /// Whether some listener of a Gateway takes a route.
    ///
    /// # Errors
    /// Why none does.
    pub fn takes_route(&self, gateway: &NamespacedName, route: ToListener<'_>) -> Result<(), Untaken> {
        let listeners = self.objects().gateways.get(gateway).map(|gateway| gateway.spec.listeners.as_slice()).unwrap_or_default();
        let mut why = Untaken::Other;
        for listener in listeners {
            match self.listener_takes(gateway, listener, route) {
                Ok(()) => return Ok(()),
                Err(closer) => why = why.max(closer),
            }
        }
        Err(why)
    }

    /// Whether one listener of a Gateway takes a route.
    ///
    /// # Errors
    /// Why it does not.
    pub fn listener_takes(
        &self,
        gateway: &NamespacedName,
        listener: &GatewayListeners,
        route: ToListener<'_>,
    ) -> Result<(), Untaken> {
        let is_meant =
            route.section_name.is_none_or(|name| name == listener.name) && route.port.is_none_or(|port| port == listener.port);
        let of_gateway = self.objects().gateways.get(gateway);
        let ingress = of_gateway.filter(|gateway| self.is_ingress(gateway));
        let serves = match ingress {
            Some(gateway) => unserved(gateway, listener).is_none(),
            None => (listener.port, listener.protocol.as_str()) == WAYPOINT_LISTENER,
        };
        if !is_meant || !serves {
            Err(Untaken::Other)
        } else if !takes_kind(listener, route.kind) {
            Err(Untaken::Kind)
        } else if !self.listener_admits(listener, gateway, route.namespace) {
            Err(Untaken::Namespace)
        } else if ingress.is_some() && shared_hosts(listener, route.hostnames).is_empty() {
            Err(Untaken::Hostname)
        } else {
            Ok(())
        }
    }
}
