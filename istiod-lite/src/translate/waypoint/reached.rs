//! Servers that a waypoint asks or tells something: authorizers, processors, those that count, collectors. Each has a cluster of its own, with
//! the endpoints of a service.

use super::names::{Layer, inbound_vip, of_service};
use crate::index::{Index, ServiceRef};

/// Where such a server is.
#[derive(Debug, Clone, PartialEq)]
pub struct Reached {
    /// The cluster.
    pub cluster: String,
    /// The name of that one's endpoints.
    pub endpoints: String,
    /// Its service.
    pub service: ServiceRef,
    /// The port of it.
    pub port: u16,
    /// It is spoken to in HTTP/2.
    pub http2: bool,
}

impl Reached {
    /// One that speaks gRPC. What its cluster is called is made of the service's name.
    pub fn by_grpc(index: &Index, service: &ServiceRef, port: u16, cluster: impl FnOnce(&str) -> String) -> Self {
        let name = of_service(index.config(), service);
        let endpoints = inbound_vip(port, Layer::Http, &name);
        Self { cluster: cluster(&name), endpoints, service: service.clone(), port, http2: true }
    }
}
