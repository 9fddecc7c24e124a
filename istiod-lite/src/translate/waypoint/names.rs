//! Names that tie the resources of a waypoint together.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::index::{MeshConfig, ServiceRef};
use crate::source::NamespacedName;

/// The listener that ends HBONE, and the name of its route configuration.
pub const CONNECT_TERMINATE: &str = "connect_terminate";
/// The internal listener behind it, which sees the inner connections.
pub const MAIN_INTERNAL: &str = "main_internal";
/// The internal listener that opens HBONE to an endpoint, and the cluster it does so with.
pub const CONNECT_ORIGINATE: &str = "connect_originate";
/// The cluster that leads to [`CONNECT_ORIGINATE`] for connections to pod addresses.
pub const DIRECT: &str = "direct";
/// The filter chain for destinations that this waypoint does not serve; also its cluster, which never exists.
pub const BLOCKED: &str = "blocked";
/// The cluster of a backend reference that cannot be resolved; it never exists.
pub const INVALID_BACKEND: &str = "invalid-backend";
/// The port HBONE is spoken on.
pub const HBONE_PORT: u16 = 15008;

/// Filter state: the destination of an inner connection.
pub const ORIGINAL_DESTINATION: &str = "envoy.filters.listener.original_dst.local_ip";
/// Filter state: its source.
pub const ORIGINAL_SOURCE: &str = "envoy.filters.listener.original_dst.remote_ip";
/// Filter state: the SPIFFE id of the client of the tunnel, as a URI.
pub const PEER_PRINCIPAL: &str = "io.istio.peer_principal";
/// Filter state: what `x-forwarded-client-cert` says of the client of the tunnel, and by whom it was seen.
pub const CLIENT_CERTIFICATE: &str = "io.ambit.forwarded_client_cert";
/// Filter state: the only SPIFFE id that the upstream may show.
pub const UPSTREAM_IDENTITY: &str = "io.ambit.upstream_identity";
/// Filter state that Envoy's upstream TLS obeys.
pub const UPSTREAM_SANS: &str = "envoy.network.upstream_subject_alt_names";
/// Endpoint metadata: what the original destination filter reads.
pub const ORIGINAL_DST_METADATA: &str = "envoy.filters.listener.original_dst";
/// Endpoint and cluster metadata of our own.
pub const AMBIT_METADATA: &str = "io.ambit";
/// Endpoint metadata that picks the transport socket.
pub const TRANSPORT_MATCH_METADATA: &str = "envoy.transport_socket_match";

/// Name of the filter in [`CONNECT_TERMINATE`] that refuses what a DENY policy of a TCP port matches.
pub const CONNECT_DENY: &str = "rbac-deny";
/// Name of the filter there that refuses what no ALLOW policy of a TCP port matches.
pub const CONNECT_ALLOW: &str = "rbac-allow";

/// Whether a filter chain or cluster is for HTTP or for bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// Requests.
    Http,
    /// Bytes.
    Tcp,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
        })
    }
}

/// What a service is called in names: a Service by its host name, which nothing else has; a host of a ServiceEntry with the namespace
/// before it, as entries of several namespaces may name one host, and even that of a Service.
pub fn of_service(config: &MeshConfig, service: &ServiceRef) -> String {
    match service {
        ServiceRef::Kubernetes(_) => service.hostname(config),
        ServiceRef::Host(_) => service.key(config),
    }
}

/// Name of the filter chain, route configuration and cluster of a service port; `service` is what [`of_service`] calls it.
pub fn inbound_vip(port: u16, layer: Layer, service: &str) -> String {
    format!("inbound-vip|{port}|{layer}|{service}")
}

/// Name of the cluster of a subset of a service port, for requests.
pub fn inbound_subset(port: u16, subset: &str, service: &str) -> String {
    format!("inbound-vip|{port}|{}/{subset}|{service}", Layer::Http)
}

/// Name of the filter chain of a TLSRoute on a service port.
pub fn inbound_name(port: u16, route: &NamespacedName, service: &str) -> String {
    format!("inbound-vip|{port}|{}|{route}|{service}", Layer::Tcp)
}

/// Name of the listener, the filter chain and the route configuration of a port at the edge of the mesh.
pub fn ingress(port: u16) -> String {
    format!("ingress|{port}")
}

/// Name of the filter chain, and of the route configuration, of a listener that speaks TLS on a port at the edge of the mesh.
pub fn ingress_listener(port: u16, listener: &str) -> String {
    format!("{}|{listener}", ingress(port))
}

/// Name of the filter chain of a route for connections on such a listener, or of what no route is for.
pub fn ingress_route(port: u16, listener: &str, route: Option<&NamespacedName>) -> String {
    let listener = ingress_listener(port, listener);
    route.map_or_else(|| format!("{listener}|{BLOCKED}"), |route| format!("{listener}|{route}"))
}

/// Name of the secret with the certificate that a Secret holds.
pub fn certificate(secret: &NamespacedName) -> String {
    format!("certificate|{secret}")
}

/// Name of the filter chain for pods of one identity, reached by their own addresses.
pub fn direct(layer: Layer, identity: &str) -> String {
    format!("direct-{layer}|{identity}")
}

/// The authority a client writes for an address and port.
pub fn authority(ip: IpAddr, port: u16) -> String {
    SocketAddr::new(ip, port).to_string()
}

/// The authorities of all ports of an address, as the domain of a virtual host.
pub fn any_port(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => format!("{ip}:*"),
        IpAddr::V6(ip) => format!("[{ip}]:*"),
    }
}
