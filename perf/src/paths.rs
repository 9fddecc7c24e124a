//! The paths that are compared: the same client and server, with different things in between.

use clap::ValueEnum;

use crate::document::Comparison;

/// What lies between client and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Path {
    /// Nothing, two nodes.
    NoMesh,
    /// Two ztunnels on two nodes.
    Ztunnel,
    /// Two Envoys, TCP over mutual TLS, two nodes.
    EnvoyTcp,
    /// Nothing, one node.
    NoMeshLocal,
    /// The one ztunnel of a node.
    SameNode,
    /// Ztunnel, our waypoint, ztunnel.
    Waypoint,
    /// Ztunnel, an Envoy waypoint, ztunnel.
    EnvoyWaypoint,
    /// Our waypoint at the edge of the mesh, two nodes: one L7 hop in plain text, in no tunnel.
    Hop,
    /// An Envoy in its place.
    EnvoyHop,
}

impl Path {
    /// Those of the node path.
    pub const NODE: [Self; 5] = [Self::NoMesh, Self::Ztunnel, Self::EnvoyTcp, Self::NoMeshLocal, Self::SameNode];

    /// Those of the quick run, waypoints included.
    pub const QUICK: [Self; 5] = [Self::NoMesh, Self::Ztunnel, Self::EnvoyTcp, Self::Waypoint, Self::EnvoyWaypoint];

    /// Those of the L7 path.
    pub const L7: [Self; 5] = [Self::NoMesh, Self::Waypoint, Self::EnvoyWaypoint, Self::Hop, Self::EnvoyHop];

    /// The comparisons that are made, ours first.
    #[must_use]
    pub fn comparisons() -> Vec<Comparison> {
        [
            (Self::Ztunnel, Self::EnvoyTcp),
            (Self::SameNode, Self::NoMeshLocal),
            (Self::Waypoint, Self::EnvoyWaypoint),
            (Self::Hop, Self::EnvoyHop),
            (Self::Ztunnel, Self::NoMesh),
            (Self::Waypoint, Self::NoMesh),
        ]
        .map(|(ours, peer)| Comparison::new(ours.name(), peer.name()))
        .to_vec()
    }

    /// Its name in reports and on the command line, and its namespace.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoMesh => "no-mesh",
            Self::Ztunnel => "ztunnel",
            Self::EnvoyTcp => "envoy-tcp",
            Self::NoMeshLocal => "no-mesh-local",
            Self::SameNode => "same-node",
            Self::Waypoint => "waypoint",
            Self::EnvoyWaypoint => "envoy-waypoint",
            Self::Hop => "hop",
            Self::EnvoyHop => "envoy-hop",
        }
    }

    /// Whether the mesh captures its pods.
    #[must_use]
    pub fn enrolled(self) -> bool {
        matches!(self, Self::Ztunnel | Self::SameNode | Self::Waypoint | Self::EnvoyWaypoint)
    }

    /// Whether its service has a waypoint.
    #[must_use]
    pub fn has_waypoint(self) -> bool {
        matches!(self, Self::Waypoint | Self::EnvoyWaypoint)
    }

    /// Whether a Gateway at the edge of the mesh leads to its service.
    #[must_use]
    pub fn is_hop(self) -> bool {
        matches!(self, Self::Hop | Self::EnvoyHop)
    }

    /// Whether it needs an Envoy.
    #[must_use]
    pub fn needs_envoy(self) -> bool {
        matches!(self, Self::EnvoyTcp | Self::EnvoyWaypoint | Self::EnvoyHop)
    }

    /// Whether there is nothing in between.
    #[must_use]
    pub fn is_bare(self) -> bool {
        matches!(self, Self::NoMesh | Self::NoMeshLocal)
    }

    /// The node of its server; its client is on `node-1`.
    #[must_use]
    pub fn server_node(self) -> &'static str {
        match self {
            Self::NoMeshLocal | Self::SameNode => "node-1",
            _ => "node-2",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_called_the_same_everywhere() {
        for path in Path::value_variants() {
            let named = path.to_possible_value().unwrap();
            assert_eq!(named.get_name(), path.name());
        }
    }
}
